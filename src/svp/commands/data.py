"""``svp data``."""

from __future__ import annotations

import sys

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, add_action, progress_bar, run_action, to_json


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp data", description=COMMANDS["data"].capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_action(actions, "list", _list_data, "the data sets that --data takes by name")
    add_action(actions, "info", _describe_data, "where a data set comes from, its size and terms", "NAME")
    fetch = add_action(actions, "fetch", _fetch_data, "make or fetch a data set, print its folder", "NAME")
    check = add_action(actions, "check", _check_data, "decode every image, name those that cannot be read", "FOLDER_OR_NAME")
    for action in (fetch, check):
        action.add_argument("--data-root", metavar="DIR", help="where named data sets lie ($SVP_HOME/data if left out)")
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


def _check_data(name: str, data_root: str | None, json: bool) -> int:
    from svp.data import check_unreadable, find_unreadable, open_data

    data = open_data(name, data_root)
    if not json:
        print(data.summary())
    parts = {"train": data.train, "val": data.val, "test": data.test}
    paths = [path for split in parts.values() for path in split.paths]
    with progress_bar("decoding") as progress:
        unreadable = find_unreadable(paths, lambda done: progress(done, len(paths)))
    if json:
        found = {
            "name": data.name,
            "root": str(data.root),
            "classes": data.class_names,
            "images": {part: len(split) for part, split in parts.items()},
            "origin": {part: split.origin for part, split in parts.items()},
            "ignored": [str(path) for path in data.ignored],
            "unreadable": [{"path": str(image.path), "reason": image.reason} for image in unreadable],
        }
        print(to_json(found))
    else:
        for image in unreadable:
            print(f"unreadable: {image.path}: {image.reason}", file=sys.stderr)
    check_unreadable(data, unreadable)
    if not json:
        print(f"{len(paths) - len(unreadable)} of {len(paths)} images can be read")
    return 1 if unreadable else 0
