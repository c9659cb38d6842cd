"""`svp bench`: what is counted, what takes turns, what is written. Times themselves are not tested."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from svp.bench import Case, Timing, cases, take_turns
from svp.bench.roofline import Product, product_runner
from svp.bench.suite import SECTIONS, Settings, run_suite
from svp.cli import main

CPU = torch.device("cpu")
NANO = Case("vim_nano", img_size=32, batch_size=2)
D, DEPTH, TOKENS, PATCHES = 128, 12, 65, 64
E, N, DT_RANK = 2 * D, 16, 8
MIXER = D * 2 * E + 2 * E * (DT_RANK + 2 * N) + 2 * DT_RANK * E + E * D  # multiplications per token


def total_flops(products: Counter[Product]) -> int:
    return sum(product.flops * count for product, count in products.items())


def test_products_of_inference_are_those_of_the_formula() -> None:
    multiplications = 2 * (PATCHES * 3 * 4 * 4 * D + DEPTH * TOKENS * MIXER + D * cases.CLASSES)
    assert total_flops(cases.products_of(NANO)) == 2 * multiplications


def test_products_of_training_leave_out_gradients_of_frozen_weights() -> None:
    training = Case("vim_nano", "training", img_size=32, batch_size=2)
    with_prompters = total_flops(cases.products_of(training))
    r, layers = 64, DEPTH
    prompters = TOKENS * layers * (2 * D * r + D * D)
    forward = PATCHES * 3 * 4 * 4 * D + layers * TOKENS * MIXER + D * cases.CLASSES + prompters
    # of frozen maps the gradient of the input alone (of the first block too: prompters stand before it), of those that train
    # also that of the weight; neither goes back into the image or, behind the last prompter, into the embedding
    backward = layers * TOKENS * MIXER + 2 * D * cases.CLASSES + 2 * prompters - TOKENS * (D * r + D * D)
    assert with_prompters == 2 * 2 * (forward + backward)


def test_products_run_in_every_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        product_runner(cases.products_of(NANO), CPU, dtype)()


def test_functions_take_turns() -> None:
    calls: list[str] = []
    timings = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, device=CPU, warmup=1)
    assert "".join(calls) == "ab" + "ababab"
    assert [len(t.seconds) for t in timings.values()] == [3, 3]
    assert Timing((1.0, 4.0, 6.0)).ratio(Timing((2.0, 2.0, 2.0))) == Timing((0.5, 2.0, 3.0))
    assert Timing((1.0, 2.0, 3.0, 4.0, 5.0)).quartiles == (2.0, 4.0)


def test_the_parallel_scan_of_a_peer_gives_our_numbers() -> None:
    pytest.importorskip("mambapy", reason="the package mambapy is not installed")
    torch.testing.assert_close(cases.mambapy(NANO, CPU)(), cases.ours(NANO, CPU)(), rtol=1e-3, atol=1e-4)


def test_every_peer_computes_the_same() -> None:
    torch.testing.assert_close(cases.loop(NANO, CPU)(), cases.ours(NANO, CPU)(), rtol=1e-3, atol=1e-4)


def test_unknown_section_is_refused() -> None:
    with pytest.raises(ValueError, match=f"unknown section 'sped'; known: {', '.join(SECTIONS)}"):
        next(run_suite(["sped"], Settings()))


def test_command_writes_machine_and_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svp.bench.suite._standard_cases", lambda settings: iter([NANO]))
    assert main(["bench", "speed", "--models", "vim_nano", "--rounds", "1", "--device", "cpu", "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["machine"]["torch"] == torch.__version__
    assert [(row["of"], row["unit"]) for row in written["rows"]] == [("svp", "images/s"), ("roofline", "of our time")]
    assert "roofline" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["sped"], "unknown section 'sped'"), (["--rounds", "0"], "--rounds is 0"), (["--models", "resnet18"], "unknown model")],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) != 0
    assert message in capsys.readouterr().err
