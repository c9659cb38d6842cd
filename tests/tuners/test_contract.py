"""One contract for every tuning method: what trains, what stays, what comes back, what can be saved.

A new method joins by being registered; it needs a row in ``VIM`` with the number of values it trains, and one in ``VIT``
if it works on a Vision Transformer too.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import svp
from svp.models import Backbone, Origin
from svp.tuners import PartMethod, get_methods, list_methods
from tests.models.small import SMALL, SMALL_VIT, device_of, images, perturb, runnable_backends, small_vim, small_vit

D, DEPTH, CLASSES = SMALL["embed_dim"], SMALL["depth"], SMALL["num_classes"]
HEAD = D * CLASSES + CLASSES
E, N, K, DT_RANK = 2 * D, SMALL["d_state"], 4, 1
MIXER_SIDE = E * K + E + E * (DT_RANK + 2 * N) + DT_RANK * E + E + E * N + E  # of one direction
BLOCK = D + D * 2 * E + 2 * MIXER_SIDE + E * D  # norm, projection in, both directions, projection out
R, SHARED, GROUPS = 4, 2, 2  # shared_layers 2 does not divide depth 3: the second group has one layer
INNER = DEPTH * ((D * R + R) + (R * D + D) + D)  # two linear maps and alpha per layer
CROSS = GROUPS * ((D * D + D) + D)  # one linear map and beta per group
OUTPUTS = DEPTH * (2 * E + 2 * (DT_RANK + 2 * N) + 2 * E + D)  # of in_proj, x_proj, dt_proj, out_proj
MAPS = DEPTH * (D + 2 * E + 2 * DT_RANK + E) + OUTPUTS  # and their inputs
PATCH = 3 * 4 * 4
EVERYWHERE = dict(target_modules=["in_proj", "x_proj", "dt_proj", "out_proj", "patch_embed"], rank=R, alpha=2.0, dropout=0.1)
TWO_LINEAR = (D * (D // 2) + D // 2) + ((D // 2) * CLASSES + CLASSES)


@dataclass(frozen=True)
class Row:
    """A method under options, and what is known about it by hand."""

    trains: Callable[[Backbone], int]
    names: str  # what trains, as a pattern for the beginning of its name
    options: dict[str, Any] = field(default_factory=dict)
    keeps_logits: bool = True
    odd_patches: bool = True
    starts_at_base: bool = True
    backbone: str = "vim"
    # False where the mixer runs on other kernels than the plain backbone's, or multiplies by a matrix of another size: both
    # may round otherwise, the second as this machine's library of matrix products chooses
    same_kernels: bool = True
    merged_adds: str = "$^"  # names that the merged backbone has and the untuned one has not

    def model(self, **overrides: Any) -> Backbone:
        """The untuned backbone, always of the same weights."""
        return small_vit(**overrides) if self.backbone == "vit" else small_vim(**overrides)

    @property
    def origin(self) -> Origin:
        """Where a backbone of other weights comes from, as ``adapter.json`` has it."""
        name, sizes = ("deit_small_patch16_224", SMALL_VIT) if self.backbone == "vit" else ("vim_nano_patch4_32", SMALL)
        return Origin(name, "random", {k: v for k, v in sizes.items() if k != "num_classes"}, seed=5)


def svp_row(trains: int, **changes: Any) -> Row:
    options = dict(shared_layers=SHARED, hidden_dim=R) | changes
    at_base = changes.get("scaling", True) and not changes.get("initial_scale")
    return Row(
        lambda _: trains,
        r"svp\.|head\.",
        options,
        keeps_logits=at_base and "head" not in changes and "simam" not in changes,
        odd_patches=changes.get("cross_prompt") != "official",
        starts_at_base=at_base,
    )


VIM: dict[str, list[Row]] = {
    "linear": [Row(lambda _: HEAD, r"head\.")],
    "full": [Row(lambda model: sum(p.numel() for p in model.parameters()), "")],
    "bitfit": [Row(lambda _: D + 4 * DEPTH * E + HEAD, r"head\.|.*\.bias$")],
    "norm": [Row(lambda _: (DEPTH + 1) * D + HEAD, r"head\.|layers\.\d\.norm\.|norm_f\.")],
    "partial": [
        Row(lambda _: BLOCK + D + HEAD, r"head\.|layers\.2\.|norm_f\."),
        Row(lambda _: 2 * BLOCK + D + HEAD, r"head\.|layers\.[12]\.|norm_f\.", dict(blocks=2)),
    ],
    "adapter": [
        Row(
            lambda _: DEPTH * (2 * D * 16 + 16 + D) + HEAD, r"head\.|adapters\.", dict(hidden_dim=16)
        ),  # some see the class token
        Row(
            lambda _: DEPTH * (2 * D * 16 + 16 + D) + HEAD,
            r"head\.|adapters\.",
            dict(hidden_dim=16, position="sequential", scale=1.0, dropout=0.0),
        ),
    ],
    "vp": [
        Row(lambda model: 2 * 3 * 2 * (2 * model.patch_embed.img_size[0] - 4) + HEAD, r"head\.|vp\.", dict(width=2)),
        Row(lambda model: 2 * 3 * 2 * (2 * model.patch_embed.img_size[0] - 4) + HEAD, r"head\.|vp\."),
    ],
    "dam_vp": [
        Row(
            lambda model: 3 * 2 * 3 * 2 * (2 * model.patch_embed.img_size[0] - 4) + HEAD,
            r"head\.|dam_vp\.",
            dict(num_prompts=3, width=2),
        )
    ],
    "affix": [
        Row(lambda _: DEPTH * 24 * D + HEAD, r"head\.|affix\.", {}, False, starts_at_base=False),
        Row(
            lambda _: DEPTH * 3 * D + HEAD,
            r"head\.|affix\.",
            dict(num_tokens=3, position="middle"),
            False,
            starts_at_base=False,
        ),
    ],
    "vpt_shallow": [
        Row(lambda _: 3 * D + HEAD, r"head\.|vpt\.", dict(num_tokens=3, position=position), False, starts_at_base=False)
        for position in ("prefix", "middle")
    ],
    "vpt_deep": [
        Row(
            lambda _: DEPTH * 4 * D + HEAD, r"head\.|vpt\.", dict(num_tokens=4, position="spread"), False, starts_at_base=False
        ),
        Row(
            lambda _: DEPTH * 2 * D + 2 * (D * D + D) + HEAD,
            r"head\.|vpt\.",
            dict(num_tokens=2, position="both", projection=True, dropout=0.1),
            False,
            starts_at_base=False,
        ),
    ],
    "spt_shallow": [Row(lambda _: 3 * D + HEAD, r"head\.|vpt\.", dict(num_tokens=3), False, starts_at_base=False)],
    "spt_deep": [
        Row(
            lambda _: DEPTH * 4 * D + HEAD,
            r"head\.|vpt\.",
            dict(num_tokens=4, sampling=sampling, position="spread"),
            False,
            starts_at_base=False,
        )
        for sampling in ("random", "kmeans")
    ],
    "A": [Row(lambda _: 2 * DEPTH * E * N + HEAD, r"head\.|.*\.A(_b)?_log$")],
    "D": [Row(lambda _: 2 * DEPTH * E + HEAD, r"head\.|.*\.D(_b)?$")],
    "conv1d": [Row(lambda _: 2 * DEPTH * E * K + HEAD, r"head\.|.*\.conv1d(_b)?\.weight$")],
    "cls_token": [Row(lambda _: D + HEAD, r"head\.|cls_token$")],
    "pos_embed": [Row(lambda model: model.pos_embed.shape[1] * D + HEAD, r"head\.|pos_embed$")],
    "ssf": [
        Row(
            lambda _: 2 * (D + DEPTH * (D + 2 * E + 2 * (E + (DT_RANK + 2 * N) + E) + D) + D) + HEAD,
            r"head\.|ssf\.",
            same_kernels=False,
            merged_adds=r"layers\.\d\.(norm|mixer\.(in_proj|x_proj(_b)?|out_proj))\.bias$|norm_f\.bias$",
        )
    ],
    "additional_scan": [
        Row(lambda _: DEPTH * 2 * 6 * 3 * E + HEAD, r"head\.|additional_scan\.", same_kernels=False),
        Row(lambda _: DEPTH * 2 * 1 * 3 * E + HEAD, r"head\.|additional_scan\.", dict(num_states=1), same_kernels=False),
    ],
    "initial_state": [Row(lambda _: 2 * DEPTH * E * N + HEAD, r"head\.|first_states\.")],
    "state_offset": [
        Row(lambda _: 2 * DEPTH * E * N + HEAD, r"head\.|state_offset\.", same_kernels=False),
        Row(lambda _: 2 * DEPTH * E + HEAD, r"head\.|state_offset\.", dict(form="y"), same_kernels=False),
    ],
    "saa": [
        Row(
            lambda _: DEPTH * (D * 3 + 3 * R + 2 * R * (E + 2 * N)) + HEAD,
            r"head\.|saa\.",
            dict(hidden_dim=3, num_coefficients=R),
            same_kernels=False,
        )
    ],
    "prodial": [
        Row(
            lambda _: DEPTH * (R * (D + E) + (2 * E + D) + 2 * (D + 2 * E + E + D)) + HEAD,
            r"head\.|.*\.(in|out)_proj\.(blocks|scale|down|up)$",
            dict(block_size=R, rank=2),
            same_kernels=False,
        )
    ],
    "ssp": [
        Row(
            lambda _: (D * R + R) + (9 * R + R) + (R * D + D) + HEAD,
            r"head\.|ssp\.",
            dict(hidden_dim=R),
            keeps_logits=True,
        )
    ],
    "readout": [
        Row(
            lambda _: R * (5 * DEPTH * D + D) + DEPTH * 3 * (D + 2 * E) + HEAD,
            r"head\.|readout\.|.*\.in_proj\.lora_",
            dict(read_dim=R, rank=3),
        ),
        Row(lambda _: R * (5 * DEPTH * D + D) + HEAD, r"head\.|readout\.", dict(read_dim=R, rank=0)),
    ],
    "memba": [
        Row(
            lambda _: DEPTH * R * ((D + 2 * E) + (E + D)) + HEAD,
            r"head\.|.*\.(in|out)_proj\.lora_",
            dict(rank=R, alpha=2.0),
            False,
            starts_at_base=False,
        )
    ],
    "lora": [
        Row(lambda _: DEPTH * 32 * (D + 2 * E) + HEAD, r"head\.|.*\.in_proj\.lora_"),
        Row(lambda _: R * (MAPS + PATCH + D) + HEAD, r"head\.|.*\.lora_", EVERYWHERE, same_kernels=False),
    ],
    "dora": [
        Row(lambda _: DEPTH * (32 * (D + 2 * E) + 2 * E) + HEAD, r"head\.|.*\.in_proj\.lora_"),
        Row(lambda _: R * (MAPS + PATCH + D) + OUTPUTS + D + HEAD, r"head\.|.*\.lora_", EVERYWHERE, same_kernels=False),
    ],
    "lora_partial": [
        Row(lambda _: DEPTH * 64 * (D + E) + HEAD, r"head\.|.*\.in_proj\.lora_[AB]\.x\."),
        Row(
            lambda _: DEPTH * R * (2 * (D + E) + 2 * (3 * E + DT_RANK + 2 * N)) + HEAD,
            r"head\.|.*\.lora_[AB]\.(x|z|dt|B|C)\.",
            dict(slices=["x", "z", "dt", "B", "C"], rank=R, alpha=2.0, dropout=0.1),
            same_kernels=False,
        ),
    ],
    "svp": [
        svp_row(INNER + CROSS + HEAD),
        svp_row(INNER + HEAD, cross=False),
        svp_row(CROSS + HEAD, inner=False),
        svp_row(INNER + CROSS + HEAD, cross_prompt="official"),
        svp_row(CROSS + HEAD, cross_prompt="official", inner=False),
        svp_row(INNER + CROSS + HEAD, prompt_cls_token=True),
        svp_row(INNER + CROSS - (DEPTH + GROUPS) * D + HEAD, scaling=False),
        svp_row(INNER + CROSS + HEAD, initial_scale=0.1),
        svp_row(INNER + CROSS + HEAD, simam=True),
        svp_row(INNER + CROSS + HEAD, dropout=0.3),
        svp_row(INNER + CROSS + TWO_LINEAR, head="two_linear"),
        svp_row(INNER + 1 * (D * D + D + D) + HEAD, shared_layers=3),
        svp_row(INNER + 3 * (D * D + D + D) + HEAD, shared_layers=1),
    ],
}


def vit_row(trains: int, names: str, **options: Any) -> Row:
    added_tokens = "vpt" in names
    return Row(lambda _: trains, names, options, not added_tokens, starts_at_base=not added_tokens, backbone="vit")


VIT_BLOCK = 2 * 2 * D + (3 * D * D + 3 * D) + (D * D + D) + (4 * D * D + 4 * D) + (4 * D * D + D)  # norms, qkv, proj, MLP
VIT: dict[str, list[Row]] = {
    "linear": [vit_row(HEAD, r"head\.")],
    "full": [Row(lambda model: sum(p.numel() for p in model.parameters()), "", backbone="vit")],
    "bitfit": [vit_row(D + DEPTH * (2 * D + 3 * D + D + 4 * D + D) + D + HEAD, r"head\.|.*\.bias$")],
    "norm": [vit_row((2 * DEPTH + 1) * 2 * D + HEAD, r"head\.|blocks\.\d\.norm[12]\.|norm\.")],
    "partial": [vit_row(VIT_BLOCK + 2 * D + HEAD, r"head\.|blocks\.2\.|norm\.")],
    "adapter": [vit_row(DEPTH * (2 * D * 16 + 16 + D) + HEAD, r"head\.|adapters\.", hidden_dim=16, dropout=0.0)],
    "ssf": [Row(lambda _: 2 * (D + DEPTH * (2 * D + 3 * D + D + 4 * D + D) + D) + HEAD, r"head\.|ssf\.", backbone="vit")],
    "lora": [
        vit_row(DEPTH * R * (D + 3 * D) + HEAD, r"head\.|.*\.qkv\.lora_", rank=R),
        vit_row(
            DEPTH * R * (2 * D + 5 * D + 5 * D) + R * (PATCH + D) + HEAD,
            r"head\.|.*\.lora_",
            target_modules=["proj", "fc1", "fc2", "patch_embed"],
            rank=R,
        ),
    ],
    "dora": [vit_row(DEPTH * (R * (D + 3 * D) + 3 * D) + HEAD, r"head\.|.*\.qkv\.lora_", rank=R)],
    "vp": [vit_row(2 * 3 * 2 * (2 * 16 - 4) + HEAD, r"head\.|vp\.", width=2)],
    "dam_vp": [vit_row(3 * 2 * 3 * 2 * (2 * 16 - 4) + HEAD, r"head\.|dam_vp\.", num_prompts=3, width=2)],
    "spt_shallow": [vit_row(3 * D + HEAD, r"head\.|vpt\.", num_tokens=3)],
    "spt_deep": [vit_row(DEPTH * 4 * D + HEAD, r"head\.|vpt\.", num_tokens=4)],
    "vpt_shallow": [vit_row(3 * D + HEAD, r"head\.|vpt\.", num_tokens=3)],
    "vpt_deep": [vit_row(DEPTH * 4 * D + HEAD, r"head\.|vpt\.", num_tokens=4, position="spread")],
    "cls_token": [vit_row(D + HEAD, r"head\.|cls_token$")],
    "pos_embed": [vit_row(17 * D + HEAD, r"head\.|pos_embed$")],
}


def combined_row(trains: int, names: str, starts_at_base: bool = True, **options: Any) -> Row:
    return Row(lambda _: trains, names, options, starts_at_base, starts_at_base=starts_at_base)


SVP_OPTIONS = dict(shared_layers=SHARED, hidden_dim=R)
COMBINED: dict[str, list[Row]] = {
    "svp+adapter": [
        combined_row(
            INNER + CROSS + DEPTH * (2 * D * R + R + D) + HEAD,
            r"head\.|svp\.|adapters\.",
            svp=SVP_OPTIONS,
            adapter=dict(hidden_dim=R, dropout=0.0),
        )
    ],
    "svp+vpt_deep": [
        combined_row(
            INNER + CROSS + DEPTH * 2 * D + HEAD,
            r"head\.|svp\.|vpt\.",
            starts_at_base=False,
            svp=SVP_OPTIONS,
            vpt_deep=dict(num_tokens=2, position="middle"),
        )
    ],
    "affix+adapter+bitfit": [
        combined_row(
            DEPTH * 2 * D + DEPTH * (2 * D * R + R + D) + (D + 4 * DEPTH * E) + HEAD,
            r"head\.|affix\.|adapters\.|.*\.bias$",
            starts_at_base=False,
            affix=dict(num_tokens=2),
            adapter=dict(hidden_dim=R, dropout=0.0),
        )
    ],
    "conv1d+D": [combined_row(2 * DEPTH * E * K + 2 * DEPTH * E + HEAD, r"head\.|.*\.conv1d(_b)?\.weight$|.*\.D(_b)?$")],
}


def case_id(method: str, row: Row) -> str:
    """Method and options, as they are told apart in test names."""
    plain = {"shared_layers": SHARED, "hidden_dim": R}
    options = [f"{k}={v}" for k, v in row.options.items() if not isinstance(v, dict) and plain.get(k) != v]
    return "-".join([method, *options, *(["vit"] if row.backbone == "vit" else [])])


CASES = {
    case_id(method, row): (method, row)
    for rows in (VIM, VIT, COMBINED)
    for method, row_list in rows.items()
    for row in row_list
}


# of every method its first row is in `make test`
FIRST = {case_id(method, rows[0]) for table in (VIM, VIT, COMBINED) for method, rows in table.items()}


def marked(names: Iterable[str], everyday: Container[str], values: Mapping[str, Any] | None = None) -> list[Any]:
    """Parameters by name, those that are not `everyday` ones marked as exhaustive."""
    exhaustive = pytest.mark.exhaustive
    return [
        pytest.param(values[name] if values else name, id=name, marks=[] if name in everyday else exhaustive) for name in names
    ]


# what another one of them does by the same code: in `make test` it is counted, named, and saved and loaded
ALIKE = {case_id(method, VIM[method][0]) for method in ("A", "D", "conv1d", "cls_token", "norm")} | {"conv1d+D"}
ALIKE |= {case_id(method, rows[0]) for method, rows in VIT.items()} - {
    case_id(method, VIT[method][0]) for method in ("full", "partial", "ssf", "lora", "vp", "vpt_deep", "adapter")
}


@pytest.fixture(params=marked(CASES, FIRST - ALIKE, CASES))
def case(request: pytest.FixtureRequest) -> tuple[str, Row]:
    return request.param


@pytest.fixture(params=marked(CASES, FIRST, CASES))
def each(request: pytest.FixtureRequest) -> tuple[str, Row]:
    """One of more cases than `case`."""
    return request.param


def tuned(case: tuple[str, Row], model: Backbone | None = None, shake: bool = True) -> Backbone:
    """A tuned model, its trainable values off zero."""
    method, row = case
    model = row.model() if model is None else model
    tuner = svp.tune(model, method, images=[images(model, 8, seed=5)], **row.options)
    if shake:
        shake_trained(tuner)
    return model


@torch.no_grad()
def shake_trained(tuner: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    for parameter in tuner.trainable_parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter))


def loss_of(model: nn.Module, batch: int = 4) -> Tensor:
    logits = model(images(model, batch))  # type: ignore[arg-type]
    return F.cross_entropy(logits.float(), torch.arange(batch, device=logits.device) % CLASSES)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def test_a_step_follows_the_device_and_reads_nothing_from_it(case: tuple[str, Row]) -> None:
    model = tuned(case)
    optimizer = torch.optim.AdamW(model.tuner.trainable_parameters(), foreach=False)
    model.to("meta")  # has shapes and no values: a tensor made elsewhere, or a value that is asked for, is an error
    with torch.no_grad():
        assert model.eval()(images(model)).shape == (2, CLASSES)
    loss_of(model.train()).backward()
    assert all(p.grad is not None and p.grad.is_meta for p in model.tuner.trainable_parameters())
    optimizer.step()


def test_every_method_is_under_contract() -> None:
    assert set(VIM) == set(svp.list_methods())
    on_vit = {name for name in svp.list_methods() if isinstance(small_vit(), get_methods(name)[0].backbones)}
    assert set(VIT) == on_vit


@pytest.mark.parametrize("method", sorted(set(VIM) - set(VIT)))
def test_another_backbone_is_refused(method: str) -> None:
    model = small_vit()
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"method '{method}' works on a VisionMamba, this is a VisionTransformer"):
        svp.tune(model, method)
    assert same(snapshot(model), before)
    assert all(p.requires_grad for p in model.parameters())


def test_starts_at_the_base(case: tuple[str, Row]) -> None:
    _, row = case
    base = row.model().eval()
    x = images(base)
    logits, tokens = base(x), base.forward_features(x)
    model = tuned(case, shake=False).eval()
    if row.keeps_logits:
        torch.testing.assert_close(model(x), logits, **(dict(rtol=0, atol=0) if row.same_kernels else {}))
    elif row.starts_at_base and not row.options.get("simam"):
        assert torch.equal(model.forward_features(x), tokens)
    shake_trained(model.tuner)
    assert not torch.allclose(model(x), logits, atol=1e-4), "what trains has no effect"


def test_exactly_the_declared_set_trains(each: tuple[str, Row]) -> None:
    _, row = each
    model = tuned(each)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert tuple(names) == model.tuner.trainable_names
    assert names == [name for name, _ in model.named_parameters() if re.match(row.names, name)]
    assert [name for name, _ in model.tuner.named_trainable()] == names
    assert all(p is q for p, (_, q) in zip(model.tuner.trainable_parameters(), model.tuner.named_trainable(), strict=True))
    loss_of(model.train()).backward()
    for name, parameter in model.named_parameters():
        if name in names:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_counts(each: tuple[str, Row]) -> None:
    _, row = each
    model = tuned(each)
    assert model.tuner.num_trainable == row.trains(model)
    head = sum(p.numel() for p in model.head.parameters())
    assert model.tuner.num_trainable_without_head == row.trains(model) - head


def test_frozen_weights_do_not_move(case: tuple[str, Row]) -> None:
    model = tuned(case).train()
    before = snapshot(model)
    # all parameters on purpose: freezing must not depend on what the optimizer is given
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = snapshot(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(model.tuner.trainable_names)
    assert losses[-1] < losses[0]


def test_detach_restores_the_base(case: tuple[str, Row]) -> None:
    model = case[1].model().train()
    model.pos_embed.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    before, required = snapshot(model), {name: p.requires_grad for name, p in model.named_parameters()}
    modules, classifier = [name for name, _ in model.named_modules()], model.get_classifier()
    tuned(case, model)
    optimizer = torch.optim.AdamW(model.tuner.trainable_parameters(), lr=1e-2)
    loss_of(model).backward()
    optimizer.step()
    assert not same(snapshot(model), before)

    assert model.tuner.detach() is model

    assert same(snapshot(model), before)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == required
    assert all(p.grad is None for p in model.parameters())
    assert hooks(model) == 0
    assert [name for name, _ in model.named_modules()] == modules
    assert model.get_classifier() is classifier
    assert model.tuner is None
    assert torch.equal(model.eval()(images(model)), case[1].model().eval()(images(model)))
    tuned(case, model)  # and can be tuned again
    assert model.tuner.num_trainable == case[1].trains(model)


@pytest.mark.parametrize("num_classes", [7, 0])
def test_detach_after_a_new_head(case: tuple[str, Row], num_classes: int) -> None:
    model = case[1].model()
    before, head = snapshot(model), model.head
    tuned(case, model)
    model.reset_classifier(num_classes)
    model.tuner.detach()
    assert same(snapshot(model), before)
    assert model.head is head
    assert model.num_classes == CLASSES
    assert hooks(model) == 0
    assert all(p.requires_grad for p in model.parameters())


def test_merge_keeps_a_new_head() -> None:
    for method in ("linear", "full", "bitfit"):
        model = small_vim()
        tuner = svp.tune(model, method)
        model.reset_classifier(7)
        head = model.head
        assert tuner.merge().head is head
        assert model.num_classes == 7


def test_trained_position_embedding_keeps_its_size() -> None:
    model = tuned(CASES["full"])
    with pytest.raises(RuntimeError, match="pos_embed is trained by 'full': call set_input_size before"):
        model.set_input_size(24)
    assert model.patch_embed.img_size == (16, 16)


# counts that are published, or follow from the shapes of the released checkpoints


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("affix", 221_184),
        ("vpt_shallow", 3_072),
        ("vpt_deep", 73_728),
        ("bitfit", 74_112),
        ("norm", 9_600),
        ("partial", 1_043_712),
        ("A", 589_824),
        ("D", 36_864),
        ("conv1d", 147_456),
        ("cls_token", 384),
        ("pos_embed", 75_648),
        ("adapter", 1_190_400),
        ("vp", 69_840),
        ("dam_vp", 69_840),
        ("spt_shallow", 38_400),
        ("spt_deep", 184_320),
        ("lora", 1_474_560),
        ("dora", 1_511_424),
        ("lora_partial", 1_769_472),
        ("ssf", 264_960),
        ("additional_scan", 663_552),
        ("state_offset", 589_824),
        ("initial_state", 589_824),
        ("saa", 921_600),
        ("prodial", 857_088),
        ("ssp", 50_240),
        ("memba", 4_718_592),
        ("readout", 1_294_848),
    ],
)
def test_counts_of_vim_small(method: str, count: int) -> None:
    with torch.device("meta"):
        model = svp.create_model("vim_small", num_classes=3)
    assert svp.tune(model, method).num_trainable_without_head == count


@pytest.mark.parametrize("width", [0, 8])
def test_a_frame_leaves_something_to_see(width: int) -> None:
    with pytest.raises(ValueError, match=f"vp: width is {width}, expected "):
        svp.tune(small_vim(), "vp", width=width)


def test_a_frame_is_added_around_the_image() -> None:
    model = tuned(("vp", Row(lambda _: 0, "", dict(width=3))))
    x = torch.zeros(1, 3, 16, 16)
    framed = model.vp(x)[0]
    assert torch.equal(framed[:, 3:13, 3:13], x[0, :, 3:13, 3:13])
    assert (framed != 0).sum() == 3 * (16 * 16 - 10 * 10)
    assert torch.equal(framed[:, :3], model.vp.top)
    assert torch.equal(framed[:, 3:13, 13:], model.vp.right)
    seen: list[Tensor] = []
    model.patch_embed.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    assert torch.equal(seen[0][0], framed)
    model.set_input_size(20)
    with pytest.raises(ValueError, match=r"vp: the frame is for 16 x 16 pixels, the images have 20 x 20"):
        model(torch.zeros(1, 3, 20, 20))


@pytest.mark.parametrize("position", ["parallel", "sequential"])
def test_adapter_equals_its_equation(position: str) -> None:
    model = tuned(("adapter", Row(lambda _: 0, "", dict(hidden_dim=R, position=position, scale=0.5)))).eval()
    block, adapter = model.layers[1], model.adapters[1]
    hidden = torch.randn(2, 17, D)
    u = block.norm(hidden)
    y = block.mixer.out_proj(torch.zeros(2, 17, 2 * D))  # what the mixer itself gives is not the matter here
    hook = block.mixer.out_proj.register_forward_hook(lambda *_: y)
    source = u if position == "parallel" else y
    w, b, v, c = adapter.down.weight, adapter.down.bias, adapter.up.weight, adapter.up.bias
    torch.testing.assert_close(block(hidden)[0], y + 0.5 * ((source @ w.T + b).clamp(min=0) @ v.T + c))
    hook.remove()


@pytest.mark.parametrize("blocks", [0, DEPTH + 1])
def test_as_many_blocks_as_there_are(blocks: int) -> None:
    with pytest.raises(ValueError, match=f"partial: blocks is {blocks}, expected 1 "):
        svp.tune(small_vim(), "partial", blocks=blocks)


def test_second_tuner_is_refused(case: tuple[str, Row]) -> None:
    model = tuned(case)
    with pytest.raises(ValueError, match=rf"already tuned by '{re.escape(case[0])}'; call model\.tuner\.detach\(\) first"):
        svp.tune(model, "linear")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("vpt_deep", dict(num_tokens=100_000), "num_tokens is 100,000, expected at most 1,000 beside the model's own 17"),
        ("spt_shallow", dict(num_tokens=1001), "num_tokens is 1,001, expected at most 1,000"),
        ("affix", dict(num_tokens=1001), "num_tokens is 1,001, expected at most 1,000"),
        ("ssp", dict(kernel_size=9), "kernel_size is 9, expected at most 7, which spans the model's whole grid"),
        ("dam_vp", dict(num_prompts=1001), "num_prompts is 1,001, expected 1 to 1,000"),
        *(
            (name, {option: 1025}, f"{option} is 1,025, expected at most 1,024 in a model whose tokens have the width 16")
            for name in list_methods()
            for option in get_methods(name)[0].widths
        ),
    ],
)
def test_sizes_beyond_all_sense_are_refused_before_any_work(method: str, options: dict[str, Any], message: str) -> None:
    model = small_vim()
    with pytest.raises(svp.SvpError, match=f"^{method}: {message}"):
        svp.tune(model, method, **options, images=iter(()))
    assert model.tuner is None


def test_what_is_a_size_has_a_bound() -> None:
    for name in list_methods():
        method = get_methods(name)[0]
        sizes = {field.name for field in fields(method) if field.name in ("rank", "hidden_dim", "num_coefficients")}
        assert sizes <= set(method.widths), name


def test_unknown_option_is_refused(case: tuple[str, Row]) -> None:
    model = case[1].model()
    message = "takes options as one mapping for each of" if "+" in case[0] else "has no option 'nope'; known: "
    with pytest.raises(ValueError, match=rf"method '{re.escape(case[0])}' {message}"):
        svp.tune(model, case[0], nope=1)
    assert getattr(model, "tuner", None) is None


def test_merge_keeps_outputs_or_says_why_not(case: tuple[str, Row]) -> None:
    model = tuned(case).eval()
    expected = model(images(model))
    try:
        merged = model.tuner.merge()
    except RuntimeError as error:
        assert "cannot be merged" in str(error)  # noqa: PT017
        assert not model.tuner.mergeable
        assert torch.equal(model(images(model)), expected), "a refused merge changes nothing"
    else:
        torch.testing.assert_close(merged(images(merged)), expected)
        assert merged.tuner is None
        names = [name for name in merged.state_dict() if not re.match(case[1].merged_adds, name)]
        assert names == list(case[1].model().state_dict())
        assert hooks(merged) == 0


def test_saved_and_loaded_agree(each: tuple[str, Row], tmp_path: Path) -> None:
    origin = each[1].origin
    model = tuned(each, origin.build(CLASSES)).eval()
    names = [f"class {i}" for i in range(CLASSES)]
    written = svp.save_adapter(model, tmp_path / "a" / "b", class_names=names)
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["adapter.json", "adapter.safetensors"]
    expected = model(images(model))

    for backbone in (None, origin.build(CLASSES), origin.build(CLASSES + 2)):
        loaded = svp.load_adapter(tmp_path / "a" / "b", backbone)
        assert torch.equal(loaded(images(loaded)), expected)
        assert not loaded.training
        assert loaded.adapter == written
        assert loaded.adapter.class_names == tuple(names)
        assert loaded.tuner.name == each[0]
        assert loaded.tuner.methods == model.tuner.methods


def test_trained_state_is_the_trained_values(case: tuple[str, Row]) -> None:
    model = tuned(case)
    state = model.tuner.state_dict()
    names = model.tuner.trainable_names
    assert tuple(state)[: len(names)] == names
    assert all(not state[name].requires_grad for name in state)
    fresh = tuned(case, shake=False)
    fresh.tuner.load_state_dict(state)
    assert torch.equal(fresh.eval()(images(fresh)), model.eval()(images(model)))


def test_trained_state_of_another_shape_is_refused(case: tuple[str, Row]) -> None:
    model = tuned(case)
    state = model.tuner.state_dict()
    last = list(state)[-1]
    with pytest.raises(ValueError, match=rf"missing \['{last}'\], left over \['x'\]"):
        model.tuner.load_state_dict({name: t for name, t in state.items() if name != last} | {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=f"{last}: file "):
        model.tuner.load_state_dict(state | {last: torch.zeros(99, 1, 1)})


def test_hash_of_the_base_does_not_depend_on_training(case: tuple[str, Row]) -> None:
    reference = svp.models.state_sha256(case[1].model().state_dict())
    assert tuned(case, shake=False).tuner.base_sha256() == reference
    assert tuned(case).tuner.base_sha256() == reference


def test_state_dict_round_trip(case: tuple[str, Row], tmp_path: Path) -> None:
    model = tuned(case)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = tuned(case, perturb(case[1].model(), seed=9))
    assert not torch.allclose(other.eval()(images(other)), model.eval()(images(model)))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.eval()(images(other)), model.eval()(images(model)))


def test_deepcopy_is_independent(case: tuple[str, Row]) -> None:
    model = tuned(case).eval()
    expected = model(images(model))
    copied = copy.deepcopy(model)
    assert copied.tuner is not model.tuner
    assert copied.tuner.model is copied
    assert torch.equal(copied(images(model)), expected)
    perturb(copied, amount=0.5)
    assert torch.equal(model(images(model)), expected), "the copy shares weights with the original"
    changed = copied(images(model))
    perturb(model, amount=0.5, seed=8)
    assert torch.equal(copied(images(model)), changed), "the copy runs modules of the original"
    before = hooks(model)
    copied.tuner.detach()
    assert hooks(copied) == 0
    assert hooks(model) == before


def test_models_share_a_backbone(case: tuple[str, Row]) -> None:
    backbone = case[1].model().eval()
    before = snapshot(backbone)
    model = tuned(case, copy.deepcopy(backbone)).eval()
    expected = model(images(model))
    model.tuner.share_backbone(backbone)
    assert torch.equal(model(images(model)), expected)
    shared = {p.data_ptr() for p in backbone.parameters()}
    own = {name for name, p in model.named_parameters() if p.data_ptr() not in shared}
    assert own == set(model.tuner.trainable_names)
    model.tuner.detach()
    assert same(snapshot(model), before)
    assert same(snapshot(backbone), before)


def test_batch_of_one(case: tuple[str, Row]) -> None:
    model = tuned(case).train()
    with torch.autograd.set_detect_anomaly(True):
        loss_of(model, batch=1).backward()
    assert all(p.grad is not None for p in model.tuner.trainable_parameters())


def test_odd_number_of_patches(case: tuple[str, Row]) -> None:
    _, row = case
    model = row.model(img_size=20)
    assert model.patch_embed.num_patches == 25
    if row.odd_patches:
        loss_of(tuned(case, model)).backward()
    else:
        before = snapshot(model)
        with pytest.raises(ValueError, match=r"needs as many patches .* 25 patches; use cross_prompt='paper'"):
            tuned(case, model)
        assert same(snapshot(model), before)
        assert hooks(model) == 0


def test_every_backend_agrees(case: tuple[str, Row]) -> None:
    model = tuned(case).eval()
    with svp.ops.use_backend("reference"):
        loss_of(model).backward()
    expected = {name: p.grad.clone() for name, p in model.tuner.named_trainable()}
    for backend in (name for name in runnable_backends() if name != "reference"):
        model.zero_grad()
        model.to(device_of(backend))
        with svp.ops.use_backend(backend):
            loss_of(model).backward()
        for name, parameter in model.tuner.named_trainable():
            torch.testing.assert_close(parameter.grad.cpu(), expected[name], rtol=1e-3, atol=1e-5, msg=f"{name} on {backend}")


@pytest.mark.parametrize("pure", [False, True], ids=["autocast", "pure"])
def test_bfloat16(case: tuple[str, Row], pure: bool) -> None:
    model = tuned(case).eval()
    expected = model(images(model))
    if pure:
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=not pure):
        logits = model(images(model))
        loss_of(model).backward()
    assert logits.dtype == torch.bfloat16
    assert ((logits - expected).norm() / expected.norm()).item() < 0.05
    dtype = torch.bfloat16 if pure else torch.float32
    for name, parameter in model.tuner.named_trainable():
        assert parameter.grad.dtype == dtype, name
        assert torch.isfinite(parameter.grad).all(), name


def test_tuning_a_bfloat16_model(case: tuple[str, Row]) -> None:
    model = tuned(case, case[1].model().bfloat16())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    loss_of(model).backward()


def test_gradient_checkpointing_gives_the_same_gradients(case: tuple[str, Row]) -> None:
    model = tuned(case).train()
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(6)  # the same prompts are dropped
        loss_of(model).backward()
        grads.append({name: p.grad.clone() for name, p in model.tuner.named_trainable()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


# methods that train a part of the backbone as it is have the graph of "full"
COMPILED = [
    case_id(method, rows[0])
    for table in (VIM, VIT, COMBINED)
    for method, rows in table.items()
    if not all(issubclass(part, PartMethod) for part in get_methods(method))
]


COMPILED_EVERY_DAY = {"svp", "lora", "dora", "ssf", "additional_scan", "vpt_deep-num_tokens=4-position=spread"}


@pytest.mark.parametrize("name", marked([*COMPILED, "svp-cross_prompt=official"], COMPILED_EVERY_DAY))
def test_compiles(name: str) -> None:
    torch._dynamo.reset()
    model = tuned(CASES[name], CASES[name][1].model(depth=2)).eval()  # nothing is dropped
    logits, expected = torch.compile(model, backend="aot_eager", fullgraph=True)(images(model)), model(images(model))
    torch.testing.assert_close(logits, expected)
    trained = [*model.tuner.trainable_parameters()]
    grads, expected_grads = (torch.autograd.grad(x.square().sum(), trained) for x in (logits, expected))
    for grad, expected in zip(grads, expected_grads, strict=True):
        bound = dict[str, Any]()
        if name.startswith("readout"):  # sums over the tokens of both blocks, in another order: eps of each term
            bound = dict(rtol=0, atol=2 * 17 * torch.finfo(grad.dtype).eps * expected.abs().max().item())
        torch.testing.assert_close(grad, expected, **bound)


@pytest.mark.parametrize(
    "name", ["svp", "svp-cross_prompt=official", "affix", "vpt_deep-num_tokens=4-position=spread", "readout-read_dim=4-rank=3"]
)
def test_exports_for_any_batch(name: str) -> None:
    model = tuned(CASES[name], CASES[name][1].model(depth=2)).eval()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (images(model),), dynamic_shapes=batch).module()
    for size in (1, 5):
        torch.testing.assert_close(program(images(model, size)), model(images(model, size)))


def test_intermediates_see_the_tuned_model(case: tuple[str, Row]) -> None:
    model = tuned(case).eval()
    if case[0].startswith(("vpt_", "spt_")) and case[1].backbone == "vit":
        with pytest.raises(RuntimeError, match="timm would take for patches"):
            model.forward_intermediates(images(model))
        model.tuner.detach().forward_intermediates(images(model))
        return
    final, _ = model.forward_intermediates(images(model))
    assert torch.equal(final, model.forward_features(images(model)))


def test_training_mode_reaches_what_was_added(case: tuple[str, Row]) -> None:
    model = tuned(case, case[1].model().eval())
    assert not any(module.training for module in model.modules())
    model.train()
    assert all(module.training for module in model.modules())
