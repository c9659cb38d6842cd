"""What a tuning method is, methods by name, and the one form in which a combination of methods is written down.

A method is one file: a frozen dataclass that holds its options and attaches itself, and the modules that it adds. The backbone
knows nothing of its methods, and methods know nothing of each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from svp.errors import InputError
from svp.models import VisionMamba
from svp.tuners.attachment import Attachment


@dataclass(frozen=True)
class Method(ABC):
    """A tuning method under options, which are its fields; every method checks its own in ``__post_init__``."""

    name: ClassVar[str]
    title: ClassVar[str]
    """The name as papers write it."""
    default_lr: ClassVar[float]
    """Peak learning rate of AdamW at the default batch of 32; not scaled with the batch."""
    default_weight_decay: ClassVar[float]
    backbones: ClassVar[tuple[type[nn.Module], ...]] = (VisionMamba,)
    """Kinds of models it works on."""
    self_contained: ClassVar[bool] = False
    """True if the trained state holds the whole model, so that no backbone weights are needed to load it."""
    mergeable: ClassVar[bool] = False
    """True if a plain backbone can compute what the tuned model computes."""
    widths: ClassVar[tuple[str, ...]] = ()
    """Options that are a rank or the width of a layer, which the model bounds."""
    num_images: ClassVar[int] = 0
    """Training images that ``fitted`` looks at, at most; 0 for a method that needs none."""

    @abstractmethod
    def attach(self, site: Attachment) -> Iterable[str]:
        """Change ``site.model`` by ``site.add``, ``wrap``, ``hook`` and ``replace``, all of which can be undone.

        A method that adds tokens to the sequence says so at ``site.added_tokens``.

        Returns:
            The names of the parameters that train beside the head.
        """

    def fitted(self, model: nn.Module, images: Iterable[Tensor]) -> tuple[Method, dict[str, Tensor]]:
        """What the method takes from training images, before it is attached.

        Args:
            model: The untuned model, in evaluation mode; no gradients are taken.
            images: Batches of `num_images` training images, or of all if they are fewer, prepared for the model.

        Returns:
            The method that is to be attached, and values that its modules are to start at, by their names in the tuned model.
        """
        return self, {}

    def check_backbone(self, model: nn.Module) -> None:
        """Raise ``InputError`` for a model that the method does not work on, or options that are too large for it."""
        if not isinstance(model, self.backbones):
            kinds = " or ".join(kind.__name__ for kind in self.backbones)
            raise InputError(f"method {self.name!r} works on a {kinds}, this is a {type(model).__name__}")
        embed_dim: Any = getattr(model, "embed_dim", None)
        for option in self.widths:
            limit = max(_WIDEST, 4 * embed_dim)
            if getattr(self, option) > limit:
                raise InputError(
                    f"{self.name}: {option} is {getattr(self, option):,}, expected at most {limit:,} in a model whose "
                    f"tokens have the width {embed_dim}"
                )

    def bake(self, model: Any) -> None:  # noqa: B027 (most methods have nothing to do)
        """Put what was trained into the weights of the backbone, if it is mergeable and not there already."""


_WIDEST = 1024
"""Rank or width that every model takes; beyond it, one takes four times the width of its tokens."""


def check_finite_features(method: str, features: Tensor) -> None:
    """Raise ``InputError`` where a method looks at training images through a model that does not give finite values."""
    if not features.isfinite().all():
        raise InputError(
            f"{method}: what the model makes of the training images holds NaN or infinite values: its weights are damaged, or "
            "too large for its precision"
        )


_METHODS: dict[str, type[Method]] = {}

MethodT = TypeVar("MethodT", bound=type[Method])


def register_method(name: str, *, title: str | None = None) -> Callable[[MethodT], MethodT]:
    """Class decorator that makes a method available as ``svp.tune(model, name)`` and ``svp train --method name``.

    Args:
        name: What users type.
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


def get_methods(name: str) -> tuple[type[Method], ...]:
    """The classes behind a method's name, or behind several names joined by "+", in that order.

    Raises:
        InputError: One is unknown (lists the known names) or stands there twice.
    """
    names = name.split("+")
    for part in names:
        if part not in _METHODS:
            raise InputError(f"unknown method {part!r}; known: {', '.join(list_methods())}, or several joined by '+'")
        if names.count(part) > 1:
            raise InputError(f"method {name!r} lists {part!r} more than once")
    return tuple(_METHODS[part] for part in names)


def parse_methods(method: str | Method | Sequence[Method] | Mapping[str, Any], **options: Any) -> dict[str, Method]:
    """Methods by their names, in the order in which they are attached.

    Args:
        method: A name; several joined by "+"; a method or several; or what ``methods_to_dict`` gives, {name: {option: value}}.
            The forms of 0.1.0 are read too: {"name": "svp", option: value} and {"name": "svp+lora", "svp": {...}, ...}.
        **options: Options of a method that is named; of several, a mapping for each by its name.

    Raises:
        InputError: Unknown method or option, or a value out of range.
    """
    if isinstance(method, Method):
        method = [method]
    if isinstance(method, Mapping):
        if "name" in method:
            return parse_methods(**_renamed(method), **options)
        name, options = "+".join(method), _by_name(method, options)
    elif isinstance(method, str):
        name = method
    else:
        if options:
            raise InputError(f"options of a method are its own fields; got {', '.join(options)} beside one")
        return _distinct(method)
    classes = get_methods(name)
    if len(classes) == 1 and not isinstance(method, Mapping):
        options = {name: options}
    names = [method_class.name for method_class in classes]
    for option, value in options.items():
        if option not in names or not isinstance(value, Mapping):
            known = ", ".join(names)
            raise InputError(f"method {name!r} takes options as one mapping for each of {known}; got {option}={value!r}")
    return {method_class.name: _make(method_class, options.get(method_class.name, {})) for method_class in classes}


def _renamed(method: Mapping[str, Any]) -> dict[str, Any]:
    return {"method" if option == "name" else option: value for option, value in method.items()}


def _by_name(method: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    if options:
        raise InputError(f"options of {'+'.join(method)!r} stand under its name; got {', '.join(options)} beside it")
    return dict(method)


def _distinct(methods: Sequence[Method]) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for method in methods:
        if not isinstance(method, Method):
            raise TypeError(f"expected a name, a method, several, or a mapping of names to options; got {method!r}")
        if method.name in found:
            raise InputError(f"{method.name!r} is listed more than once")
        found[method.name] = method
    if not found:
        raise InputError("no method is given")
    return found


def _make(method_class: type[Method], options: Mapping[str, Any]) -> Method:
    known = [field.name for field in fields(method_class)]
    for option in options:
        if option not in known:
            raise InputError(f"method {method_class.name!r} has no option {option!r}; known: {', '.join(known) or 'none'}")
    return method_class(**options)


def methods_to_dict(methods: Mapping[str, Method]) -> dict[str, dict[str, Any]]:
    """All options as plain values, {name: {option: value}}, as ``config.yaml`` and ``adapter.json`` hold them."""
    return {name: asdict(method) for name, method in methods.items()}


def joined_name(methods: Iterable[str]) -> str:
    """The names of methods joined by "+"."""
    return "+".join(methods)
