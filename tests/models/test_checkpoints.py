"""Weights in: nothing in a file runs, what does not fit is named, the position embedding is resized around its middle row."""

from __future__ import annotations

import argparse
import os
import pickle
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import svp
from svp.models import LoadReport, VisionMamba, WeightsError, read_weights, resize_pos_embed, state_sha256
from svp.models.checkpoints import SHA256, load_into, locate
from tests.models.small import SMALL, images, perturb, small_vim

GRIDS = st.tuples(st.integers(1, 7), st.integers(1, 7))


# position embedding --------------------------------------------------------------------------------------------------------


@given(old=GRIDS, new=GRIDS)
@example(old=(5, 5), new=(4, 4))
@example(old=(1, 1), new=(1, 1))
@settings(max_examples=60, deadline=None)
def test_class_row_keeps_its_value_and_sits_in_the_middle(old: tuple[int, int], new: tuple[int, int]) -> None:
    pos_embed = torch.randn(1, old[0] * old[1] + 1, 8, generator=torch.Generator().manual_seed(0))
    pos_embed[:, old[0] * old[1] // 2] += 100
    resized = resize_pos_embed(pos_embed, old, new)
    middle = new[0] * new[1] // 2
    assert resized.shape == (1, new[0] * new[1] + 1, 8)
    assert torch.equal(resized[:, middle], pos_embed[:, old[0] * old[1] // 2])
    others = torch.cat([resized[:, :middle], resized[:, middle + 1 :]], dim=1)
    assert others.abs().max() < 50, "the class row leaked into image rows"


@given(grid=GRIDS)
@settings(deadline=None)
def test_same_grid_gives_the_same_tensor(grid: tuple[int, int]) -> None:
    pos_embed = torch.randn(1, grid[0] * grid[1] + 1, 8)
    assert torch.equal(resize_pos_embed(pos_embed, grid, grid), pos_embed)


def test_image_rows_keep_their_places() -> None:
    rows = torch.arange(16.0).reshape(4, 4)  # value = 4 row + column: a bicubic resize keeps the order along both axes
    flat = rows.reshape(1, 16, 1)
    pos_embed = torch.cat([flat[:, :8], torch.full((1, 1, 1), 7.0), flat[:, 8:]], dim=1)
    resized = resize_pos_embed(pos_embed, (4, 4), (8, 8))
    grid = torch.cat([resized[:, :32], resized[:, 33:]], dim=1).reshape(8, 8)
    assert (grid.diff(dim=0) > 0).all()
    assert (grid.diff(dim=1) > 0).all()


def test_wrong_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pos_embed has 17 rows, a grid of \(3, 4\) needs 13"):
        resize_pos_embed(torch.zeros(1, 17, 4), (3, 4), (4, 4))


# reading -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in small_vim().state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("entry", ["model", "state_dict", None])
def test_read_pytorch_file_with_namespace(entry: str | None, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "vim.pth"
    content = {entry: state, "args": argparse.Namespace(lr=1e-3, epochs=3), "epoch": 3} if entry else state
    torch.save(content, path)
    assert same(read_weights(path), state)


def test_read_safetensors(state: dict[str, Any], tmp_path: Path) -> None:
    save_file(state, tmp_path / "vim.safetensors")
    assert same(read_weights(tmp_path / "vim.safetensors"), state)


class Payload:
    """Runs a command when it is unpickled, as a hostile file would."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "bare pickle"])
def test_nothing_in_a_file_is_executed(legacy: bool, state: dict[str, Any], tmp_path: Path) -> None:
    path, target = tmp_path / "evil.pth", tmp_path / "was_here"
    content = {"model": state, "args": Payload(target)}
    if legacy:
        path.write_bytes(pickle.dumps({"args": Payload(target)}, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(
        WeightsError, match=r"refused to read .*evil\.pth: it asks to run \w+\.system.*nothing in a file is executed"
    ):
        read_weights(path)
    with pytest.raises(WeightsError, match="refused to read"):
        svp.create_model("vim_nano", path, **SMALL)
    with pytest.raises(WeightsError, match="refused to read"):
        svp.load_official(small_vim(), path)
    assert not target.exists()


def test_the_payload_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "was_here")))
    assert (tmp_path / "was_here").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 1000, -100])
def test_truncated_file(suffix: str, keep: int, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / f"vim.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=rf"vim\.{suffix}"):
        read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {"a": 1}}, {"epoch": 3}, torch.zeros(2)], ids=str)
def test_file_without_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights(tmp_path / "x.pth")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth does not exist"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=r"none\.pth does not exist"):
        svp.create_model("vim_nano", pretrained=tmp_path / "none.pth")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_named(bad: float, state: dict[str, Any], tmp_path: Path) -> None:
    state["layers.1.mixer.D"][:2] = bad
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match=r"nan\.pth: layers\.1\.mixer\.D holds 2 non-finite values of 32"):
        svp.create_model("vim_nano", tmp_path / "nan.pth", **SMALL)


# loading -------------------------------------------------------------------------------------------------------------------


def test_create_model_from_a_file(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"model": state}, tmp_path / "vim.pth")
    model = svp.create_model("vim_nano", tmp_path / "vim.pth", **SMALL)
    assert same(model.state_dict(), state)
    assert model.origin.weights == str(tmp_path / "vim.pth")
    again = model.origin.build(5)
    assert same(again.state_dict(), state)


def test_the_classes_of_a_file_are_those_of_the_model(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "vim.pth")
    small = {name: value for name, value in SMALL.items() if name != "num_classes"}
    model = svp.create_model("vim_nano", tmp_path / "vim.pth", **small)
    assert same(model.state_dict(), state)
    assert model.num_classes == 5


def test_create_model_with_other_classes(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "vim.pth")
    model = svp.create_model("vim_nano", tmp_path / "vim.pth", **SMALL | dict(num_classes=7))
    assert model.head.weight.shape == (7, 16)
    assert model.head.weight.std() > 0
    assert model.head.bias.eq(0).all()
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state if not name.startswith("head."))
    assert svp.create_model("vim_nano", tmp_path / "vim.pth", **SMALL | dict(num_classes=0)).num_classes == 0


@pytest.mark.parametrize("img_size", [24, (12, 20), 16])
def test_create_model_with_other_image_size(img_size: Any, state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "vim.pth")
    model = svp.create_model("vim_nano", tmp_path / "vim.pth", **SMALL | dict(img_size=img_size))
    expected = resize_pos_embed(state["pos_embed"], (4, 4), model.patch_embed.grid_size)
    assert torch.equal(model.pos_embed, expected)
    assert model(images(model)).shape == (2, 5)


def test_wrong_shapes_are_listed(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "vim.pth")
    with pytest.raises(WeightsError) as error:
        svp.create_model("vim_nano", tmp_path / "vim.pth", **SMALL | dict(d_state=8))
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'vim.pth'}: weights of another model: ")
    assert "layers.0.mixer.A_log: file (32, 4), model (32, 8)" in message
    assert message.endswith("and 7 more")  # A_log, A_b_log, x_proj, x_proj_b of three layers, five shown


def test_other_depth_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "vim.pth")
    for depth in (2, 4):
        with pytest.raises(WeightsError, match=r"is not a file of vim_nano_patch4_32: .* layers\."):
            svp.create_model("vim_nano", tmp_path / "vim.pth", **SMALL | dict(depth=depth))


def test_embedding_that_is_not_square_is_refused(state: dict[str, Any]) -> None:
    state["pos_embed"] = state["pos_embed"][:, :12]
    with pytest.raises(WeightsError, match="pos_embed has 12 rows: not a square grid"):
        load_into(small_vim(), state)


@pytest.mark.parametrize("shape", [(272,), (), (0,), (1, 0, 16), (1, 1, 16), (0, 26, 16), (2, 3, 4, 5)], ids=str)
def test_odd_position_embedding_is_refused(shape: tuple[int, ...], state: dict[str, Any], tmp_path: Path) -> None:
    state["pos_embed"] = torch.zeros(shape)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"odd\.pth: pos_embed has "):
        svp.create_model("vim_nano", tmp_path / "odd.pth", **SMALL)


def test_what_is_missing_is_said(state: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(state, tmp_path / "whole.pth")
    svp.create_model("vim_nano", tmp_path / "whole.pth", **SMALL)
    assert not caplog.records
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    torch.save(headless, tmp_path / "headless.pth")
    svp.create_model("vim_nano", tmp_path / "headless.pth", **SMALL)
    svp.create_model("vim_nano", tmp_path / "whole.pth", **SMALL | dict(num_classes=0))
    missing, left_over = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "headless.pth: " in missing
    assert missing.endswith("2 missing from the file: head.weight, head.bias; the head starts fresh")
    assert left_over.endswith("2 left over: head.weight, head.bias")


def test_report_says_what_happened(state: dict[str, Any]) -> None:
    total = len(state)
    assert str(svp.load_official(small_vim(), state)) == f"{total} tensors loaded"
    del state["norm_f.weight"]
    state["extra"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(9, 16)
    model = small_vim()
    head = model.head.weight.clone()
    report = svp.load_official(model, state)
    assert report.loaded == total - 3
    assert set(report.missing) == {"norm_f.weight", "head.weight", "head.bias"}
    assert set(report.unexpected) == {"extra", "head.weight", "head.bias"}
    text = str(report)
    assert f"{total - 3} tensors loaded; 3 missing from the file: " in text
    assert "3 left over: extra, head.weight, head.bias" in text
    assert torch.equal(model.head.weight, head)


def test_a_bias_in_the_file_is_taken_over(state: dict[str, Any]) -> None:
    biases = {"layers.0.mixer.x_proj.bias": torch.ones(9), "norm_f.bias": torch.ones(16)}
    model, expected = small_vim(), small_vim()
    report = load_into(model, state | biases | {"layers.1.norm.bias": torch.ones(3)})
    assert report.unexpected == ("layers.1.norm.bias",), "another shape"
    assert not report.missing
    assert {name for name, _ in model.named_parameters()} == {*state, *biases}
    hooks = [(expected.layers[0].mixer.x_proj, 1.0), (expected.norm_f, 1.0)]
    expected.load_state_dict(state)
    for module, amount in hooks:
        module.register_forward_hook(lambda _, args, out, amount=amount: out + amount)
    torch.testing.assert_close(model(images(model)), expected(images(model)))


def test_report_is_short() -> None:
    text = str(LoadReport(1, missing=tuple(f"m{i}" for i in range(20))))
    assert text == "1 tensors loaded; 20 missing from the file: m0, m1, m2, m3, m4, m5, m6, m7, ..."


def test_foreign_state_is_refused() -> None:
    with pytest.raises(WeightsError, match="is not a released Vim or SVP checkpoint: 0 tensors loaded"):
        svp.load_official(small_vim(), {"conv1.weight": torch.zeros(3)})


def test_hash_covers_names_values_dtypes_but_not_what_depends_on_the_machine(state: dict[str, Any]) -> None:
    reference = state_sha256(state)
    assert state_sha256(dict(reversed(state.items()))) == reference
    assert state_sha256(state | {"head.bias": torch.ones(9)}) == reference
    assert state_sha256(state | {"pos_embed": state["pos_embed"] + 1e-6}) == reference
    changed = state["norm_f.weight"].clone()
    changed[0] += 1e-6
    assert state_sha256(state | {"norm_f.weight": changed}) != reference
    assert state_sha256(state | {"norm_f.weight": state["norm_f.weight"].half()}) != reference
    assert state_sha256({name + "x": t for name, t in state.items()}) != reference


# finding -------------------------------------------------------------------------------------------------------------------

TINY = dict(hf_hub_id="hustvl/Vim-tiny-midclstok", hf_hub_filename="vim_t_midclstok_76p1acc.pth")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def refuse(repo: str, filename: str, local_files_only: bool = False) -> str:
        assert local_files_only, "the Hub's own retries take half a minute"
        asked.append((repo, filename))
        raise LocalEntryNotFoundError("not in the cache")

    def no_network(url: str, timeout: float) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", no_network)
    return asked


def test_offline_says_what_to_place_where(offline: list[tuple[str, str]], svp_home: Path) -> None:
    with pytest.raises(WeightsError) as error:
        svp.create_model("vim_small", pretrained=True)
    message = str(error.value)
    assert offline == [("hustvl/Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth")]
    assert "https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth" in message
    assert str(svp_home / "weights" / "vim_s_midclstok_80p5acc.pth") in message


def test_no_network_is_said_quickly(svp_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens at the Hub's address: one try, nothing logged, one paragraph."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.socket() as bound:  # it is nobody else's, and does not listen
        bound.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nowhere)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/{filename}")
        with pytest.raises(WeightsError, match=r"^cannot download vim_nothing\.pth .* place it at") as error:
            locate(dict(hf_hub_id="hustvl/none", hf_hub_filename="vim_nothing.pth"))
    assert sum(pauses) < 5
    assert "\n" not in str(error.value)
    assert not caplog.records


def test_offline_by_environment(svp_home: Path) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # tests/conftest.py
    with pytest.raises(WeightsError, match=r"cannot download vim_nothing\.pth .* place it at"):
        locate(dict(hf_hub_id="hustvl/none", hf_hub_filename="vim_nothing.pth"))


def test_file_placed_by_hand_is_used(offline: list[Any], svp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (svp_home / "weights").mkdir()
    placed = svp_home / "weights" / "vim_b_midclstok_81p9acc.pth"
    small = dict(embed_dim=16, depth=1)
    weights = svp.create_model("vim_base", **small)
    torch.save({"model": weights.state_dict(), "args": argparse.Namespace(lr=1)}, placed)
    model = svp.create_model("vim_base", pretrained=True, num_classes=3, **small)
    assert offline == []
    assert torch.equal(model.layers[0].mixer.in_proj.weight, weights.layers[0].mixer.in_proj.weight)
    assert model.head.weight.shape == (3, 16)
    assert model.origin.weights == "published"
    assert "state_dict" not in model.pretrained_cfg  # no second copy of the weights in memory
    larger = svp.create_model("vim_base", pretrained=True, img_size=256, **small)
    assert torch.equal(larger.pos_embed, resize_pos_embed(weights.pos_embed, (14, 14), (16, 16)))


def test_wrong_hash_is_refused(offline: list[Any], svp_home: Path) -> None:
    (svp_home / "weights").mkdir()
    placed = svp_home / "weights" / TINY["hf_hub_filename"]
    torch.save({"model": {}}, placed)
    with pytest.raises(WeightsError) as error:
        locate(TINY)
    message = str(error.value)
    assert "damaged or not the published file" in message
    assert str(placed) in message
    assert SHA256[TINY["hf_hub_filename"]] in message


def test_hash_of_the_hubs_cache_is_checked(svp_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = tmp_path / ("0" * 64)
    blob.write_bytes(b"not that")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(blob))
    with pytest.raises(WeightsError, match="damaged or not the published file"):
        locate(dict(hf_hub_id="hustvl/Vim-base-midclstok", hf_hub_filename="vim_b_midclstok_81p9acc.pth"))


def test_model_without_published_weights() -> None:
    with pytest.raises(WeightsError, match="toy has no published weights"):
        locate(dict(architecture="toy"))
    with pytest.raises(WeightsError, match=r"weights file .*gone\.pth does not exist"):
        locate(dict(file="gone.pth"))


def test_position_embedding_is_resized_on_set_input_size() -> None:
    model = small_vim()
    before = model.pos_embed.detach().clone()
    model.set_input_size((24, 20))
    assert isinstance(model, VisionMamba)
    assert torch.equal(model.pos_embed, resize_pos_embed(before, (4, 4), (6, 5)))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_of_wrapped_models_are_read(prefix: str, tmp_path: Path) -> None:
    model = small_vim()
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "wrapped.pth")
    other = perturb(small_vim(), seed=9)
    for source in (tmp_path / "wrapped.pth", state):
        report = svp.load_official(other, source)
        assert (report.missing, report.unexpected) == ((), ())
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
