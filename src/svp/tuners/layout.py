"""Where tokens that a method adds stand in the sequence, and how they are put in and taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Position = Literal["prefix", "suffix", "both", "spread", "middle"]


def check_position(method: str, position: str) -> None:
    """Raise ``ValueError`` for a position that is none."""
    if position not in get_args(Position):
        raise ValueError(f"{method}: position is {position!r}, expected one of {', '.join(get_args(Position))}")


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
        own = tokens.shape[1]
        places = self.places(own)
        others = [i for i in range(own + self.num_tokens) if i not in set(places)]
        order = [0] * (own + self.num_tokens)
        for source, place in enumerate([*others, *places]):
            order[place] = source
        return torch.cat([tokens, added], dim=1)[:, order]

    def own(self, tokens: Tensor) -> Tensor:
        """(batch, own + num_tokens, d) -> (batch, own, d)"""
        own = tokens.shape[1] - self.num_tokens
        places = set(self.places(own))
        return tokens[:, [i for i in range(own + self.num_tokens) if i not in places]]
