"""The table of docs/methods.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from timm.models import VisionTransformer

import svp
from svp.tuners import get_methods

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
TABLE = {
    cells[0].strip("`"): cells
    for cells in re.findall(r"^\| (`\w+`) \| (.*?) \| (.*?) \| (.*?)\| (.*?) \| (.*?) \|$", PAGE.read_text(), re.M)
}


def test_every_method_is_in_the_table() -> None:
    assert set(TABLE) == set(svp.list_methods())


@pytest.mark.parametrize("method", svp.list_methods())
def test_row(method: str) -> None:
    _, _, on_vim, on_vit, _, merges = (cell.strip() for cell in TABLE[method])
    method_class = get_methods(method)[0]
    assert merges.startswith("yes") == method_class.mergeable
    assert bool(on_vit) == issubclass(VisionTransformer, method_class.backbones)
    for name, count in (("vim_small", on_vim), ("deit_small_patch16_224", on_vit)):
        if count:
            with torch.device("meta"):
                model = svp.create_model(name, num_classes=3)
            assert f"{svp.tune(model, method).num_trainable_without_head:,}" == count
