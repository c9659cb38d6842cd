"""``svp bench``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svp.commands import UsageError
from svp.commands.parsing import run_function
from svp.settings import Device


def run(argv: list[str]) -> int:
    return run_function(bench, "svp bench", argv)


def bench(
    sections: Sequence[str] = (),
    *,
    models: Sequence[str] | None = None,
    rounds: int = 7,
    batch_size: int = 8,
    device: Device = "auto",
    out: str = "runs/bench",
) -> None:
    """Measure speed and memory on this machine, against the limit and against peers.

    Args:
        sections: What is measured: speed, parts, peers, resolution, memory, first-call; all if left out.
        models: Vim models to measure, all at 224 pixels except in resolution; vim_small and vim_tiny if left out.
        rounds: Number of times everything is timed, in turns.
        batch_size: Images per batch.
        device: Where the models run: auto, cpu, cuda, cuda:1, xpu or mps; auto takes a GPU if there is one.
        out: Folder for bench.json and the figure of the resolution.
    """
    for option, value, low in (("--rounds", rounds, 1), ("--batch-size", batch_size, 2)):
        if value < low:
            raise UsageError(f"{option} is {value}, expected {low} or more")
    from svp.bench.peers import left_out
    from svp.bench.report import to_tables, write_json, write_resolution_figure
    from svp.bench.suite import SECTIONS, Row, Settings, machine, run_suite
    from svp.models.factory import full_name
    from svp.runs.devices import choose_device
    from svp.terminal import make_console

    for name in models or ():
        if not full_name(name).startswith("vim_"):
            raise UsageError(f"--models takes Vim models, got {name}")
    chosen = choose_device(device)
    settings = Settings(tuple(models or Settings.models), rounds, batch_size, chosen)
    console, folder = make_console(), Path(out)
    described = machine(chosen)
    console.print(", ".join(f"{name} {value}" for name, value in described.items() if value is not None))
    rows: list[Row] = []
    wanted = sections or [name for name in SECTIONS if name != "parts" or chosen.type == "cpu"]
    for row in run_suite(list(wanted), settings):
        rows.append(row)
        case = row.case
        console.print(
            f"{row.section}: {case.model} {case.work} {case.precision}, {case.batch_size} x {case.img_size} px: "
            f"{row.of} {row.value:.3g} {row.unit}"
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(rows, described, folder / "bench.json")  # what is measured is kept, whatever comes
    for table in to_tables(rows):
        console.print(table)
    for peer, reason in left_out(chosen).items() if "peers" in wanted else ():
        console.print(f"not measured: {peer}, {reason}", markup=False)
    console.print(f"written to {folder / 'bench.json'}")
    for file in write_resolution_figure(rows, folder / "resolution"):
        console.print(f"           {file}")
