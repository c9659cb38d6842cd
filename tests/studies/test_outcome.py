"""From scores to statistics, tables, figures and the page."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from svp.cli import main
from svp.runs import RunDirectory
from svp.studies import Comparison, Study, collect, make_study, read_ablation, read_sensitivity, read_study, write_report
from svp.studies.comparison import _count
from svp.studies.figures import write_figures
from svp.studies.statistics import averaged, paired_difference, spread
from svp.studies.study_file import PUBLISHED, STUDIES, to_yaml_values
from svp.studies.tables import (
    accuracy_table,
    cost_table,
    difference_table,
    learning_rate_table,
    make_tables,
    summary_table,
    to_csv,
    to_latex,
)
from svp.training import ConfigError
from tests.runs.records import make_result, make_row

SCORES = {
    ("photos", "linear"): [0.5, 0.6],
    ("photos", "bias"): [0.7, 0.9],
    ("few", "linear"): [0.2, 0.3],
    ("few", "bias"): [0.3, 0.2],
}


@pytest.fixture
def study(values: dict[str, Any]) -> Study:
    values["data"]["few"] = {**values["data"]["photos"], "shots": 3}
    return make_study(values | {"seeds": [0, 1], "reference": "linear"})


def pretend(study: Study, folder: Path, scores: dict[tuple[str, str], list[float]] | None = None) -> Comparison:
    """The files of finished runs with given scores: what is tested here begins at them."""
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(to_yaml_values(study), sort_keys=False))
    for cell in study.cells:
        for number, seed in enumerate(study.seeds):
            job = cell.job(folder, cell.candidates[0], seed)
            job.directory.mkdir(parents=True, exist_ok=True)
            top1 = (scores or SCORES).get((cell.data, cell.method), [0.5, 0.5])[number]
            head = {"photos": 30, "few": 20}[cell.data]
            directory = RunDirectory(job.directory)
            directory.write_result(
                make_result(
                    top1=top1,
                    selection_top1=top1,
                    trainable_parameters=1000 + head,
                    trainable_parameters_without_head=1000,
                    peak_memory_mb=700.0 + number,
                )
            )
            directory.write_metrics([make_row(selection_top1=top1, seconds=seconds) for seconds in (30.0, 2.0, 2.0)])
            (job.directory / "config.yaml").write_text("model: vim_nano  # <script>\n")
    return collect(study, folder)


def test_spread_is_the_sample_deviation() -> None:
    assert spread([]) is None
    one, three = spread([0.5]), spread([1.0, 2.0, 3.0])
    assert one is not None and three is not None  # noqa: PT018
    assert (one.mean, one.std, one.n) == (0.5, None, 1)
    assert (three.mean, three.std, three.n) == (2.0, 1.0, 3)


def test_the_mean_over_data_sets_takes_the_seeds_that_all_have() -> None:
    assert averaged([{0: 0.2, 1: 0.4}, {1: 0.8, 2: 0.9}]) == {1: pytest.approx(0.6)}
    assert averaged([]) == {}


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        theirs = dict(enumerate(generator.normal(0.5, 0.2, 5)))
        ours = {seed: score + generator.normal(0.1, 0.05) for seed, score in theirs.items()}
        found = paired_difference([ours], [theirs])
        assert found is not None
        assert found.low is not None and found.high is not None  # noqa: PT018
        covered += found.low < 0.1 < found.high
    assert 0.92 < covered / 400 < 0.98  # pairs cancel the large spread


def test_differences_are_taken_in_pairs() -> None:
    found = paired_difference([{0: 0.9, 1: 0.5, 2: 0.1}], [{1: 0.4, 0: 0.8, 7: 0.0}])
    assert found is not None
    assert (found.n, found.mean) == (2, pytest.approx(0.1))
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))
    single = paired_difference([{0: 0.9}], [{0: 0.8}])
    assert single is not None
    assert single.low is None
    assert paired_difference([{0: 0.9}, {0: 0.9}], [{0: 0.8}, {1: 0.8}]) is None


def test_tables_hold_what_the_runs_found(study: Study, tmp_path: Path) -> None:
    comparison = pretend(study, tmp_path / "study")
    assert accuracy_table(comparison).columns == ("method", "photos", "few", "mean")
    assert accuracy_table(comparison).rows == (
        ("linear", "55.00 ± 7.07", "25.00 ± 7.07", "40.00 ± 7.07"),
        ("bias", "80.00 ± 14.14", "25.00 ± 7.07", "52.50 ± 3.54"),
    )
    ((method, photos, few, mean),) = difference_table(comparison).rows
    assert (method, photos, few) == ("bias", "+25.00 [-38.53, +88.53]", "+0.00 [-127.06, +127.06]")
    assert mean.startswith("+12.50 [-19.27, +44.27]")
    row = dict(zip(cost_table(comparison).columns, cost_table(comparison).rows[0], strict=True))
    assert row == {
        "method": "linear",
        "trained, without head": "1,000",
        "trained, with head": "1,020 to 1,030",
        "s/epoch, photos": "2.0",
        "s/epoch, few": "2.0",
        "peak memory, MB": "700",
    }
    rows = {(row["method"], row["data"]): row for row in csv.DictReader(io.StringIO(to_csv(comparison)))}
    assert len(rows) == 6
    assert float(rows["bias", "mean"]["difference_mean"]) == pytest.approx(0.125)
    assert rows["linear", "photos"]["difference_mean"] == ""
    latex = to_latex([accuracy_table(comparison), difference_table(comparison)])
    assert r"linear & 55.00 $\pm$ 7.07 & 25.00" in latex
    assert r"[$-$127.06, +127.06]" in latex


def test_three_seeds_are_advised_where_there_are_fewer(study: Study, tmp_path: Path) -> None:
    advice = "Differences between methods may be chance: list at least three seeds."
    assert advice in accuracy_table(pretend(study, tmp_path / "two")).notes
    assert advice not in accuracy_table(collect(replace(study, seeds=(0, 1, 2)), tmp_path / "three")).notes


def test_the_summary_ranks_means_and_sets_each_beside_reference_and_best_rival(study: Study, tmp_path: Path) -> None:
    comparison = pretend(replace(study, methods=study.methods | {"svp": {"lr": 0.01}}), tmp_path / "study")
    assert make_tables(comparison)[0] == (table := summary_table(comparison))
    columns = ("method", "mean", "to linear", "lowest to linear", "to the best other", "first on", "trained, without head")
    assert table.columns == columns
    assert [row[:1] + row[2:] for row in table.rows] == [
        ("bias", "+12.50 [-19.27, +44.27]", "+0.00 (few)", "+2.50 [-29.27, +34.27] (svp)", "1", "1,000"),
        ("svp", "+10.00 [-53.53, +73.53]", "-5.00 (photos)", "-2.50 [-34.27, +29.27] (bias)", "1", "1,000"),
        ("linear", "-", "-", "-12.50 [-44.27, +19.27] (bias)", "0", "1,000"),
    ]
    assert table.rows[0][1] == "52.50 [20.73, 84.27]"
    rows = {(row["method"], row["data"]): row for row in csv.DictReader(io.StringIO(to_csv(comparison)))}
    assert rows["bias", "mean"]["rival"] == "svp"
    assert float(rows["bias", "mean"]["rival_difference_mean"]) == pytest.approx(0.025)
    assert float(rows["bias", "mean"]["top1_low"]) == pytest.approx(0.2073, abs=1e-4)
    tied = pretend(study, tmp_path / "tied", {("photos", "linear"): [0.4, 0.6], ("photos", "bias"): [0.6, 0.4]})
    assert [row[5] for row in summary_table(tied).rows] == ["2", "2"]


def test_a_run_that_is_missing_is_seen(study: Study, tmp_path: Path) -> None:
    comparison = pretend(study, tmp_path / "study")
    (comparison.findings["few", "bias"].jobs[1].directory / "result.json").unlink()
    comparison = collect(study, tmp_path / "study")
    assert not comparison.is_complete
    assert accuracy_table(comparison).rows[1][2:] == ("30.00 (n=1)", "50.00 (n=1)")


def test_the_table_says_how_learning_rates_were_chosen(values: dict[str, Any], tmp_path: Path) -> None:
    values["methods"] = {"linear": {}, "svp": {"lr": 0.5}}
    study = make_study(values | {"tune": {"lr": [0.1, 0.2], "seed": 0}})
    for cell, lr, top1 in ((study.cells[0], 0.1, 0.7), (study.cells[0], 0.2, 0.8), (study.cells[1], 0.5, 0.4)):
        job = cell.job(tmp_path, lr, 0, tuning=True)
        job.directory.mkdir(parents=True)
        RunDirectory(job.directory).write_result(make_result(top1=0.0))
        RunDirectory(job.directory).write_metrics([make_row(selection_top1=top1)])
    table = learning_rate_table(collect(study, tmp_path))
    assert table.rows == (("linear", "0.1 (70.0), **0.2*** (80.0)"), ("svp", "0.5"))
    assert any("not have the same budget: 1, 2" in note for note in table.notes)
    assert any("may lie beyond" in note for note in table.notes)


def test_of_equal_candidates_the_default_is_taken_and_the_table_says_so(values: dict[str, Any], tmp_path: Path) -> None:
    values["methods"] = {"lora": {}}
    study = make_study(values | {"tune": {"lr": [0.001, 0.003, 0.01], "epochs": 1}})
    (cell,) = study.cells
    for lr in cell.candidates:
        job = cell.job(tmp_path, lr, 0, tuning=True, until=1)
        job.directory.mkdir(parents=True)
        RunDirectory(job.directory).write_metrics([make_row(selection_top1=0.5, selection_loss=1.5)])
    table = learning_rate_table(collect(study, tmp_path))
    assert table.rows == (("lora", "0.001 (1.500), **0.003** (1.500), 0.01 (1.500)"),)
    assert table.notes[-1].startswith(
        "lora on photos: several candidates are equally good, as within the warm-up; the one nearest"
    )


def test_runs_are_counted_alike_before_and_after_a_rate_is_chosen(values: dict[str, Any], tmp_path: Path) -> None:
    values["methods"] = {"lora": {}, "again": {"method": "lora"}}  # two labels of the same runs
    study = make_study(values | {"tune": {"lr": [0.001, 0.003], "epochs": 1}, "seeds": [0, 1]})
    cell = study.cells[0]
    assert _count(collect(study, tmp_path)) == (4, 4)
    for number, lr in enumerate(cell.candidates):
        job = cell.job(tmp_path, lr, 0, tuning=True, until=1)
        job.directory.mkdir(parents=True)
        RunDirectory(job.directory).write_metrics([make_row(selection_top1=0.5, selection_loss=1.5 - number)])
    assert _count(collect(study, tmp_path)) == (2, 4)  # the better one goes on


def test_published_rows_stand_where_they_can_be_compared(values: dict[str, Any], tmp_path: Path) -> None:
    values["data"]["few"] = {**values["data"]["photos"], "shots": 3}
    table = {"source": "A & B", "over": {"mean": 19}, "rows": {"LoRA": {"pair": 70.5, "mean": 60, "trained": 9000}}}
    study = make_study(values | {"groups": {"pair": ["photos", "few"]}, "published": table})
    comparison = pretend(study, tmp_path / "study") if len(study.seeds) == 2 else collect(study, tmp_path)
    assert accuracy_table(comparison).rows[-1] == ("LoRA [1]", "-", "-", "70.50", "-")  # our mean is not one of 19
    assert accuracy_table(comparison).notes[-1] == "[1] published, not run here: A & B."
    assert cost_table(comparison).rows[-1][:3] == ("LoRA [1]", "-", "9,000")
    assert make_study(to_yaml_values(study)) == study
    with pytest.raises(ConfigError, match=r"has no number for one of the columns photos \(1 data sets\)"):
        make_study(values | {"published": "vtab1k_vim_small"})
    with pytest.raises(ConfigError, match="no table is named 'mine'; known: vtab1k_vim_small"):
        make_study(values | {"published": ["mine"]})
    with pytest.raises(ConfigError, match=r"groups.pair is .'cats'.*list of data sets: photos, few"):
        make_study(values | {"groups": {"pair": ["cats"]}})


def test_published_means_are_those_of_their_groups() -> None:
    table = json.loads(PUBLISHED.read_text())["vtab1k_vim_small"]
    sizes = {"natural": 7, "specialized": 4, "structured": 8}
    for name, row in table["rows"].items():
        mean = sum(row[group] * size for group, size in sizes.items()) / 19
        assert mean == pytest.approx(row["mean"], abs=0.03) or name == "Full"  # whose slip the note tells


def test_without_all_data_sets_of_a_method_only_accuracy_is_drawn(study: Study, tmp_path: Path) -> None:
    comparison = pretend(study, tmp_path / "study")
    some = {key: finding if key[0] == "few" else replace(finding, results={}) for key, finding in comparison.findings.items()}
    begun = replace(comparison, findings=some)
    assert summary_table(begun).rows == ()
    assert list(write_figures(begun)) == ["accuracy"]


def test_figures_are_images(study: Study, tmp_path: Path) -> None:
    figures = write_figures(pretend(study, tmp_path / "study"))
    assert list(figures) == ["summary", "accuracy", "parameters"]
    for png, pdf in figures.values():
        assert np.asarray(Image.open(png).convert("L")).std() > 5
        assert pdf.read_bytes().startswith(b"%PDF")
    assert write_figures(collect(study, tmp_path / "empty")) == {}


@pytest.mark.parametrize(
    "grid", [{"hidden_dim": [8, 16]}, {"shared_layers": [4, 8], "hidden_dim": [8, 16]}, {"lr": [0.1, 0.2]}]
)
def test_a_grid_is_drawn(values: dict[str, Any], tmp_path: Path, grid: dict[str, list[Any]]) -> None:
    file = tmp_path / "grid.yaml"
    del values["methods"]
    file.write_text(yaml.safe_dump(values | {"grid": grid, "seeds": [0, 1]}, sort_keys=False))
    study = read_sensitivity(file)
    options = [cell.config.options | {"lr": cell.config.lr} for cell in study.cells]
    assert len(options) == np.prod([len(points) for points in grid.values()])
    for name, points in grid.items():
        assert {option[name] for option in options} == set(points)
    assert all(str(cell.job(tmp_path, cell.config.lr, 0)).count("lr 0.") == 1 for cell in study.cells)
    assert list(write_figures(pretend(study, tmp_path / "study"))) == ["sensitivity"]


def test_some_points_of_a_grid(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    del values["methods"]
    values |= {"grid": {"shared_layers": [1, 4, 8], "hidden_dim": [8, 16]}, "seeds": [0, 1]}
    drawn = {}
    for points in (2, 4):
        file.write_text(yaml.safe_dump(values | {"points": points}, sort_keys=False))
        drawn[points] = read_sensitivity(file)
    assert len(drawn[4].methods) == 4
    assert set(drawn[2].methods) < set(drawn[4].methods)
    assert make_study(to_yaml_values(drawn[4])) == drawn[4]
    assert list(write_figures(pretend(drawn[4], tmp_path / "study"))) == ["sensitivity"]
    file.write_text(yaml.safe_dump(values | {"points": 7}))
    with pytest.raises(ConfigError, match="points is 7, expected a whole number from 1 to 6"):
        read_sensitivity(file)


def test_ablation_changes_one_thing_at_a_time(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "parts.yaml"
    del values["methods"]
    values["settings"]["method"] = {"name": "svp", "hidden_dim": 16}
    file.write_text(yaml.safe_dump(values))
    study = read_ablation(file)
    options = {cell.method: cell.config.options for cell in study.cells if cell.config.method == "svp"}
    whole = options.pop(study.reference or "")
    assert whole["hidden_dim"] == 16
    changed = {name: [key for key in whole if whole[key] != other[key]] for name, other in options.items()}
    assert changed == {
        "inner only": ["cross"],
        "cross only": ["inner"],
        "without scaling": ["scaling"],
        "class token prompted too": ["prompt_cls_token"],
        "official slip": ["cross_prompt"],
    }
    file.write_text(yaml.safe_dump(values | {"methods": ["svp"]}))
    with pytest.raises(ConfigError, match="lists methods, which `svp study ablate` makes itself"):
        read_ablation(file)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_holds_everything_and_needs_nothing(study: Study, tmp_path: Path) -> None:
    comparison = pretend(study, tmp_path / "study")
    job = comparison.findings["few", "bias"].jobs[1]
    job.log.parent.mkdir()
    job.log.write_text("epoch 1 <img src=x>\n")
    (job.directory / "result.json").unlink()
    job.failure_file.write_text("OSError: disk & full")
    text = write_report(tmp_path / "study").read_text()
    page = _Page()
    page.feed(text)
    tags = [tag for tag, _ in page.found]
    assert tags.count("table") == 4
    assert tags.count("details") == 8
    assert tags.count("script") == 1
    assert [values["src"][:22] for tag, values in page.found if tag == "img"] == ["data:image/png;base64,"] * 3
    assert not re.search(r"(src|href)=.?(http|/)|@import|url\(", text)
    assert "OSError: disk &amp; full" in text
    assert "epoch 1 &lt;img src=x&gt;" in text
    assert "7 of 8 runs finished, 1 failed" in text
    assert f"svp train --config {job.directory}/config.yaml --out runs/{job.directory.name}" in text


def test_shipped_studies_can_be_read() -> None:
    names = [file.stem for file in STUDIES.glob("*.yaml")]
    assert "digits" in names
    for name in names:
        study = read_study(name)
        assert make_study(to_yaml_values(study)) == study


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["compare", "nowhere.yaml"], 1, "nowhere.yaml does not exist; expected a YAML file, or .* ships with svp: digits"),
        (["compare", "digits", "--workers", "0"], 2, "--workers is 0, expected 1 or more"),
        (["compare", "digits", "--workers", "2", "--ray", "auto"], 2, "--workers and --ray are given"),
        (["report", "nowhere"], 1, "nowhere is no folder of a study"),
        (["sensitivity", "digits"], 1, "lists methods"),
    ],
)
def test_command_line_errors(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", *words]) == code
    assert re.search(message, capsys.readouterr().err)


def test_command_line(values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    values["methods"] = {"linear": {"lr": 0.01}, "svp": {"lr": 1e30}}
    values["settings"]["epochs"] = 2
    file.write_text(yaml.safe_dump(values))
    assert main(["study", "compare", str(file), "--out", str(out)]) == 1
    text = capsys.readouterr().out
    assert "[1/2] photos, linear, lr 0.01, seed 0: test top-1" in text
    assert "photos, svp, lr 1e+30, seed 0: FAILED: NonFiniteLossError" in text
    assert "1 runs failed" in text
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "study.yaml", "tables.md", "tables.tex", "tables.csv", "runs.csv",
        "accuracy.png", "accuracy.pdf", "parameters.png", "parameters.pdf",
    }  # fmt: skip
    assert "## Failed runs" in (out / "tables.md").read_text()
