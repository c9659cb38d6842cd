"""Pre-training in stages: killed anywhere, the same command ends with the same weights, and no held-out class is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import held_out_classes, pretrain
from benchmarks.held_out_classes import LIST, TASKS, listed, write_tasks
from benchmarks.nano_weights import recognition
from PIL import Image
from safetensors.torch import load_file, save_file

import svp
from svp.runs import EpochRow, RunDirectory
from tests.processes import torchrun

SMALL: dict[str, Any] = dict(batch_size=8, val_fraction=0.2, device="cpu", check="none")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What is left of eight classes when five are held out."""
    generator = np.random.default_rng(0)
    for name in "abcdefgh":
        for part, number in (("train", 6), ("val", 1)):
            folder = tmp_path / "tiny" / part / name
            folder.mkdir(parents=True)
            for image in range(number):
                Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{image}.png")
    write_tasks(tmp_path / "tiny", tmp_path / "tasks", tasks=[[name] for name in "hbdfa"])
    return tmp_path / "tasks" / "pretraining"


def test_what_is_killed_ends_with_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrain, "STAGES", tuple(pretrain.Stage(size, 0.5, dict(scale_min=0.5)) for size in (8, 12)))
    assert {path.name for path in (data / "train").iterdir()} == {"c", "e", "g"}
    whole = pretrain.pretrain(data, tmp_path / "whole", 4, **SMALL)
    killed: list[int] = []

    def kill(row: EpochRow) -> None:
        killed.append(row.epoch)
        if len(killed) in (1, 4):  # behind the first epoch of either stage
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(data, tmp_path / "killed", 4, kill, **SMALL)
    again = pretrain.pretrain(data, tmp_path / "killed", 4, kill, **SMALL)
    assert killed == [0, 1, 0, 1]
    assert again.read_bytes() == whole.read_bytes()
    assert load_file(whole)["pos_embed"].shape[1] == 3 * 3 + 1
    rows = [row for stage in (1, 2) for row in RunDirectory(tmp_path / "whole" / f"stage{stage}").read_metrics()]
    assert len(rows) == 4
    assert "images per second" in capsys.readouterr().out


def test_stages_follow_one_cosine_and_take_all_epochs(data: Path, tmp_path: Path) -> None:
    stages = list(pretrain.configs(data, tmp_path, 40))
    assert [(config.img_size, config.epochs) for config in stages] == [(20, 20), (24, 10), (32, 10)]
    assert [config.weights for config in stages] == ["random", str(tmp_path / "stage1"), str(tmp_path / "stage2")]
    assert stages[0].rate == pretrain.PEAK
    assert stages[0].min_lr == stages[1].rate == pytest.approx((pretrain.PEAK + pretrain.LAST) / 2)
    assert stages[1].min_lr == stages[2].rate < stages[1].rate
    assert stages[2].min_lr == pretrain.LAST
    assert all(config.resume and config.ema for config in stages)
    assert [config.epochs for config in pretrain.configs(data, tmp_path, 3)] == [1, 1, 1]


def test_the_list_has_as_many_classes_for_every_task() -> None:
    tasks = listed(LIST)
    assert [len(own) for own in tasks] == [8] * TASKS
    with pytest.raises(ValueError, match="expected different classes, as many for each of 5 tasks"):
        listed(Path(held_out_classes.__file__))


def test_weights_that_know_all_classes_are_scored_among_the_others_too(data: Path, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in svp.create_model("vim_nano", num_classes=8).state_dict().items()}
    state["head.weight"].zero_()
    state["head.bias"] = torch.tensor([9.0, 0, 1, 0, 2, 0, 3, 0])  # says a, which is held out, then g, e and c
    save_file(state, tmp_path / "all.safetensors")
    own = {"head.weight": state["head.weight"][[2, 4, 6]], "head.bias": state["head.bias"][[2, 4, 6]]}
    save_file(state | own, tmp_path / "own.safetensors")
    among = {"of 3 classes, top-1": 1 / 3, "of 3 classes, top-5": 1.0}
    assert recognition(str(tmp_path / "own.safetensors"), data.parent) == among
    assert recognition(str(tmp_path / "all.safetensors"), data.parent) == among | {
        "of 8 classes, top-1": 0.0,
        "of 8 classes, top-5": 1.0,
    }


def test_tasks_of_other_classes_are_not_taken(data: Path, tmp_path: Path) -> None:
    tasks, own, other = data.parent, tmp_path / "own.txt", tmp_path / "other.txt"
    own.write_text("h b d f a")
    other.write_text("h b d f c")
    pretrain.make_tasks(tmp_path / "tiny", tasks, own)
    with pytest.raises(ValueError, match=rf"{tasks} holds out other classes than {other} lists"):
        pretrain.make_tasks(tmp_path / "tiny", tasks, other)


IN_TWO_PROCESSES = """
from benchmarks import pretrain
pretrain.STAGES = tuple(pretrain.Stage(size, 0.5, dict(scale_min=0.5)) for size in (8, 12))
pretrain.main()
"""


@pytest.mark.exhaustive
def test_two_processes_write_one_file(data: Path, tmp_path: Path) -> None:
    out, classes = tmp_path / "out", tmp_path / "classes.txt"
    classes.write_text("h b d f a")
    words = [str(word) for word in (tmp_path / "tiny", out, "--epochs", 3, "--classes", classes)]
    called = torchrun(["-c", IN_TWO_PROCESSES, *words], tmp_path / "shown")
    assert called.wait() == 0, called.errors
    assert called.output.count("images per second") == 3
    assert called.output.count("MB; test top-1") == 1
    assert load_file(out / "vim_nano_patch4_32.safetensors")["pos_embed"].shape[1] == 3 * 3 + 1
    assert RunDirectory(out / "stage2").read_result().processes == 2
    assert {path.name for path in out.iterdir()} == {"tasks", "stage1", "stage2", "vim_nano_patch4_32.safetensors"}
