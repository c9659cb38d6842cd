"""What weight a module amounts to: a fused kernel takes that in its stead, whatever has been put around the module."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

from torch import Tensor, nn

Weights: TypeAlias = tuple[Tensor, Tensor | None]
"""Weight and bias of a linear map, a convolution or a norm."""

_KINDS: set[type[nn.Module]] = {nn.Linear, nn.Conv2d}

Kind = TypeVar("Kind", bound=type[nn.Module])


def is_its_weight(kind: Kind) -> Kind:
    """Class decorator: modules of this very class are nothing but their ``weight`` and ``bias``."""
    _KINDS.add(kind)
    return kind


def effective_weight(module: Any) -> Weights | str:
    """Weight and bias of the one map that `module` amounts to, or in words why it is none.

    A wrapper says it in a method ``effective_weight``, which returns the same. A forward hook says what it makes of them in a
    method ``on_weights``, (weight, bias) -> (weight, bias). Any other hook or replacement cannot say it.
    """
    if module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "has a hook on its input or its gradient"
    if "forward" in vars(module):
        return "has another forward"
    if type(module) in _KINDS:
        found: Weights | str = module.weight, module.bias
    elif hasattr(module, "effective_weight"):
        found = module.effective_weight()
    else:
        return f"is a {type(module).__name__}, which does not say its weight"
    for hook in module._forward_hooks.values():
        if isinstance(found, str):
            break
        if not hasattr(hook, "on_weights"):
            return "has a hook on its output"
        found = hook.on_weights(*found)
    return found


def touched(module: nn.Module, kind: type[nn.Module]) -> str:
    """In words, what keeps `module` from doing what `kind` says, so that it must be called; empty if nothing does."""
    if type(module) is not kind:
        return f"is a {type(module).__name__}"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "has a hook"
    return "has another forward" if "forward" in vars(module) else ""
