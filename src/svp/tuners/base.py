"""The contract of every tuning method: attach to a frozen backbone, train an exact set of parameters, come off again.

A method is one file: a frozen dataclass of options, the modules it adds, and a ``Tuner`` that is registered under a name.
The backbone knows nothing of its tuner, and tuners know nothing of each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from svp.models.checkpoints import WeightsError, check_finite, check_shapes, state_sha256


@dataclass(frozen=True)
class MethodConfig:
    """Options of a tuning method; every method extends it and checks its own in ``__post_init__``."""


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


class Tuner(ABC, Generic[ConfigT]):
    """A tuning method attached to a model.

    Creating one freezes the model, attaches the method and makes exactly its parameters and the head trainable. The tuner is
    then found at ``model.tuner``. ``detach()`` undoes all of it, bit for bit.

    Args:
        model: An untuned model with timm's ``get_classifier``.
        config: The method's options.

    Raises:
        ValueError: The model is tuned already, or an option does not fit it.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[MethodConfig]]
    default_lr: ClassVar[float]
    """Peak learning rate of AdamW at the default batch of 32; not scaled with the batch."""
    default_weight_decay: ClassVar[float]
    self_contained: ClassVar[bool] = False
    """True if the trained state holds the whole model, so that no backbone weights are needed to load it."""
    mergeable: ClassVar[bool] = False
    """True if the tuned model is a plain backbone, so that ``merge`` can give it."""

    def __init__(self, model: nn.Module, config: ConfigT) -> None:
        attached = getattr(model, "tuner", None)
        if attached is not None:
            raise ValueError(f"the model is already tuned by {attached.name!r}; call model.tuner.detach() first")
        self.model = cast(Any, model)
        self.config = config
        self._required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        self._replaced: dict[str, Any] = {}
        self._added: list[str] = []
        self._hooks: list[RemovableHandle] = []
        self._head: tuple[Any, Any] = (getattr(model, "head", None), self.model.num_classes)  # a tuned model's may be reset
        try:
            model.requires_grad_(False)
            names = set(self.attach())
            names |= {f"head.{name}" for name, _ in model.get_submodule("head").named_parameters()}
            parameters = dict(model.named_parameters())
            self.trainable_names: tuple[str, ...] = tuple(name for name in parameters if name in names)
            for name in self.trainable_names:
                parameters[name].requires_grad_(True)
            # what trains in place is kept, so that detach() can put it back
            self._original = {n: parameters[n].detach().clone() for n in self.trainable_names if self._is_base(n)}
        except Exception:
            self._original = {}
            self._restore()
            raise
        self.model.tuner = self

    @abstractmethod
    def attach(self) -> Iterable[str]:
        """Change ``self.model`` by ``_add``, ``_hook`` and ``_replace``, which ``detach`` undoes.

        Returns:
            The names of the parameters that train beside the head.
        """

    def merge(self) -> nn.Module:
        """Bake what was trained into a plain backbone and return it, where the method can be expressed so.

        Raises:
            RuntimeError: It cannot.
        """
        if not self.mergeable:
            raise RuntimeError(f"{self.name} adds modules that depend on the input: it cannot be merged into the backbone")
        origin = getattr(self.model, "origin", None)
        if origin is not None and any(not name.startswith("head.") for name in self._original):
            self.model.origin = replace(origin, weights="random", seed=None)  # those it came from are not its own any more
        self._original.clear()
        self._head = (self.model.get_submodule("head"), self.model.num_classes)
        return self.detach()

    def detach(self) -> nn.Module:
        """Take the method off and restore the model as it was before, bit for bit; returns the model."""
        self._restore()
        self.model.tuner = None
        return self.model

    @property
    def num_trainable(self) -> int:
        """Number of values that train, the head's among them."""
        return sum(p.numel() for p in self.trainable_parameters())

    @property
    def num_trainable_without_head(self) -> int:
        """Number of values that train, the head's left out."""
        return sum(p.numel() for name, p in self.named_trainable() if not name.startswith("head."))

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that train, in the order of ``model.named_parameters()``."""
        return (parameter for _, parameter in self.named_trainable())

    def named_trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name in the model, parameter) of all that trains."""
        return ((name, self.model.get_parameter(name)) for name in self.trainable_names)

    def state_dict(self) -> dict[str, Tensor]:
        """The trained values by their names in the model."""
        return {name: parameter.detach() for name, parameter in self.named_trainable()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what ``state_dict`` gave.

        Raises:
            WeightsError: A name is missing or left over, a shape differs, or a value is not finite.
        """
        own = self.state_dict()
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unexpected:
            raise WeightsError(
                f"this is not the state of {self.name} with these options: missing {missing[:5]}, left over {unexpected[:5]}"
            )
        check_shapes(state, own)
        check_finite(state, f"state of {self.name}")
        for name, parameter in self.named_trainable():
            parameter.copy_(state[name])

    def base_state(self) -> dict[str, Tensor]:
        """The backbone's values under the method, without head, as they were before anything trained."""
        state = self.model.state_dict()
        return {n: self._original.get(n, t) for n, t in state.items() if self._is_base(n) and not n.startswith("head.")}

    def base_sha256(self) -> str:
        """Hash of ``base_state``, see ``svp.models.state_sha256``."""
        return state_sha256(self.base_state())

    def options(self) -> dict[str, Any]:
        """The options as plain values."""
        return asdict(self.config)

    def _add(self, name: str, module: nn.Module) -> list[str]:
        """Make `module` a sub-module of the model, in the model's mode; returns the names of its parameters there."""
        self.model.add_module(name, module.train(self.model.training))
        self._added.append(name)
        return [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]

    def _hook(self, handle: RemovableHandle) -> None:
        """Remember a hook that was registered."""
        self._hooks.append(handle)

    def _replace(self, name: str, value: Any) -> None:
        """Set an attribute of the model, a direct sub-module or any other; ``detach`` puts the old one back."""
        self._replaced.setdefault(name, getattr(self.model, name))
        setattr(self.model, name, value)

    def _is_base(self, name: str) -> bool:
        return name in self._required_grad and not any(name.startswith(f"{module}.") for module in self._replaced)

    @torch.no_grad()
    def _restore(self) -> None:
        for handle in self._hooks:
            handle.remove()
        for name in self._added:
            delattr(self.model, name)
        self._hooks, self._added = [], []
        head, self.model.num_classes = self._head
        for name, value in self._replaced.items():
            setattr(self.model, name, value)
        if head is not None:
            self.model.head = head
        for name, parameter in self.model.named_parameters():
            if name in self._original:
                parameter.copy_(self._original[name])
            parameter.requires_grad_(self._required_grad.get(name, True)).grad = None


_METHODS: dict[str, type[Tuner[Any]]] = {}

TunerT = TypeVar("TunerT", bound=type[Tuner[Any]])


def register_method(name: str, config_class: type[MethodConfig]) -> Callable[[TunerT], TunerT]:
    """Class decorator that makes a tuner available as ``svp.tune(model, name)`` and ``svp train --method name``.

    Raises:
        ValueError: The name is taken.
    """

    def register(tuner_class: TunerT) -> TunerT:
        if name in _METHODS:
            raise ValueError(f"a method named {name!r} is registered already: {_METHODS[name].__qualname__}")
        tuner_class.name = name
        tuner_class.config_class = config_class
        _METHODS[name] = tuner_class
        return tuner_class

    return register


def list_methods() -> list[str]:
    """Names that ``svp.tune`` takes."""
    return sorted(_METHODS, key=str.lower)


def get_method(name: str) -> type[Tuner[Any]]:
    """The tuner class of a method.

    Raises:
        ValueError: Unknown; lists the known names.
    """
    if name not in _METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(list_methods())}")
    return _METHODS[name]


def tune(model: nn.Module, method: str = "svp", **options: Any) -> Tuner[Any]:
    """Freeze `model`, attach a tuning method to it, and return the tuner.

    Args:
        model: A backbone with the head to train (``svp.create_model(..., num_classes=...)``).
        method: One of ``svp.list_methods()``.
        **options: Options of the method, see its config class.

    Raises:
        ValueError: Unknown method or option, a value out of range, or a model that is tuned already.
    """
    tuner_class = get_method(method)
    known = [field.name for field in fields(tuner_class.config_class)]
    for option in options:
        if option not in known:
            raise ValueError(f"method {method!r} has no option {option!r}; known: {', '.join(known) or 'none'}")
    return tuner_class(model, tuner_class.config_class(**options))
