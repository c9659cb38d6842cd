"""``svp data``."""

from __future__ import annotations

from itertools import groupby

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, add_action, progress_bar, run_action, to_json


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp data", description=COMMANDS["data"].capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listed = add_action(actions, "list", _list_data, "the data sets that --data takes by name")
    info = add_action(actions, "info", _describe_data, "where a data set comes from, its size, layout and terms", "NAME")
    fetch = add_action(actions, "fetch", _fetch_data, "fetch a data set by name or hfds/OWNER/NAME, print its folder", "NAME")
    check = add_action(
        actions, "check", _check_data, "report what is wrong or odd with a data set; exit code 1 on errors", "DATA"
    )
    for action in (listed, info, fetch, check):
        action.add_argument("--data-root", metavar="DIR", help="where named data sets lie ($SVP_HOME/data if left out)")
    for action in (listed, info, check):
        action.add_argument("--json", action="store_true", help="print JSON instead of text")
    check.add_argument("--img-size", type=int, default=224, metavar="N", help="note images below N pixels (default: 224)")
    return run_action(parser, argv)


def _list_data(data_root: str | None, json: bool) -> None:
    from svp.data import data_folder, dataset_info, list_datasets
    from svp.terminal import make_console, make_table

    root = data_folder(data_root)
    rows = [dataset_info(name) for name in list_datasets()]
    if json:
        print(to_json([row.to_dict() | {"present": row.is_present(root)} for row in rows]))
        return
    numbers = ("classes", "train", "val", "test")
    table = make_table("name", *numbers, "where", right=numbers)
    for group, members in groupby(rows, key=lambda row: row.group):
        table.add_row(group, style="bold")
        for row in members:
            sizes = [f"{row.sizes[part]:,}" if part in row.sizes else "-" for part in ("train", "val", "test")]
            here = "here" if row.is_present(root) else "fetch" if row.fetch else "by hand"
            table.add_row(f"  {row.name}", str(row.classes), *sizes, here)
        table.add_section()
    console = make_console()
    console.print(table)
    console.print(f"here: in {root}; fetch: by `svp data fetch NAME`; by hand: as `svp data info NAME` says")
    console.print("sizes as published; what has no val (or test) gets one split off train")


def _describe_data(name: str, data_root: str | None, json: bool) -> None:
    from svp.data import data_folder, dataset_info

    row, root = dataset_info(name), data_folder(data_root)
    facts = row.to_dict() | {"present": row.is_present(root)}
    if json:
        print(to_json(facts))
        return
    facts["sizes"] = ", ".join(f"{part} {size:,}" for part, size in row.sizes.items())
    facts["present"] = f"{'yes' if facts['present'] else 'no'}, in {root}"
    print("\n".join(f"{key:9s} {text}" for key, text in facts.items()))


def _fetch_data(name: str, data_root: str | None) -> None:
    from svp.data import DataError, data_folder, dataset_info
    from svp.data.sources import hub

    if hub.is_on_hub(name):
        print(hub.fetch_hub(name, data_folder(data_root)).resolve())
        return
    row, root = dataset_info(name), data_folder(data_root)
    try:
        parts = row.read(root, 0)
    except DataError:
        if row.fetch is None:
            raise
        row.fetch(root)
        parts = row.read(root, 0)
    print(parts.root.resolve())


def _check_data(name: str, data_root: str | None, img_size: int, json: bool) -> int:
    from svp.data import DataError
    from svp.data.checks import check_data

    try:
        with progress_bar("decoding") as progress:
            report = check_data(name, data_root, img_size=img_size, progress=progress)
    except DataError as error:
        if not json:
            raise
        finding = {"level": "error", "code": "cannot-be-opened", "message": str(error), "files": []}
        print(to_json({"name": name, "ok": False, "findings": [finding]}))
        return 1
    if json:
        print(to_json(report.to_dict()))
    else:
        from svp.commands.check_report import print_report

        print_report(report)
    return 1 if report.has_errors else 0
