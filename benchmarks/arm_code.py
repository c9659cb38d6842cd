"""The code that the scan's loops get on a 64-bit ARM, without one: instructions of every innermost loop.

Kernels are compiled for any processor, then LLVM's own backend writes them down for `--cpu`.

    NUMBA_CPU_NAME=generic python benchmarks/arm_code.py --cpu neoverse-n1
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections import Counter
from typing import Any

_LABEL, _JUMP = re.compile(r"(\.?L\w+):"), re.compile(r"\t(?:b(?:\.\w+)?|cbn?z|tbn?z)\t(?:.*, )?(\.?L\w+)")
_VECTOR = re.compile(r"\b(?:v\d+\.|q\d+\b)")


def assembly(llvm_text: str, cpu: str) -> str:
    """The assembly of a module that was optimized for another processor."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu=cpu, opt=3)
    text = re.sub("target triple = .*", 'target triple = "aarch64-unknown-linux-gnu"', llvm_text)
    text = re.sub("target datalayout = .*", f'target datalayout = "{machine.target_data}"', text)
    assembled: str = machine.emit_assembly(llvm.parse_assembly(text))
    return assembled


def loops(text: str) -> list[list[str]]:
    """The instructions of every loop that has no other in it."""
    lines = text.splitlines()
    labels = {found[1]: number for number, line in enumerate(lines) if (found := _LABEL.match(line))}
    spans = [
        (labels[found[1]], number)
        for number, line in enumerate(lines)
        if (found := _JUMP.match(line)) and labels.get(found[1], number) < number
    ]
    inner = [
        (start, end) for start, end in spans if not any((a, b) != (start, end) and start <= a and b <= end for a, b in spans)
    ]
    return [
        [line.strip() for line in lines[a : b + 1] if line.startswith("\t") and not line.startswith("\t.")] for a, b in inner
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", default="neoverse-n1", help="a processor by LLVM's name")
    cpu = parser.parse_args().cpu
    os.environ["NUMBA_CPU_NAME"] = "generic"  # before Numba is imported: no instruction of this machine alone
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder  # what is read from a cache has no LLVM text
        import torch

        from svp.ops import selective_scan
        from svp.ops.selective_scan import cpu_numba

        x = torch.randn(1, 8, 32, requires_grad=True)
        B, C = torch.randn(2, 1, 8, 16)
        selective_scan(x, x, -torch.rand(32, 16), B, C, backend="numba").sum().backward()
        functions: list[Any] = [
            cpu_numba.chunk_steps,
            cpu_numba.chunk_states,
            cpu_numba.states_kept,
            cpu_numba.sweep,
        ]
        for function in functions:
            for text in function.inspect_llvm().values():
                for loop in loops(assembly(text, cpu)):
                    names = Counter(line.split()[0] for line in loop)
                    print(
                        f"{function.__name__}: {len(loop)} instructions, {sum(map(bool, map(_VECTOR.search, loop)))} on "
                        f"vectors, {names['bl'] + names['blr']} calls: "
                        + ", ".join(f"{name} {count}" for name, count in names.most_common(12))
                    )


if __name__ == "__main__":
    main()
