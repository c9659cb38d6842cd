"""What a tuning method is, and methods by name.

A method is one file: a frozen dataclass of options, the modules it adds, and a ``Method`` that is registered under a name. It
attaches them through a ``Tuner``, which trains, saves and takes off again what was attached. The backbone knows nothing of its
methods, and methods know nothing of each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from torch import nn

from svp.models import VisionMamba

if TYPE_CHECKING:
    from svp.tuners.tuner import Tuner


@dataclass(frozen=True)
class MethodConfig:
    """Options of a tuning method; every method extends it and checks its own in ``__post_init__``."""


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


class Method(ABC, Generic[ConfigT]):
    """A tuning method under options.

    Args:
        config: The options.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """The name as papers write it."""
    config_class: ClassVar[type[MethodConfig]]
    default_lr: ClassVar[float]
    """Peak learning rate of AdamW at the default batch of 32; not scaled with the batch."""
    default_weight_decay: ClassVar[float]
    backbones: ClassVar[tuple[type[nn.Module], ...]] = (VisionMamba,)
    """Kinds of models it works on."""
    self_contained: ClassVar[bool] = False
    """True if the trained state holds the whole model, so that no backbone weights are needed to load it."""
    mergeable: ClassVar[bool] = False
    """True if a plain backbone can compute what the tuned model computes."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def attach(self, tuner: Tuner) -> Iterable[str]:
        """Change ``tuner.model`` by ``tuner.add``, ``wrap``, ``hook``, ``replace`` and ``override``, all of which
        the tuner undoes.

        Returns:
            The names of the parameters that train beside the head.
        """

    def bake(self, tuner: Tuner) -> None:  # for most methods there is nothing to do
        """Put what was trained into the weights of the backbone, if it is mergeable and not there already."""


_METHODS: dict[str, type[Method[Any]]] = {}

MethodT = TypeVar("MethodT", bound=type[Method[Any]])


def register_method(name: str, config_class: type[MethodConfig], *, title: str | None = None) -> Callable[[MethodT], MethodT]:
    """Class decorator that makes a method available as ``svp.tune(model, name)`` and ``svp train --method name``.

    Args:
        name: What users type.
        config_class: Its options.
        title: What figures call it; the name if None.

    Raises:
        ValueError: The name is taken, or holds the "+" that joins names.
    """

    def register(method_class: MethodT) -> MethodT:
        if name in _METHODS:
            raise ValueError(f"a method named {name!r} is registered already: {_METHODS[name].__qualname__}")
        if "+" in name:
            raise ValueError(f"a method cannot be named {name!r}: '+' joins the names of methods")
        method_class.name, method_class.title = name, title or name
        method_class.config_class = config_class
        _METHODS[name] = method_class
        return method_class

    return register


def method_title(name: str) -> str:
    """Methods as papers write them: "SVP + LoRA" for "svp+lora"; a name that is no method's is its own title."""
    try:
        return " + ".join(method_class.title for method_class in get_methods(name))
    except ValueError:
        return name


def list_methods() -> list[str]:
    """Names that ``svp.tune`` takes, alone or several joined by "+"."""
    return sorted(_METHODS, key=str.lower)


def get_methods(name: str) -> tuple[type[Method[Any]], ...]:
    """The classes behind a method's name, or behind several names joined by "+", in that order.

    Raises:
        ValueError: One is unknown (lists the known names) or stands there twice.
    """
    names = name.split("+")
    for part in names:
        if part not in _METHODS:
            raise ValueError(f"unknown method {part!r}; known: {', '.join(list_methods())}, or several joined by '+'")
        if names.count(part) > 1:
            raise ValueError(f"method {name!r} lists {part!r} more than once")
    return tuple(_METHODS[part] for part in names)


def make_methods(name: str, options: Mapping[str, Any]) -> tuple[Method[Any], ...]:
    """The methods behind a name under options: those of the one method, or a mapping of options for each by its name.

    Raises:
        ValueError: Unknown method or option, or a value out of range.
    """
    classes = get_methods(name)
    if len(classes) == 1:
        return (_make_method(classes[0], options),)
    names = [method_class.name for method_class in classes]
    for option, value in options.items():
        if option not in names or not isinstance(value, Mapping):
            known = ", ".join(names)
            raise ValueError(f"method {name!r} takes options as one mapping for each of {known}; got {option}={value!r}")
    return tuple(_make_method(method_class, options.get(method_class.name, {})) for method_class in classes)


def _make_method(method_class: type[Method[Any]], options: Mapping[str, Any]) -> Method[Any]:
    known = [field.name for field in fields(method_class.config_class)]
    for option in options:
        if option not in known:
            raise ValueError(f"method {method_class.name!r} has no option {option!r}; known: {', '.join(known) or 'none'}")
    return method_class(method_class.config_class(**options))


def options_of(methods: Sequence[Method[Any]]) -> dict[str, Any]:
    """All options as plain values, in the form that ``make_methods`` takes."""
    if len(methods) == 1:
        return asdict(methods[0].config)
    return {method.name: asdict(method.config) for method in methods}
