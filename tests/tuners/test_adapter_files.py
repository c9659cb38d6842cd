"""The adapter pair on disk: what it says, what is refused, and that a refused load leaves the backbone alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import svp
from svp.models import Origin, VisionMamba, WeightsError
from svp.tuners import read_adapter_info
from tests.models.small import SMALL, images, perturb, small_vim

OVERRIDES = {name: value for name, value in SMALL.items() if name != "num_classes"}
ORIGIN = Origin("vim_nano_patch4_32", "random", OVERRIDES, seed=5)
OPTIONS = dict(shared_layers=2, hidden_dim=4)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    model = ORIGIN.build(5)
    svp.tune(model, "svp", **OPTIONS)
    svp.save_adapter(model, tmp_path / "run", class_names=list("abcde"))
    return tmp_path / "run"


def test_what_the_json_says(adapter: Path) -> None:
    content = json.loads((adapter / "adapter.json").read_text(encoding="utf-8"))
    assert set(content) == {
        *("method", "options", "backbone", "backbone_sha256", "num_classes", "class_names", "inputs", "format"),
    }
    assert content["method"] == "svp"
    assert content["options"]["shared_layers"] == 2
    assert content["options"]["cross_prompt"] == "paper"
    assert content["backbone"] == {"name": "vim_nano_patch4_32", "weights": "random", "overrides": OVERRIDES, "seed": 5}
    assert content["backbone_sha256"] == svp.models.state_sha256(ORIGIN.build(3).state_dict())
    assert content["num_classes"] == 5
    assert content["class_names"] == list("abcde")
    assert {"input_size", "mean", "std", "crop_pct", "interpolation"} <= set(content["inputs"])
    assert set(load_file(adapter / "adapter.safetensors")) == set(svp.load_adapter(adapter).tuner.trainable_names)
    assert read_adapter_info(adapter).backbone == ORIGIN


def test_inputs_of_the_caller_are_kept(tmp_path: Path) -> None:
    model = ORIGIN.build(5)
    svp.tune(model, "linear")
    info = svp.save_adapter(model, tmp_path, inputs={"input_size": [3, 16, 16], "crop_pct": 0.9})
    assert info == read_adapter_info(tmp_path)
    assert info.inputs == {"input_size": [3, 16, 16], "crop_pct": 0.9}


def test_saving_again_replaces_the_pair(adapter: Path) -> None:
    model = svp.load_adapter(adapter)
    perturb(model.svp)
    perturb(model.head)
    svp.save_adapter(model, adapter)
    assert torch.equal(svp.load_adapter(adapter)(images(model)), model(images(model)))
    assert sorted(p.name for p in adapter.iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    model = small_vim()
    with pytest.raises(ValueError, match=r"the model is not tuned; call svp\.tune"):
        svp.save_adapter(model, tmp_path)
    svp.tune(model, "linear")
    with pytest.raises(ValueError, match="3 class names for a head of 5 classes"):
        svp.save_adapter(model, tmp_path, class_names=list("abc"))
    assert list(tmp_path.iterdir()) == []


def test_wrong_backbone_names_both_hashes(adapter: Path) -> None:
    other = Origin("vim_nano_patch4_32", "random", OVERRIDES, seed=6).build(5)
    before = {name: t.clone() for name, t in other.state_dict().items()}
    theirs = svp.models.state_sha256(before)
    with pytest.raises(WeightsError) as error:
        svp.load_adapter(adapter, other)
    message = str(error.value)
    assert theirs in message
    assert read_adapter_info(adapter).backbone_sha256 in message
    assert "vim_nano_patch4_32" in message
    assert other.tuner is None
    assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())
    assert list(other.state_dict()) == list(before)


def test_backbone_of_another_shape_or_already_tuned(adapter: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not fit this backbone: svp: shared_layers is 2, expected 1 to .* depth 1"):
        svp.load_adapter(adapter, small_vim(depth=1))
    tuned = ORIGIN.build(7)
    svp.tune(tuned, "linear")
    with pytest.raises(WeightsError, match="already tuned by 'linear'"):
        svp.load_adapter(adapter, tuned)
    assert tuned.num_classes == 7, "the head of a tuned model is not replaced"


def test_full_brings_its_own_weights(tmp_path: Path) -> None:
    model = perturb(ORIGIN.build(5), seed=11)
    svp.tune(model, "full")
    svp.save_adapter(model, tmp_path)
    model.eval()
    assert torch.equal(svp.load_adapter(tmp_path)(images(model)), model(images(model)))
    other = small_vim()  # any weights will do: they are replaced
    assert torch.equal(svp.load_adapter(tmp_path, other)(images(model)), model(images(model)))


def test_random_backbone_without_seed_must_be_given(tmp_path: Path) -> None:
    model = small_vim()
    svp.tune(model, "linear")
    svp.save_adapter(model, tmp_path)
    with pytest.raises(WeightsError, match=r"random weights of unknown seed: pass the model itself as backbone="):
        svp.load_adapter(tmp_path)
    loaded = svp.load_adapter(tmp_path, small_vim())
    assert torch.equal(loaded(images(loaded)), model.eval()(images(model)))


def change_json(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter.json"
        content = json.loads(path.read_text()) | values
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(name: str, keep: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep]) and None


def change_tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    return lambda folder: save_file(change(load_file(folder / "adapter.safetensors")), folder / "adapter.safetensors")


FAULTS = {
    "no json": (lambda folder: (folder / "adapter.json").unlink(), "holds no adapter.json"),
    "half a json": (cut("adapter.json", 100), "adapter.json is damaged"),
    "empty json": (write("adapter.json", b""), "adapter.json is damaged"),
    "not a json": (write("adapter.json", b"\xff\xfe\x00"), "adapter.json is damaged"),
    "another json": (write("adapter.json", b"[1, 2]"), "adapter.json is damaged"),
    "newer format": (change_json(format=99), "has format 99, this version of svp reads up to 1: update svp"),
    "missing entry": (change_json(options=None), "adapter.json is damaged: .*options"),
    "odd entry": (change_json(colour="red"), "adapter.json is damaged: .*colour"),
    "unknown option": (change_json(options={"nope": 1}), "does not fit this backbone: method 'svp' has no option 'nope'"),
    "unknown method": (change_json(method="magic"), "unknown method 'magic'"),
    "no tensors": (lambda folder: (folder / "adapter.safetensors").unlink(), "adapter.safetensors cannot be read"),
    "half the tensors": (cut("adapter.safetensors", 2000), "adapter.safetensors cannot be read"),
    "nothing in it": (cut("adapter.safetensors", 0), "adapter.safetensors cannot be read"),
    "missing tensor": (change_tensors(lambda s: {n: t for n, t in s.items() if n != "head.bias"}), "missing .'head.bias'."),
    "left over": (change_tensors(lambda s: s | {"x": torch.zeros(1)}), "left over .'x'."),
    "other shape": (change_tensors(lambda s: s | {"head.bias": torch.zeros(3)}), r"head\.bias: file \(3,\), model \(5,\)"),
}


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("give_backbone", [False, True], ids=["made", "given"])
def test_damaged_files(adapter: Path, damage: Callable[[Path], Any], message: str, give_backbone: bool) -> None:
    damage(adapter)
    backbone: VisionMamba | None = ORIGIN.build(5) if give_backbone else None
    with pytest.raises(ValueError, match=message):
        svp.load_adapter(adapter, backbone)
    if backbone is not None:
        assert backbone.tuner is None, "a refused load leaves the backbone untuned"
        assert all(p.requires_grad for p in backbone.parameters())


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere holds no adapter\.json: expected a run directory"):
        svp.load_adapter(tmp_path / "nowhere")
