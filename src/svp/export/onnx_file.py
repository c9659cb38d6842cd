"""A program as an ONNX file, and what onnxruntime makes of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from svp.errors import UnavailableError

SUFFIX = ".onnx"
RUNTIME = "onnxruntime"


def require() -> None:
    """Raise ``RuntimeError`` if a package is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"ONNX files need the package {error.name}: pip install 'vim-svp[onnx]'") from error


def write(program: ExportedProgram, metadata: Mapping[str, str], path: Path) -> None:
    """Write the program with `metadata` as its ``metadata_props``.

    Its input is called ``images``, its output ``probabilities``, or ``numbers`` where it says numbers.
    """
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)  # it warns of every Split that it leaves as it is
    onnx_program = torch.onnx.export(
        program, dynamo=True, input_names=["images"], output_names=[json.loads(metadata["output"])["output"]], verbose=False
    )
    assert onnx_program is not None
    proto = onnx_program.model_proto
    proto.producer_name = "svp"
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Images to what the program gives by onnxruntime on the CPU, on as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
