"""A page of what benchmarks/gpu.sh measured, of as many parts as there are.

python -m benchmarks.gpu_page DIR
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PARTS = ("tests", "scan", "model", "official", "profile", "pretrain")


def main(folder: Path) -> None:
    text = "\n".join(lines(folder)) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(text)


def lines(folder: Path) -> Iterator[str]:
    found = {part: read(folder / f"{part}.json") for part in PARTS}
    machine = next((values["machine"] for values in found.values() if values and "machine" in values), {})
    yield "# On a GPU"
    yield ""
    yield ", ".join(f"{name} {value}" for name, value in machine.items()) or "No part told of its machine."
    for part in PARTS:
        values, status = found[part], (read(folder / f"{part}.status.json") or {}).get("status")
        yield f"\n## {part}\n"
        if status is None and values is None:
            yield "Not run."
            continue
        if status == 124:
            yield "Cut off by its limit; what it had measured follows.\n"
        elif status:
            yield f"Ended with status {status}.\n"
        if values:
            yield from of_part(values)


def of_part(values: Mapping[str, Any]) -> Iterator[str]:
    """Facts first, then a table of each list of rows."""
    for name, value in values.items():
        if name == "machine":
            continue
        if isinstance(value, list):
            yield ""
            yield from table(value)
        elif isinstance(value, dict):
            yield f"**{name}**: " + ", ".join(
                f"{key} {shown(v)}" for key, v in value.items() if not isinstance(v, list) or not v
            )
            for key, rows in value.items():
                if isinstance(rows, list) and rows:
                    yield from (["", *table(rows)] if isinstance(rows[0], dict) else [f"{key}: {', '.join(map(str, rows))}"])
            yield ""
        else:
            yield f"{name}: {shown(value)}"


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield "| " + " | ".join(names) + " |"
    yield "| " + " | ".join("---" for _ in names) + " |"
    for row in rows:
        yield "| " + " | ".join(shown(row.get(name, "")).replace("|", "\\|") for name in names) + " |"
    yield ""


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def read(path: Path) -> dict[str, Any] | None:
    """None where a part left nothing, or half a file when it was cut off."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values


if __name__ == "__main__":
    main(Path(sys.argv[1]))
