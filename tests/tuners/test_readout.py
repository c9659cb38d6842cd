"""Readout against its equations, computed from what the plain model's blocks hold."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor

import svp
from tests.models.small import images, small_vim
from tests.tuners.test_contract import shake_trained


def read(model: Any, x: Tensor) -> Tensor:
    """What is written to every token, (batch, embed_dim)."""
    _, held = model.forward_intermediates(x, return_prefix_tokens=True)
    rows, columns = model.patch_embed.grid_size
    i = torch.arange(rows).view(-1, 1) - (rows - 1) / 2
    j = torch.arange(columns) - (columns - 1) / 2
    found = []
    for (grid, cls_token), V in zip(held, model.readout.read, strict=True):
        pooled = [cls_token[:, 0], *((weight * grid).mean(dim=(2, 3)) for weight in (1, i, j, i * j))]
        scaled = [v / (v.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() for v in pooled]
        found.append(torch.cat(scaled, dim=1) @ V.weight.T)
    return sum(found[1:], found[0]) @ model.readout.write.weight.T


@pytest.mark.parametrize(("pool", "size"), [("token", 16), ("avg", 16), ("token", (12, 20))])
def test_features_get_what_blocks_hold(pool: str, size: int | tuple[int, int]) -> None:
    model: Any = small_vim(img_size=size, global_pool=pool).eval()
    x = images(model)
    plain = model.forward_head(model.forward_features(x), pre_logits=True)
    shake_trained(svp.tune(model, "readout", read_dim=3, rank=0))
    feature = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(feature, plain + read(model, x))


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
