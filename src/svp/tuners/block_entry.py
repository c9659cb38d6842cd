"""What a method does to the tokens that enter a block, and what it says of that to whoever looks inside."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from svp.errors import InputError
from svp.ops import Prompts
from svp.tuners.attachment import Attachment


class BlockEntry(ABC):
    """Stands at ``model.layers[l].on_entry`` of a Vim, put there by ``site.replace``."""

    @abstractmethod
    def __call__(self, hidden: Tensor) -> tuple[Tensor, Prompts]:
        """The tokens to go on with, (batch, length, embed_dim) like `hidden`, and what the block is to add to them."""

    @abstractmethod
    def parts(self, hidden: Tensor) -> dict[str, Tensor]:
        """What is added to the tokens in evaluation mode, (batch, length, embed_dim) each, apart by name."""

    def scales(self) -> dict[str, Tensor]:
        """Trained scales of the parts, (embed_dim,) each, by name in the order of the parts; empty if there are none."""
        return {}


def enter_block(site: Attachment, layer: int, entry: BlockEntry) -> None:
    """Put `entry` in front of block `layer`.

    Raises:
        InputError: Another method stands there already.
    """
    if site.model.layers[layer].on_entry is not None:
        raise InputError(f"the methods of {site.label!r} cannot be combined: two of them change the tokens that enter a block")
    site.replace(f"layers.{layer}.on_entry", entry)
