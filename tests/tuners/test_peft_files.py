"""PEFT itself loads adapters of the LoRA family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import svp
from svp.cli import main
from svp.errors import InputError
from svp.tuners.peft_files import CONFIG, TENSORS, write_peft

peft = pytest.importorskip("peft")

NANO: dict[str, Any] = dict(num_classes=5, img_size=16)


def trained(method: str, folder: Path, temperature: float = 1.0, **options: Any) -> Any:
    """A tuned `vim_nano` with published weights whose every trained value was moved, saved and loaded."""
    model = svp.create_model("vim_nano", pretrained=True, **NANO)
    svp.tune(model, method, **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in model.tuner.named_trainable():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    svp.save_adapter(model, folder, temperature=temperature)
    return svp.load_adapter(folder)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"rank": 4, "alpha": 6.0, "target_modules": ["in_proj", "x_proj", "dt_proj", "out_proj", "patch_embed"]}),
        ("dora", {"rank": 3, "target_modules": ["in_proj", "x_proj", "patch_embed"]}),
        ("lora_partial", {"rank": 2, "alpha": 3.0, "slices": ["z", "dt", "C"]}),
    ],
    ids=["lora", "dora", "lora_partial"],
)
def test_peft_gives_the_same_outputs(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    ours = trained(method, tmp_path / "adapter", 1.7, **options)
    write_peft(ours, tmp_path / "peft")
    assert {file.name for file in (tmp_path / "peft").iterdir()} == {CONFIG, TENSORS}
    backbone = svp.create_model("vim_nano", pretrained=True, **NANO)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = backbone(images)
        theirs = peft.PeftModel.from_pretrained(backbone, str(tmp_path / "peft")).eval()
        wanted = ours(images)
        torch.testing.assert_close(theirs(images), wanted, rtol=1e-4, atol=1e-5)
        assert (wanted - before).abs().max() > 0.1
        merged = theirs.merge_and_unload()
        torch.testing.assert_close(merged(images), wanted, rtol=1e-4, atol=1e-5)


def test_the_command_writes_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained("lora", tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--format", "peft"]) == 0
    assert {file.name for file in (tmp_path / "run" / "peft").iterdir()} == {CONFIG, TENSORS}
    trained("svp", tmp_path / "other")
    assert main(["export", str(tmp_path / "other"), "--format", "peft"]) == 1
    assert "PEFT cannot express 'svp'" in capsys.readouterr().err


def test_a_vision_transformer(tmp_path: Path) -> None:
    """Its weights are in a file, since none can be fetched here."""
    from safetensors.torch import save_file

    options: dict[str, Any] = dict(depth=2, img_size=32, num_classes=5)
    weights = tmp_path / "vit.safetensors"
    save_file(svp.create_model("deit_small_patch16_224", **options).state_dict(), weights)
    model = svp.create_model("deit_small_patch16_224", weights, **options)
    svp.tune(model, "lora", rank=2, target_modules=["qkv", "fc1"])
    with torch.no_grad():
        for _, parameter in model.tuner.named_trainable():
            parameter.add_(0.02)
    write_peft(model.eval(), tmp_path / "peft")
    backbone = svp.create_model("deit_small_patch16_224", weights, **options)
    theirs = peft.PeftModel.from_pretrained(backbone, str(tmp_path / "peft")).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["svp", "lora+bitfit", "full"])
def test_what_peft_cannot_express_is_said(tmp_path: Path, method: str) -> None:
    model = svp.tune(svp.create_model("vim_nano", pretrained=True, **NANO), method).model
    with pytest.raises(InputError, match=f"PEFT cannot express '{method.replace('+', '[+]')}': expected one of lora, dora"):
        write_peft(model, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_random_weights_are_said(tmp_path: Path) -> None:
    model = svp.tune(svp.create_model("vim_nano", **NANO), "lora").model
    with pytest.raises(InputError, match="random weights of its own"):
        write_peft(model, tmp_path / "peft")
