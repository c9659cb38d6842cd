"""What tuning gives: methods attached to a frozen backbone, an exact set of parameters that train, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from svp.errors import InputError, UnavailableError
from svp.models.checkpoints import WeightsError, check_finite, check_shapes, state_sha256
from svp.tuners.attachment import Attachment, base_name
from svp.tuners.method import Method, joined_name, parse_methods


class Tuner:
    """One or several tuning methods attached to a model.

    Creating one freezes the model, attaches the methods in their order and makes exactly their parameters and the head
    trainable. The tuner is then found at ``model.tuner``. ``detach()`` undoes all of it, bit for bit.

    Args:
        model: An untuned model with timm's ``get_classifier``.
        methods: What is attached, by name.

    Attributes:
        name: The methods' names, joined by "+".
        trainable_names: Names in the model of all parameters that train.

    Raises:
        InputError: The model is tuned already, is of a kind that a method does not work on, or an option does not fit it.
    """

    def __init__(self, model: nn.Module, methods: Mapping[str, Method]) -> None:
        self.name = joined_name(methods)
        attached = getattr(model, "tuner", None)
        if attached is not None:
            raise InputError(f"the model is already tuned by {attached.name!r}; call model.tuner.detach() first")
        for name, method in methods.items():
            if not isinstance(model, method.backbones):
                kinds = " or ".join(kind.__name__ for kind in method.backbones)
                raise InputError(f"method {name!r} works on a {kinds}, this is a {type(model).__name__}")
        self.model = cast(Any, model)
        self.methods = dict(methods)
        self._required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        self._attachment = Attachment(model, self.name)
        self._original: dict[str, Tensor] = {}
        self._head: tuple[Any, Any] = (getattr(model, "head", None), self.model.num_classes)  # a tuned model's may be reset
        try:
            model.requires_grad_(False)
            for method in methods.values():
                trained = set(method.attach(self._attachment))
                for name, parameter in model.named_parameters():
                    if name in trained or base_name(name) in trained:
                        parameter.requires_grad_(True)
            model.get_submodule("head").requires_grad_(True)
            parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            self.trainable_names: tuple[str, ...] = tuple(name for name, _ in parameters)
            # what trains in place is kept, so that detach() can put it back
            self._original = {base_name(name): p.detach().clone() for name, p in parameters if self._attachment.is_base(name)}
        except Exception:
            self._restore()
            raise
        self.model.tuner = self

    @property
    def mergeable(self) -> bool:
        """Whether ``merge`` can give a plain backbone."""
        return all(method.mergeable for method in self.methods.values())

    @property
    def self_contained(self) -> bool:
        """Whether the trained state holds the whole model."""
        return any(method.self_contained for method in self.methods.values())

    def merge(self) -> nn.Module:
        """Bake what was trained into a plain backbone and return it, where the methods can be expressed so.

        Raises:
            UnavailableError: One cannot, or the methods are not on the model any more.
        """
        if self.model.tuner is not self:
            raise UnavailableError(f"merge: {self.name!r} was merged into the model or taken off it; call svp.tune again")
        for name, method in self.methods.items():
            if not method.mergeable:
                raise UnavailableError(f"{name} computes what a plain backbone cannot: it cannot be merged into one")
        for method in self.methods.values():  # in the order of attaching: a later one may act on what an earlier one gives
            method.bake(self.model)
        origin = getattr(self.model, "origin", None)
        if origin is not None and set(self.methods) != {"linear"}:
            self.model.origin = replace(origin, weights="random", seed=None)  # those it came from are not its own any more
        self._original.clear()
        self._head = (self.model.get_submodule("head"), self.model.num_classes)
        return self.detach()

    def detach(self) -> nn.Module:
        """Take the methods off, if they are still on it, and restore the model as it was before, bit for bit; returns it."""
        if self.model.tuner is self:
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

    @torch.no_grad()
    def share_backbone(self, backbone: nn.Module) -> None:
        """Hold what is frozen, and what ``detach`` puts back, in the tensors of `backbone` where these have the same values.

        Of many models on one backbone each then takes memory only for what it trained. `backbone` must not be trained while
        it is shared.
        """
        theirs = {name: parameter.detach() for name, parameter in backbone.named_parameters()}

        def shared(name: str, tensor: Tensor) -> Tensor:
            other = theirs.get(base_name(name))
            same = other is not None and other.dtype == tensor.dtype and other.device == tensor.device
            return other if other is not None and same and torch.equal(other, tensor) else tensor

        for name, parameter in self.model.named_parameters():
            if self._attachment.is_base(name) and name not in self.trainable_names:
                parameter.data = shared(name, parameter.data)
        self._original = {name: shared(name, tensor) for name, tensor in self._original.items()}

    def base_state(self) -> dict[str, Tensor]:
        """The backbone's values under the methods, without head, as they were before anything trained."""
        state = self.model.state_dict()
        base = {base_name(name): tensor for name, tensor in state.items() if self._attachment.is_base(name)}
        return {name: self._original.get(name, tensor) for name, tensor in base.items() if not name.startswith("head.")}

    def base_sha256(self) -> str:
        """Hash of ``base_state``, see ``svp.models.state_sha256``."""
        return state_sha256(self.base_state())

    @torch.no_grad()
    def _restore(self) -> None:
        head, num_classes = self._head
        self._attachment.undo()
        self.model.num_classes = num_classes
        if head is not None:
            self.model.head = head
        for name, parameter in self.model.named_parameters():
            if name in self._original:
                parameter.copy_(self._original[name])
            parameter.requires_grad_(self._required_grad.get(name, True)).grad = None


def tune(model: nn.Module, method: str | Method | Sequence[Method] | Mapping[str, Any] = "svp", **options: Any) -> Tuner:
    """Freeze `model`, attach tuning methods to it, and return the tuner.

    Args:
        model: A backbone with the head to train (``svp.create_model(..., num_classes=...)``).
        method: One of ``svp.list_methods()``, or several joined by "+", attached in that order; or a method itself with its
            options, ``svp.tuners.SVP(hidden_dim=32)``, or several; or a mapping {name: {option: value}}.
        **options: Options of a method that is named; of several, a mapping for each by its name:
            ``svp.tune(model, "svp+lora", svp=dict(hidden_dim=32))``.

    Raises:
        InputError: Unknown method or option, a value out of range, a model that is tuned already or of a kind that the method
            does not work on.
    """
    return Tuner(model, parse_methods(method, **options))
