"""What is pushed to the Hub, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

import svp
from svp.errors import InputError
from svp.runs import ClassScore, DataUsed, RunDirectory, RunError
from svp.runs.hub import push_to_hub
from svp.runs.result import CrossValidation, Rejection
from tests.hub import Hub
from tests.models.small import SMALL, perturb, small_vim
from tests.runs.records import make_result

NAMES = ["amber", "b|ue"]


def save(folder: Path, method: str = "lora", **result: Any) -> Path:
    """A finished run of an adapter that nobody trained, with files that are nobody else's business beside it."""
    model = svp.create_model("vim_nano", pretrained=True, num_classes=2, img_size=16)
    perturb(svp.tune(model, method).model.head)
    svp.save_adapter(model, folder, class_names=NAMES)
    place = RunDirectory(folder)
    data = DataUsed("photos", "/home/ann/private/photos", 2, 80, 20, 25, {})
    scores = {"amber": ClassScore(0.9, 10, 1.0, 0.95), "b|ue": ClassScore(0.8, 15, None, None)}
    metrics = {"top1": 0.84, "macro_f1": 0.82, "loss": 0.4, "auroc": None}
    known = dict(top1=0.84, n_test=25, data=data, per_class=scores, metrics=metrics, method=method)
    place.write_result(make_result(**known | result))
    place.write_settings({"data": "/home/ann/private/photos"})
    (folder / "splits.json").write_text('{"root": "/home/ann/private/photos"}')
    return folder


def test_the_adapter_and_a_card_are_sent_and_nothing_else(tmp_path: Path, hub: Hub) -> None:
    command = "/home/ann/.venv/bin/svp train --data /home/ann/private/photos --out=/home/ann/runs/1 --lr 0.01"
    run = save(tmp_path / "run", command=command)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    dry = push_to_hub(run, "ann/colors", dry_run=True)
    assert not hub.requests
    assert dry.url is None
    pushed = push_to_hub(run, "ann/colors", private=True)
    repository = hub.repositories["ann/colors"]
    assert repository.private
    assert pushed.url == f"{hub.url}/ann/colors/commit/{repository.head}"
    sent = repository.commits[repository.head]
    assert sent == dry.files == pushed.files
    assert set(sent) == {"README.md", "adapter.json", "adapter.safetensors"}
    assert all(sent[name] == before[name] for name in ("adapter.json", "adapter.safetensors"))
    assert b"/home" not in b"".join(sent.values())
    assert "svp train --data photos --out=1 --lr 0.01" in pushed.card
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_the_card(tmp_path: Path) -> None:
    card = push_to_hub(save(tmp_path / "run"), "ann/colors", dry_run=True).card
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "svp"
    assert head["pipeline_tag"] == "image-classification"
    assert {"svp", "lora", "vim_nano_patch4_32"} <= set(head["tags"])
    assert head["license"] == "apache-2.0"
    (entry,) = head["model-index"]
    assert entry["name"] == "colors"
    (found,) = entry["results"]
    assert found["dataset"] == {"name": "photos", "type": "photos", "split": "test"}
    assert {m["type"]: m["value"] for m in found["metrics"]} == {"accuracy": 0.84, "f1": 0.82, "loss": 0.4}
    assert "svp predict hf-hub:ann/colors image.jpg" in card
    assert "| top-1 | 84.00% (95 % interval 65.3% to 93.6%) |" in card
    assert "| b\\|ue | 15 | 80.0% | - | - |" in card
    assert "80 images trained on, 20 for validation, 25 for test" in card
    assert "AUROC" not in card


def test_the_card_says_what_is_rejected_and_what_folds_found(tmp_path: Path) -> None:
    crossed = CrossValidation(5, 100, 0.8, (0.7, 0.9), (0.8,) * 5, (0.6, 1.0), {})
    rejection = Rejection(0.9, 0.91, 0.625, 0.75, 0.95, 0.02)
    run = save(tmp_path / "run", cross_validation=crossed, rejection=rejection)
    card = push_to_hub(run, "ann/colors", dry_run=True).card
    assert "80.0% of 100 images are right (95 % interval 70.0% to 90.0%)" in card
    assert 'less than 62.5% confidence is "none of these"' in card
    assert "75.0% of the test images are accepted, of which 95.0% are right." in card


def test_the_card_names_a_published_backbone_and_its_terms(tmp_path: Path) -> None:
    """The weights themselves are not needed for it."""
    run = save(tmp_path / "run")
    values = json.loads((run / "adapter.json").read_text())
    values["backbone"] |= {"name": "vim_tiny_patch16_224", "overrides": {"img_size": 224}}
    (run / "adapter.json").write_text(json.dumps(values))
    card = push_to_hub(run, "ann/colors", dry_run=True).card
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "hustvl/Vim-tiny-midclstok"
    assert head["base_model_relation"] == "adapter"
    assert (head["license"], head["license_name"]) == ("other", "license-of-the-backbone")
    assert "non-commercial (text of the model card)" in card


def test_peft_files_are_sent_where_asked_for(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    push_to_hub(save(tmp_path / "run"), "ann/colors", with_peft=True)
    sent = hub.repositories["ann/colors"].commits[hub.repositories["ann/colors"].head]
    folder = tmp_path / "fetched"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes(sent[name])
    backbone = svp.create_model("vim_nano", pretrained=True, num_classes=2, img_size=16)
    peft.PeftModel.from_pretrained(backbone, str(folder))
    assert "peft.PeftModel.from_pretrained" in sent["README.md"].decode()
    with pytest.raises(InputError, match="PEFT cannot express 'ssf'"):
        push_to_hub(save(tmp_path / "other", "ssf"), "ann/colors", with_peft=True)


def test_a_backbone_that_others_lack(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    save_file(small_vim().state_dict(), weights)
    for method in ("ssf", "full"):
        svp.save_adapter(svp.tune(svp.create_model("vim_nano", weights, **SMALL), method).model, tmp_path / method)
    with pytest.raises(InputError, match=r"weights in .*mine.safetensors, which others do not have"):
        push_to_hub(tmp_path / "ssf", "ann/colors", dry_run=True)
    files = push_to_hub(tmp_path / "full", "ann/colors", dry_run=True).files
    assert json.loads(files["adapter.json"])["backbone"]["weights"] == "mine.safetensors"
    for name in ("adapter.json", "adapter.safetensors"):
        (tmp_path / name).write_bytes(files[name])
    weights.unlink()
    assert "pos_embed" in load_file(tmp_path / "adapter.safetensors")
    svp.load_adapter(tmp_path)


def test_only_a_finished_run(tmp_path: Path) -> None:
    run = save(tmp_path / "run")
    (run / "result.json").unlink()
    with pytest.raises(RunError, match=r"no epoch of .* is finished"):
        push_to_hub(run, "ann/colors", dry_run=True)
    (run / "config.yaml").unlink()
    assert "None are recorded." in push_to_hub(run, "ann/colors", dry_run=True).card
    for name in ("colors", "ann/col ors", "a/b/c"):
        with pytest.raises(InputError, match="expected OWNER/NAME"):
            push_to_hub(run, name, dry_run=True)
