"""Adapters by ``hf-hub:OWNER/NAME``, from a Hub on loopback."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import svp
from svp.errors import InputError
from svp.hub import HubError, local_folder
from svp.runs.hub import push_to_hub
from tests.hub import Hub, Repository
from tests.models.small import images, perturb, small_vim


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save(tmp_path / "adapter")


def save(folder: Path, seed: int = 5) -> Path:
    model = svp.tune(small_vim(), "ssf").model
    perturb(model.head, seed=seed)
    svp.save_adapter(model, folder, class_names=["ant", "bee", "cat", "dog", "eel"])
    return folder


def logits(place: Any) -> torch.Tensor:
    model = svp.load_adapter(place)
    with torch.no_grad():
        return model(images(model))


def test_what_was_pushed_is_loaded(adapter: Path, hub: Hub) -> None:
    push_to_hub(adapter, "ann/pets")
    torch.testing.assert_close(logits("hf-hub:ann/pets"), logits(adapter), rtol=0, atol=0)
    opened = svp.open_run("hf-hub:ann/pets", "cpu")
    assert opened.class_names == ("ant", "bee", "cat", "dog", "eel")
    assert opened.result is None
    folder = local_folder("hf-hub:ann/pets")
    assert {file.name for file in folder.iterdir()} == {"adapter.json", "adapter.safetensors"}  # the card is not fetched
    store = [authorization for line, authorization in hub.requests if line.startswith("GET /store/")]
    assert store == [None]  # once, later it comes from the cache; and the token is for the Hub alone


def test_a_revision_is_a_commit_and_main_the_newest(adapter: Path, hub: Hub, tmp_path: Path) -> None:
    push_to_hub(adapter, "ann/pets")
    first = hub.repositories["ann/pets"].head
    newer = save(tmp_path / "newer", seed=6)
    assert not torch.equal(logits(newer), logits(adapter))
    torch.testing.assert_close(logits("hf-hub:ann/pets"), logits(adapter), rtol=0, atol=0)
    push_to_hub(newer, "ann/pets")
    torch.testing.assert_close(logits("hf-hub:ann/pets"), logits(newer), rtol=0, atol=0)
    torch.testing.assert_close(logits(f"hf-hub:ann/pets@{first}"), logits(adapter), rtol=0, atol=0)
    with pytest.raises(HubError, match="ann/pets has no such revision"):
        local_folder("hf-hub:ann/pets@v9")


@pytest.mark.parametrize("how", ["offline", "no network"])
def test_without_network_the_cache_is_taken(adapter: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    push_to_hub(adapter, "ann/pets")
    folder = local_folder("hf-hub:ann/pets")
    if how == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert local_folder("hf-hub:ann/pets") == folder
    assert local_folder(f"hf-hub:ann/pets@{folder.name}") == folder
    with pytest.raises(HubError, match=r"ann/other cannot be fetched .*: no network, and it was not fetched before"):
        local_folder("hf-hub:ann/other")
    with pytest.raises(HubError, match="cannot be reached for ann/pets"):
        push_to_hub(adapter, "ann/pets")


def test_errors_are_one_line_without_a_token(
    adapter: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.repositories["bob/secret"] = Repository(True, {"0" * 40: {"adapter.json": b"{}"}})
    hub.repositories["bob/open"] = Repository(False, {"1" * 40: {"config.json": b"{}"}})
    hub.tokens["hf_BobsOwnSecret"] = "bob"
    messages = []

    def refused(expected: str, token: str | None, *call: Any) -> None:
        if token is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(HubError, match=expected) as found:
            call[0](*call[1:])
        messages.append(str(found.value))

    ann, wrong = "hf_AnnsOwnSecret", "hf_WrongSecret"
    refused("no repository ann/nothing", ann, local_folder, "hf-hub:ann/nothing")
    refused("no repository bob/secret, or a private one", ann, local_folder, "hf-hub:bob/secret")
    refused("no repository bob/secret, or a private one", None, local_folder, "hf-hub:bob/secret")
    refused("does not accept the token", wrong, local_folder, "hf-hub:bob/open")
    refused("bob/open holds no adapter.json", ann, local_folder, "hf-hub:bob/open")
    refused("there is no token .*hf auth login.*HF_TOKEN", None, push_to_hub, adapter, "ann/pets")
    refused("does not accept the token", wrong, push_to_hub, adapter, "ann/pets")
    refused("no permission for bob/new", ann, push_to_hub, adapter, "bob/new")
    refused("no permission for bob/open", ann, push_to_hub, adapter, "bob/open")
    said = "".join([*messages, caplog.text, *capfd.readouterr()])
    assert "Secret" not in said
    assert all("\n" not in message for message in messages)
    assert any(authorization == f"Bearer {ann}" for _, authorization in hub.requests)


@pytest.mark.parametrize("name", ["hf-hub:pets", "hf-hub:", "hf-hub:ann/pets/more", "hf-hub:../pets"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        local_folder(name)
