"""Things that go wrong: broken images, broken weights, a diverging loss, a process killed at a bad moment."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import svp
from svp.data import DataError, open_folder
from svp.models import WeightsError
from svp.runs import RunError
from svp.training import NonFiniteLossError, Run, make_config


def damage(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:300])


def test_an_unreadable_training_image_is_named_and_kept_out(
    photos: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    victim = open_folder(photos).train.paths[0]
    damage(victim)
    run = svp.train(photos, **settings | {"epochs": 1, "progress": True})
    assert [image.path for image in run.result.unreadable_images] == [str(victim)]
    assert run.result.unreadable_test_images == ()
    assert f"cannot read {victim}" in capsys.readouterr().out.replace("\n", "")


def test_an_unreadable_test_image_counts_as_wrong(photos: Path, settings: dict[str, Any]) -> None:
    victim = open_folder(photos).test.paths[0]
    damage(victim)
    run = svp.train(photos, **settings)
    assert run.result.n_test == 6
    assert run.result.top1 <= 5 / 6
    assert [image.path for image in run.result.unreadable_test_images] == [str(victim)]
    assert svp.evaluate(run.directory, device="cpu").top1 == run.result.top1


def test_too_many_unreadable_images_stop_the_run(photos: Path, settings: dict[str, Any]) -> None:
    for image in sorted((photos / "blue").iterdir())[:5]:
        damage(image)
    with pytest.raises(DataError, match=r"training images cannot be read, more than 5%.*blue"):
        svp.train(photos, **settings)


def test_bad_folders_stop_before_any_work(photos: Path, settings: dict[str, Any]) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        svp.train(photos, **settings)
    assert not Path(settings["out"]).exists()


def test_a_diverging_loss_names_step_batch_and_layer(photos: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(
        NonFiniteLossError, match=r"loss is (nan|inf) at epoch 1, step \d+: the first layer .* is \S+\. Batch: .*\.jpg"
    ):
        svp.train(photos, **settings | {"lr": 1e30, "warmup_epochs": 0, "method": "full"})
    assert (Path(settings["out"]) / "adapter.safetensors").is_file()


def test_weights_ruined_by_the_last_step_are_not_kept(photos: Path, settings: dict[str, Any]) -> None:
    ruin = {"lr": 1e6, "warmup_epochs": 0, "method": "full", "batch_size": 24, "epochs": 1}
    with pytest.raises(NonFiniteLossError, match=r"after epoch 1 the loss .* no epoch was finished"):
        svp.train(photos, **settings | ruin)
    assert not (Path(settings["out"]) / "result.json").exists()
    assert all(torch.isfinite(t).all() for t in load_file(Path(settings["out"]) / "adapter.safetensors").values())


@pytest.mark.parametrize(
    "wrong", [{"weights": "gone.pth"}, {"options": {"shared_layers": 99}}, {"img_size": 2}, {"device": "cuda"}]
)
def test_what_fails_early_leaves_no_run_directory(photos: Path, settings: dict[str, Any], wrong: dict[str, Any]) -> None:
    if wrong == {"device": "cuda"} and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises((ValueError, RuntimeError)):
        svp.train(photos, **settings | wrong)
    assert not Path(settings["out"]).exists()


def test_a_run_among_the_images_is_refused(photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    with pytest.raises(RunError, match="would lie among the images"):
        svp.train(".", **settings | {"out": None})
    assert not (photos / "runs").exists()


def test_the_last_good_state_is_kept(photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from svp.training import steps

    good = steps.loss_of
    calls = iter(range(100))

    def failing(*args: Any) -> torch.Tensor:
        loss = good(*args)
        return loss * float("nan") if next(calls) == 4 else loss

    monkeypatch.setattr(steps, "loss_of", failing)
    with pytest.raises(NonFiniteLossError, match="epoch 2, step 2: all layers' outputs are finite"):
        svp.train(photos, **settings)
    monkeypatch.undo()
    state = torch.load(Path(settings["out"]) / "last" / "state.pt", weights_only=True)
    assert len(state["metrics"]) == 1
    assert all(torch.isfinite(tensor).all() for tensor in state["trained"].values())
    assert svp.train(photos, resume=True, **settings).result.epochs == 2


def test_weights_with_nan_are_refused(photos: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    state = svp.create_model("test_vim", num_classes=3, img_size=16).state_dict()
    state["layers.3.mixer.A_log"][0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"layers\.3\.mixer\.A_log holds 1 non-finite"):
        svp.train(photos, **settings | {"weights": str(tmp_path / "nan.safetensors")})


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.target}",))


def test_a_malicious_pickle_does_not_run(photos: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"model": Evil(tmp_path / "owned")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"refused to read .*evil\.pth"):
        svp.train(photos, **settings | {"weights": str(tmp_path / "evil.pth")})
    assert not (tmp_path / "owned").exists()


# resuming ------------------------------------------------------------------------------------------------------------


def test_resuming_checks_that_it_is_the_same_run(photos: Path, settings: dict[str, Any]) -> None:
    svp.train(photos, **settings | {"epochs": 1})
    with pytest.raises(RunError, match=r"other settings \(epochs: 1 -> 3\)"):
        svp.train(photos, resume=True, **settings | {"epochs": 3})
    (photos / "blue" / "00.jpg").unlink()
    with pytest.raises(RunError, match=r"the images in .* are not those the run began with"):
        svp.train(photos, resume=True, **settings | {"epochs": 1})


def resume(run: Run) -> Run:
    return svp.train(config=replace(make_config({}, run.directory / "config.yaml"), out=str(run.directory), resume=True))


def test_resuming_a_finished_run_gives_its_result(finished: Run) -> None:
    assert resume(finished).result == finished.result


def test_resuming_nothing_starts(photos: Path, settings: dict[str, Any]) -> None:
    assert svp.train(photos, resume=True, **settings | {"epochs": 1}).result.epochs == 1


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_damaged_state_is_named(finished: Run, content: bytes | None) -> None:
    (finished.directory / "result.json").unlink()
    state = finished.directory / "last" / "state.pt"
    if content is None:
        torch.save({"something": "else"}, state)
    else:
        state.write_bytes(content)
    with pytest.raises(RunError, match=r"state\.pt is damaged"):
        resume(finished)


@pytest.mark.parametrize("content", ["{}", "junk", '{"root": ".", "test": [1]}'])
def test_a_damaged_list_of_images_is_named(finished: Run, content: str) -> None:
    (finished.directory / "splits.json").write_text(content)
    with pytest.raises(RunError, match=r"splits\.json is damaged"):
        svp.evaluate(finished.directory, device="cpu")


def test_killed_before_or_after_the_settings_are_written(photos: Path, settings: dict[str, Any]) -> None:
    out = Path(settings["out"])
    out.mkdir()
    (out / ".config.yaml.123.tmp").write_text("data: ha")
    run = svp.train(photos, **settings | {"epochs": 1})
    assert not list(out.rglob("*.tmp"))
    for name in ("splits.json", "result.json", "last/state.pt", "metrics.jsonl"):
        (out / name).unlink()
    assert svp.train(photos, resume=True, **settings | {"epochs": 1}).result.top1 == run.result.top1


def test_an_unfinished_run_says_so(photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, **settings)
    assert svp.evaluate(run.directory, device="cpu").how_chosen == run.result.how_chosen
    (run.directory / "result.json").unlink()
    assert svp.evaluate(run.directory, device="cpu").how_chosen == "unfinished run, best of 2 epochs so far"
    (run.directory / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"no epoch of .* is finished"):
        svp.evaluate(run.directory, device="cpu")
    with pytest.raises(RunError, match=r"no epoch of .* is finished"):
        svp.predict(run.directory, [photos], device="cpu")
