"""`svp bench`: what is counted, what takes turns, what is written. Times themselves are not tested."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from svp.bench import Case, Timing, cases, peers, suite, take_turns
from svp.bench.limit import PARTS, mover, products_of, state_runner, work_of
from svp.bench.parts import GROUPS, _group, time_of_parts
from svp.bench.products import Factor, Product, product_runner, ways_to_multiply
from svp.bench.report import _draw, write_resolution_figure
from svp.bench.suite import SECTIONS, Settings, run_suite
from svp.cli import main
from svp.errors import UnavailableError
from svp.ops import use_backend

CPU = torch.device("cpu")
NANO = Case("vim_nano", img_size=32, batch_size=2)
TRAINING = replace(NANO, mode="training")
D, DEPTH, TOKENS, PATCHES = 128, 12, 65, 64
E, N, DT_RANK = 2 * D, 16, 8
MIXER = D * 2 * E + 2 * E * (DT_RANK + 2 * N) + 2 * DT_RANK * E + E * D  # multiplications per token


def total_flops(products: Counter[Product]) -> int:
    return sum(product.flops * count for product, count in products.items())


def test_products_of_inference_are_those_of_the_formula() -> None:
    multiplications = 2 * (PATCHES * 3 * 4 * 4 * D + DEPTH * TOKENS * MIXER + D * cases.CLASSES)
    assert total_flops(products_of(NANO)) == 2 * multiplications


def test_products_of_training_leave_out_gradients_of_frozen_weights() -> None:
    with_prompters = total_flops(products_of(TRAINING))
    r, layers = 64, DEPTH
    prompters = TOKENS * layers * (2 * D * r + D * D)
    forward = PATCHES * 3 * 4 * 4 * D + layers * TOKENS * MIXER + D * cases.CLASSES + prompters
    # of frozen maps the gradient of the input alone (of the first block too: prompters stand before it), of those that train
    # also that of the weight; neither goes back into the image or, behind the last prompter, into the embedding
    backward = layers * TOKENS * MIXER + 2 * D * cases.CLASSES + 2 * prompters - TOKENS * (D * r + D * D)
    assert with_prompters == 2 * 2 * (forward + backward)


def test_products_run_in_every_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        product_runner(products_of(NANO), CPU, dtype)()


@pytest.mark.parametrize("case", [NANO, TRAINING], ids=lambda case: case.mode)
def test_flops_are_those_of_the_counter_of_pytorch(case: Case) -> None:
    with use_backend("any_device"), FlopCounterMode(display=False) as counter:
        step = cases.ours(case, torch.device("meta"))
        step()
    counted = counter.get_flop_counts()["Global"]
    ours = [name for name in counted if str(name).startswith("svp")]  # the scan, which is no product
    assert ours
    assert total_flops(products_of(case)) == sum(flops for name, flops in counted.items() if name not in ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_way_to_multiply_gives_the_product(dtype: torch.dtype) -> None:
    product = Product(Factor((48, 32), (40, 1)), Factor((32, 64), (1, 32)))
    first, *others = [way() for way in ways_to_multiply(product, CPU, dtype)]
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert len(others) == (2 if dtype == torch.float32 else 5)
    for other in others:
        torch.testing.assert_close(other.to(first.dtype), first, rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="without oneDNN")
def test_onednn_is_not_asked_for_bf16_where_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor with AVX2 alone it raises."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    ways = ways_to_multiply(Product(Factor((48, 32), (32, 1)), Factor((32, 64), (64, 1))), CPU, torch.bfloat16)
    assert sorted(str(way().dtype) for way in ways) == ["torch.bfloat16", *["torch.float32"] * 3]


def test_states_are_those_counted_by_hand() -> None:
    updates = 2 * TOKENS * DEPTH * 2 * (E // 16) * N  # images, tokens, blocks, directions, vectors of channels, states
    assert (work_of(NANO).forward_states, work_of(NANO).backward_states) == (updates, 0)
    assert (work_of(TRAINING).forward_states, work_of(TRAINING).backward_states) == (updates, updates)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bytes_are_those_counted_by_hand(precision: Literal["fp32", "bf16"]) -> None:
    stored = 4 if precision == "fp32" else 2
    per_mixer = 2 * D * E + 2 * (E * 4 + E + E * (DT_RANK + 2 * N) + DT_RANK * E + E + E * N + E) + E * D
    weights = D * 48 + D + D + TOKENS * D + DEPTH * (per_mixer + D) + D + D * cases.CLASSES + cases.CLASSES
    stream = DEPTH * 2 * TOKENS * D * (stored + 4)  # hidden and residual of every block
    forward = stored * (weights + 2 * 3 * 32 * 32) + 2 * stream
    assert work_of(replace(NANO, precision=precision)).bytes == forward
    trained = DEPTH * (D * 64 + 64 + 64 * D + D + D) + 2 * (D * D + D + D)  # inner prompters; two groups of eight blocks
    head = D * cases.CLASSES + cases.CLASSES
    kept = DEPTH * 2 * TOKENS * (2 * E + 64)  # x and z, the inner hidden layer
    step = forward + stored * trained + stored * (weights + trained) + 3 * stream + stored * (2 * kept + 8 * (trained + head))
    assert work_of(replace(TRAINING, precision=precision)).bytes == step


def test_parts_do_the_work_that_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    moved, updated = [], []
    add = torch.add
    monkeypatch.setattr(torch, "add", lambda b, c, alpha, out: moved.append(12 * len(out)) or add(b, c, alpha=alpha, out=out))
    mover(3 * 12 * 2**24 + 240, CPU)()
    assert sum(moved) == 3 * 12 * 2**24 + 240
    for name, at_once in (("forward_states", 4), ("backward_states", 2)):
        monkeypatch.setattr(
            f"svp.bench.state_kernels.{name}",
            lambda items, rounds, *arrays, each=64 * at_once: updated.append(items * rounds * each),
        )
    state_runner(10**6, 10**6)()
    assert updated == [pytest.approx(10**6, rel=1e-2)] * 2


def test_every_part_of_a_step_has_its_time(capfd: pytest.CaptureFixture[str]) -> None:
    case = replace(TRAINING, batch_size=9)  # large enough for the kernels of the norm
    times, floors = time_of_parts(case, 1)
    assert list(times) == list(floors) == list(GROUPS)
    for part in GROUPS:
        assert times[part].median > 0, part
        assert floors[part].median > 0 or part == "glue", part
    assert capfd.readouterr().err == ""


def test_products_are_told_from_those_of_the_prompters() -> None:
    def event(name: str, *shapes: tuple[int, ...]) -> SimpleNamespace:
        return SimpleNamespace(key=name, input_shapes=shapes)

    backbone = {(D, 4 * D)}
    forward, weight_gradient = ((2, TOKENS, D), (4 * D, D)), ((4 * D, 130), (130, D))
    assert _group(event("mkldnn::_linear_pointwise", *forward), backbone) == "products"
    assert _group(event("aten::mm", *weight_gradient), backbone) == "products"
    assert _group(event("aten::addmm", (64,), (130, D), (D, 64)), backbone) == "prompters' products"
    assert _group(event("aten::add"), backbone) == "glue"
    # of many tokens in bf16, some rows are upcast at a time: 2048 and the rest
    for rows in (2048, 122):
        assert _group(event("mkldnn::_linear_pointwise", (rows, D), (4 * D, D)), backbone) == "products"
        assert _group(event("aten::mm", (4 * D, rows), (rows, D)), backbone) == "products"
        assert _group(event("mkldnn::_linear_pointwise", (rows, D), (64, D)), backbone) == "prompters' products"
        assert _group(event("aten::mm", (64, rows), (rows, D)), backbone) == "prompters' products"


def test_functions_take_turns() -> None:
    calls: list[str] = []
    timings = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, device=CPU, warmup=1)
    assert "".join(calls) == "ab" + "ababab"
    assert [len(t.seconds) for t in timings.values()] == [3, 3]
    assert Timing((1.0, 4.0, 6.0)).ratio(Timing((2.0, 2.0, 2.0))) == Timing((0.5, 2.0, 3.0))
    assert Timing((1.0, 2.0, 3.0, 4.0, 5.0)).quartiles == (2.0, 4.0)


def test_timings_of_parts_add_up_round_by_round() -> None:
    assert Timing.sum_of([Timing((1.0, 2.0)), Timing((3.0, 5.0))]) == Timing((4.0, 7.0))
    assert Timing((0.5, 0.25)).rate(2) == Timing((4.0, 8.0))


def test_other_scans_in_our_mixers_give_our_numbers() -> None:
    def recurrence(step: Tensor, step_x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        h, y = step.new_zeros(step.shape[0], *A.shape), []
        for t in range(step.shape[1]):
            h = torch.exp(step[:, t, :, None] * A) * h + step_x[:, t, :, None] * B[:, t, None]
            y.append((h @ C[:, t, :, None]).squeeze(2))
        return torch.stack(y, dim=1)

    makers: list[Any] = [peers.loop, partial(peers._with_recurrence, recurrence=recurrence)]
    if find_spec("mambapy"):
        makers.append(peers.mambapy)
    for make in makers:
        torch.testing.assert_close(make(NANO, CPU)(), cases.ours(NANO, CPU)(), rtol=1e-3, atol=1e-4)


@pytest.mark.exhaustive  # writes a file
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_runtimes_give_our_numbers(name: str) -> None:
    makers = peers.peers_of(NANO, CPU)
    if name not in makers:
        pytest.skip(f"{name} is not installed")
    model = cases.build(NANO, CPU).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():  # the file takes images in 0..1 and gives probabilities
        expected = model((peers._images(NANO) - mean) / std).softmax(-1)
    torch.testing.assert_close(makers[name](NANO, CPU)(), expected, rtol=1e-3, atol=1e-4)


def test_a_peer_that_cannot_read_the_model_is_left_out() -> None:
    def refuses(case: Case, device: torch.device) -> cases.Step:
        raise UnavailableError("OpenVINO does not read the file")

    makers = {"svp": cases.ours, "openvino": refuses, "loop": peers.loop}
    with pytest.warns(UserWarning, match="openvino is left out: OpenVINO does not read the file"):
        rows = list(suite._compare("peers", NANO, makers, suite.Settings(models=(NANO.model,), rounds=1, device=CPU)))
    assert [row.of for row in rows] == ["svp", "loop"]


def test_peers_that_are_not_measured_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name in ("onnxruntime", "mambapy") else object())
    assert set(peers.peers_of(NANO, CPU)) == {"loop"}
    reasons = peers.left_out(CPU)
    assert "pip install 'vim-svp[onnx]'" in reasons["onnxruntime"]
    assert {"mambapy", "openvino", *peers.NOT_THE_SAME} < set(reasons)
    monkeypatch.setattr(peers, "find_spec", lambda name: object())
    assert set(peers.peers_of(TRAINING, CPU)) == {"loop", "mambapy"}
    assert set(peers.left_out(CPU)) == set(peers.NOT_THE_SAME)
    on_gpu = peers.left_out(torch.device("cuda"))
    assert "mambapy" not in on_gpu
    assert on_gpu["onnxruntime"] == on_gpu["openvino"] == "runs on a CPU"


def test_the_crossing_lies_between_the_sides_around_it() -> None:
    assert suite.crossing({100: 0.5, 200: 2.0, 400: 3.0}) == pytest.approx(100 * 2**0.5)
    assert suite.crossing({100: 0.5, 200: 1.0}) == pytest.approx(200)
    assert suite.crossing({100: 0.5, 200: 0.9}) is None


def test_resolution_sets_the_faster_precision_of_each_beside_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    peer = "deit_small_patch16_224"
    monkeypatch.setattr(suite, "PEERS", {"vim_nano_patch4_32": peer})
    monkeypatch.setattr(suite, "RESOLUTIONS", (32, 48))
    monkeypatch.setattr(suite, "memory_per_image", lambda case, device: 1.0)
    slow = {("vim_nano", "bf16"): 3.0, ("vim_nano", "fp32"): 2.0, (peer, "fp32"): 2.0, (peer, "bf16"): 1.0}
    made: list[Case] = []

    def timed(steps: dict[str, Any], rounds: int, device: torch.device, warmup: int) -> dict[str, Timing]:
        assert (rounds, warmup) == (2, 1)
        for name in steps.keys() & {"attention"}:
            steps[name]()
        last = made[-4:]
        times = [slow[case.model, case.precision] * (5 if case.img_size == 48 and case.model == peer else 1) for case in last]
        return {name: Timing((time,) * 2) for name, time in zip(steps, times if len(steps) == 4 else [0.5] * 3, strict=False)}

    ours = cases.ours
    monkeypatch.setattr(cases, "ours", lambda case, device: made.append(case) or ours(case, device))
    monkeypatch.setattr(suite, "take_turns", timed)
    monkeypatch.setattr(suite, "limit_parts", lambda case, device: dict.fromkeys(PARTS))
    rows = list(run_suite(["resolution"], Settings(("vim_nano",), 2, 2)))
    speeds = [(row.of, row.case.precision, row.value) for row in rows if row.unit in ("images/s", "of our time")]
    assert speeds[:2] == [("svp", "fp32", 98 / 2.0), (peer, "bf16", 0.5)]
    assert speeds[3][2] == 2.5
    (found,) = [row for row in rows if row.of == "crossing"]
    assert 32 < found.value < 48
    shares = [(row.of, row.value) for row in rows if row.unit == "of its time" and row.case.img_size == 32]
    assert shares == [("products", 0.25), ("states", 0.25), ("bytes", 0.25), ("attention", 0.5)]
    assert [file.name for file in write_resolution_figure(rows, tmp_path / "resolution")]
    axes = _draw(rows).axes
    assert [(axis.get_xscale(), axis.get_yscale()) for axis in axes] == [("log", "log")] * 2


def test_memory_is_measured_with_checkpoints_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svp.bench.suite.memory_per_image", lambda case, device: 1.0)
    measured = [row.case for row in run_suite(["memory"], Settings(("vim_nano",)))]
    assert [(case.work, case.precision) for case in measured] == [
        ("training", "fp32"),
        ("training", "bf16"),
        ("training, checkpoints", "bf16"),
    ]
    built = [cases.build(replace(NANO, mode="training", grad_checkpointing=on), CPU) for on in (False, True)]
    assert [model.grad_checkpointing for model in built] == [False, True]


def test_unknown_section_is_refused() -> None:
    with pytest.raises(ValueError, match=f"unknown section 'sped'; known: {', '.join(SECTIONS)}"):
        next(run_suite(["sped"], Settings()))


def test_command_writes_machine_and_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svp.bench.suite._speed_cases", lambda settings: iter([NANO]))
    assert main(["bench", "speed", "--models", "vim_nano", "--rounds", "1", "--device", "cpu", "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["machine"]["torch"] == torch.__version__
    measured = {row["of"]: row["value"] for row in written["rows"]}
    assert [*measured] == ["svp", "products", "states", "bytes", "limit"]
    share = (measured["products"] + measured["states"] + measured["bytes"]) / 1000 / (NANO.batch_size / measured["svp"])
    assert measured["limit"] == pytest.approx(share)
    assert f"{share:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["sped"], "unknown section 'sped'"), (["--rounds", "0"], "--rounds is 0"), (["--models", "resnet18"], "unknown model")],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) != 0
    assert message in capsys.readouterr().err
