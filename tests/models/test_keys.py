"""State-dict keys, shapes and parameter counts of the released models."""

import pytest

import svp
from tests.golden import read_json

OURS = {
    "vim_tiny": "vim_tiny_patch16_224",
    "vim_tiny_stride8": "vim_tiny_patch16_stride8_224",
    "vim_small": "vim_small_patch16_224",
    "vim_small_stride8": "vim_small_patch16_stride8_224",
    "vim_base": "vim_base_patch16_224",
}
RELEASED = read_json("keys")["models"]


@pytest.mark.parametrize("released", OURS)
def test_keys_shapes_and_counts(released: str) -> None:
    facts = RELEASED[released]
    model = svp.create_model(OURS[released], device="meta")
    state = model.state_dict()
    assert list(state) == list(facts["keys"])  # in order
    assert {key: list(t.shape) for key, t in state.items()} == {key: list(shape) for key, shape in facts["keys"].items()}
    counts = {name: p.numel() for name, p in model.named_parameters()}
    assert list(counts) == list(state), "every entry is a parameter"
    assert sum(counts.values()) == facts["total_parameters"]
    without_head = sum(n for name, n in counts.items() if not name.startswith("head."))
    assert without_head == facts["total_parameters_without_head"]
    assert model.patch_embed.num_patches == facts["num_patches"]
    assert model.cls_position == facts["cls_position"]
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize("released", OURS)
def test_model_info_tells_the_same(released: str) -> None:
    info = svp.model_info(OURS[released])
    assert info.parameters == RELEASED[released]["total_parameters"]
    assert info.img_size == 224
    assert info.imagenet_top1 is not None
    assert ".pth" in info.weights


def test_names() -> None:
    names = svp.list_models()
    known = {*OURS.values(), "vim_nano_patch4_32", "deit_small_patch16_224", "vit_base_patch16_224"}
    assert set(names) - {"test_vim"} == known
    for alias in ("vim_nano", "vim_tiny", "vim_small", "vim_base"):
        assert alias in svp.model_info(alias).aliases
        assert svp.model_info(alias).name in names
    with pytest.raises(ValueError, match=r"unknown model 'vim_huge'; known: vim_nano, .*vim_base_patch16_224"):
        svp.create_model("vim_huge")
