"""`svp gates` and `svp inspect`: a page with figures that are there, and errors that say what is wrong."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import svp
from svp.cli import main
from svp.data import open_data
from svp.inspection.gate_figures import plot_gate_maps, plot_prompt_maps
from svp.inspection.maps import patch_extent, pixels
from svp.inspection.page import Page
from svp.inspection.predictions import Predictions
from svp.inspection.runs import open_runs
from svp.inspection.score_figures import plot_confusion, plot_features
from svp.inspection.sections import _change, add_confusion
from svp.plotting import style
from svp.runs import RunDirectory
from tests.models.small import perturb, small_vim, small_vit
from tests.training.conftest import write_photos

CLASSES = ("amber", "blue", "green")
INPUTS: dict[str, Any] = dict(img_size=16, mean=[0.5] * 3, std=[0.5] * 3, crop_pct=1.0, interpolation="bicubic")


def adapter(directory: Path, method: str, inputs: dict[str, Any] = INPUTS, **options: Any) -> Path:
    """An adapter that was not trained, but does something."""
    model = small_vim(num_classes=3)
    svp.tune(model, method, **options)
    for name in ("svp", "vpt"):
        if hasattr(model, name):
            perturb(getattr(model, name))
    svp.save_adapter(model, directory, CLASSES, inputs)
    return directory


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inspection")
    write_photos(place / "photos", per_class=6)
    adapter(place / "svp", "svp", shared_layers=2)
    adapter(place / "vpt", "vpt_deep", num_tokens=3)
    return place


def shown(folder: Path) -> list[str]:
    """Names of the images of the page, all of which are there and have a PDF beside them."""
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "http" not in page
    assert re.findall(r'<img (?!src="data:image/)', page) == []
    assert re.findall(r'<img [^>]*alt=""', page) == []
    names = re.findall(r'<a href="([^"]+)\.pdf"', page)
    for name in names:
        with Image.open(folder / f"{name}.png") as image:
            assert image.width > 400
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert not list(folder.glob(".*"))
    return names


def test_gates(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = [str(place / "photos" / "blue" / f"0{n}.jpg") for n in range(2)]
    arguments = ["gates", str(place / "svp"), *photos, "--compare", str(place / "vpt"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"figures written to {tmp_path / 'out' / 'index.html'}\n"
    assert shown(tmp_path / "out") == ["gates-000", "prompts-000", "gates-001", "prompts-001"]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "VPT-deep says" in page
    assert "from added tokens" in page
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert list(numbers) == photos
    assert list(numbers[photos[0]]) == ["base", "SVP", "VPT-deep"]
    maps = numbers[photos[0]]
    assert np.shape(maps["SVP"]["update"]) == (4, 4)
    assert maps["SVP"]["update"] != maps["base"]["update"]
    # by hand, for the base model and one layer
    model = small_vim(num_classes=3)
    with Image.open(photos[0]) as image:
        pixels = svp.data.eval_transform(svp.data.InputConfig(**INPUTS))(image.convert("RGB"))
    record = svp.inspection.gates(model, pixels.unsqueeze(0))
    expected = record.image_map(record.mean("forget").mean(0))[0]
    np.testing.assert_allclose(maps["base"]["forget"], expected.numpy(), rtol=1e-5)
    tuned = svp.inspection.gates(svp.load_adapter(place / "svp"), pixels.unsqueeze(0))
    assert tuned.prompts is not None
    assert not any(name.startswith("prompt") for model in ("base", "VPT-deep") for name in maps[model])
    for name in ("norm", "relative_norm", "inner_share", "cross_share"):
        expected = tuned.image_map(getattr(tuned.prompts, name).mean(0))[0]
        np.testing.assert_allclose(maps["SVP"][f"prompt_{name}"], expected.numpy(), rtol=1e-4)
    assert main(["gates", str(place / "svp"), photos[0], "--layer", "1", "--out", str(tmp_path / "layer")]) == 0
    numbers = json.loads((tmp_path / "layer" / "numbers.json").read_text())
    np.testing.assert_allclose(
        numbers[photos[0]]["base"]["forget"], record.image_map(record.mean("forget")[1])[0].numpy(), rtol=1e-5
    )


def test_inspect(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_photos(tmp_path / "photos", per_class=6)
    arguments = ["inspect", str(place / "svp"), "--compare", str(place / "vpt"), "--data", str(photos)]
    broken = photos / "blue" / "broken.jpg"
    broken.write_bytes(b"no image")
    assert main([*arguments, "--images", "7", "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert f"1 more cannot be read and count as wrong in top-1: {broken}" in (tmp_path / "index.html").read_text()
    assert capsys.readouterr().out == f"page written to {tmp_path / 'index.html'}\n"
    figures = [
        "confusion",
        "reliability",
        "risk-coverage",
        "activation-both",
        "activation-forward",
        "activation-backward",
        "prompts-1",
        "features",
    ]
    assert shown(tmp_path) == figures
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["images"] == 19
    assert np.sum(numbers["confusion"]) == 18
    assert numbers["top1"] == pytest.approx(np.trace(numbers["confusion"]) / 19)
    scores = svp.evaluate(place / "svp", photos, device="cpu", precision="fp32")
    assert numbers["top1"] == pytest.approx(scores.top1)
    assert 0 < numbers["area_under_risk_coverage"] < 1
    changes = numbers["relative_change_by_quarter_and_all"]
    assert list(changes) == ["SVP", "VPT-deep"]
    assert len(changes["SVP"]["update"]["change"]) == 5
    assert set(numbers["silhouette"]) == {"base", "SVP", "VPT-deep"}


def test_inspect_wants_the_runs_own_test_images(tmp_path: Path) -> None:
    run = adapter(tmp_path / "run", "linear")
    data = open_data(str(write_photos(tmp_path / "photos", per_class=10)), seed=0)
    RunDirectory(run).write_splits(data)
    data.test.paths[0].unlink()
    with pytest.raises(svp.runs.RunError, match=r"1 of the run's 6 test images are gone, such as .*; name a folder by"):
        svp.inspection.inspect_run(run, device="cpu")
    for path in data.test.paths[1:]:
        path.write_bytes(b"no image")
    data.test.paths[0].write_bytes(b"no image")
    with pytest.raises(svp.data.DataError, match="the run's own test images: 0 images can be read, expected 2 or more"):
        svp.inspection.inspect_run(run, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gates", "svp", "photos/blue/00.jpg", "--layer", "3"], "layer is 3, expected 0 to 2"),
        (["gates", "svp", "photos/blue/77.jpg"], "no such file or folder"),
        (["gates", "svp", "svp/adapter.json"], "adapter.json: "),
        (["gates", "photos", "photos/blue/00.jpg"], "holds no adapter.json"),
        (["gates", "svp", "photos/blue/00.jpg", "--compare", "svp", "--compare", "svp"], "compared with itself"),
        (["inspect", "svp"], "holds no splits.json"),
        (["inspect", "svp", "--images", "1", "--data", "photos"], "images is 1, expected 2 or more"),
        (["inspect", "svp", "--batch-size", "0", "--data", "photos"], "batch_size is 0, expected 1 or more"),
    ],
)
def test_errors(place: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, *rest = [str(place / word) if (place / word).exists() or "/" in word else word for word in arguments]
    command = arguments[0]
    assert main([command, *rest]) == 1
    assert message in capsys.readouterr().err


def test_other_backbones_are_not_compared(place: Path, tmp_path: Path) -> None:
    other = adapter(tmp_path / "other", "linear", {**INPUTS, "crop_pct": 0.875})
    with pytest.raises(ValueError, match=r"other and .*svp cannot be compared: backbone or preparation of images differ"):
        svp.inspection.show_gates(place / "svp", [place / "photos" / "blue" / "00.jpg"], compare=[other], out=tmp_path)


def test_maps_lie_on_their_patches() -> None:
    assert patch_extent(small_vim(img_size=(16, 24))) == (-0.5, 23.5, 15.5, -0.5)
    overlapping = small_vim(img_size=16, patch_size=8, stride=4)  # 3 x 3 patches, middles at 4, 8 and 12
    assert patch_extent(overlapping) == (1.5, 13.5, 13.5, 1.5)


def test_pixels_undo_the_normalization() -> None:
    inputs = svp.data.InputConfig(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    image = torch.rand(3, 4, 5)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (inputs.mean, inputs.std))
    np.testing.assert_allclose(pixels((image - mean) / std, inputs), image.permute(1, 2, 0).numpy(), atol=1e-6)


def test_runs_of_one_method_are_told_apart(place: Path, tmp_path: Path) -> None:
    other = adapter(tmp_path / "other", "svp", shared_layers=1)
    compared = open_runs(place / "svp", [other, place / "vpt"], "cpu")
    assert list(compared.models) == list(compared.looks) == ["base", "SVP, svp", "SVP, other", "VPT-deep"]
    assert len(set(compared.looks.values())) == 4


def test_colors_are_shared_by_all_models() -> None:
    maps = {"base": {"update": np.array([[1.0, 2.0]])}, "one": {"update": np.array([[0.0, 1.5]])}}
    with style():
        figure = plot_gate_maps(np.zeros((4, 8, 3)), maps, (-0.5, 7.5, 3.5, -0.5))
    (_, base, one, change), *_ = [figure.axes[:4]]
    assert base.images[1].get_clim() == one.images[1].get_clim() == (0.0, 2.0)
    np.testing.assert_allclose(change.images[1].get_array(), [[-1 / 1.5, -0.5 / 1.5]])
    limit = (0.5 + 0.98 * 0.5) / 1.5
    assert change.images[1].get_clim() == pytest.approx((-limit, limit))


def test_one_strong_change_does_not_hide_the_others() -> None:
    base, tuned = np.ones((8, 8)), np.full((8, 8), 1.1)
    tuned[0, 0] = 100.0
    with style():
        figure = plot_gate_maps(np.zeros((8, 8, 3)), {"base": {"dt": base}, "one": {"dt": tuned}}, (-0.5, 7.5, 7.5, -0.5))
    assert figure.axes[3].images[1].get_clim()[1] == pytest.approx(0.1)


def overlaps(texts: list[Any]) -> list[tuple[str, str]]:
    """Pairs of texts, of a figure that is drawn, that cover each other."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text() and text.get_visible()]
    return [(a, b) for (a, first), (b, second) in combinations(boxes, 2) if first.overlaps(second)]


@pytest.mark.parametrize("others", [1, 3])
def test_titles_of_maps_do_not_overlap(others: int) -> None:
    names = ["base", "SVP", "position embedding", "full fine-tuning, second run"][: 1 + others]
    maps = {name: {gate: np.eye(8) + 1 for gate in ("update", "forget", "contribution")} for name in names}
    prompts = {name: np.eye(8) for name in ("norm", "relative_norm", "inner_share", "cross_share")}
    with style():
        for figure in (
            plot_gate_maps(np.zeros((8, 8, 3)), maps, (-0.5, 7.5, 7.5, -0.5)),
            plot_prompt_maps(np.zeros((8, 8, 3)), dict.fromkeys(names, prompts), (-0.5, 7.5, 7.5, -0.5)),
        ):
            figure.draw_without_rendering()
            texts = [axis.title for axis in figure.axes] + [axis.yaxis.label for axis in figure.axes]
            assert overlaps(texts) == []
            boxes = {text.get_text(): text.get_window_extent() for text in texts if text.get_text()}
            assert [text for text, box in boxes.items() if not 0 <= box.x0 < box.x1 <= figure.bbox.width] == []


@pytest.mark.parametrize("classes", [2, 10, 30, 100, 200])
def test_all_of_a_confusion_matrix_lies_on_the_page(classes: int) -> None:
    names = [f"European fire salamander {n}" for n in range(classes)]
    with style():
        figure = plot_confusion(np.eye(classes, dtype=np.int64), names)
        figure.draw_without_rendering()
    axis, *_ = figure.axes
    names_of_rows = axis.get_yticklabels() if classes <= 30 else []
    for text in (axis.xaxis.label, axis.yaxis.label, *names_of_rows):
        box = text.get_window_extent()
        assert figure.bbox.padded(1).containsx(box.x0), text
        assert figure.bbox.padded(1).containsy(box.y0), text
    assert overlaps(names_of_rows) == []
    assert axis.get_window_extent().width > 0.3 * figure.bbox.width


def test_a_change_has_the_digits_that_its_interval_allows() -> None:
    assert _change(0.01234, 0.0056) == "+1.23 ± 0.56"
    assert _change(-0.000012, 0.0000056) == "\N{MINUS SIGN}0.00120 ± 0.00056"
    assert _change(-0.5, 0.21) == "\N{MINUS SIGN}50 ± 21"
    assert _change(-0.00001, 0.02) == "+0.0 ± 2.0"
    assert _change(0.0, 0.0) == "+0.00 ± 0.00"


def test_page_escapes_names(tmp_path: Path) -> None:
    page = Page(tmp_path, "<b>", ["a & b"])
    page.add_table(["<i>"], [["x < y"]], "caption")
    page.add_text("<script>")
    text = page.write().read_text()
    assert "<script>" not in text
    assert "x &lt; y" in text
    assert "a &amp; b" in text


def test_many_classes_and_names_with_dollars(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 40, size=200)
    names = [f"$class_{n}$ with a long name" for n in range(40)]
    with style():
        page = Page(tmp_path, "many", [])
        page.add_figure("features", "", "", plot_features({"base": generator.normal(size=(200, 2))}, labels, names))
        page.add_figure("confusion", "", "", plot_confusion(np.eye(40, dtype=np.int64), names))
        page.add_figure("few", "", "", plot_confusion(np.eye(5, dtype=np.int64), names[:5]))
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_a_run_without_scans_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_vit(img_size=16)
    svp.tune(model, "vpt_deep")
    svp.save_adapter(model, tmp_path)
    (tmp_path / "x.png").write_bytes(b"")
    assert main(["gates", str(tmp_path), str(tmp_path / "x.png")]) == 1
    assert "gates are recorded in the scans of a VisionMamba, this is a VisionTransformer" in capsys.readouterr().err


def test_confusion_of_many_classes_is_written_as_what_is_in_it(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(1000)]
    labels = np.arange(1000) // 2 * 2  # of two classes, the second is always taken for the first
    predicted = Predictions(np.zeros((1000, 2)), np.eye(1000)[labels], np.arange(1000)).answers(names)
    page = Page(tmp_path, "many", [])
    with style():
        add_confusion(page, predicted)
    page.write()
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert len(numbers["confusion_true_said_images"]) == 1000
    assert numbers["confusion_true_said_images"][:2] == [[0, 0, 1], [1, 0, 1]]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 500_000
    assert "class 1 taken for class 0" in (tmp_path / "index.html").read_text()
