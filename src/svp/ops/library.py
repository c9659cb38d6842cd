"""An op as PyTorch sees it: one node for ``torch.compile``, ``torch.export`` and FLOP counters, whatever runs it.

An op is defined by a NamedTuple of its tensor arguments and by one module per backend, which has

    forward(inputs, *options) -> output, or a tuple of two
    backward(grads, inputs, needed, *options) -> list[Tensor]

`grads` are the gradients of the outputs. The list holds the gradients of those inputs that `needed` marks, in their order; a
field that is a list of tensors counts as that many inputs, and an absent tensor is never needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast, get_type_hints

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from svp.errors import UnavailableError
from svp.ops.backend import implementation

# not by torch.library.custom_op, whose own work is 0.1 ms per call with its gradient: 3 of 25 ms of a step of vim_nano
_LIBRARY: Any = cast(Any, torch.library).Library("svp", "FRAGMENT")  # not annotated
_SCHEMA = {Tensor: "Tensor", Tensor | None: "Tensor?", list[Tensor]: "Tensor[]"}


def define_op(
    name: str,
    inputs: Any,
    options: str,
    outputs: int,
    *,
    fake: Callable[..., Tensor | tuple[Tensor, ...]],
    flops: Callable[..., int],
    backward_flops: Callable[..., int],
    first_is_sum: bool = False,
) -> tuple[Any, Any]:
    """Register ``svp::name`` and ``svp::name_backward``, with shapes, gradients and formulas for ``FlopCounterMode``.

    Args:
        name: Name of the op and of its folder in ``svp.ops``.
        inputs: A NamedTuple class whose fields are ``Tensor``, ``Tensor | None`` or ``list[Tensor]``.
        options: The arguments behind the tensors, as in a PyTorch schema: "bool reverse".
        outputs: Number of outputs, 1 or 2.
        fake: ``fake(inputs, *options)`` gives empty outputs of the right shapes and dtypes.
        flops: ``flops(inputs, *options)`` counts the operations of a call; every tensor is given by its shape.
        backward_flops: ``backward_flops(inputs, needed, *options)`` counts those of its backward.
        first_is_sum: The first output is the sum of the first two inputs: it is kept for the backward pass in place of the
            first, and its gradient is that of both.

    Returns:
        Both ops. They take the fields of `inputs`, then the options, then the name of a backend; the backward has the
        gradients of the outputs in front and `needed` behind the tensors.
    """
    tensors = ", ".join(f"{_SCHEMA[kind]} {field}" for field, kind in get_type_hints(inputs).items())
    rest = "".join(f"{option}, " for option in (options,) if option) + "str backend"
    count = len(inputs._fields)

    def forward(*arguments: Any) -> Any:
        *given, backend = arguments
        return implementation(name, backend).forward(inputs(*given[:count]), *given[count:])

    def backward(grads: list[Tensor], *arguments: Any) -> Any:
        *given, backend = arguments
        return implementation(name, backend).backward(grads, inputs(*given[:count]), *given[count:])

    def fake_backward(grads: list[Tensor], *arguments: Any) -> list[Tensor]:
        flat, needed = _flat(arguments[:count]), arguments[count]
        return [t.new_empty(t.shape) for t, need in zip(flat, needed, strict=True) if t is not None and need]

    outcome = "(" + ", ".join(["Tensor"] * outputs) + ")"
    op = _define(name, f"({tensors}, {rest}) -> {outcome}", forward)
    backward_op = _define(f"{name}_backward", f"(Tensor[] grads, {tensors}, bool[] needed, {rest}) -> Tensor[]", backward)
    torch.library.register_fake(f"svp::{name}", lambda *arguments: fake(inputs(*arguments[:count]), *arguments[count:-1]))
    torch.library.register_fake(f"svp::{name}_backward", fake_backward)

    class Differentiable(torch.autograd.Function):
        """Takes the tensors one by one, since autograd looks for none in lists."""

        @staticmethod
        def forward(ctx: Any, keyset: Any, lengths: list[int | None], options: Sequence[Any], *flat: Tensor | None) -> Any:
            given = _nested(list(flat), lengths)
            with torch._C._AutoDispatchBelowAutograd():
                output = op.redispatch(keyset, *given, *options)
            ctx.wanted = ctx.needed = [t is not None and t.requires_grad for t in flat]
            if first_is_sum:
                flat = (output[0], None, *flat[2:])
                ctx.needed = [any(ctx.wanted[:2]), False, *ctx.wanted[2:]]
            ctx.lengths, ctx.options = lengths, options
            ctx.save_for_backward(*flat)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            if torch.is_grad_enabled() and ctx.options[-1] == "any_device":
                return Differentiable.gradients(ctx, backward, grads)  # autograd differentiates what it does
            return first_derivatives(name, ctx, grads, lambda: Differentiable.gradients(ctx, backward_op, grads))

        @staticmethod
        def gradients(ctx: Any, compute: Callable[..., list[Tensor]], grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
            given = _nested(list(ctx.saved_tensors), ctx.lengths)
            computed = iter(compute(list(grads), *given, ctx.needed, *ctx.options))
            flat = [next(computed) if need else None for need in ctx.needed]
            if first_is_sum:  # autograd casts it to the dtype of either
                flat[:2] = [flat[0] if want else None for want in ctx.wanted[:2]]
            return None, None, None, *flat

    node: Any = type(f"svp_{name}", (Differentiable,), {})  # what ``grad_fn`` and profilers call it

    def differentiable(keyset: Any, *arguments: Any) -> Any:
        given, options = arguments[:count], arguments[count:]
        flat, below = _flat(given), keyset & torch._C._after_autograd_keyset
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in flat):
            lengths = [len(value) if isinstance(value, Sequence) else None for value in given]
            return node.apply(below, lengths, options, *flat)
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(below, *arguments)

    _LIBRARY.impl(name, differentiable, "Autograd", with_keyset=True)

    # the counter gives shapes in place of tensors, and its own keywords for the outputs
    @register_flop_formula(op.overloadpacket)
    def count_forward(*arguments: Any, **outputs: Any) -> int:
        return flops(inputs(*arguments[:count]), *arguments[count:-1])

    @register_flop_formula(backward_op.overloadpacket)
    def count_backward(grads: Any, *arguments: Any, **outputs: Any) -> int:
        return backward_flops(inputs(*arguments[:count]), *arguments[count:-1])

    return op, backward_op


def first_derivatives(
    name: str, ctx: Any, grads: Sequence[Tensor | None], compute: Callable[[], tuple[Tensor | None, ...]]
) -> tuple[Tensor | None, ...]:
    """What ``compute()`` gives for the ``backward`` of an op; if autograd records it, its own derivative is an error."""
    if not torch.is_grad_enabled():
        return compute()
    with torch.no_grad():
        results = compute()
    sources = [t for t in (*grads, *ctx.saved_tensors) if t is not None and t.requires_grad]
    guarded = iter(_NoDerivative.apply(name, [t for t in results if t is not None], *sources))
    return tuple(None if t is None else next(guarded) for t in results)


class _NoDerivative(torch.autograd.Function):
    """Gives tensors that depend on the sources; unlike ``once_differentiable``, in the graph on the way to each of them."""

    @staticmethod
    def forward(ctx: Any, name: str, results: list[Tensor], *sources: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(t.view_as(t) for t in results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise UnavailableError(
            f"{ctx.name}: the kernels have no second derivative; compute what is differentiated twice inside "
            "`with svp.ops.use_backend('reference'):`"
        )


def _define(name: str, schema: str, run: Callable[..., Any]) -> Any:
    """An op that `run` computes on every device, whatever is above it in the dispatcher; without a gradient yet."""
    _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    return getattr(torch.ops.svp, name).default


def size(shape: Sequence[int]) -> int:
    """Number of values of a tensor of this shape."""
    return math.prod(shape)


def _flat(values: Sequence[Any]) -> list[Any]:
    return [t for value in values for t in (value if isinstance(value, list | tuple) else [value])]


def _nested(flat: list[Any], lengths: list[int | None]) -> list[Any]:
    """The inverse of ``_flat``; a length is None where there was no list."""
    items = iter(flat)
    return [next(items) if length is None else [next(items) for _ in range(length)] for length in lengths]
