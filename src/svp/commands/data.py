"""``svp data``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from svp.commands import COMMANDS
from svp.commands.parsing import progress_bar, run_action, to_json
from svp.settings import Device, TaskChoice


def run(argv: list[str]) -> int:
    actions: dict[str, Callable[..., int | None]] = {
        "list": list_data,
        "info": describe_data,
        "fetch": fetch_data,
        "check": check_data,
    }
    return run_action(actions, "svp data", f"{COMMANDS['data'].capitalize()}.", argv)


def list_data(*, data_root: str | None = None, json: bool = False) -> None:
    """List the data sets that --data takes by name.

    Args:
        data_root: Folder of the named data sets; $SVP_HOME/data if left out.
        json: Print JSON instead of a table.
    """
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


def describe_data(name: str, *, data_root: str | None = None, json: bool = False) -> None:
    """Say where a data set comes from, its size, layout and terms.

    Args:
        name: Name of the data set.
        data_root: Folder of the named data sets; $SVP_HOME/data if left out.
        json: Print JSON instead of text.
    """
    from svp.data import data_folder, dataset_info

    row, root = dataset_info(name), data_folder(data_root)
    facts = row.to_dict() | {"present": row.is_present(root)}
    if json:
        print(to_json(facts))
        return
    facts["sizes"] = ", ".join(f"{part} {size:,}" for part, size in row.sizes.items())
    facts["present"] = f"{'yes' if facts['present'] else 'no'}, in {root}"
    print("\n".join(f"{key:9s} {text}" for key, text in facts.items()))


def fetch_data(name: str, *, data_root: str | None = None) -> None:
    """Fetch a data set and print its folder.

    Args:
        name: Name of the data set, or hfds/OWNER/NAME for one of the Hugging Face Hub.
        data_root: Folder of the named data sets; $SVP_HOME/data if left out.
    """
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


def check_data(
    data: str,
    *,
    data_root: str | None = None,
    img_size: int = 224,
    group: str | None = None,
    group_regex: str | None = None,
    archive_encoding: str | None = None,
    task: TaskChoice = "auto",
    label: str | None = None,
    max_pixels: int | None = None,
    channels: int | None = None,
    with_: str | None = None,
    out: str | None = None,
    device: Device = "auto",
    json: bool = False,
) -> int:
    """Report what is wrong or odd with a data set; the exit code is 1 if there are errors.

    Args:
        data: Folder, table, archive or name of the data set.
        data_root: Folder of the named data sets; $SVP_HOME/data if left out.
        img_size: Images smaller than this are noted, in pixels.
        group: Column of a table whose values, such as patients, are kept in one part each; "none" for no column.
        group_regex: Regular expression that finds such a group in the names of the files.
        archive_encoding: Encoding of the names in an archive that are not UTF-8, such as gbk; guessed if left out.
        task: What the labels of a table are: one class, several labels or a number; auto tells it by the labels.
        label: Columns of a table that hold them, with commas between them; the column "label" if left out.
        max_pixels: Largest image that is read, in pixels; above about 179 million it has to be allowed here.
        channels: Channels that images are read with, as by svp train --channels; those of the run, or 3, if left out.
        with_: Run directory of a model of these classes: lists labels that it doubts, near-duplicates and odd ones out too.
        out: Folder for the page and the table of what the model found; RUN/data-check if left out.
        device: Where the model runs: auto, cpu, cuda, cuda:1, xpu or mps; auto takes a GPU if there is one.
        json: Print JSON instead of text.
    """
    from svp.data import DataError, checks

    if channels is None and with_ is not None:
        from svp.tuners import read_adapter_info

        channels = read_adapter_info(with_).inputs.channels
    try:
        with progress_bar("decoding") as progress:
            report = checks.check_data(
                data,
                data_root,
                img_size=img_size,
                group=group,
                group_regex=group_regex,
                archive_encoding=archive_encoding,
                task=task,
                label=label,
                max_pixels=max_pixels,
                channels=3 if channels is None else channels,
                progress=progress,
            )
    except DataError as error:
        if not json:
            raise
        finding = {"level": "error", "code": "cannot-be-opened", "message": str(error), "files": []}
        print(to_json({"name": data, "ok": False, "findings": [finding]}))
        return 1
    found = None
    if with_ is not None:
        from svp.inspection.data_check import check_with_model

        with progress_bar("looking") as progress:
            found = check_with_model(
                data,
                with_,
                data_root=data_root,
                group=group,
                group_regex=group_regex,
                archive_encoding=archive_encoding,
                task=task,
                label=label,
                max_pixels=max_pixels,
                out=out,
                device=device,
                progress=progress,
            )
    if json:
        print(to_json(report.to_dict() | ({} if found is None else {"model": found.to_dict()})))
    else:
        from svp.commands.check_report import print_model_check, print_report

        print_report(report)
        if found is not None:
            print_model_check(found, report.root)
    return 1 if report.has_errors else 0
