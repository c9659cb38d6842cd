"""``svp bench``."""

from __future__ import annotations

from pathlib import Path

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, UsageError


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp bench", description=COMMANDS["bench"].capitalize() + ".")
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help="speed, peers, resolution, memory, first-call (default: all)"
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="Vim models (default: vim_small vim_tiny)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="times everything is timed, in turns (default: 7)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images at a time (default: 8)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto takes a GPU if there is one")
    parser.add_argument(
        "--out",
        default="runs/bench",
        metavar="DIR",
        help="folder of bench.json and the figure resolution (default: runs/bench)",
    )
    values = parser.parse_args(argv)
    for option, low in (("rounds", 1), ("batch_size", 2)):
        if getattr(values, option) < low:
            raise UsageError(f"--{option.replace('_', '-')} is {getattr(values, option)}, expected {low} or more")
    return _bench(**vars(values))


def _bench(sections: list[str], models: list[str] | None, rounds: int, batch_size: int, device: str, out: str) -> int:
    from svp.bench.report import to_table, write_json, write_resolution_figure
    from svp.bench.suite import SECTIONS, Row, Settings, machine, run_suite
    from svp.models.factory import full_name
    from svp.terminal import make_console
    from svp.training.devices import make_accelerator

    for name in models or ():
        if not full_name(name).startswith("vim_"):
            raise UsageError(f"--models takes Vim models, got {name}")
    chosen = make_accelerator(device, "fp32").device
    settings = Settings(tuple(models or Settings.models), rounds, batch_size, chosen)
    console, folder = make_console(), Path(out)
    described = machine(chosen)
    console.print(", ".join(f"{name} {value}" for name, value in described.items() if value is not None))
    rows: list[Row] = []
    for row in run_suite(sections or list(SECTIONS), settings):
        rows.append(row)
        case = row.case
        console.print(
            f"{row.section}: {case.model} {case.mode} {case.precision}, {case.batch_size} x {case.img_size} px: "
            f"{row.of} {row.value:.3g} {row.unit}"
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(rows, described, folder / "bench.json")  # what is measured is kept, whatever comes
    console.print(to_table(rows))
    console.print(f"written to {folder / 'bench.json'}")
    for file in write_resolution_figure(rows, folder / "resolution"):
        console.print(f"           {file}")
    return 0
