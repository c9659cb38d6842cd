"""What the gates of a Vim do on images: recorded by hooks that are gone when the call returns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from svp.errors import InputError
from svp.inspection.scan import Scan, open_mixer
from svp.models import BidirectionalMamba, VisionMamba
from svp.tuners import Prompters
from svp.tuners.layout import Layout

GATES = ("dt", "forget", "memory", "update", "state_norm", "contribution")
"""Names of what ``ScanGates`` holds of every token."""


@dataclass(frozen=True)
class HiddenAttention:
    """A scan as attention: ``y[b, i, d] = sum_j matrix[b, i, j, d] x[b, j, d]``.

    Args:
        matrix: (batch, length, length, d_inner); zero where token j lies behind i in the direction of the scan.
        x: Input of the scan, (batch, length, d_inner).
        y: Its output in front of the gate, with the skip D x, (batch, length, d_inner).
    """

    matrix: Tensor
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class ScanGates:
    """Gates of one scan direction; all but `attention` are (depth, batch, length), means over channels and states.

    Args:
        dt: Step size behind the softplus.
        forget: exp(dt A), 0 to 1: the share of the state that is kept at this token.
        memory: Tokens like this one until 1/e of a state is left, 1 / (dt |A|); the geometric mean, as it spans decades.
        update: |dt B x|: what this token writes into the state.
        state_norm: Euclidean norm of the state behind this token.
        contribution: Euclidean norm over channels of this token's part of the class token's output,
            SiLU(z) / 2 * attention[class token, token] * x[token], with the skip D in the class token's own. Over tokens and
            both directions these parts add up to what the mixer's last projection gets.
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
class SVPPrompts:
    """Prompts of SVP; tensors are (depth, batch, length) unless told otherwise, zero where a token is not prompted.

    Args:
        norm: Euclidean norm of the prompt, alpha inner + beta cross.
        relative_norm: That, divided by the norm of the token that it is added to.
        inner_share: |alpha inner| / (|alpha inner| + |beta cross|).
        cross_share: |beta cross| / (|alpha inner| + |beta cross|).
        alpha: Scale of the inner prompts, (depth, embed_dim); zero if there are none.
        beta: Scale of the cross prompts, by layer, (depth, embed_dim); zero if there are none.
    """

    norm: Tensor
    relative_norm: Tensor
    inner_share: Tensor
    cross_share: Tensor
    alpha: Tensor
    beta: Tensor


@dataclass(frozen=True)
class Gates:
    """Record of a forward pass; `length` counts the tokens that a method adds too.

    Args:
        forward: The scans from the first token to the last.
        backward: The scans from the last token to the first.
        prompts: Those of SVP; None for another model.
        logits: What the model said, (batch, num_classes).
        own: Places of the model's own tokens in the sequence, in their order, (num_patches + 1,).
        cls_position: Place of the class token in the sequence.
        grid_size: Rows and columns of patches.
    """

    forward: ScanGates
    backward: ScanGates
    prompts: SVPPrompts | None
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
        self.prompts: list[dict[str, Tensor]] = []

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles: list[RemovableHandle] = []
        try:
            for layer, block in enumerate(self.model.layers):
                # at the projection, not at the mixer: what passes here is the sequence that is scanned
                handles.append(block.mixer.in_proj.register_forward_hook(_SeeMixer(self, layer, block.mixer)))
            if prompters := getattr(self.model, "svp", None):
                handles.append(prompters.register_forward_hook(self.see_prompts))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def see_mixer(self, layer: int, mixer: BidirectionalMamba, u: Tensor, xz: Tensor) -> None:
        self.places.look(layer, u)
        cls_position = self.places.cls_position
        forward, backward, gate = open_mixer(mixer, xz)
        for scan, layers, attention in zip((forward, backward), self.layers, self.attention, strict=True):
            layers.append(_gates_of(scan, cls_position, gate[:, cls_position]))
            if layer in self.wanted:
                attention[layer] = HiddenAttention(scan.attention(range(scan.x.shape[1])), scan.x, scan.output())

    def see_prompts(self, prompters: Prompters, args: tuple[Any, ...], prompted: Tensor) -> None:
        layer, tokens, layout = args
        if layout is not None:  # those that another method added are not prompted
            tokens, prompted = layout.own(tokens), layout.own(prompted)
        config, cls_position = prompters.config, (tokens.shape[1] - 1) // 2
        source = tokens
        if config.cross_prompt == "official":  # behind the class token: what stands in front of it, prompted
            source = torch.cat([tokens[:, : cls_position + 1], prompted[:, :cls_position]], dim=1)
        mask = torch.ones_like(tokens[..., :1])
        mask[:, cls_position] = config.prompt_cls_token
        # not prompted - tokens, which has few digits left in low precision
        inner = _wide(prompters.inner_prompt(layer, tokens) if config.inner else torch.zeros_like(tokens)) * mask
        cross = _wide(prompters.cross_prompt(layer, source) if config.cross else torch.zeros_like(tokens)) * mask
        prompt = inner + cross
        norm, inner_norm, cross_norm = _norm(prompt), _norm(inner), _norm(cross)
        self.prompts.append(
            dict(
                norm=norm,
                relative_norm=_ratio(norm, _norm(tokens)),
                inner_share=_ratio(inner_norm, inner_norm + cross_norm),
                cross_share=_ratio(cross_norm, inner_norm + cross_norm),
            )
        )

    def finish(self, logits: Tensor) -> Gates:
        forward, backward = (
            ScanGates(**{name: torch.stack([layer[name] for layer in layers]) for name in GATES}, attention=attention)
            for layers, attention in zip(self.layers, self.attention, strict=True)
        )
        places = self.places
        prompts = _prompts(cast(Prompters, self.model.svp), self.prompts, places) if self.prompts else None
        return Gates(forward, backward, prompts, logits, places.own, places.cls_position, self.model.patch_embed.grid_size)


class _SeeMixer:
    """Forward hook of the first projection of the mixer of `layer`."""

    def __init__(self, recorder: _Recorder, layer: int, mixer: BidirectionalMamba) -> None:
        self.recorder, self.layer, self.mixer = recorder, layer, mixer

    def __call__(self, projection: nn.Module, args: tuple[Any, ...], xz: Tensor) -> None:
        self.recorder.see_mixer(self.layer, self.mixer, args[0], xz)


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
        blocks = torch.arange(self.length, device=u.device)
        if affix := getattr(self.model, "affix", None):
            blocks = _own(affix.layout, blocks)
        self.blocks = blocks
        self.own = blocks if self.model.layout is None else _own(self.model.layout, blocks)
        if len(self.own) != self.model.pos_embed.shape[1]:
            raise RuntimeError(
                f"of {self.length} tokens {len(self.own)} seem to be the model's own, it has {self.model.pos_embed.shape[1]}"
            )

    @property
    def cls_position(self) -> int:
        return int(self.own[self.model.cls_position])

    def in_sequence(self, values: Tensor) -> Tensor:
        """(..., what enters a block, or the model's own tokens) -> (..., length), zero for the others."""
        places = self.own if values.shape[-1] == len(self.own) else self.blocks
        spread = values.new_zeros(*values.shape[:-1], self.length)
        spread[..., places] = values
        return spread


def _own(layout: Layout, places: Tensor) -> Tensor:
    """Those of (length,) `places` where the model's own tokens stand."""
    return layout.own(places.view(1, -1, 1)).flatten()


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
        memory=torch.exp(-dt.log().mean(-1) - scan.A.abs().log().mean()),
        update=(dt * x).abs().mean(-1) * scan.B.abs().mean(-1),  # the mean of a product of two that vary on their own
        state_norm=state_norm,
        contribution=_norm(gate.unsqueeze(1) * scan.attention([cls_position]).squeeze(1) * x),
    )


def _prompts(prompters: Prompters, layers: list[dict[str, Tensor]], places: _Places) -> SVPPrompts:
    config, depth = prompters.config, len(layers)
    stacked = {name: places.in_sequence(torch.stack([layer[name] for layer in layers])) for name in layers[0]}
    groups = [layer // config.shared_layers for layer in range(depth)]
    nothing = places.model.pos_embed.new_zeros(depth, places.model.embed_dim)
    as_it_is = torch.ones_like(nothing)
    alpha = (prompters.inner_scale[:depth].clone() if config.scaling else as_it_is) if config.inner else nothing
    beta = (prompters.cross_scale[groups] if config.scaling else as_it_is) if config.cross else nothing
    return SVPPrompts(**stacked, alpha=alpha, beta=beta)


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
