"""What ONNX says in fewer operators than a program of PyTorch, rewritten in its graph: what goes has only moved data."""

from __future__ import annotations

from typing import Any

import numpy as np


def simplify(model: Any) -> None:
    """Rewrite the graph.

    Args:
        model: ``onnx_ir.Model``, changed in place.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in list(model.graph):
        if node.op_type == "Scan":
            _scan_backward(node)
        elif node.op_type == "Split":
            _split_weight(node)
    RemoveUnusedNodesPass()(model)


def _scan_backward(scan: Any) -> None:
    """Run a ``Scan`` from the last row to the first if all rows that it takes and gives are put in reverse order."""
    from onnx_ir import AttrInt64s

    sequences = scan.attributes["num_scan_inputs"].as_int()
    states = len(scan.inputs) - sequences
    rows = scan.outputs[states:]
    taken = [value.producer() for value in scan.inputs[states:]]
    given = [use.node for value in rows for use in value.uses()]
    if len(given) != len(rows) or not all(map(_reverses, [*taken, *given])):
        return
    if any(value.is_graph_output() for value in (*rows, *(gather.outputs[0] for gather in given))):
        return
    for place, gather in enumerate(taken, states):
        scan.replace_input_with(place, gather.inputs[0])
    for value, gather in zip(rows, given, strict=True):
        gather.outputs[0].replace_all_uses_with(value)
    scan.attributes["scan_input_directions"] = AttrInt64s("scan_input_directions", [1] * sequences)
    scan.attributes["scan_output_directions"] = AttrInt64s("scan_output_directions", [1] * len(given))


def _reverses(node: Any) -> bool:
    """Does it gather all rows, the last one first?"""
    if node is None or node.op_type != "Gather" or node.attributes["axis"].as_int() != 0 or node.inputs[1].const_value is None:
        return False
    rows = node.inputs[1].const_value.numpy()
    return bool(np.array_equal(rows, np.arange(len(rows))[::-1]))


def _split_weight(split: Any) -> None:
    """Multiply by each part of a weight where the product was split into equal parts: ``Split`` copies what it is given."""
    import onnx_ir as ir

    (whole, *sizes), product = split.inputs, split.inputs[0].producer()
    if (
        sizes
        or product is None
        or product.op_type != "MatMul"
        or len(whole.uses()) > 1
        or not product.inputs[1].is_initializer()
    ):
        return
    axis = split.attributes["axis"].as_int()
    if axis != -1 and (whole.shape is None or axis != len(whole.shape) - 1):
        return
    weight = product.inputs[1]
    if weight.const_value.shape[-1] % len(split.outputs):  # the last part is smaller
        return
    parts = np.split(weight.const_value.numpy(), len(split.outputs), axis=1)
    for number, (part, value) in enumerate(zip(parts, split.outputs, strict=True)):
        name = f"{weight.name}_part_{number}"
        constant = ir.Value(
            name=name, shape=ir.Shape(part.shape), type=weight.type, const_value=ir.tensor(part.copy(), name=name)
        )
        split.graph.register_initializer(constant)
        node = ir.Node("", "MatMul", [product.inputs[0], constant], name=f"{product.name}_part_{number}", num_outputs=1)
        split.graph.insert_before(split, node)
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = (
            f"{whole.name}_part_{number}",
            value.shape,
            value.type,
        )
        value.replace_all_uses_with(node.outputs[0])
