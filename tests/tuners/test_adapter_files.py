"""The adapter pair on disk: what it says, what is refused, and that a refused load leaves the backbone alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import svp
from svp.errors import SvpError
from svp.inputs import InputConfig
from svp.models import Origin, VisionMamba, WeightsError
from svp.runs import predict
from svp.tuners import SVP, LoRA, methods_to_dict, parse_methods, read_adapter_info
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
        *("method", "backbone", "backbone_sha256", "num_classes", "class_names", "inputs"),
        *("temperature", "reject_below", "format"),
    }
    assert list(content["method"]) == ["svp"]
    assert content["method"]["svp"]["shared_layers"] == 2
    assert content["method"]["svp"]["cross_prompt"] == "paper"
    assert content["backbone"] == {"name": "vim_nano_patch4_32", "weights": "random", "overrides": OVERRIDES, "seed": 5}
    assert content["backbone_sha256"] == svp.models.state_sha256(ORIGIN.build(3).state_dict())
    assert content["num_classes"] == 5
    assert content["class_names"] == list("abcde")
    assert content["inputs"] == InputConfig.of_model(ORIGIN.build(3)).to_dict()
    trained = svp.load_adapter(adapter).tuner.trainable_names
    assert {n for n in load_file(adapter / "adapter.safetensors") if not n.startswith("backbone.")} == set(trained)
    assert read_adapter_info(adapter).backbone == ORIGIN


def test_inputs_of_the_caller_are_kept(tmp_path: Path) -> None:
    model = ORIGIN.build(5)
    svp.tune(model, "linear")
    info = svp.save_adapter(model, tmp_path, inputs={"img_size": 16, "crop_pct": 0.9})
    assert info == read_adapter_info(tmp_path)
    assert info.inputs == InputConfig(16, crop_pct=0.9)
    with pytest.raises(ValueError, match="inputs: input_size is unknown; known: img_size, mean"):
        svp.save_adapter(model, tmp_path, inputs={"input_size": [3, 16, 16]})


def test_inputs_are_those_that_predict_takes(tmp_path: Path) -> None:
    model = svp.create_model("vim_nano", **SMALL | dict(img_size=24))
    svp.tune(model, "linear")
    assert svp.save_adapter(model, tmp_path / "run").inputs.img_size == 24
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    found = list(predict(tmp_path / "run", [tmp_path / "0.png", tmp_path / "1.png"], device="cpu", precision="fp32"))
    assert [len(prediction.classes) for prediction in found] == [5, 5]
    assert all(prediction.error is None for prediction in found)


def test_images_that_are_not_square_cannot_be_saved(tmp_path: Path) -> None:
    model = svp.create_model("vim_nano", **SMALL | dict(img_size=(16, 24)))
    svp.tune(model, "linear")
    with pytest.raises(ValueError, match="images of 16 x 24 pixels, only square ones"):
        svp.save_adapter(model, tmp_path)


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
    assert "without a backbone, load_adapter makes the one it needs" in message
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


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("options", [{}, {"head": "two_linear"}], ids=str)
def test_random_backbone_travels_along(seed: int | None, options: dict[str, Any], tmp_path: Path) -> None:
    model = perturb(replace(ORIGIN, seed=seed).build(5), seed=7)  # not what the seed gives here: as on another CPU
    model.origin = replace(ORIGIN, seed=seed)
    svp.tune(model, "svp", **OPTIONS | options)
    perturb(model.svp)
    svp.save_adapter(model, tmp_path)
    carried = {n: t for n, t in load_file(tmp_path / "adapter.safetensors").items() if n.startswith("backbone.")}
    assert set(carried) == {f"backbone.{n}" for n in small_vim().state_dict() if not n.startswith("head.")}
    loaded = svp.load_adapter(tmp_path)
    assert torch.equal(loaded(images(loaded)), model.eval()(images(model)))
    assert loaded.origin == model.origin
    svp.tuners.adapter_files.load_trained(model, tmp_path)  # as a run does for its best epoch


def test_published_backbone_does_not_travel(tmp_path: Path) -> None:
    model = svp.create_model("vim_nano", pretrained=True, num_classes=3)
    tuner = svp.tune(model, "linear")
    svp.save_adapter(model, tmp_path)
    assert set(load_file(tmp_path / "adapter.safetensors")) == set(tuner.trainable_names)


def test_an_adapter_names_its_weights_and_without_a_name_they_are_the_first(tmp_path: Path) -> None:
    model = svp.create_model("vim_nano.tiny_in200", pretrained=True, num_classes=3)
    svp.tune(model, "linear")
    svp.save_adapter(model, tmp_path)
    content = json.loads((tmp_path / "adapter.json").read_text(encoding="utf-8"))
    assert content["backbone"]["name"] == "vim_nano_patch4_32.tiny_in200"
    change_json(backbone=content["backbone"] | {"name": "vim_nano_patch4_32"})(tmp_path)
    loaded = svp.load_adapter(tmp_path)
    assert loaded.origin == loaded.adapter.backbone == model.origin
    assert torch.equal(loaded(images(loaded)), model.eval()(images(model)))


def test_model_of_timm_travels_with_its_backbone(tmp_path: Path) -> None:
    model = timm.create_model("vim_nano_patch4_32", img_size=16, num_classes=3)
    svp.tune(model, "linear")
    svp.save_adapter(model, tmp_path)
    loaded = svp.load_adapter(tmp_path)
    assert torch.equal(loaded(images(loaded)), model.eval()(images(loaded)))
    shallow = timm.create_model("vim_nano_patch4_32", depth=2)  # nothing tells of the depth
    svp.tune(shallow, "linear")
    svp.save_adapter(shallow, tmp_path)
    with pytest.raises(WeightsError, match=r"missing from the file: .*layers\.2\..*pass the model itself as backbone="):
        svp.load_adapter(tmp_path)


def test_merged_weights_travel(tmp_path: Path) -> None:
    model = svp.create_model("vim_nano", pretrained=True, num_classes=3)
    perturb(svp.tune(model, "full").model)
    svp.tune(model.tuner.merge(), "linear")
    svp.save_adapter(model, tmp_path)
    loaded = svp.load_adapter(tmp_path)
    assert torch.equal(loaded(images(loaded)), model.eval()(images(loaded)))


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("method", ["linear", "full"])
def test_dtype_and_device_stay_out_of_the_json(pretrained: bool, method: str, tmp_path: Path) -> None:
    model = svp.create_model("vim_nano", pretrained, dtype=torch.float64, device=torch.device("cpu"))
    svp.tune(model, method)
    info = svp.save_adapter(model, tmp_path)
    assert info.backbone.overrides == {}
    loaded = svp.load_adapter(tmp_path)
    assert torch.equal(loaded(images(loaded)), model.eval()(images(model)))


@pytest.mark.parametrize("pretrained", [False, True])
def test_size_set_later_is_remembered(pretrained: bool, tmp_path: Path) -> None:
    model = svp.create_model("vim_nano", pretrained)
    svp.tune(model, "linear")
    model.set_input_size(40)
    info = svp.save_adapter(model, tmp_path)
    assert info.backbone.overrides == {"img_size": 40}
    assert info.inputs.img_size == 40
    loaded = svp.load_adapter(tmp_path)
    # not bit for bit: the last bits of a resampled position embedding depend even on where it lies in memory
    torch.testing.assert_close(loaded(images(loaded)), model.eval()(images(model)), rtol=1e-3, atol=1e-3)


def test_refused_load_leaves_the_head(adapter: Path) -> None:
    other = Origin("vim_nano_patch4_32", "random", OVERRIDES, seed=6).build(7)
    head, before = other.head, {name: t.clone() for name, t in other.state_dict().items()}
    for folder, options in ((adapter, {}), (adapter, {"nope": 1})):
        change_json(**({"method": {"svp": options}} if options else {}))(folder)
        with pytest.raises(WeightsError):
            svp.load_adapter(folder, other)
        assert other.head is head
        assert other.num_classes == 7
        assert other.training
        assert other.tuner is None
        assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())


def change_json(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter.json"
        content = json.loads(path.read_text()) | values
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

    return change


def change_entry(name: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

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
    "newer format": (change_json(format=99), "has format 99, this version of svp reads up to 2: update svp"),
    "missing entry": (change_json(method=None), "adapter.json is damaged: .*method"),
    "odd entry": (change_json(color="red"), "adapter.json is damaged: .*color"),
    "inputs null": (change_entry("inputs", None), "adapter.json is damaged: entry inputs is None, expected dict"),
    "unknown input": (
        change_json(inputs={"input_size": 3}),
        "adapter.json is damaged: inputs: input_size is unknown",
    ),
    "odd input": (change_json(inputs={"img_size": "x"}), "adapter.json is damaged: inputs: img_size .='x'. must be an int"),
    "odd mean": (change_json(inputs={"mean": ["x"]}), "adapter.json is damaged: inputs: mean .* must be finite numbers"),
    "method a name": (change_json(method="svp"), "adapter.json is damaged: entry method is .svp., expected dict"),
    "classes word": (change_json(num_classes="x"), "adapter.json is damaged: entry num_classes is 'x', expected int"),
    "names numbers": (change_json(class_names=[1, 2]), "adapter.json is damaged: class_names holds something else"),
    "empty backbone": (change_json(backbone={}), "adapter.json is damaged: .*name"),
    "odd backbone": (change_json(backbone={"name": []}), "adapter.json is damaged: backbone name is .., expected str"),
    "odd option": (change_json(method={"svp": {"hidden_dim": "x"}}), "does not fit this backbone"),
    "unknown option": (
        change_json(method={"svp": {"nope": 1}}),
        "does not fit this backbone: method 'svp' has no option 'nope'",
    ),
    "unknown method": (change_json(method={"magic": {}}), "unknown method 'magic'"),
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


def test_adapter_that_lost_its_backbone(adapter: Path) -> None:
    change_tensors(lambda s: {n: t for n, t in s.items() if n != "backbone.norm_f.weight"})(adapter)
    with pytest.raises(WeightsError, match=r"does not hold the backbone that adapter\.json describes: .*norm_f\.weight"):
        svp.load_adapter(adapter)
    assert svp.load_adapter(adapter, ORIGIN.build(5)).adapter is not None


def test_unknown_override_is_named(adapter: Path) -> None:
    change_json(backbone={"name": "vim_nano_patch4_32", "weights": "random", "overrides": {"color": 1}})(adapter)
    with pytest.raises(WeightsError, match=r"adapter\.json is damaged: backbone: .*color"):
        svp.load_adapter(adapter)


OLD = sorted((Path(__file__).parent / "adapters_of_0.1.0").iterdir())


@pytest.mark.parametrize("folder", OLD, ids=lambda folder: folder.name)
def test_adapters_of_0_1_0_load(folder: Path) -> None:
    """Written by version 0.1.0, format 1, with the logits of its own; LoRA and DoRA were PEFT's layers."""
    content = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    assert content["format"] == 1
    model = svp.load_adapter(folder)
    assert model.tuner.name == content["method"] == folder.name
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor(json.loads((folder / "expected.json").read_text(encoding="utf-8")))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_a_method_may_be_given_in_every_form() -> None:
    written = {"svp": {"hidden_dim": 4, "shared_layers": 2}, "lora": {"rank": 2}}
    forms: list[Any] = [
        written,
        {"name": "svp+lora", **written},
        [SVP(hidden_dim=4, shared_layers=2), LoRA(rank=2)],
    ]
    expected = parse_methods("svp+lora", **written)
    assert list(expected) == ["svp", "lora"]
    assert all(parse_methods(form) == expected for form in forms)
    assert parse_methods(methods_to_dict(expected)) == expected
    assert (
        parse_methods({"name": "svp", "hidden_dim": 4})
        == parse_methods("svp", hidden_dim=4)
        == parse_methods(SVP(hidden_dim=4))
    )
    for wrong in ([SVP(), SVP()], [], {"svp": 3}, {"magic": {}}, "svp+svp"):
        with pytest.raises(SvpError):
            parse_methods(wrong)  # type: ignore[arg-type]
    with pytest.raises(SvpError, match="options of a method are its own fields; got rank beside one"):
        parse_methods(SVP(), rank=3)
    tuner = svp.tune(small_vim(), SVP(**written["svp"]))
    assert tuner.methods == {"svp": SVP(hidden_dim=4, shared_layers=2)}


def test_merged_or_detached_once() -> None:
    for call in ("merge", "detach"):
        tuner = svp.tune(small_vim(), "lora")
        getattr(tuner, call)()
        with pytest.raises(SvpError, match=r"merge: 'lora' was merged into the model or taken off it; call svp\.tune again"):
            tuner.merge()
        other = svp.tune(tuner.model, "linear")
        assert tuner.detach().tuner is other


@pytest.mark.parametrize("wrap", ["data_parallel", "compiled", "both"])
def test_a_wrapped_model_is_saved(wrap: str, tmp_path: Path) -> None:
    model: Any = ORIGIN.build(5)
    svp.tune(model, "linear")
    wrapped = model if wrap == "data_parallel" else torch.compile(model)
    wrapped = wrapped if wrap == "compiled" else torch.nn.DataParallel(wrapped)
    svp.save_adapter(wrapped, tmp_path)
    assert torch.equal(svp.load_adapter(tmp_path)(images(model)), model.eval()(images(model)))
