"""Devices by name: what "auto" takes, what is there, what an error says; accelerators are listed, not driven."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import svp
from svp.cli import main
from svp.errors import InputError, UnavailableError
from svp.runs import devices
from svp.runs.devices import choose_device, list_devices, make_accelerator, separate_accelerate_state
from tests.models.small import small_vim
from tests.training.conftest import write_photos

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("mps", 0), CPU]
    monkeypatch.setattr(devices, "list_devices", lambda: listed)


def test_what_is_there_ends_in_the_cpu_and_begins_with_what_auto_takes() -> None:
    there = list_devices()
    assert there[-1] == CPU
    assert choose_device("auto") == there[0]
    assert choose_device("cpu") == CPU
    kind = torch.accelerator.current_accelerator(check_available=True)
    assert {device.type for device in there} == {"cpu", *([kind.type] if kind else [])}


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:01", "meta", "", "Cuda", "auto:1"])
def test_words_that_name_no_device(name: str) -> None:
    with pytest.raises(InputError, match=r"device is '.*', expected auto, cpu, cuda, cuda:1, xpu, mps"):
        choose_device(name)


@pytest.mark.usefixtures("two_gpus")
def test_a_device_by_kind_and_number() -> None:
    assert choose_device("auto") == choose_device("cuda") == choose_device("cuda:0") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("mps") == torch.device("mps", 0)
    with pytest.raises(
        UnavailableError, match="'xpu', but PyTorch finds no xpu:0 here, only cuda:0, cuda:1, mps:0, cpu; auto"
    ):
        choose_device("xpu")
    with pytest.raises(UnavailableError, match="finds no cuda:2 here"):
        choose_device("cuda:2")


@pytest.mark.usefixtures("two_gpus")
def test_processes_that_train_together_take_a_device_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="device is 'cuda:1', one for 2 processes: leave the number out"):
        choose_device("cuda:1")


def test_training_is_placed_on_the_chosen_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choose_device", lambda _: torch.device("meta"))  # another device that is always there
    with separate_accelerate_state():
        accelerator = make_accelerator("auto", "fp32")
        model = accelerator.prepare(torch.nn.Linear(2, 2))
        assert accelerator.device == next(model.parameters()).device == torch.device("meta")
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ


def test_bf16_on_an_old_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choose_device", lambda _: torch.device("mps"))
    monkeypatch.setattr(devices, "computes_bf16", lambda _: False)
    with pytest.raises(UnavailableError, match="from macOS 14 on"):
        make_accelerator("mps", "bf16")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapter")
    model = small_vim(num_classes=3)
    svp.tune(model, "linear")
    svp.save_adapter(model, place)
    write_photos(place / "photos", per_class=1)
    return place


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "RUN", "RUN/photos"],
        ["eval", "RUN", "--data", "RUN/photos"],
        ["gates", "RUN", "RUN/photos"],
        ["inspect", "RUN"],
        pytest.param(["app", "RUN", "--no-browser"], marks=pytest.mark.exhaustive),  # imports gradio
        ["bench", "speed"],
        ["train", "--data", "RUN/photos"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_names_the_devices_that_are_there(
    words: list[str], adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("RUN", str(adapter)) for word in words] + ["--device", "cuda:77"]) != 0
    assert f"finds no cuda:77 here, only {', '.join(map(str, list_devices()))}" in capsys.readouterr().err
