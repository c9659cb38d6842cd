"""Surgery on a model that can be undone: what methods change it by."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from operator import attrgetter
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from svp.errors import InputError, UnavailableError
from svp.tuners.layout import AddedTokens


class Attachment:
    """Everything that was added to a model, wrapped, hooked and replaced, and how it was before; ``undo`` takes it off again.

    Args:
        model: The model.
        label: Name of what is attached, for messages.

    Attributes:
        added_tokens: Tokens that the methods add to the sequence, and where these stand.
    """

    def __init__(self, model: nn.Module, label: str) -> None:
        self.model = cast(Any, model)
        self.label = label
        self.added_tokens = AddedTokens()
        self._base = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        self._values: dict[str, Tensor] = {}
        self._head: tuple[Any, Any] = (getattr(model, "head", None), self.model.num_classes)  # a tuned model's may be reset
        self._added: list[str] = []
        self._wrapped: list[tuple[str, nn.Module]] = []
        self._hooks: list[RemovableHandle] = []
        self._replaced: dict[str, Any] = {}

    def add(self, name: str, module: nn.Module) -> list[str]:
        """Make `module` a sub-module of the model, in the model's mode; returns the names of its parameters there.

        Raises:
            InputError: Another method has added one of that name.
        """
        if name in self._added:
            raise InputError(f"the methods of {self.label!r} cannot be combined: both add model.{name}")
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
        """Set an attribute of the model or, by its path, of a sub-module; a function may stand in the place of a method."""
        parent, _, last = name.rpartition(".")
        owner = self.model.get_submodule(parent)
        of_class = hasattr(type(owner), last) and last not in vars(owner)
        self._replaced.setdefault(name, _OfClass if of_class else attrgetter(name)(self.model))
        self._put(name, value)

    def fix_input_size(self) -> None:
        """Refuse another input size from now on: a position embedding that trains cannot be resized."""
        if hasattr(self.model, "set_input_size"):
            self.replace("set_input_size", partial(_refuse_input_size, self.label))

    def is_base(self, name: str) -> bool:
        """Whether a parameter of the model is one that it had before."""
        base = base_name(name)
        return base in self._base and not any(base.startswith(f"{module}.") for module in self._replaced)

    def train(self, names: Iterable[str]) -> None:
        """Make parameters train, by their names in the model as it is or as it was before maps were wrapped."""
        names = set(names)
        for name, parameter in self.model.named_parameters():
            if name in names or base_name(name) in names:
                parameter.requires_grad_(True)

    def keep_values(self) -> tuple[str, ...]:
        """Remember the values that will train in place, so that they can be put back; returns the names of all that trains."""
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        self._values = {base_name(name): p.detach().clone() for name, p in trained.items() if self.is_base(name)}
        return tuple(trained)

    def buffers(self) -> dict[str, Tensor]:
        """Values that do not train, of the sub-modules that were added, by their names in the model."""
        modules = ((name, self.model.get_submodule(name)) for name in self._added)
        return {f"{name}.{buffer}": value for name, module in modules for buffer, value in module.named_buffers()}

    def base_state(self) -> dict[str, Tensor]:
        """The model's values, without head, as they were before anything trained."""
        base = {base_name(name): tensor for name, tensor in self.model.state_dict().items() if self.is_base(name)}
        return {name: self._values.get(name, tensor) for name, tensor in base.items() if not name.startswith("head.")}

    @torch.no_grad()
    def share(self, backbone: nn.Module, trained: Collection[str]) -> None:
        """Hold what does not train, and what ``undo`` puts back, in the tensors of `backbone` where these are equal."""
        theirs = {name: parameter.detach() for name, parameter in backbone.named_parameters()}

        def shared(name: str, tensor: Tensor) -> Tensor:
            other = theirs.get(base_name(name))
            same = other is not None and other.dtype == tensor.dtype and other.device == tensor.device
            return other if other is not None and same and torch.equal(other, tensor) else tensor

        for name, parameter in self.model.named_parameters():
            if self.is_base(name) and name not in trained:
                parameter.data = shared(name, parameter.data)
        self._values = {name: shared(name, tensor) for name, tensor in self._values.items()}

    @torch.no_grad()
    def undo(self, keep_trained: bool = False) -> None:
        """Take everything off and put back the values, the head and what requires a gradient.

        Args:
            keep_trained: Leave the values and the head as they are now.
        """
        if keep_trained:
            self._values, self._head = {}, (getattr(self.model, "head", None), self.model.num_classes)
        for handle in self._hooks:
            handle.remove()
        for path, module in reversed(self._wrapped):
            self._put(path, module)
        for name in self._added:
            delattr(self.model, name)
        for name, value in self._replaced.items():
            if value is _OfClass:
                parent, _, last = name.rpartition(".")
                delattr(self.model.get_submodule(parent), last)
            else:
                self._put(name, value)
        self._hooks, self._wrapped, self._added, self._replaced = [], [], [], {}
        head, self.model.num_classes = self._head
        if head is not None:
            self.model.head = head
        for name, parameter in self.model.named_parameters():
            if name in self._values:
                parameter.copy_(self._values[name])
            parameter.requires_grad_(self._base.get(name, True)).grad = None

    def _put(self, path: str, value: Any) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self.model.get_submodule(parent), name, value)


class _OfClass:
    """Stands for what an object does not have itself, but of its class."""


def _refuse_input_size(label: str, *_: Any, **__: Any) -> NoReturn:
    raise UnavailableError(f"pos_embed is trained by {label!r}: call set_input_size before svp.tune")


def base_name(name: str) -> str:
    """Name of a backbone's parameter without the wrappers around it."""
    return name.replace(".base_layer.", ".")


def innermost(module: Any) -> Any:
    """The map of the backbone below all wrappers."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module
