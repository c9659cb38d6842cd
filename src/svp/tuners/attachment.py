"""Surgery on a model that can be undone: what methods change it by."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, cast

from torch import nn
from torch.utils.hooks import RemovableHandle

from svp.errors import InputError


class Attachment:
    """Everything that was added to a model, wrapped, hooked, replaced and overridden; ``undo`` takes it off again.

    Args:
        model: The model.
        label: Name of what is attached, for messages.
    """

    def __init__(self, model: nn.Module, label: str) -> None:
        self.model = cast(Any, model)
        self.label = label
        self._base = frozenset(name for name, _ in model.named_parameters())
        self._added: list[str] = []
        self._wrapped: list[tuple[str, nn.Module]] = []
        self._hooks: list[RemovableHandle] = []
        self._replaced: dict[str, Any] = {}
        self._overridden: list[str] = []

    def add(self, name: str, module: nn.Module) -> list[str]:
        """Make `module` a sub-module of the model, in the model's mode; returns the names of its parameters there.

        Raises:
            InputError: Another method has added one of that name.
        """
        if name in self._added:
            raise InputError(f"the methods of {name!r} cannot be combined: both add model.{name}")
        self.model.add_module(name, module.train(self.model.training))
        self._added.append(name)
        return [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]

    def wrap(self, path: str, wrapper: nn.Module) -> list[str]:
        """Put `wrapper` in the place of the sub-module at `path`, which it holds as ``base_layer`` (PEFT's name for it).

        Returns:
            The names in the model of the wrapper's own parameters.
        """
        self._wrapped.append((path, self.model.get_submodule(path)))
        self._put(path, wrapper.train(self.model.training))
        return [f"{path}.{name}" for name, _ in wrapper.named_parameters() if not name.startswith("base_layer.")]

    def hook(self, handle: RemovableHandle) -> None:
        """Remember a hook that was registered."""
        self._hooks.append(handle)

    def replace(self, name: str, value: Any) -> None:
        """Set an attribute of the model or, by its path, of a sub-module."""
        self._replaced.setdefault(name, attrgetter(name)(self.model))
        self._put(name, value)

    def override(self, name: str, function: Callable[..., Any]) -> None:
        """Put `function` over a method of the model."""
        self._overridden.append(name)
        setattr(self.model, name, function)

    def is_base(self, name: str) -> bool:
        """Whether a parameter of the model is one that it had before."""
        base = base_name(name)
        return base in self._base and not any(base.startswith(f"{module}.") for module in self._replaced)

    def undo(self) -> None:
        """Take everything off; the values of parameters are left as they are."""
        for handle in self._hooks:
            handle.remove()
        for path, module in reversed(self._wrapped):
            self._put(path, module)
        for name in (*self._added, *self._overridden):
            delattr(self.model, name)
        for name, value in self._replaced.items():
            self._put(name, value)
        self._hooks, self._wrapped, self._added, self._overridden, self._replaced = [], [], [], [], {}

    def _put(self, path: str, value: Any) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self.model.get_submodule(parent), name, value)


def base_name(name: str) -> str:
    """Name of a backbone's parameter without the wrappers around it."""
    return name.replace(".base_layer.", ".")


def innermost(module: Any) -> Any:
    """The map of the backbone below all wrappers."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module
