"""A torch network in use: pictures in, pictures out, whatever tensors it works on.

Never here: sizes that the network does not take (stylize/feedforward.py), files other than checkpoints (export/runtime.py).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.errors import NetworkError, TheirCode, said_by
from compress.image_format import Run
from compress.memory import is_exhausted
from compress.spec import ModelSpec


def run_of_network(module: nn.Module, spec: ModelSpec) -> Run:
    """`run(pixels (N, H, W, 3), RGB 0..255) -> the same`, through `module` where it lies, without gradients.

    Raises NetworkError when the spec does not say how a picture goes in and comes out; so does `run` for a size that the
    network refuses, or when what comes out is no picture.
    """
    given = next((index for index, form in enumerate(spec.outputs) if form), None)
    if len(spec.inputs) > 1:
        raise NetworkError(f"{spec.network} has {len(spec.inputs)} inputs: a photo cannot feed them all")
    if spec.inputs[0] is None or given is None:
        raise NetworkError(
            f"{spec.network} does not say how a picture goes in and comes out",
            "--image-format says it; a network without pictures, such as a classifier, cannot be used here",
        )
    taken, made = spec.inputs[0], spec.outputs[given]
    assert made is not None
    device = next((p.device for p in module.parameters()), torch.device("cpu"))

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = torch.from_numpy(np.ascontiguousarray(taken.encode(pixels).transpose(0, 3, 1, 2))).to(device)
        with torch.inference_mode():
            result = picture_of(module, tensor, spec.network, given)
        return made.decode(result.permute(0, 2, 3, 1).float().cpu().numpy())

    return run


def picture_of(module: nn.Module, tensor: Tensor, name: str = "the network", index: int = 0) -> Tensor:
    """The picture (N, 3, H, W) that `module` makes of `tensor`: its output, or the one at `index` of several.

    Raises NetworkError when it refuses the size, or makes no picture; messages call it `name`.
    """

    def refused(error: BaseException) -> NetworkError | None:
        height, width = tensor.shape[2:]
        said = f"{name} does not run on a picture of {height}x{width}: {said_by(error)}"
        return None if is_exhausted(error) else NetworkError(said)

    with TheirCode(refused):
        result = module(tensor)
    results = result if isinstance(result, (tuple, list)) else [result]
    picture = results[index] if index < len(results) else None
    if not isinstance(picture, Tensor) or picture.ndim != 4 or picture.shape[1] != 3:
        found = f"a tensor of shape {tuple(picture.shape)}" if isinstance(picture, Tensor) else f"a {type(result).__name__}"
        raise NetworkError(f"{name} gives {found}, which is no picture (N, 3, H, W)")
    return picture
