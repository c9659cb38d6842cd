"""``svp data``."""

from __future__ import annotations

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, add_action, progress_bar, run_action, to_json


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp data", description=COMMANDS["data"].capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_action(actions, "list", _list_data, "the data sets that --data takes by name")
    add_action(actions, "info", _describe_data, "where a data set comes from, its size and terms", "NAME")
    fetch = add_action(actions, "fetch", _fetch_data, "make or fetch a data set, print its folder", "NAME")
    check = add_action(
        actions, "check", _check_data, "report what is wrong or odd with a data set; exit code 1 on errors", "DATA"
    )
    for action in (fetch, check):
        action.add_argument("--data-root", metavar="DIR", help="where named data sets lie ($SVP_HOME/data if left out)")
    check.add_argument("--img-size", type=int, default=224, metavar="N", help="note images below N pixels (default: 224)")
    check.add_argument("--json", action="store_true", help="print JSON instead of text")
    return run_action(parser, argv)


def _list_data() -> None:
    from svp.data import dataset_info, list_datasets
    from svp.terminal import make_console, make_table

    table = make_table("name", "classes", "images", "title", right=("classes", "images"))
    for row in map(dataset_info, list_datasets()):
        table.add_row(row.name, str(row.classes), f"{row.images:,}", row.title)
    make_console().print(table)


def _describe_data(name: str) -> None:
    from svp.data import dataset_info

    row = dataset_info(name)
    for key in ("name", "title", "classes", "images", "source", "license"):
        print(f"{key:9s} {getattr(row, key)}")


def _fetch_data(name: str, data_root: str | None) -> None:
    from svp.data import dataset_info, open_data

    print(open_data(dataset_info(name).name, data_root).root.resolve())


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
