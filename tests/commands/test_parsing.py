"""Parsers made from signatures: spellings, flags, lists, defaults, help; every setting of a run among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest

from svp.commands import UsageError
from svp.commands.parsing import run_function
from svp.commands.train import make_parser
from svp.settings import Device, Precision
from svp.training import TrainConfig


def call(*argv: str) -> dict[str, Any]:
    """What a function gets from the words of a command line."""
    got: dict[str, Any] = {}

    def command(
        run: str,
        paths: Sequence[str],
        *,
        batch_size: int = 32,
        lr: float | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        compare: Sequence[str] = (),
        images: Sequence[str] | None = None,
        json: bool = False,
    ) -> None:
        """Do something.

        Args:
            run: Run directory.
            paths: Images, 5% of them.
            batch_size: Images per batch.
            compare: Another run.
        """
        got.update(locals())

    assert run_function(command, "svp do", list(argv)) == 0
    got.pop("got")
    return got


def test_defaults_are_those_of_the_signature() -> None:
    assert call("r", "a", "b") == {
        "run": "r", "paths": ["a", "b"], "batch_size": 32, "lr": None, "device": "auto", "precision": "auto", "compare": [],
        "images": None, "json": False,
    }  # fmt: skip


@pytest.mark.parametrize("option", ["--batch-size=7", "--batch_size=7"])
def test_dashes_and_underscores_are_one_option(option: str) -> None:
    assert call("r", "a", option)["batch_size"] == 7


def test_flags_lists_and_numbers() -> None:
    got = call("--json", "r", "a", "--compare", "x", "--compare", "y", "--images", "p", "q", "--lr", "1e-3")
    assert (got["json"], got["compare"], got["images"], got["lr"]) == (True, ["x", "y"], ["p", "q"], 1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["r"], "paths"),
        (["r", "a", "--batch-size", "x"], "--batch-size is 'x', expected a whole number$"),
        (["r", "a", "--lr", "fast"], "--lr is 'fast', expected a number$"),
        (["r", "a", "--precision", "fp16"], "fp32"),
        (["r", "a", "--devic", "cpu"], "nrecognized arguments: --devic cpu; did you mean --device\\?$"),
        (["r", "a", "--batch_sise=3"], "did you mean --batch-size\\?$"),
        (["r", "a", "--frobnicate", "3"], "nrecognized arguments: --frobnicate 3$"),
    ],
)
def test_wrong_words_are_told_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "fast"], "--lr is 'fast', expected a number or 'auto'$"),
        (["--choose-by", "f1"], "--choose-by is 'f1', expected 'top1', 'top5', .*'rank_correlation' or 'auto'$"),
        (["--calibrate", "perhaps"], "--calibrate is 'perhaps', expected true or false$"),
        (["--protocol", "x"], "--protocol is 'x', expected 'validation', 'trainval', 'paper'$"),
        (["--method.svp.hidden-dim", "wide"], "--method.svp.hidden-dim is 'wide', expected a whole number$"),
        (
            ["--method.svp.shared_layer", "4"],
            "nrecognized arguments: --method.svp.shared_layer; did you mean --method.svp.shared-layers\\?$",
        ),
        (["--method.lora.rank=4"], "nrecognized arguments: --method.lora.rank$"),
    ],
)
def test_wrong_values_of_a_setting_are_told_as_svp_does(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_parser(["svp"]).parse_args(words, defaults=False)


def test_help_comes_from_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        call("--help")
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: svp do RUN PATH... [OPTION]..."
    assert "  --batch-size N            Images per batch. (default: 32)" in lines
    assert "  PATH                      Images, 5% of them." in lines
    assert "  --compare COMPARE         Another run." in lines
    assert not any("_" in line for line in lines)


def test_every_setting_of_a_run_is_an_option_with_help() -> None:
    parser = make_parser(["svp", "lora"])
    text = parser.format_help()
    for setting in {field.name for field in fields(TrainConfig)} - {"options", "augment", "inputs"}:
        assert f"  --{setting.replace('_', '-')} " in text
    for line in text.splitlines():
        assert not line.startswith("  --") or not line.endswith(("(default: )", "None)"))
        assert not line.strip().startswith(("Of ", "As ", "By ", "Such "))
    for option in ("--epochs N", "--augment.hflip X", "--inputs.crop-pct X", "--method.lora.rank N", "--resume [true|false]"):
        assert f"  {option}" in text
    assert "  --lr X|auto " in text
    assert "  --choose-by NAME " in text
    assert "rank_correlation, auto. (default: auto)" in " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--resume"], {"resume": True}),
        (["--resume=false"], {"resume": False}),
        (["--warmup_epochs", "2"], {"warmup_epochs": 2.0}),
        (["--method.svp.hidden_dim", "32"], {"options": {"svp": {"hidden_dim": 32}}}),
        (["--method.svp.hidden-dim=32"], {"options": {"svp": {"hidden_dim": 32}}}),
        (["--method.hidden_dim", "32"], {"options": {"hidden_dim": 32}}),
        (["--method.vpt_deep.num-tokens", "3"], {"options": {"vpt_deep": {"num_tokens": 3}}}),
        (["--method.svp.cross", "false"], {"options": {"svp": {"cross": False}}}),
        (
            ["--method", "svp+lora", "--method.lora.target_modules", "[in_proj,out_proj]"],
            {"method": "svp+lora", "options": {"lora": {"target_modules": ["in_proj", "out_proj"]}}},
        ),
        (["--augment.auto_augment", "null"], {"augment": {"auto_augment": None}}),
    ],
)
def test_options_of_train(words: list[str], expected: dict[str, Any]) -> None:
    assert make_parser(["svp", "lora", "vpt_deep"]).parse_args(words, defaults=False).as_dict() == expected
