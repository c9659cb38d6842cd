"""The tests that only a GPU runs, and the kernels' tests on it: counts and failures as JSON.

    python -m benchmarks.gpu_tests --out DIR

The public cases come first, the large shapes and CUDA graphs next, hypothesis' small ones last. With ``TRITON_INTERPRET=1``,
which tries the script without a GPU, some of the public cases run and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import pytest

PARTS = (
    ("public cases", ["tests/ops/test_public_cases.py"]),
    ("what only a GPU runs", ["tests/ops/test_triton.py", "-k", "gpu or graph or bits or offsets or device"]),
    ("training on a GPU", ["tests/training/test_loop.py", "-k", "gpu or copied or way"]),
    ("all of the kernels", ["tests/ops/test_triton.py", "tests/ops/test_add_rms_norm.py"]),
)


class _Counter:
    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1
        if report.failed:
            self.failures.append(f"{report.nodeid}: {str(report.longrepr).strip().splitlines()[-1][:300]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    rehearsal = [("a public case", [*PARTS[0][1], "-k", "bits or meta"])]
    for name, arguments in rehearsal if os.environ.get("TRITON_INTERPRET") == "1" else PARTS:
        counter, start = _Counter(), time.perf_counter()
        pytest.main([*arguments, "-q", "--no-header", "-p", "no:cacheprovider", "--timeout=60", "-m", ""], plugins=[counter])
        rows.append({"tests": name, **counter.outcomes, "seconds": time.perf_counter() - start, "failures": counter.failures})
        print(f"{name}: {counter.outcomes}", flush=True)
        (options.out / "tests.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
    if any(row["failed"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
