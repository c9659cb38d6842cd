"""What the gates of a Vim do on images: recorded by hooks that are gone when the call returns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from svp.errors import InputError
from svp.inspection.scan import Scan, open_mixer
from svp.models import BidirectionalMamba, VisionMamba
from svp.tuners.block_entry import BlockEntry
from svp.tuners.layout import AddedTokens

GATES = ("dt", "forget", "memory", "update", "state_norm", "contribution")
"""Names of what ``ScanGates`` holds of every token."""


@dataclass(frozen=True)
class HiddenAttention:
    """A scan as attention: ``y[b, i, d] = sum_j matrix[b, i, j, d] x[b, j, d] + start[b, i, d]``.

    Args:
        matrix: (batch, length, length, d_inner); zero where token j lies behind i in the direction of the scan.
        x: Input of the scan, (batch, length, d_inner).
        y: Its output in front of the gate, with the skip D x, (batch, length, d_inner).
        start: What the tokens read of the initial state, (batch, length, d_inner); zero if there is none.
    """

    matrix: Tensor
    x: Tensor
    y: Tensor
    start: Tensor


@dataclass(frozen=True)
class ScanGates:
    """Gates of one scan direction; all but `attention` are (depth, batch, length), means over channels and states.

    Args:
        dt: Step size behind the softplus.
        forget: exp(dt A), 0 to 1: the share of the state that is kept at this token.
        memory: Tokens like this one until 1/e of a state is left, 1 / (dt |A|); the geometric mean, as it spans decades, of
            the states that fade at all.
        update: |dt B x|: what this token writes into the state.
        state_norm: Euclidean norm of the state behind this token.
        contribution: Euclidean norm over channels of this token's part of the class token's output,
            SiLU(z) / 2 * attention[class token, token] * x[token], with the skip D in the class token's own. Over tokens and
            both directions these parts add up to what the mixer's last projection gets, less what an initial state adds.
        attention: The full matrices of the layers that were asked for.
    """

    dt: Tensor
    forget: Tensor
    memory: Tensor
    update: Tensor
    state_norm: Tensor
    contribution: Tensor
    attention: dict[int, HiddenAttention] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptRecord:
    """What a method adds to the tokens that enter the blocks, as its ``svp.tuners.BlockEntry`` tells.

    Every entry is an attribute too: ``prompts.norm``, ``prompts.inner_share``, ``prompts.alpha``.

    Args:
        tokens: Numbers of every token, (depth, batch, length), zero where nothing is added. "norm" is the Euclidean norm of
            all that is added, "relative_norm" that divided by the norm of the token, and "inner_share" the norm of the part
            that the method calls "inner", divided by the sum of the norms of all parts.
        scales: Trained scales of the parts by name, (depth, embed_dim).
    """

    tokens: dict[str, Tensor]
    scales: dict[str, Tensor]

    def __getattr__(self, name: str) -> Tensor:
        found: dict[str, Tensor] = vars(self).get("tokens", {}) | vars(self).get("scales", {})
        if name not in found:
            raise AttributeError(f"{type(self).__name__} has no {name!r}; known: {', '.join(found)}")
        return found[name]


@dataclass(frozen=True)
class Gates:
    """Record of a forward pass; `length` counts the tokens that a method adds too.

    Args:
        forward: The scans from the first token to the last.
        backward: The scans from the last token to the first.
        prompts: What a method adds to the tokens that enter the blocks; None for a model without such a method.
        logits: What the model said, (batch, num_classes).
        own: Places of the model's own tokens in the sequence, in their order, (num_patches + 1,).
        cls_position: Place of the class token in the sequence.
        grid_size: Rows and columns of patches.
    """

    forward: ScanGates
    backward: ScanGates
    prompts: PromptRecord | None
    logits: Tensor
    own: Tensor
    cls_position: int
    grid_size: tuple[int, int]

    def mean(self, gate: str) -> Tensor:
        """Mean of both directions of one of ``GATES``, (depth, batch, length)."""
        return (getattr(self.forward, gate) + getattr(self.backward, gate)) / 2

    def image_tokens(self, values: Tensor) -> Tensor:
        """(..., length) -> (..., num_patches), without the class token and what a method added."""
        return values[..., self.own[self.own != self.cls_position]]

    def image_map(self, values: Tensor) -> Tensor:
        """(..., length) -> (..., rows, columns), to be laid over the image."""
        return self.image_tokens(values).reshape(*values.shape[:-1], *self.grid_size)


@torch.no_grad()
def gates(model: nn.Module, images: Tensor, attention: Iterable[int] = ()) -> Gates:
    """Run `model` on `images` in evaluation mode and record what its gates do; the model is left as it was.

    Works for a plain and for a tuned model, wherever it runs; a compiled one runs as it is written, as compiled code calls no
    hooks. What is recorded is computed in plain PyTorch, in float32 or wider, from what every mixer's first projection gives.

    Args:
        model: A ``VisionMamba``, or what ``torch.compile`` made of it.
        images: (batch, in_chans, height, width), prepared for the model, on its device.
        attention: Layers, counted from 0, whose full attention matrices are kept: batch * length^2 * d_inner numbers for
            each direction, d_state times as many while they are computed.

    Raises:
        ValueError: Another model, no such layer, or images of another size.
    """
    vim = with_scans(model)
    layers, depth = sorted(set(attention)), len(vim.layers)
    for layer in layers:
        if not 0 <= layer < depth:
            raise InputError(f"gates: attention names layer {layer}, expected 0 to {depth - 1}")
    recorder = _Recorder(vim, layers)
    with _evaluating(vim), recorder.attached(), _as_written():
        logits = vim(images)
    return recorder.finish(logits)


def with_scans(model: object) -> VisionMamba:
    """`model`, or the one that was compiled; raises ``ValueError`` if it has no scans."""
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, VisionMamba):
        raise InputError(f"gates are recorded in the scans of a VisionMamba, this is a {type(model).__name__}")
    return model


class _Recorder:
    """Collects what the hooks see, layer by layer, reduced to a number per token."""

    def __init__(self, model: VisionMamba, attention: Iterable[int]) -> None:
        self.model = model
        self.places = _Places(model)
        self.wanted = set(attention)
        self.layers: tuple[list[dict[str, Tensor]], ...] = ([], [])  # forward, backward
        self.attention: tuple[dict[int, HiddenAttention], ...] = ({}, {})
        self.added: dict[int, PromptRecord] = {}  # of one layer each

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles: list[RemovableHandle] = []
        try:
            for layer, block in enumerate(self.model.layers):
                # at the projection, not at the mixer: what passes here is the sequence that is scanned
                handles.append(block.mixer.in_proj.register_forward_hook(_SeeMixer(self, layer, block.mixer)))
                if isinstance(block.on_entry, BlockEntry):
                    handles.append(block.register_forward_pre_hook(_SeeEntry(self, layer)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def see_mixer(self, layer: int, mixer: BidirectionalMamba, u: Tensor, xz: Tensor) -> None:
        self.places.look(layer, u)
        if layer == 0:
            self.layers = ([], [])  # a method may look at the images in a pass before: the last one counts
        cls_position = self.places.cls_position
        forward, backward, gate = open_mixer(mixer, xz)
        for scan, layers, attention in zip((forward, backward), self.layers, self.attention, strict=True):
            layers.append(_gates_of(scan, cls_position, gate[:, cls_position]))
            if layer in self.wanted:
                matrix = scan.attention(range(scan.x.shape[1]))
                attention[layer] = HiddenAttention(matrix, scan.x, scan.output(), scan.from_start())

    def see_entry(self, layer: int, entry: BlockEntry, hidden: Tensor) -> None:
        parts = {name: _wide(part) for name, part in entry.parts(hidden).items()}
        norms = {f"{name}_share": _norm(part) for name, part in parts.items()}
        norm, total = _norm(torch.stack([*parts.values()]).sum(dim=0)), torch.stack([*norms.values()]).sum(dim=0)
        relative = _ratio(norm, _norm(hidden))
        shares = {name: _ratio(part, total) for name, part in norms.items()}
        self.added[layer] = PromptRecord({"norm": norm, "relative_norm": relative} | shares, entry.scales())

    def finish(self, logits: Tensor) -> Gates:
        forward, backward = (
            ScanGates(**{name: torch.stack([layer[name] for layer in layers]) for name in GATES}, attention=attention)
            for layers, attention in zip(self.layers, self.attention, strict=True)
        )
        places = self.places
        grid_size = self.model.patch_embed.grid_size
        return Gates(forward, backward, self._prompts(), logits, places.own, places.cls_position, grid_size)

    def _prompts(self) -> PromptRecord | None:
        """Those of all layers; zero in a layer that a method leaves alone."""
        if not self.added:
            return None
        by_layer = [self.added.get(layer) for layer in range(len(self.model.layers))]

        def stacked(kind: str) -> dict[str, Tensor]:
            known = {name: value for record in self.added.values() for name, value in getattr(record, kind).items()}
            found = [getattr(record, kind, {}) for record in by_layer]
            return {name: torch.stack([of.get(name, torch.zeros_like(like)) for of in found]) for name, like in known.items()}

        tokens = {name: self.places.in_sequence(values) for name, values in stacked("tokens").items()}
        return PromptRecord(tokens, stacked("scales"))


class _SeeMixer:
    """Forward hook of the first projection of the mixer of `layer`."""

    def __init__(self, recorder: _Recorder, layer: int, mixer: BidirectionalMamba) -> None:
        self.recorder, self.layer, self.mixer = recorder, layer, mixer

    def __call__(self, projection: nn.Module, args: tuple[Any, ...], xz: Tensor) -> None:
        self.recorder.see_mixer(self.layer, self.mixer, args[0], xz)


class _SeeEntry:
    """Forward pre-hook of the block of `layer`."""

    def __init__(self, recorder: _Recorder, layer: int) -> None:
        self.recorder, self.layer = recorder, layer

    def __call__(self, block: Any, args: tuple[Any, ...]) -> None:
        self.recorder.see_entry(self.layer, block.on_entry, args[0])


class _Places:
    """Which tokens of the sequence that a mixer scans are the model's own."""

    def __init__(self, model: VisionMamba) -> None:
        self.model = model
        self.length = 0

    def look(self, layer: int, u: Tensor) -> None:
        """Find them in what enters the mixer of `layer`, (batch, length, embed_dim)."""
        if layer:
            if u.shape[1] != self.length:
                raise RuntimeError(
                    f"the sequence has {u.shape[1]} tokens in layer {layer}, {self.length} in the layers before"
                )
            return
        self.length = u.shape[1]
        added = AddedTokens() if self.model.tuner is None else self.model.tuner.added_tokens
        self.blocks, self.own = (places(self.length).to(u.device) for places in (added.of_blocks, added.own))
        if len(self.own) != self.model.pos_embed.shape[1]:
            raise RuntimeError(
                f"of {self.length} tokens {len(self.own)} seem to be the model's own, it has {self.model.pos_embed.shape[1]}"
            )

    @property
    def cls_position(self) -> int:
        return int(self.own[self.model.cls_position])

    def in_sequence(self, values: Tensor) -> Tensor:
        """(..., what enters a block) -> (..., length), zero for what only mixers see."""
        spread = values.new_zeros(*values.shape[:-1], self.length)
        spread[..., self.blocks] = values
        return spread


def _gates_of(scan: Scan, cls_position: int, gate: Tensor) -> dict[str, Tensor]:
    """Those of ``GATES``, (batch, length) each; `gate` is the class token's, (batch, d_inner)."""
    x, dt = scan.x, scan.dt
    forget, state_norm = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    for token, token_forget, state in scan.states():
        forget[:, token] = token_forget.mean(dim=(1, 2))
        state_norm[:, token] = state.flatten(1).norm(dim=1)
    return dict(
        dt=dt.mean(-1),
        forget=forget,
        memory=torch.exp(-dt.log().mean(-1) - scan.A[scan.A != 0].abs().log().mean()),
        update=(dt * x).abs().mean(-1) * scan.B.abs().mean(-1),  # the mean of a product of two that vary on their own
        state_norm=state_norm,
        contribution=_norm(gate.unsqueeze(1) * scan.attention([cls_position]).squeeze(1) * x),
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode again behind."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _as_written() -> AbstractContextManager[object]:
    """No compiled code inside; without PyTorch's compiler, whose import takes seconds, there is none."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _norm(t: Tensor) -> Tensor:
    return _wide(t).norm(dim=-1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """0 where there is no whole."""
    return torch.where(whole > 0, part / whole, torch.zeros_like(whole))
