"""``test_vim``: a Vim of eight narrow layers, so that a run takes a third of a second.

Known to svp in every process that imports this module: those of tests and those that `tests.processes` forks. A process of
another kind, such as a worker that is spawned, knows the models of svp alone.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from svp.models import VisionMamba, vim

default_cfgs = generate_default_cfgs({"test_vim": vim.default_cfgs["vim_nano_patch4_32"].default.to_dict()})


@register_model
def test_vim(pretrained: bool = False, **kwargs: Any) -> VisionMamba:  # noqa: PT028
    """As nano, but 8 layers of 32 channels, which nano's weights do not fit."""
    config = dict(img_size=32, patch_size=4, stride=4, embed_dim=32, depth=8, num_classes=200)
    return vim._create("test_vim", pretrained, **dict(config, **kwargs))


vim.default_cfgs.update(default_cfgs)
