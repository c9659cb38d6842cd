"""Which tokens methods add to the sequence, where these stand, and how they are put in and taken out.

A method that adds tokens says so at ``site.added_tokens`` when it is attached. Who needs a model's own tokens, or its class
token, asks there and no method: other methods, and what looks inside a tuned model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from svp.errors import InputError

Position = Literal["prefix", "suffix", "both", "spread", "middle"]


def check_position(method: str, position: str) -> None:
    """Raise ``ValueError`` for a position that is none."""
    if position not in get_args(Position):
        raise InputError(f"{method}: position is {position!r}, expected one of {', '.join(get_args(Position))}")


def check_num_tokens(method: str, num_tokens: int, model: Any) -> None:
    """Raise ``InputError`` for more tokens than a model's length makes sensible: the cost of every block grows with them."""
    own = model.patch_embed.num_patches + 1
    limit = max(_MOST_TOKENS, 16 * own)
    if num_tokens > limit:
        raise InputError(f"{method}: num_tokens is {num_tokens:,}, expected at most {limit:,} beside the model's own {own:,}")


_MOST_TOKENS = 1000
"""Tokens that can be added to every model; to one with many of its own, up to 16 times as many."""


@dataclass(frozen=True)
class Layout:
    """Where added tokens stand among a model's own; of these, the class token is number (own - 1) // 2.

    Args:
        num_tokens: How many are added.
        position: "prefix", in front of all; "suffix", behind all; "both", half and half; "spread", evenly through the
            sequence; "middle", half in front of the class token and half behind it.
    """

    num_tokens: int
    position: Position

    def _in_front(self, own: int, k: int) -> int:
        """How many of the model's tokens stand in front of added token `k`."""
        first_half = k < self.num_tokens // 2
        match self.position:
            case "prefix":
                return 0
            case "suffix":
                return own
            case "both":
                return 0 if first_half else own
            case "spread":
                return (k + 1) * own // (self.num_tokens + 1)
            case "middle":
                return (own - 1) // 2 + (not first_half)

    def places(self, own: int) -> list[int]:
        """Places of the added tokens in the sequence of ``own + num_tokens``."""
        return [self._in_front(own, k) + k for k in range(self.num_tokens)]

    def insert(self, tokens: Tensor, added: Tensor) -> Tensor:
        """(batch, own, d) and (batch, num_tokens, d) -> (batch, own + num_tokens, d)"""
        own, more = self._runs(tokens.shape[1])
        pieces = [*zip(torch.split(tokens, own, dim=1), torch.split(added, [*more, 0], dim=1), strict=True)]
        return torch.cat([piece for pair in pieces for piece in pair], dim=1)

    def own(self, tokens: Tensor) -> Tensor:
        """(batch, own + num_tokens, d) -> (batch, own, d)"""
        own, more = self._runs(tokens.shape[1] - self.num_tokens)
        lengths = [length for pair in zip(own, [*more, 0], strict=True) for length in pair]
        return torch.cat(torch.split(tokens, lengths, dim=1)[::2], dim=1)

    def own_places(self, places: Tensor) -> Tensor:
        """Those of the places (own + num_tokens,) where the model's own tokens stand, (own,)."""
        return self.own(places.view(1, -1, 1)).flatten()

    def _runs(self, own: int) -> tuple[list[int], list[int]]:
        """Lengths of the runs of own tokens and, one fewer, of the runs of added tokens between them."""
        in_front = [self._in_front(own, k) for k in range(self.num_tokens)]
        cuts = sorted(set(in_front))
        return [end - start for start, end in pairwise([0, *cuts, own])], [in_front.count(cut) for cut in cuts]


class AddedTokens:
    """The tokens that methods add to a model's own.

    Attributes:
        in_blocks: Layout of those that go from block to block; None if there are none.
        in_mixers: Layout of those that only the mixers see, among all that a block has; None if there are none.
    """

    def __init__(self) -> None:
        self.in_blocks: Layout | None = None
        self.in_mixers: Layout | None = None

    def add_to_blocks(self, layout: Layout) -> None:
        """Say that tokens go from block to block.

        Raises:
            InputError: Those of another method do already.
        """
        self.in_blocks = _only(self.in_blocks, layout, "the blocks")

    def add_to_mixers(self, layout: Layout) -> None:
        """Say that every mixer sees further tokens.

        Raises:
            InputError: It sees those of another method already.
        """
        self.in_mixers = _only(self.in_mixers, layout, "the mixers")

    def of_blocks(self, length: int) -> Tensor:
        """Places of the tokens that the blocks see in the sequence of `length` that their mixers see."""
        places = torch.arange(length)
        return places if self.in_mixers is None else self.in_mixers.own_places(places)

    def own(self, length: int) -> Tensor:
        """Places of the model's own tokens in the sequence of `length` that the mixers see."""
        places = self.of_blocks(length)
        return places if self.in_blocks is None else self.in_blocks.own_places(places)


def _only(known: Layout | None, layout: Layout, where: str) -> Layout:
    if known is not None:
        raise InputError(f"two methods add tokens to {where}: they cannot be combined")
    return layout
