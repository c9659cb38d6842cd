"""What is trained on, what chooses the epoch, when test is read, and that every result says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import svp
from svp.commands.eval import _print_scores
from svp.data import DataError, ImageData, Split, open_folder, open_fraction
from svp.data.named import catalog
from svp.data.named.catalog import DatasetInfo
from svp.data.sources.folder import FolderSource
from svp.data.splits import Parts
from svp.runs import RunError
from svp.training import NonFiniteLossError, loop, outcome
from svp.training.plan import StepTimes
from svp.training.protocol import how_chosen, images_used
from svp.training.setup import Prepared
from tests.data.named.official_lists import write_images, write_vpt
from tests.training.conftest import write_photos

PROTOCOLS = ("validation", "trainval", "paper")


def paths(*splits: Split) -> set[Path]:
    return {path for split in splits for path in split.paths}


def recorded(run: Path, part: str) -> set[str]:
    return {path for path, _ in json.loads((run / "splits.json").read_text())[part]}


def with_paper_train(data: ImageData, of: Split) -> ImageData:
    return replace(data, paper_train=replace(of, paths=of.paths[:9], labels=of.labels[:9]))


# which images ----------------------------------------------------------------------------------------------------------


def test_every_protocol_trains_on_its_images(photos: Path) -> None:
    data = open_folder(photos)
    used = {protocol: images_used(data, protocol) for protocol in PROTOCOLS}
    assert used["validation"] == data
    for protocol in ("trainval", "paper"):
        assert paths(used[protocol].train) == paths(data.train, data.val)
        assert len(used[protocol].train) == len(data.train) + len(data.val)
        assert len(used[protocol].val) == 0
        assert used[protocol].test == data.test
        assert "has no image of" not in used[protocol].summary()


def test_the_papers_own_part_is_for_its_protocol_alone(photos: Path) -> None:
    data = open_folder(photos)
    data = with_paper_train(data, of=data.train)
    assert images_used(data, "paper").train == data.paper_train
    assert images_used(data, "validation").train == data.train
    assert paths(images_used(data, "trainval").train) == paths(data.train, data.val)
    assert "the part that the released code takes" in how_chosen("paper", images_used(data, "paper"))


def test_a_part_that_holds_test_images_is_refused(photos: Path) -> None:
    data = open_folder(photos)
    data = with_paper_train(data, of=data.test)
    with pytest.raises(DataError, match="6 test images are trained on"):
        images_used(data, "paper")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_subset_is_of_what_the_protocol_trains_on(photos: Path, protocol: Any) -> None:
    data = open_folder(photos)
    whole = images_used(data, protocol)
    shots, share = images_used(data, protocol, shots=2), images_used(data, protocol, train_fraction=0.5)
    assert [shots.train.labels.count(label) for label in range(3)] == [2, 2, 2]
    assert len(share.train) == len(whole.train) // 2
    for used in (shots, share):
        assert paths(used.train) <= paths(whole.train)
        assert (used.val, used.test) == (whole.val, whole.test)
    assert "2 per class of" in shots.summary()


# runs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "label"),
    [
        ("validation", "best top-1 on 6 validation images; test read once, at the end"),
        ("trainval", "last epoch, trained on train + val, nothing chosen; test read once, at the end"),
        ("paper", "best top-1 on test, trained on train + val (protocol of the paper's code): optimistic"),
    ],
)
def test_every_result_is_labelled_and_names_the_images_used(
    protocol: str, label: str, photos: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = svp.train(photos, protocol=protocol, **settings | {"progress": True, "epochs": 2})
    shown = " ".join(capsys.readouterr().out.split())
    assert label in shown
    result = json.loads((run.directory / "result.json").read_text())
    assert (result["protocol"], result["how_chosen"]) == (protocol, label)
    data = open_folder(photos)
    held_out = {"validation": data.val}.get(protocol, Split((), (), ""))
    trained_on = data.train if protocol == "validation" else images_used(data, "trainval").train
    for part, split in {"train": trained_on, "val": held_out, "test": data.test}.items():
        assert recorded(run.directory, part) == {path.relative_to(photos).as_posix() for path in split.paths}
        assert result["data"][part] == len(split)
    assert json.loads((run.directory / "splits.json").read_text())["origins"] == result["data"]["splits"]
    _print_scores(svp.evaluate(run.directory, device="cpu"))
    assert label in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_scored_when(protocol: str, photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    scored: list[set[Path]] = []
    normalized, score = loop.normalized, loop.score

    def remembered(loader: Any, inputs: Any) -> Any:
        opened.append(loader)
        return normalized(loader, inputs)

    def watched(model: Any, batches: Any, *rest: Any) -> Any:
        scored.append(paths(opened[-1].dataset.split))
        return score(model, batches, *rest)

    for module in (loop, outcome):
        monkeypatch.setattr(module, "normalized", remembered)
        monkeypatch.setattr(module, "score", watched)
    svp.train(photos, protocol=protocol, **settings)
    data = open_folder(photos)
    val, test = paths(data.val), paths(data.test)
    if protocol == "validation":
        assert scored == [val, val, test]
    elif protocol == "paper":
        assert scored == [test, test, test]
    else:
        assert scored[2:] == [test]
        assert all(images <= paths(data.train, data.val) for images in scored[:2])


@pytest.mark.usefixtures("drawn")
def test_trainval_keeps_the_last_epoch_whatever_its_scores(photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, protocol="trainval", **settings | {"epochs": 4, "lr": 0.3})
    assert run.result.epoch_chosen == 4
    assert run.result.selection_top1 is None
    adapter = load_file(run.directory / "adapter.safetensors")
    trained = torch.load(run.directory / "last" / "state.pt", weights_only=True)["trained"]
    assert all(torch.equal(adapter[name], trained[name]) for name in trained)
    rows = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    assert all(row["selection_split"] is row["selection_top1"] is row["selection_loss"] is None for row in rows)
    assert Image.open(run.directory / "curves.png").size[0] > 600


def test_a_stopped_trainval_run_holds_its_latest_epoch_and_says_so(
    photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = loop.train_epoch

    def failing(prepared: Prepared, epoch: int, times: StepTimes) -> float:
        if epoch == 3:
            raise KeyboardInterrupt
        return good(prepared, epoch, times)

    monkeypatch.setattr(loop, "train_epoch", failing)
    with pytest.raises(KeyboardInterrupt):
        svp.train(photos, protocol="trainval", **settings | {"epochs": 4})
    out = Path(settings["out"])
    adapter, state = load_file(out / "adapter.safetensors"), torch.load(out / "last" / "state.pt", weights_only=True)
    assert len(state["metrics"]) == 3
    assert all(torch.equal(adapter[name], state["trained"][name]) for name in state["trained"])
    label = svp.evaluate(out, device="cpu").how_chosen
    assert label == "unfinished run, last of 3 epochs so far, trained on train + val"


def test_an_unfinished_run_by_the_papers_protocol_says_so(photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, protocol="paper", **settings)
    (run.directory / "result.json").unlink()
    label = svp.evaluate(run.directory, device="cpu").how_chosen
    assert label == "unfinished run, best on test of 2 epochs so far (protocol of the paper's code): optimistic"


def test_weights_ruined_by_the_last_step_are_not_kept_by_trainval(photos: Path, settings: dict[str, Any]) -> None:
    ruin = {"lr": 1e6, "warmup_epochs": 0, "method": "full", "batch_size": 64, "epochs": 1}
    with pytest.raises(NonFiniteLossError, match=r"after epoch 1 the loss .* no epoch was finished"):
        svp.train(photos, protocol="trainval", **settings | ruin)
    assert all(torch.isfinite(t).all() for t in load_file(Path(settings["out"]) / "adapter.safetensors").values())


# subsets and the paper's own part in runs --------------------------------------------------------------------------------


def test_shots_leave_validation_test_and_names_alone(
    photos: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    once = settings | {"epochs": 1, "out": None, "method": "linear"}
    few = svp.train(photos, shots=2, **once)
    more = svp.train(photos, shots=5, **once)
    assert few.directory.as_posix() == "runs/photos-test_vim-linear-0"
    assert few.result.data.name == "photos"
    assert (few.result.data.train, more.result.data.train) == (6, 15)
    assert recorded(few.directory, "train") < recorded(more.directory, "train")
    for part in ("val", "test"):
        assert recorded(few.directory, part) == recorded(more.directory, part)
    assert few.result.data.splits["train"].startswith("2 per class of")
    with pytest.raises(RunError, match=r"other settings \(shots: 2 -> 3\)"):
        svp.train(photos, shots=3, resume=True, **once | {"out": str(few.directory)})


def test_a_share_of_the_images(photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, train_fraction=0.1, **settings | {"epochs": 1, "method": "linear"})
    assert run.result.data.train == 3
    assert run.result.n_test == 6


# a data set's own list of a share ----------------------------------------------------------------------------------------


CARS = {f"car_ims/{number:06d}.jpg": number % 2 + 1 for number in range(1, 31)}
TRAIN, TEST = dict(list(CARS.items())[:20]), dict(list(CARS.items())[20:])
VAL, SHARE = dict(list(TRAIN.items())[:4]), dict(list(TRAIN.items())[2:12])  # of which two are in both


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    """A data root with the split files of VPT for Stanford Cars, whose validation images are among train.json's."""
    folder = tmp_path / "root" / "FGVC" / "stanford-cars"
    write_images(folder, list(CARS.items()))
    write_vpt(folder, train=TRAIN, val=VAL, test=TEST, train_0_5=SHARE)
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("protocol", "images", "origin"),
    [
        ("validation", SHARE.keys() - VAL.keys(), "train_0.5.json without 2 images that are held out"),
        ("paper", SHARE.keys(), "train_0.5.json"),
    ],
)
def test_the_published_list_of_a_share_is_trained_on(
    protocol: str, images: set[str], origin: str, cars: Path, settings: dict[str, Any]
) -> None:
    own = settings | {"epochs": 1, "method": "linear", "data_root": str(cars), "protocol": protocol}
    run = svp.train("stanford_cars", train_fraction=0.5, **own)
    assert recorded(run.directory, "train") == images
    assert recorded(run.directory, "test") == TEST.keys()
    assert recorded(run.directory, "val") == (VAL.keys() if protocol == "validation" else set())
    assert run.result.data.splits["train"] == origin


def test_where_no_list_is_published_a_share_is_drawn(cars: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    own = settings | {"epochs": 1, "method": "linear"}
    for part in ("train", "test"):
        write_photos(tmp_path / "here" / "stanford_cars" / part, seed=len(part))
    cases = {
        "another share": (
            "stanford_cars",
            0.25,
            "validation",
            4,
            "25% of train.json without 4 images of val.json, stratified",
        ),
        "train + val": ("stanford_cars", 0.5, "trainval", 10, "50% of train (train.json without 4 images of val.json) + val"),
        "a folder": (str(tmp_path / "here" / "stanford_cars"), 0.5, "validation", 18, "50% of rest of folder train/"),
    }
    for case, (data, fraction, protocol, images, origin) in cases.items():
        places = {"out": str(tmp_path / case), "data_root": str(cars), "protocol": protocol}
        run = svp.train(data, train_fraction=fraction, **own | places)
        assert run.result.data.train == images, case
        assert run.result.data.splits["train"].startswith(origin), case


def test_a_folder_of_a_data_sets_name_has_no_published_list(
    cars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(open_fraction("stanford_cars", 0.5, cars) or ()) == len(SHARE)
    assert open_fraction("stanford_cars", 0.25, cars) is None
    assert open_fraction("digits", 0.5, cars) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stanford_cars").mkdir()
    assert open_fraction("stanford_cars", 0.5, cars) is None


def test_a_published_list_is_for_the_part_that_it_is_of(photos: Path) -> None:
    """Validation and test images may be drawn by seed from the images that the list was drawn from."""
    data = open_folder(photos)
    every = (data.train, data.val, data.test)
    everything = Split(sum((part.paths for part in every), ()), sum((part.labels for part in every), ()), "train_0.5.json")
    own = {protocol: images_used(data, protocol, train_fraction=0.5, published=everything) for protocol in PROTOCOLS}
    assert own["validation"].train.paths == data.train.paths
    assert own["validation"].train.labels == data.train.labels
    assert own["validation"].train.origin == "train_0.5.json without 12 images that are held out"
    assert paths(own["paper"].train) == paths(data.train, data.val)
    assert own["trainval"] == images_used(data, "trainval", train_fraction=0.5)
    with pytest.raises(DataError, match=r"train_0\.5\.json: all of its 6 images are held out"):
        images_used(data, "validation", published=replace(data.val, origin="train_0.5.json"))


@pytest.fixture
def _named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of the catalogue, "patches", that brings a part of its own for the paper's protocol."""
    for part in ("train", "test"):
        write_photos(tmp_path / "patches" / part, seed=len(part))

    def read(root: Path, seed: int) -> Parts:
        parts = FolderSource(tmp_path / "patches").parts()
        train = parts.splits["train"]
        own = Split(train.paths[::2], train.labels[::2], "every other image, as the released code")
        return Parts(parts.root, parts.class_names, parts.splits, paper_train=own)

    texts = dict.fromkeys(("title", "group", "source", "license", "layout", "metric", "fetching", "citation"), "")
    row = DatasetInfo(name="patches", classes=3, sizes={"train": 42, "test": 42}, read=read, **texts)
    monkeypatch.setattr(catalog, "_CATALOG", (*catalog._CATALOG, row))


@pytest.mark.usefixtures("_named")
def test_the_papers_own_part_is_trained_on_and_named(settings: dict[str, Any]) -> None:
    run = svp.train("patches", protocol="paper", **settings | {"epochs": 1, "method": "linear"})
    assert run.result.data.train == 21
    assert run.result.data.splits["train"] == "every other image, as the released code"
    assert "the part that the released code takes" in run.result.how_chosen
