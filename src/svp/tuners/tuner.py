"""What tuning gives: methods attached to a frozen backbone, an exact set of parameters that train, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from svp.errors import InputError, UnavailableError
from svp.models.checkpoints import WeightsError, check_finite, check_shapes, state_sha256
from svp.tuners.attachment import Attachment
from svp.tuners.method import Method, joined_name


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
        added_tokens: Tokens that the methods add to the sequence, and where these stand.

    Raises:
        InputError: The model is tuned already, is of a kind that a method does not work on, or an option does not fit it.
    """

    def __init__(self, model: nn.Module, methods: Mapping[str, Method]) -> None:
        self.name = joined_name(methods)
        attached = getattr(model, "tuner", None)
        if attached is not None:
            raise InputError(f"the model is already tuned by {attached.name!r}; call model.tuner.detach() first")
        for method in methods.values():
            method.check_backbone(model)
        self.model = cast(Any, model)
        self.methods = dict(methods)
        self._attachment = Attachment(model, self.name)
        self.added_tokens = self._attachment.added_tokens
        try:
            model.requires_grad_(False)
            for method in methods.values():
                self._attachment.train(method.attach(self._attachment))
            model.get_submodule("head").requires_grad_(True)
            self.trainable_names: tuple[str, ...] = self._attachment.keep_values()
        except Exception:
            self._attachment.undo()
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
        return self._take_off(keep_trained=True)

    def detach(self) -> nn.Module:
        """Take the methods off, if they are still on it, and restore the model as it was before, bit for bit; returns it."""
        return self._take_off() if self.model.tuner is self else self.model

    def _take_off(self, keep_trained: bool = False) -> nn.Module:
        self._attachment.undo(keep_trained)
        self.model.tuner = None
        return cast(nn.Module, self.model)

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
        """By their names in the model: the trained values, then what the methods took from training images."""
        return {name: parameter.detach() for name, parameter in self.named_trainable()} | self._attachment.buffers()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what ``state_dict`` gave.

        Raises:
            WeightsError: A name is missing or left over, a shape differs, or a value is not finite.
        """
        own = self.state_dict()
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unexpected:
            raise WeightsError(
                f"this is not the state of {self.name} with these options: missing {missing[:5]}, left over {unexpected[:5]}; "
                "another version of svp may have saved it: train it anew, or use that version"
            )
        check_shapes(state, own)
        check_finite(state, f"state of {self.name}")
        self.start_at(state)

    @torch.no_grad()
    def start_at(self, values: Mapping[str, Tensor]) -> None:
        """Set some of what ``state_dict`` gives, by name."""
        own = self.state_dict()
        for name, value in values.items():
            own[name].copy_(value)

    def share_backbone(self, backbone: nn.Module) -> None:
        """Hold what is frozen, and what ``detach`` puts back, in the tensors of `backbone` where these have the same values.

        Of many models on one backbone each then takes memory only for what it trained. `backbone` must not be trained while
        it is shared.
        """
        self._attachment.share(backbone, self.trainable_names)

    def base_state(self) -> dict[str, Tensor]:
        """The backbone's values under the methods, without head, as they were before anything trained."""
        return self._attachment.base_state()

    def base_sha256(self) -> str:
        """Hash of ``base_state``, see ``svp.models.state_sha256``."""
        return state_sha256(self.base_state())
