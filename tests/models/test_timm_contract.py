"""What timm expects of its models, in seconds; ``tests/timm/run_timm_suite.py`` runs timm's own suite.

vim_nano is checked whole. The other names are checked on the meta device, where shapes cost nothing.
"""

from __future__ import annotations

import copy
import fnmatch
from typing import Any

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor

import svp
from svp.models import VisionMamba
from tests.models.small import small_vim

NAMES = [name for name in svp.list_models() if name.startswith("vim_")]
OTHERS = [name for name in NAMES if "nano" not in name]


def nano(**kwargs: Any) -> VisionMamba:
    return timm.create_model("vim_nano_patch4_32", **{"depth": 3} | kwargs)


def pixels(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_registered() -> None:
    assert set(timm.list_models("vim_*")) == set(NAMES)
    assert set(timm.list_models("vim_*", module="vim")) == set(NAMES)
    assert "vim_tiny_patch16_224.in1k" in timm.list_models("vim_*", pretrained=True)
    assert isinstance(timm.create_model("vim_tiny_patch16_224.in1k", device="meta"), VisionMamba)


@pytest.mark.parametrize("name", NAMES)
def test_metadata_and_shapes(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, device="meta", dtype=torch.float32, depth=2).eval()
    cfg = model.default_cfg
    assert model.in_chans == cfg["input_size"][0]
    assert model.num_features == model.head_hidden_size == model.embed_dim
    state = model.state_dict()
    assert cfg["classifier"] + ".weight" in state
    assert cfg["first_conv"] + ".weight" in state
    assert {t.device.type for t in state.values()} == {"meta"}
    assert cfg["mean"] == timm.data.IMAGENET_DEFAULT_MEAN

    x = torch.randn(1, *cfg["input_size"], device="meta")
    tokens = model.forward_features(x)
    assert tokens.shape == (1, model.patch_embed.num_patches + 1, model.num_features)
    pre_logits = model.forward_head(tokens, pre_logits=True)
    assert pre_logits.shape == (1, model.head_hidden_size)
    assert model(x).shape == (1, cfg["num_classes"])
    model.to(torch.bfloat16)
    assert model(x.bfloat16()).dtype == torch.bfloat16
    model.to(torch.float32).reset_classifier(0)
    assert model.num_classes == 0
    assert model(x).shape == pre_logits.shape
    assert timm.create_model(name, num_classes=0, global_pool="", device="meta", depth=1)(x).shape == tokens.shape


@pytest.mark.parametrize("name", NAMES)
def test_frozen_stays_frozen_and_new_parts_follow_the_model(name: str) -> None:
    model = timm.create_model(name, device="meta", depth=2).requires_grad_(False).eval()
    model.set_input_size(tuple(2 * side for side in model.default_cfg["input_size"][-2:]))
    model.reset_classifier(0)
    assert not [n for n, p in model.named_parameters() if p.requires_grad]
    model.to(torch.float64).reset_classifier(2)
    head = model.get_classifier()
    assert (head.weight.shape[0], head.weight.dtype, head.weight.device.type) == (2, torch.float64, "meta")
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", OTHERS)
def test_forward_and_backward_of_two_blocks(name: str) -> None:
    model = timm.create_model(name, num_classes=7, depth=2, img_size=64).train()
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 7)
    logits.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_nano_whole() -> None:
    model = timm.create_model("vim_nano_patch4_32", num_classes=42).train()
    logits = model(pixels())
    logits.mean().backward()
    assert logits.shape == (2, 42)
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    with torch.no_grad():
        expected = model(pixels())
        model.set_grad_checkpointing()
        torch.testing.assert_close(model(pixels()), expected)


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError):
        nano(not_a_model_arg=1)


def test_other_input_channels() -> None:
    assert nano(in_chans=1)(pixels()[:, :1]).shape == (2, nano().num_classes)


def test_layer_groups_follow_depth() -> None:
    model = nano()
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == {n for n, _ in model.named_parameters()}
        of_block = [groups[f"layers.{i}.mixer.D"] for i in range(3)]
        assert groups["pos_embed"] < of_block[0] < of_block[1] < of_block[2] <= groups["norm_f.weight"]
        assert groups["head.weight"] >= of_block[2]
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    assert len({group["lr_scale"] for group in groups}) == 5  # stem, three blocks, norm and head


def test_no_weight_decay() -> None:
    model = nano()
    names = [n for n, _ in model.named_parameters()]
    for pattern in model.no_weight_decay():
        assert any(fnmatch.fnmatch(n, pattern) for n in names), pattern
    decayed = next(
        g for g in param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay()) if g["weight_decay"]
    )
    by_id = {id(p): n for n, p in model.named_parameters()}
    decayed_names = {by_id[id(p)] for p in decayed["params"]}
    assert "layers.0.mixer.in_proj.weight" in decayed_names
    assert not {n for n in decayed_names if n.endswith(("A_log", "A_b_log", "D", "D_b", "cls_token", "pos_embed", "bias"))}


def test_features_only() -> None:
    model = timm.create_model("vim_nano_patch4_32", features_only=True, depth=4).eval()
    maps = model(pixels())
    assert [tuple(m.shape) for m in maps] == [(2, 128, 8, 8)] * 3
    assert model.feature_info.channels() == [128] * 3
    assert model.feature_info.reduction() == [4] * 3
    chosen = timm.create_model("vim_nano_patch4_32", features_only=True, depth=4, out_indices=(0, 2))
    assert len(chosen(pixels())) == 2


def test_intermediates_agree_with_features() -> None:
    model = nano().eval()
    output, maps = model.forward_intermediates(pixels())
    assert len(maps) == len(model.feature_info) == 3
    assert all(m.shape == (2, 128, 8, 8) for m in maps)
    torch.testing.assert_close(output, model.forward_features(pixels()))


def test_pruning() -> None:
    model = nano(num_classes=4).eval()
    with torch.no_grad():
        expected, maps = model(pixels()), model.forward_intermediates(pixels(), intermediates_only=True)
        kept = copy.deepcopy(model)
        kept.prune_intermediate_layers([2], prune_head=False)
        torch.testing.assert_close(kept(pixels()), expected)
    for i in range(3):
        pruned = copy.deepcopy(model)
        take = pruned.prune_intermediate_layers([i], prune_norm=True)
        assert take == [i]
        assert len(pruned.layers) == i + 1
        assert pruned.num_classes == 0
        with torch.no_grad():
            tap = pruned.forward_intermediates(pixels(), take, intermediates_only=True)[0]
            torch.testing.assert_close(tap, maps[i])
        pruned.train()
        (pruned.forward_features(pixels()).sum() + pruned(pixels()).sum()).backward()
        assert [n for n, p in pruned.named_parameters() if p.grad is None] == []


def test_traced_by_fx() -> None:
    """torch.fx sees a block as one node, as it does of timm's models with data-dependent Python."""
    from timm.models import get_notrace_functions, get_notrace_modules
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    model = nano().eval()
    tracer = dict(leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions(), param_shapes_constant=True)
    nodes = get_graph_node_names(model, tracer_kwargs=tracer)[1]
    assert {"patch_embed", "layers.0", "layers.2", "head"} <= set(nodes)
    extractor = create_feature_extractor(model, return_nodes=["head"], tracer_kwargs=tracer)
    torch.testing.assert_close(extractor(pixels())["head"], model(pixels()))


def test_exports_with_torch_export() -> None:
    model = small_vim().eval()
    x = torch.randn(2, 3, 16, 16)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x))
