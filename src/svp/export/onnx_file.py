"""A program as an ONNX file, and what onnxruntime makes of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from svp.errors import UnavailableError
from svp.export.onnx_graph import simplify
from svp.export.recurrences import token_by_token

SUFFIX = ".onnx"
RUNTIME = "onnxruntime"
recurrence = token_by_token
_FEWEST_INPUTS = 64  # of a product in int8: dt_proj has fewer, whose error would be that of the step sizes, for no gain


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
    simplify(onnx_program.model)
    proto = onnx_program.model_proto
    proto.producer_name = "svp"
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def quantize(path: Path) -> None:
    """Replace the file by one whose products of 64 inputs and more are in int8.

    Weights have a scale per output, activations one per call, found as it runs ("dynamic quantization"). The recurrence,
    the convolutions, the norms and the step sizes stay float32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    metadata = list(model.metadata_props)
    del model.graph.value_info[:]  # it infers them itself, and ONNX 1.20 refuses those of a reversed Scan
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    exact = []
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            if shapes.get(node.input[1], [0, 0])[transposed] < _FEWEST_INPUTS:
                exact += [node.name, f"{node.name}_MatMul"]  # what it calls a Gemm before it looks at the names
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)  # it recommends a step that is for its static quantization
    try:
        quantize_dynamic(
            model, path, ["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=exact
        )
    finally:
        logger.setLevel(level)
    quantized = onnx.load(path)
    del quantized.metadata_props[:]  # it leaves a note of its own there, which is no JSON
    quantized.metadata_props.extend(metadata)
    onnx.save(quantized, path)


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Images to what the program gives by onnxruntime on the CPU, on as many threads as PyTorch.

    Every thread runs the whole program on a part of a batch: the operators of the recurrence are too small to be shared by
    threads. Fewer images than threads are run by all of them together.
    """
    import onnxruntime

    program, number = path.read_bytes(), torch.get_num_threads()
    pool = ThreadPoolExecutor(number)

    @cache
    def session(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        parts, threads = ([images], number) if len(images) < number else (images.tensor_split(number), 1)
        runner = session(threads)
        results = pool.map(lambda part: runner.run(None, {"images": part.numpy()})[0], parts)
        return torch.cat([torch.from_numpy(result) for result in results])

    return run
