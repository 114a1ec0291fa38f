"""ONNX graphs: exported from a module, given static shapes. Same input, same bytes.

A graph keeps height and width free where the network allows it, which is tried and not believed: the exporter frees axes of a
network whose next layer is fixed. Never here: reading files (foreign/),
rewriting for a target (rewrites/), running on its own (runtime.py does).
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript import optimizer
from torch import Tensor, nn

from compress.errors import ArtifactError, ConversionError, NetworkError
from export import runtime
from export.artifact import Port
from export.foreign.refusals import RANDOM

Shapes = Mapping[str, tuple[int, ...]]
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError, NotImplementedError, AttributeError)


def names_of(module: nn.Module, examples: Sequence[Tensor]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of inputs and outputs: of `forward`'s arguments, and of what `outputs_of` finds. Raises NetworkError."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][: len(examples)]
    inputs = (*named, *(f"input_{n}" for n in range(len(named), len(examples))))
    outputs = tuple(call(module, examples))
    return tuple(f"{name}_in" if name in outputs else name for name in inputs), outputs


def outputs_of(result: Any, name: str = "output") -> dict[str, Tensor]:
    """The tensors in what a module returned, named: `output`, `output_0` ... for a sequence, its keys for a dict."""
    if isinstance(result, Tensor):
        return {name: result}
    if isinstance(result, Mapping):
        parts = [(key if name == "output" else f"{name}_{key}", value) for key, value in result.items()]
    elif isinstance(result, Sequence) and not isinstance(result, str):
        parts = [(name if len(result) == 1 else f"{name}_{index}", value) for index, value in enumerate(result)]
    else:
        return {}
    return {label: tensor for part, value in parts for label, tensor in outputs_of(value, str(part)).items()}


def call(module: nn.Module, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Run `module` without gradients. Raises NetworkError with what it said when it does not take these tensors."""
    try:
        with torch.no_grad():
            found = outputs_of(module(*tensors))
    except _REFUSALS as error:
        shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors)
        raise NetworkError(f"the network does not take {shapes}: {_line(error)}", "another --size or --example") from error
    if not found or not all(tensor.is_floating_point() for tensor in found.values()):
        raise NetworkError("the network's outputs must be tensors of real numbers")
    return found


def from_module(module: nn.Module, examples: Sequence[Tensor], free: bool) -> onnx.ModelProto:
    """Export `module` (eval mode, float32). `free`: leave height and width of 4-D inputs open where the exporter can.

    Raises NetworkError when the module does not run, ConversionError when it cannot be exported.
    """
    inputs, outputs = names_of(module, examples)
    axes = [{2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO} if free and t.ndim == 4 else None for t in examples]
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(examples),
                dynamo=True,
                dynamic_shapes=tuple(axes) if free else None,
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, *_REFUSALS) as error:
        raise ConversionError(f"torch cannot export the network to ONNX: {_line(error)}") from error
    finally:
        quiet.setLevel(level)
    assert program is not None
    return _without_metadata(program.model_proto)


def _without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stack traces with the paths of this machine, and the exporter's notes: they make the bytes differ."""
    made = ir.from_proto(model)
    ClearMetadataAndDocStringPass()(made)
    proto = ir.to_proto(made)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del value.metadata_props[:]
    return proto


def inputs_of(model: onnx.ModelProto) -> tuple[Port, ...]:
    """Name, dtype and shape (None where it is free) of every input."""
    return tuple(map(_port, model.graph.input))


def outputs_in(model: onnx.ModelProto) -> tuple[Port, ...]:
    """Name, dtype and shape of every output."""
    return tuple(map(_port, model.graph.output))


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
    try:
        return Port(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)
    except KeyError as error:
        raise ArtifactError(f"the graph's {value.name} is no tensor of a known type") from error


def specialised(model: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """A copy with these input shapes, whatever follows from them folded into constants, and every shape inferred.

    Raises ConversionError when the shapes contradict the graph.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for length in shapes[value.name]:
            dims.add().dim_value = length
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    del copy.graph.value_info[:]
    try:
        folded = _without_constant_nodes(optimizer.optimize(copy))
        return onnx.shape_inference.infer_shapes(folded, data_prop=True)
    except (*_REFUSALS, ArtifactError, onnx.shape_inference.InferenceError) as error:
        wanted = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise ConversionError(f"the graph cannot take {wanted}: {_line(error)}") from error


def _without_constant_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes that depend on no input become weights: what the optimizer leaves of the paddings that old exporters compute."""
    weights = {tensor.name for tensor in model.graph.initializer}
    known = set(weights)
    kept: list[onnx.NodeProto] = []
    constant: list[onnx.NodeProto] = []
    for node in model.graph.node:
        fixed = bool(node.input) and all(name in known for name in node.input if name)
        if fixed and node.op_type not in RANDOM:
            constant.append(node)
            known.update(node.output)
        else:
            kept.append(node)
    read = {name for node in kept for name in node.input} | {value.name for value in model.graph.output}
    wanted = sorted((known - weights) & read)
    if not wanted:
        return model
    part = onnx.ModelProto()
    part.CopyFrom(model)
    for field in (part.graph.node, part.graph.input, part.graph.output, part.graph.value_info):
        del field[:]
    part.graph.node.extend(constant)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    values = runtime.load_graph(part.SerializeToString()).run_tensors([])
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in zip(wanted, values, strict=True))
    return model


def is_free(model: onnx.ModelProto) -> bool:
    """True when some axis of an input is open."""
    return any(None in port.shape for port in inputs_of(model))


def _line(error: BaseException) -> str:
    """The line of a long message that says most: the last one of its cause, or its own first."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"[:300]
