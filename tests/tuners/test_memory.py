"""What a training step keeps for its backward pass, counted in bytes: per block, below what trains, and with checkpoints."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import svp
from tests.models.small import SMALL, images, small_vim
from tests.tuners.test_contract import CASES, DEPTH, FIRST, SVP_OPTIONS, VIM, R, case_id, marked, tuned

TOKENS, D = 17, SMALL["embed_dim"]
XZ = 4 * D  # two halves of twice the width
# bytes that a block under SVP keeps of an image: residual stream, what enters, xz, hidden values of the inner prompter
BY_HAND = {
    torch.float32: TOKENS * (4 * D + 4 * D + 4 * XZ + 4 * R),
    torch.bfloat16: TOKENS * (4 * D + 2 * D + 2 * XZ + 2 * R),
}


def kept(model: Any, batch: int) -> Counter[Any]:
    """Bytes that a forward pass keeps beside the parameters, by block; of the embedding at -1, of the head at "norm_f"."""
    owned = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: Counter[Any] = Counter()
    alive: list[Tensor] = []  # or another tensor may be given the same memory
    place: list[Any] = [-1]
    stages = [*enumerate(model.layers), ("norm_f", model.norm_f)]
    hooks = [
        stage.register_forward_pre_hook(lambda *_, name=name: place.__setitem__(0, name), prepend=True)
        for name, stage in stages
    ]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            owned.add(storage.data_ptr())
            alive.append(tensor)
            found[place[0]] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images(model, batch)).float().sum()
    for hook in hooks:
        hook.remove()
    return found


def kept_per_image(model: Any) -> Counter[Any]:
    """Of what is kept, what a further image adds."""
    with svp.ops.use_backend("numba"):
        few, many = kept(model, 2), kept(model, 3)
    return Counter({name: many[name] - few[name] for name in many if many[name] != few[name]})


def prompted(depth: int = DEPTH, dtype: torch.dtype = torch.float32) -> Any:
    model = small_vim(depth=depth).to(dtype).train()
    svp.tune(model, "svp", **SVP_OPTIONS)
    return model


@pytest.mark.parametrize("dtype", BY_HAND, ids=str)
def test_a_block_keeps_what_was_counted_by_hand(dtype: torch.dtype) -> None:
    found = kept_per_image(prompted(dtype=dtype))
    rest = found.pop("norm_f")
    assert found == dict.fromkeys(range(DEPTH), BY_HAND[dtype])
    # the sum in float32, its root mean square, of the norm one token, and a loss
    assert rest <= TOKENS * (4 * D + 4) + 4 * D + 4 * SMALL["num_classes"]


@pytest.mark.parametrize("dtype", BY_HAND, ids=str)
def test_checkpoints_keep_both_streams_in_front_of_every_third_block(dtype: torch.dtype) -> None:
    model = prompted(7, dtype)
    model.set_grad_checkpointing(True)
    found = kept_per_image(model)
    del found["norm_f"]
    hidden, residual = dtype.itemsize * D * TOKENS, 4 * D * TOKENS
    assert found.total() == hidden + 2 * (hidden + residual)  # no residual in front of the first


def test_readout_keeps_no_more_with_checkpoints_but_what_it_has_read() -> None:
    model = small_vim(depth=7).train()
    svp.tune(model, "readout", read_dim=R)
    model.set_grad_checkpointing(True)
    found = kept_per_image(model)
    del found["norm_f"]
    stream = 4 * D * TOKENS
    assert found.total() == stream + 2 * (2 * stream + 4 * R)


BELOW = {"linear": DEPTH, "partial": DEPTH - 1, "partial-blocks=2": DEPTH - 2}
"""Blocks in front of the first that anything trains in or before; none for other methods."""


@pytest.mark.parametrize("name", marked(names := [case_id(m, row) for m in VIM for row in VIM[m]], {*FIRST, *BELOW}))
def test_nothing_is_kept_below_what_trains(name: str) -> None:
    model = tuned(CASES[name]).train()
    seen: list[bool] = []
    model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].requires_grad))
    found = kept(model, 2)
    assert found.keys() - {-1, "norm_f"} == set(range(BELOW.get(name, 0), DEPTH))
    assert found[-1] == 0 or seen == [True]  # the embedding of patches
