"""What the analysis says of every operator's output is what torch computes: its constants, neither fewer nor more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.channels.facts import Known, find
from compress.channels.graph import trace
from compress.channels.ranges import Range
from tests.strip_cases import make_constant_, randomise_

CONSTANTS = {0: 0.0, 1: 0.75, 2: 0.0, 3: -0.5, 6: 0.0, 7: 1.25, 10: 0.0}  # of 12 channels; 4, 5, 8, 9, 11 follow the picture
Between = Callable[["Twelve", Tensor], Tensor]


class Twelve(nn.Module):
    """conv(3 -> 12), then what is to be tried."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.conv, self.between = nn.Conv2d(3, 12, 3, padding=1), between
        self.matrix, self.table = nn.Parameter(torch.rand(12, 5)), nn.Parameter(torch.rand(7, 12))
        self.scale, self.group, self.layer = nn.Parameter(torch.rand(1, 12, 1, 1)), nn.GroupNorm(4, 12), nn.LayerNorm(12)
        self.dense, self.along = nn.Linear(12, 5), nn.Conv1d(1, 1, 3, padding=1)
        self.slope, self.batch = nn.PReLU(12), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self, self.conv(x))


def hand_shuffle(net: Twelve, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)


def hand_pixel_shuffle(net: Twelve, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)


def written(net: Twelve, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, :2] = 0.75
    x[:, 3:5] = x[:, 0:2]
    return x


def woven(net: Twelve, x: Tensor) -> Tensor:
    out = torch.zeros(x.shape[0], x.shape[1], 2 * x.shape[2], x.shape[3], dtype=x.dtype)
    out[:, :, ::2] = x
    return out


def instance_by_hand(net: Twelve, x: Tensor) -> Tensor:
    flat = x.view(*x.shape[:2], -1)
    mean, std = flat.mean(2).view(*x.shape[:2], 1, 1), flat.std(2).view(*x.shape[:2], 1, 1)
    return (x - mean) / (std + 1e-3)


def attention(net: Twelve, x: Tensor) -> Tensor:
    tokens = x.flatten(2).mT
    return F.scaled_dot_product_attention(tokens, tokens, tokens)


def weave(net: Twelve, x: Tensor) -> Tensor:
    both = torch.stack([x, 2 * x], 1)
    return (both * both.mean((3, 4), keepdim=True).softmax(1)).sum(1)


EXACT: dict[str, Between] = {
    # the same channels, elsewhere
    "channel_shuffle": lambda n, x: F.channel_shuffle(x, 3),
    "native_channel_shuffle": lambda n, x: torch.native_channel_shuffle(x, 4),
    "shuffle by hand": hand_shuffle,
    "pixel shuffle by hand": hand_pixel_shuffle,
    "pixel_shuffle": lambda n, x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda n, x: F.pixel_unshuffle(F.interpolate(x, scale_factor=2), 2),
    "stack": lambda n, x: torch.stack([x, -x], 2),
    "stack of one": lambda n, x: torch.stack([x], 1),
    "unbind": lambda n, x: torch.unbind(torch.stack([x, x + 1], 1), 1)[1],
    "unbind over space": lambda n, x: torch.unbind(x[:, :, :4, :4], 2)[1],
    "tensor_split": lambda n, x: torch.tensor_split(x, 5, 1)[1],
    "tensor_split at": lambda n, x: torch.tensor_split(x, (2, 7), 1)[1],
    "split_with_sizes": lambda n, x: x.split([4, 8], 1)[1],
    "hsplit": lambda n, x: torch.hsplit(x, 2)[1],
    "dsplit": lambda n, x: torch.dsplit(x[:, :, :4], 2)[1],
    "select": lambda n, x: x[:, 3],
    "index": lambda n, x: x[:, [5, 0, 11, 1, 1]],
    "index over space": lambda n, x: x[:, :, [0, 2, 1]],
    "index_select": lambda n, x: x.index_select(1, torch.tensor([7, 0, 4])),
    "movedim": lambda n, x: x.movedim(1, -1),
    "swapaxes": lambda n, x: x.swapaxes(1, 2),
    "mT": lambda n, x: x.mT,
    "repeat_interleave": lambda n, x: x.repeat_interleave(3, dim=1),
    "repeat_interleave over space": lambda n, x: x.repeat_interleave(2, dim=3),
    "repeat": lambda n, x: x.repeat(1, 2, 1, 3),
    "flip": lambda n, x: x.flip(1, 2),
    "fliplr": lambda n, x: torch.fliplr(x),
    "rot90": lambda n, x: torch.rot90(x, 1, (2, 3)),
    "roll": lambda n, x: x.roll(5, 1),
    "roll over space": lambda n, x: x.roll((1, 2), (2, 3)),
    "narrow": lambda n, x: x.narrow(1, 2, 5),
    "unfold": lambda n, x: F.unfold(x, 3),
    "windows": lambda n, x: x.unfold(2, 2, 2),
    "view over two axes": lambda n, x: x.unflatten(1, (3, 4)),
    "cat beside": lambda n, x: torch.cat([x, x.flip(2)], 2),
    "cat with zeros": lambda n, x: torch.cat([x, torch.zeros_like(x[:, :, :1])], 2),
    "written": written,
    "woven into zeros": woven,
    # a channel at a time
    "interpolate area": lambda n, x: F.interpolate(x, size=(5, 4), mode="area"),
    "interpolate nearest-exact": lambda n, x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"),
    "max_pool with padding": lambda n, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_pool with indices": lambda n, x: F.max_pool2d(x, 2, return_indices=True)[0],
    "adaptive_max_pool": lambda n, x: F.adaptive_max_pool2d(x, 3),
    "avg_pool that counts pads": lambda n, x: F.avg_pool2d(x, 3, 1, 1),
    "avg_pool that does not": lambda n, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "max_unpool": lambda n, x: F.max_unpool2d(*F.max_pool2d(x[:, :, :8, :8], 2, return_indices=True), 2),
    "pad": lambda n, x: F.pad(x, (1, 2, 0, 1)),
    "pad with a value": lambda n, x: F.pad(x, (1, 2, 0, 1), value=0.75),
    "pad by less than nothing": lambda n, x: F.pad(x, (-1, -1)),
    "pad circular": lambda n, x: F.pad(x, (1, 1, 2, 1), mode="circular"),
    "pad along channels": lambda n, x: F.pad(x, (0, 0, 0, 0, 1, 2), value=0.5),
    "mean": lambda n, x: x.mean((2, 3)),
    "amax": lambda n, x: x.amax(3, keepdim=True),
    "max": lambda n, x: x.max(2)[0],
    "median": lambda n, x: x.median(3)[0],
    "sum": lambda n, x: x.sum((2, 3), keepdim=True),
    "prod": lambda n, x: x.prod(2) * 1e3,
    "norm": lambda n, x: torch.linalg.vector_norm(x, dim=(2, 3)),
    "logsumexp": lambda n, x: x.logsumexp((2, 3)),
    "softmax over space": lambda n, x: x.softmax(3),
    "cumsum over space": lambda n, x: x.cumsum(2),
    "glu": lambda n, x: F.glu(x, 1),
    "glu over space": lambda n, x: F.glu(x[:, :, :4], 2),
    "where": lambda n, x: torch.where(x > 0.5, x, x - 1),
    "prelu": lambda n, x: n.slope(x),
    "batch norm": lambda n, x: n.batch(x),
    "tensors made in the code": lambda n, x: x * torch.full_like(x, 2.0) + torch.ones(1, x.shape[1], 1, 1, dtype=x.dtype),
    # several channels
    "group_norm": lambda n, x: n.group(x[:, [0, 1, 2, 4, 5, 8, 3, 6, 7, 9, 11, 10]]),
    "group_norm of one channel each": lambda n, x: F.group_norm(x, 12),
    "layer_norm": lambda n, x: n.layer(x.permute(0, 2, 3, 1)),
    "branches": lambda n, x: torch.stack([x, x + 1, 2 * x], 1).amax(1),
    "softmax over branches": lambda n, x: torch.stack([x, 2 * x], 1).softmax(1),
    "selective kernels": weave,
    "maxout": lambda n, x: x.view(x.shape[0], -1, 3, *x.shape[2:]).amax(2),
    "matmul": lambda n, x: x.flatten(2).mT @ n.matrix,
    "matmul of a transposed parameter": lambda n, x: n.matrix.t() @ x.flatten(2),
    "einsum": lambda n, x: torch.einsum("bchw,cd->bdhw", x, n.matrix),
    "einsum that permutes": lambda n, x: torch.einsum("bchw->bhwc", x),
    "linear of a mean": lambda n, x: n.dense(x.mean((2, 3))),
    "attention": attention,
}
LOOSE: dict[str, Between] = {  # true, but not all: what is known of these depends on the size, or on how they round
    "instance norm by hand": instance_by_hand,
    "grid_sample": lambda n, x: F.grid_sample(x, torch.zeros(len(x), 4, 4, 2, dtype=x.dtype) + 0.3, align_corners=False),
    "grid_sample border": lambda n, x: F.grid_sample(
        x, torch.zeros(len(x), 4, 4, 2, dtype=x.dtype) + 0.9, padding_mode="border", align_corners=False
    ),
    "interpolate bicubic": lambda n, x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "fold": lambda n, x: F.fold(F.unfold(x[:, :, :8, :8], 2, stride=2), (8, 8), 2, stride=2),
    "unfold with padding": lambda n, x: F.unfold(x, 3, padding=1),
    "embedding": lambda n, x: x * F.embedding(torch.zeros(1, dtype=torch.long), n.table)[:, :, None, None].sign(),
    "lp_pool": lambda n, x: F.lp_pool2d(x, 2, 2),
    "local response norm": lambda n, x: F.local_response_norm(x, 3),
    "rms_norm": lambda n, x: F.rms_norm(x.permute(0, 2, 3, 1), (12,)),
    "normalize": lambda n, x: F.normalize(x, dim=1),
    "gram": lambda n, x: x.flatten(2) @ x.flatten(2).mT,
    "gram by einsum": lambda n, x: torch.einsum("bchw,bdhw->bcd", x, x),
    "channels summed on both sides": lambda n, x: torch.einsum("bchw,bchw->bhw", x, x * 2),
    "sort over channels": lambda n, x: x.sort(1)[0],
    "sort over space": lambda n, x: x.sort(2)[0],
    "topk": lambda n, x: x.topk(3, 1)[0],
    "cumsum over channels": lambda n, x: x.cumsum(1),
    "along channels": lambda n, x: n.along(x.mean((2, 3))[:, None]),
    "var_mean": lambda n, x: torch.var_mean(x, (2, 3))[1],
    "std": lambda n, x: x.std((2, 3)),
    "cosine_similarity": lambda n, x: F.cosine_similarity(x, x + 1, 1),
    "fill": lambda n, x: x.clone().fill_(2.0),
    "take_along_dim": lambda n, x: torch.take_along_dim(x, torch.zeros(1, 1, 1, 1, dtype=torch.long), 1),
    "group norm by hand": lambda n, x: (x.view(len(x), 3, -1) - x.view(len(x), 3, -1).mean(2, keepdim=True)).view_as(x),
}


def said(between: Between) -> tuple[Twelve, np.ndarray, np.ndarray, np.ndarray]:
    """The network, and what is said of its output, in the shape of its label array: constants, and bounds for pixels 0..1."""
    net = randomise_(Twelve(between))
    make_constant_(net.conv, list(CONSTANTS), list(CONSTANTS.values()))
    graph = trace(net, [torch.rand(1, 3, 8, 9, dtype=torch.float64)])
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    facts, name = find(graph, tensors, Known(ranges=[Range((0.0,), (1.0,))])), graph.outputs[0]
    surest = list(facts.chain())[-1]
    return net, surest.values[name], facts.low[name], facts.high[name]


def seen(net: Twelve, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of the output over two pictures of each of two sizes, in the label array's `shape`."""
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    for size in ((8, 9), (10, 12)):
        for _ in range(2):
            with torch.no_grad():
                found = net(torch.rand(1, 3, *size, dtype=torch.float64)).numpy()
            space = tuple(axis for axis, n in enumerate(shape) if n == 1)
            low = np.minimum(low, found.min(axis=space, keepdims=True))
            high = np.maximum(high, found.max(axis=space, keepdims=True))
    return low, high


@pytest.mark.parametrize("name", [*EXACT, *LOOSE])
def test_constants_are_what_torch_computes(name: str) -> None:
    torch.manual_seed(0)
    net, values, least, most = said({**EXACT, **LOOSE}[name])
    low, high = seen(net, values.shape)
    known = ~np.isnan(values)
    assert (least <= low + 1e-9).all()
    assert (high <= most + 1e-9).all()
    assert np.allclose(low[known], values[known], rtol=1e-9, atol=1e-9)
    assert np.allclose(high[known], values[known], rtol=1e-9, atol=1e-9)
    if name in EXACT:
        assert known.tolist() == (high - low < 1e-12).tolist()


def test_the_table_says_something() -> None:
    """Of what is claimed to be complete, most has constants to find."""
    chosen = ("channel_shuffle", "group_norm", "selective kernels", "attention", "matmul", "written")
    known = {name: int((~np.isnan(said(EXACT[name])[1])).sum()) for name in chosen}
    assert known == {"channel_shuffle": 7, "group_norm": 6, "selective kernels": 7, "attention": 7, "matmul": 0, "written": 2}
