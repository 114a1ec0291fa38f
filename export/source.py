"""What is exported, wherever it came from: a network of ours or a stranger's `.onnx` file, behind one shape.

A source knows its inputs at each size, runs its stages (the network as given, then stripped), and gives an ONNX graph.
Never here: converting, comparing, writing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from compress.errors import ArtifactError, ConversionError, NetworkError, UsageError
from compress.image_format import PRESETS, ImageFormat
from export import onnx as graphs
from export import parity, runtime
from export.artifact import Port
from export.foreign import reading, refusals
from export.parity import Run, Sample
from export.samples import InputSpec, gather

if TYPE_CHECKING:
    from compress.networks.load import LoadedNetwork

Size = tuple[int, int]
DEFAULT_SIZE: Size = (256, 256)


@dataclass(frozen=True)
class Stage:
    """One form of the network: `run` takes NCHW arrays by input name, and gives one array an output."""

    name: str
    run: Run


@dataclass(frozen=True)
class Built:
    """The way to ONNX. `stages`: what was made of the network before, oldest first. `graphs`: the graph for each size.

    `shipped`: the graph to keep, free in height and width where the network allows it.
    """

    stages: tuple[Stage, ...]
    shipped: onnx.ModelProto
    graphs: tuple[onnx.ModelProto, ...]


@dataclass(frozen=True)
class Source:
    """`sizes`: what is to be made. `inputs`: for each size its inputs. `given`: the network as it was given.

    `build` is the work (stripping, exporting): after everything that can be refused at once. `notes`: what a person should know.
    """

    path: Path
    sizes: tuple[Size, ...]
    inputs: tuple[tuple[InputSpec, ...], ...]
    outputs: tuple[str, ...]
    formats: tuple[ImageFormat | None, ...]
    given: Run
    build: Callable[[], Built]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What every file made of it starts with."""
        return self.path.stem

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def from_network(path: Path, loaded: LoadedNetwork, sizes: Sequence[Size] = (), strip: bool = True) -> Source:
    """A source of a checkpoint's network; `sizes` empty: the size of its own example.

    Raises NetworkError; UsageError for a size that the inputs cannot have together. Building raises TraceError, ConversionError.
    """
    module, spec = loaded.module, loaded.spec
    found = tuple(sizes) or (_own_size(spec.examples),)
    examples = [[torch.rand(shape) for shape in _scaled(spec.examples, size)] for size in found]
    inputs, outputs = graphs.names_of(module, examples[0])
    formats = (*spec.outputs, *(None,) * len(outputs))[: len(outputs)]
    shapes = [tensor.shape for tensor in graphs.call(module, examples[0]).values()]

    def build() -> Built:
        smaller, stages = module, []
        if strip:
            from compress.channels.strip import strip as stripped_of

            smaller = stripped_of(module, tuple(torch.rand(shape) for shape in spec.examples)).module
            stages.append(Stage("stripped", _torch_run(smaller, inputs)))
        shipped, for_sizes = _exported(smaller, examples)
        return Built(tuple(stages), shipped, for_sizes)

    return Source(
        path,
        found,
        tuple(_specs(inputs, [tuple(t.shape) for t in one], spec.inputs) for one in examples),
        outputs,
        tuple(form if len(shape) == 4 and shape[1] == 3 else None for form, shape in zip(formats, shapes, strict=True)),
        _torch_run(module, inputs),
        build,
    )


def from_onnx(path: Path, sizes: Sequence[Size] = (), image_format: ImageFormat | None = None) -> Source:
    """A source of an `.onnx` file; `image_format` for every input and output that has three channels, `0..255` for uint8 ones.

    Raises ArtifactError, ConversionError, ParityError; UsageError for a size that a fixed file does not have.
    """
    forms = reading.read(path)
    graph = forms[-1].model
    ports, outputs = graphs.inputs_of(graph), graphs.outputs_in(graph)
    refusals.check_inputs(path.name, graph.graph, ports)
    found = tuple(sizes) or (_fixed_size(ports) or DEFAULT_SIZE,)
    if image_format is None and reading.takes_pixels(forms):
        image_format = PRESETS["0..255"]
    names, formats = [port.name for port in ports], (image_format,) * len(ports)
    inputs = tuple(_specs(names, [_fixed(path, port, size) for port in ports], formats) for size in found)
    refusals.check_operators(path.name, graphs.specialised(graph, {spec.name: spec.shape for spec in inputs[0]}))
    judged = reading.judge(path, forms, gather(inputs[0], None, 0).compared[0])
    return Source(
        path,
        found,
        inputs,
        tuple(port.name for port in outputs),
        tuple(image_format if len(port.shape) == 4 and port.shape[1] in (3, None) else None for port in outputs),
        judged.given,
        lambda: Built((), graph, (graph,) * len(found)),
        judged.notes,
    )


def graph_run(graph: onnx.ModelProto, name: str = "the graph") -> Run:
    """Run a graph in ONNX Runtime, by input name."""
    runner = runtime.load_graph(graph.SerializeToString(), name)
    return lambda sample: runner.run_tensors([sample[port.name] for port in runner.inputs])


def _exported(module: nn.Module, examples: Sequence[Sequence[Tensor]]) -> tuple[onnx.ModelProto, tuple[onnx.ModelProto, ...]]:
    """One free graph for all sizes when it computes the same at each, and at twice the height; else a fixed one for each."""
    graph = graphs.from_module(module, examples[0], free=True)
    taller = [torch.cat([t, t.flip(2)], 2) if t.ndim == 4 else t for t in examples[0]]
    inputs, _ = graphs.names_of(module, examples[0])
    if graphs.is_free(graph) and all(_agrees(graph, module, inputs, tensors) for tensors in (*examples, taller)):
        return graph, (graph,) * len(examples)
    fixed = tuple(graphs.from_module(module, tensors, free=False) for tensors in examples)
    return fixed[0], fixed


def _agrees(graph: onnx.ModelProto, module: nn.Module, inputs: Sequence[str], tensors: Sequence[Tensor]) -> bool:
    sample = {name: tensor.numpy() for name, tensor in zip(inputs, tensors, strict=True)}
    try:
        return parity.relative([_torch_run(module, inputs)(sample)], [graph_run(graph)(sample)]) <= parity.TOLERANCE
    except (ArtifactError, NetworkError):
        return False


def _torch_run(module: nn.Module, inputs: Sequence[str]) -> Run:
    def run(sample: Sample) -> parity.Outputs:
        found = graphs.call(module, [torch.from_numpy(sample[name]) for name in inputs])
        return [np.asarray(tensor.numpy(), np.float32) for tensor in found.values()]

    return run


def _specs(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], formats: Sequence[ImageFormat | None]
) -> tuple[InputSpec, ...]:
    padded = (*formats, *(None,) * len(names))
    return tuple(InputSpec(name, shape, form) for name, shape, form in zip(names, shapes, padded, strict=False))


def _own_size(shapes: Sequence[tuple[int, ...]]) -> Size:
    own = next((shape[2:] for shape in shapes if len(shape) == 4), None)
    if own is None:
        raise ConversionError(
            "the network has no input of four axes (1 x channels x height x width)", "--example says its shapes"
        )
    return (own[0], own[1])


def _scaled(shapes: Sequence[tuple[int, ...]], size: Size) -> list[tuple[int, ...]]:
    """Every 4-D shape by the factor that brings the first one to `size`: a half-size input stays half the size."""
    own, found = _own_size(shapes), []
    for shape in shapes:
        if len(shape) != 4:
            found.append(shape)
            continue
        height, width = shape[2] * size[0] / own[0], shape[3] * size[1] / own[1]
        if height % 1 or width % 1:
            raise UsageError(f"at {size[0]}x{size[1]} the input of {'x'.join(map(str, shape))} would not have whole sides")
        found.append((*shape[:2], int(height), int(width)))
    return found


def _fixed_size(ports: Sequence[Port]) -> Size | None:
    first = next((port for port in ports if len(port.shape) == 4), None)
    if first is None:
        raise ConversionError("the graph has no input of four axes (1 x channels x height x width)")
    height, width = first.shape[2:]
    return (height, width) if height and width else None


def _fixed(path: Path, port: Port, size: Size) -> tuple[int, ...]:
    """The port's shape with its free axes set: batch 1, height and width from `size`."""
    wanted: Mapping[int, int] = {0: 1, 2: size[0], 3: size[1]} if len(port.shape) == 4 else {0: 1}
    shape = tuple(wanted.get(axis) if length is None else length for axis, length in enumerate(port.shape))
    if len(shape) == 4 and port is not None and shape[2:] != size and port.shape[2:] != (None, None):
        own = "x".join(map(str, shape[2:]))
        raise UsageError(f"{path.name} is made for {own}, not for {size[0]}x{size[1]}", "export it with free height and width")
    if None in shape:
        raise ConversionError(f"{path.name}: axis {shape.index(None)} of {port.name} is open, and is neither height nor width")
    return tuple(length for length in shape if length is not None)
