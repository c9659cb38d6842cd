"""Readout against its equations, computed from what the plain model's blocks hold."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor

import svp
from tests.models.small import images, small_vim
from tests.tuners.test_adapter_files import ORIGIN
from tests.tuners.test_contract import shake_trained


def held(model: Any, x: Tensor) -> Tensor:
    """p of every block, (batch, depth, 5 embed_dim)."""
    found, taps = [], model.forward_intermediates(x, return_prefix_tokens=True, intermediates_only=True)
    rows, columns = model.patch_embed.grid_size
    i = torch.arange(rows).view(-1, 1) - (rows - 1) / 2
    j = torch.arange(columns) - (columns - 1) / 2
    for grid, cls_token in taps:
        pooled = [cls_token[:, 0], *((weight * grid).mean(dim=(2, 3)) for weight in (1, i, j, i * j))]
        scaled = [v / (v.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() for v in pooled]
        found.append(torch.cat(scaled, dim=1))
    return torch.stack(found, dim=1)


def read(model: Any, x: Tensor) -> Tensor:
    """What is written to every token, (batch, embed_dim)."""
    maps = model.readout
    q = (held(model, x) - maps.center) * maps.gain
    V = torch.stack([each.weight for each in maps.read])
    return torch.einsum("nlw,lkw->nk", q, V) @ maps.write.weight.T


@pytest.mark.parametrize(("pool", "size"), [("token", 16), ("avg", 16), ("token", (12, 20))])
def test_features_get_what_blocks_hold(pool: str, size: int | tuple[int, int]) -> None:
    model: Any = small_vim(img_size=size, global_pool=pool).eval()
    x = images(model)
    plain = model.forward_head(model.forward_features(x), pre_logits=True)
    shake_trained(svp.tune(model, "readout", read_dim=3, rank=0))
    feature = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(feature, plain + read(model, x))


def test_starts_at_the_directions_in_which_images_differ() -> None:
    model: Any = small_vim().eval()
    x = images(model, 20)
    p, plain = held(model, x), model(x)
    svp.tune(model, "readout", images=[x[:12], x[12:]], read_dim=4)
    torch.testing.assert_close(model(x), plain, rtol=0, atol=0)
    maps = model.readout
    torch.testing.assert_close(maps.center, p.mean(dim=0))
    torch.testing.assert_close(maps.gain, 0.1 / (p.var(dim=0, correction=0) + 0.01).sqrt())
    torch.nn.init.eye_(maps.write.weight)
    found = read(model, x)[:, :4]
    torch.testing.assert_close(found.T @ found / len(x), torch.eye(4), rtol=1e-3, atol=1e-3)  # whitened
    q = ((p - maps.center) * maps.gain).flatten(1)
    left, _, _ = torch.linalg.svd(q, full_matrices=False)
    torch.testing.assert_close(found @ found.T / len(x), left[:, :4] @ left[:, :4].T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", [1, 8])
def test_images_that_tell_too_little(number: int) -> None:
    model: Any = small_vim().eval()
    x = images(model, 2).repeat(4, 1, 1, 1)[:number]
    svp.tune(model, "readout", images=[x], read_dim=3)
    torch.nn.init.ones_(model.readout.write.weight)
    assert read(model, images(model, 20)).abs().max() < 30
    assert model.readout.read[0].weight.any()


def test_an_adapter_holds_what_was_seen(tmp_path: Path) -> None:
    model: Any = ORIGIN.build(5).eval()
    x = images(model)
    shake_trained(svp.tune(model, "readout", images=[x], read_dim=1))
    svp.save_adapter(model, tmp_path)
    assert torch.equal(svp.load_adapter(tmp_path)(x), model(x))


def test_tokens_of_another_method_are_not_read() -> None:
    model: Any = small_vim().eval()
    shake_trained(svp.tune(model, "vpt_shallow+readout", vpt_shallow=dict(num_tokens=3), readout=dict(read_dim=3, rank=0)))
    x = images(model)
    with_it = model.forward_features(x)
    written = read(model, x)
    torch.nn.init.zeros_(model.readout.write.weight)
    torch.testing.assert_close(with_it, model.forward_features(x) + written.unsqueeze(1))


def test_threads_do_not_read_each_other() -> None:
    model: Any = small_vim().eval()
    shake_trained(svp.tune(model, "readout", read_dim=3, rank=0))
    x, inside = images(model), Event()
    expected = model(x)
    handle = model.layers[1].register_forward_hook(lambda *_: inside.set() or other.join())
    other = Thread(target=lambda: inside.wait() and handle.remove() is None and model(images(model, seed=9)), daemon=True)
    other.start()
    assert torch.equal(model(x), expected)


def test_what_was_read_is_not_kept() -> None:
    model: Any = small_vim().train()
    svp.tune(model, "readout")
    taps = model.forward_intermediates(images(model), intermediates_only=True)
    graph = weakref.ref(taps[0])
    del taps
    gc.collect()
    assert graph() is None
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model).eval()))
    torch.nn.init.ones_(copied.readout.write.weight)
    assert not torch.equal(copied(images(model)), model.eval()(images(model)))


def test_grid_of_another_size() -> None:
    model: Any = small_vim()
    shake_trained(svp.tune(model, "readout", read_dim=3, rank=2))
    model.set_input_size(24)
    assert torch.isfinite(model(images(model))).all()


def test_in_proj_belongs_to_one_update() -> None:
    with pytest.raises(ValueError, match=r"two of them change model\.layers\.0\.mixer\.in_proj"):
        svp.tune(small_vim(), "lora+readout")
    svp.tune(small_vim(), "lora+readout", readout=dict(rank=0))


@pytest.mark.parametrize(("option", "value"), [("read_dim", 0), ("rank", -1)])
def test_sizes_are_checked(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"readout: {option} is {value}, expected {1 if option == 'read_dim' else 0} or more"):
        svp.tuners.Readout(**{option: value})
