"""The limit of a step: the sum of what no implementation can avoid, each part timed alone.

- products: every matrix product at the best rate that this machine has for its shape and the precision's storage;
- states: the instructions of the recurrence at their peak rate, in a backward pass with the states computed once again;
- bytes: weights, what enters and leaves a block and what is kept for the backward pass, at the bandwidth of memory.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from svp.bench.cases import Case, build, ours
from svp.bench.products import Product, matrix_products, product_runner
from svp.ops import use_backend
from svp.ops.rows import LANES
from svp.ops.threads import kernel_threads

PARTS = ("products", "states", "bytes")
_META = torch.device("meta")
_RESIDUAL_BYTES = 4  # float32 in every precision
_TRIAD_VALUES = 2**24  # of each of three arrays, 64 MB: none of them stays in a cache


@dataclass(frozen=True)
class Work:
    """What a step cannot avoid.

    Args:
        products: Matrix products and how often each occurs.
        forward_states: Number of updates of a state, of sixteen channels by one token, in the forward pass.
        backward_states: The same with their gradients, in the backward pass.
        bytes: Bytes that are read from memory or written to it.
    """

    products: Counter[Product]
    forward_states: int
    backward_states: int
    bytes: int


def work_of(case: Case) -> Work:
    """Count the work of a case on a Vim, without computing anything."""
    model = build(case, _META)
    tokens = case.batch_size * model.pos_embed.shape[1]
    decays = [side.A for block in model.layers for side in block.mixer.sides()]
    states = tokens * sum(math.ceil(A.shape[0] / LANES) * A.shape[1] for A in decays)
    return Work(products_of(case), states, states if case.mode == "training" else 0, _bytes_to_move(case, model, tokens))


def products_of(case: Case) -> Counter[Product]:
    """The matrix products of the case; gradients of frozen weights are none of them."""
    with use_backend("any_device"):  # a fused kernel would hide some
        return matrix_products(ours(replace(case, precision="fp32"), _META))


def _bytes_to_move(case: Case, model: Any, tokens: int) -> int:
    """Every pass reads the weights and, of each block, reads and writes both streams. A training step of SVP also writes and
    reads the inner activations that the gradients need, reads the streams that entered, and updates what it trains.
    """
    stored, width, depth = case.dtype.itemsize, model.embed_dim, len(model.layers)
    weights = sum(p.numel() for p in model.parameters()) * stored
    images = case.batch_size * 3 * case.img_size**2 * stored
    streams = depth * tokens * width * (stored + _RESIDUAL_BYTES)
    forward = images + weights + 2 * streams
    if case.mode == "inference":
        return forward
    prompters = model.svp
    kept = sum(2 * block.mixer.d_inner for block in model.layers)  # x and z
    kept += sum(layer[0].out_features for layer in prompters.inner_prompters)
    trained = sum(p.numel() for p in model.tuner.trainable_parameters()) * stored
    # of what trains: its gradient and both moments of AdamW are written and read, the weight is read and written
    return forward + weights + 3 * streams + 2 * kept * tokens * stored + 8 * trained


def limit_parts(case: Case, device: torch.device) -> dict[str, Callable[[], object]]:
    """Functions that do one part of a case's work each, at the best rate of this machine.

    The states' instructions are known for a CPU alone; there is no such part on a GPU.
    """
    work = work_of(case)
    parts: dict[str, Callable[[], object]] = {
        "products": product_runner(work.products, device, case.dtype),
        "bytes": mover(work.bytes, device),
    }
    if device.type == "cpu":
        parts["states"] = state_runner(work.forward_states, work.backward_states)
    return {part: parts[part] for part in PARTS if part in parts}


def attention_runner(case: Case, device: torch.device) -> Callable[[], None]:
    """A function that does the attention of a Vision Transformer's inference, without the maps around it."""
    model = build(case, _META)
    attention = model.blocks[0].attn
    shape = (case.batch_size, attention.num_heads, model.pos_embed.shape[1], attention.head_dim)
    query, key, value = (torch.randn(shape, device=device, dtype=case.dtype) for _ in range(3))

    @torch.inference_mode()
    def attend() -> None:
        for _ in model.blocks:
            F.scaled_dot_product_attention(query, key, value)

    return attend


def mover(count: int, device: torch.device) -> Callable[[], None]:
    """A function that moves `count` bytes from and to memory, by STREAM's triad: a = b + 2 c."""
    a, b, c = (torch.zeros(_TRIAD_VALUES, device=device) for _ in range(3))
    repeats, rest = divmod(count // 12, _TRIAD_VALUES)

    def move() -> None:
        for _ in range(repeats):
            torch.add(b, c, alpha=2, out=a)
        if rest:
            torch.add(b[:rest], c[:rest], alpha=2, out=a[:rest])

    return move


def state_runner(forward: int, backward: int) -> Callable[[], None]:
    """A function that updates `forward` states, and `backward` ones with their gradients, on all threads."""
    kernels: Any = importlib.import_module("svp.bench.state_kernels")
    items = 4 * kernel_threads()
    generator = torch.Generator().manual_seed(0)
    steps = torch.rand((2 * kernels.TOKENS + 4) * LANES, generator=generator) * 0.01
    steps[2 * kernels.TOKENS * LANES :] -= 0.02  # rates are negative, or the states would grow
    data, out = steps.numpy(), torch.empty(items * LANES).numpy()
    runs = [
        (run, math.ceil(count / (items * kernels.TOKENS * at_once)))
        for run, count, at_once in (
            (kernels.forward_states, forward, kernels.FORWARD_STATES),
            (kernels.backward_states, backward, kernels.BACKWARD_STATES),
        )
        if count
    ]

    def update() -> None:
        for run, rounds in runs:
            run(items, rounds, data, out)

    return update
