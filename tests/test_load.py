"""From files to networks: by key names, by the user's word, and never by what a hostile file asks for."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.checkpoint import Checkpoint, write
from compress.errors import CheckpointError, NetworkError, UsageError
from compress.image_format import PRESETS
from compress.metrics.psnr import psnr
from compress.networks.johnson import Johnson
from compress.networks.load import NetOptions, build, find_factory, new_module, open_network, snapshot
from compress.networks.run import run_of_network
from compress.photos import decode
from compress.spec import ModelSpec
from tests.test_checkpoint import with_header

ARGUMENTS: dict[str, Any] = {"widths": [5, 7, 11], "hidden": 13, "blocks": 2}
IMAGENET = PRESETS["imagenet"]
SPEC = ModelSpec("johnson", ARGUMENTS, ((1, 3, 36, 44),), (IMAGENET,), (IMAGENET,))


@pytest.fixture
def network() -> Johnson:
    torch.manual_seed(3)
    return Johnson(**ARGUMENTS).eval()


@pytest.fixture
def saved(network: Johnson, tmp_path: Path) -> Path:
    write(tmp_path / "net.safetensors", snapshot(network, SPEC))
    return tmp_path / "net.safetensors"


def picture(height: int = 36, width: int = 44) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def same(one: nn.Module, other: nn.Module) -> bool:
    return torch.equal(one(picture()), other(picture()))


def test_a_saved_network_computes_the_same(network: Johnson, saved: Path) -> None:
    loaded = open_network(saved)
    assert same(loaded.module, network)
    assert loaded.spec == SPEC
    assert not loaded.module.training
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert {p.device.type for p in loaded.module.parameters()} == {"cpu"}
    assert all(p.requires_grad for p in loaded.module.parameters())


def test_building_leaves_torch_as_it_was(saved: Path) -> None:
    before = torch.get_rng_state()
    open_network(saved)
    assert torch.ones(1).device.type == "cpu"
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_become_float32_networks(dtype: torch.dtype, network: Johnson, tmp_path: Path) -> None:
    write(tmp_path / "net", snapshot(network, SPEC).astype(dtype))
    loaded = open_network(tmp_path / "net")
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert not same(loaded.module, network)
    assert (loaded.module(picture()) - network(picture())).abs().max() < 0.3


# Foreign state dicts


def examples_names(name: str) -> str:
    """Our names as pytorch/examples has them."""
    name = name.replace("down", "conv").replace("up", "deconv").replace("out.", "deconv3.conv2d.").replace(".conv.", ".conv2d.")
    for ours, theirs in (("conv1.norm", "in1"), ("conv2.norm", "in2"), ("conv3.norm", "in3"), ("deconv1.norm", "in4")):
        name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
    name = "in5" + name.removeprefix("deconv2.norm") if name.startswith("deconv2.norm") else name
    if name.startswith("residual."):
        _, block, part, kind, leaf = name.split(".")
        number = {"first": 1, "second": 2}[part]
        name = f"res{int(block) + 1}." + (f"in{number}.{leaf}" if kind == "norm" else f"conv{number}.conv2d.{leaf}")
    return name


def gordic_names(name: str) -> str:
    return examples_names(name).replace("deconv", "up")


def urst_names(name: str) -> str:
    name = name.replace("down", "conv").replace("up", "deconv").replace("out.", "deconv3.conv.")
    if name.startswith("residual."):
        _, block, part, rest = name.split(".", 3)
        name = f"res{int(block) + 1}.block{ {'first': 1, 'second': 2}[part] }.{rest}"
    return name.replace(".conv.", ".block.1.")


def urst_renamed(name: str) -> str:
    return urst_names(name).replace("norm.", "norm.norm.")


LAYOUTS = {"0..255": examples_names, "imagenet": gordic_names, "imagenet ": urst_names, "imagenet  ": urst_renamed}


@pytest.mark.parametrize("format_name", LAYOUTS)
def test_foreign_layouts_are_recognised(format_name: str, network: Johnson, tmp_path: Path) -> None:
    names = LAYOUTS[format_name]
    torch.save(
        {"epoch": 2, "model": {f"module.{names(k)}": v.half() for k, v in network.state_dict().items()}}, tmp_path / "net.pth"
    )
    loaded = open_network(tmp_path / "net.pth")
    assert loaded.spec == ModelSpec("johnson", ARGUMENTS, ((1, 3, 256, 256),), *((PRESETS[format_name.strip()],),) * 2)
    assert same(loaded.module, network.half().float())


def test_statistics_that_old_instance_norms_never_used_are_dropped(network: Johnson, tmp_path: Path) -> None:
    tensors = {examples_names(k): v for k, v in network.state_dict().items()}
    tensors |= {"in1.running_mean": torch.randn(5), "in1.running_var": torch.rand(5), "in1.num_batches_tracked": torch.tensor(3)}
    torch.save(tensors, tmp_path / "net.pth")
    assert same(open_network(tmp_path / "net.pth").module, network)


@pytest.mark.parametrize(
    "extra", [{}, {"norm": "batch"}, {"upsampling": "transposed"}, {"norm": "batch", "upsampling": "transposed"}]
)
def test_a_bare_state_dict_of_ours_is_recognised(extra: dict[str, Any], tmp_path: Path) -> None:
    made = Johnson(width=4, **extra).eval()
    torch.save(made.state_dict(), tmp_path / "net.pth")
    loaded = open_network(tmp_path / "net.pth")
    assert loaded.spec.arguments == {"width": 4, **extra}
    assert same(loaded.module, made)


def test_a_look_alike_with_other_activations_is_refused(tmp_path: Path) -> None:
    torch.save({"model.0.block.1.weight": torch.ones(1), "model.3.block.0.block.1.weight": torch.ones(1)}, tmp_path / "net.pth")
    with pytest.raises(NetworkError, match="ReLU after every block"):
        open_network(tmp_path / "net.pth")


@pytest.mark.parametrize(
    "tensors", [{"deconv1.conv2d.weight": torch.ones(())}, {"down1.conv.weight": torch.ones(()), "out.weight": torch.ones(2)}]
)
def test_a_part_of_a_johnson_network_is_an_error(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(NetworkError, match="looks like a johnson network, but is none"):
        open_network(tmp_path / "net.pth")


def test_a_missing_tensor_is_named(network: Johnson, tmp_path: Path) -> None:
    tensors = {examples_names(k): v for k, v in network.state_dict().items()}
    del tensors["in5.bias"]
    torch.save(tensors | {"extra": torch.ones(1)}, tmp_path / "net.pth")
    with pytest.raises(NetworkError, match=r"missing up2\.norm\.bias; unexpected extra"):
        open_network(tmp_path / "net.pth")


def test_unknown_weights_ask_for_the_network(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "net.pth")
    with pytest.raises(UsageError, match="does not say which network it is") as caught:
        open_network(tmp_path / "net.pth")
    assert caught.value.exit_code == 2
    with pytest.raises(NetworkError, match="weights do not fit"):
        open_network(tmp_path / "net.pth", NetOptions("johnson"))
    with pytest.raises(NetworkError, match="no network named 'jonson'"):
        open_network(tmp_path / "net.pth", NetOptions("jonson"))


@pytest.mark.parametrize("name", ["candy", "mosaic", "rain_princess"])
def test_public_networks_make_their_reference_pictures(name: str, data: Path) -> None:
    loaded = open_network(data / "weights" / "johnson" / f"{name}.pth")
    assert sum(p.numel() for p in loaded.module.parameters()) == 1_679_235
    assert loaded.spec.inputs == loaded.spec.outputs == (PRESETS["0..255"],)
    made = run_of_network(loaded.module, loaded.spec)(decode(data / "reference" / "amber.jpg")[None].astype(np.float32))[0]
    expected = decode(data / "reference" / f"amber-{name.replace('_', '-')}.jpg")
    ratio = psnr(made[: expected.shape[0], : expected.shape[1]], expected)
    assert ratio is not None
    assert ratio >= 26


# The user's own networks


OWN = """
from torch import nn
LOG = []
def make(width=3):
    LOG.append(width)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 7, 1))
def number(): return 7
def broken(): raise ValueError("two\\nlines")
def lookup(): return {}["channels"]
class Nest:
    inner = make
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `own_net` in the current folder, and weights that fit its `make(5)`."""
    (tmp_path / "own_net.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("def make(:\n")
    (tmp_path / "own_name.py").write_text("make = nn.Conv2d\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 1)).state_dict(), "net.pth")
    return tmp_path / "net.pth"


def test_a_users_factory_is_called_when_the_user_says_so(own: Path) -> None:
    options = NetOptions("own_net:make", {"width": 5}, ((1, 3, 9, 8),), PRESETS["0..1"])
    loaded = open_network(own, options)
    assert loaded.spec == ModelSpec("own_net:make", {"width": 5}, ((1, 3, 9, 8),), (PRESETS["0..1"],), (PRESETS["0..1"],))
    write(own.with_name("ours"), snapshot(loaded.module, loaded.spec))
    with pytest.raises(NetworkError, match="may not call by itself") as caught:
        open_network(own.with_name("ours"))
    assert caught.value.hint == "--network own_net:make runs that code: only where you know it"
    assert open_network(own.with_name("ours"), NetOptions("own_net:make")).spec == loaded.spec
    with pytest.raises(NetworkError, match="holds 'own_net:make', not 'own_net:number'"):
        open_network(own.with_name("ours"), NetOptions("own_net:number"))
    with pytest.raises(NetworkError, match="was made with --args"):
        open_network(own.with_name("ours"), NetOptions("own_net:make", {"width": 6}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_net:nothing", "cannot import"),
        ("own_nothing:make", "cannot import"),
        ("own_broken:make", "cannot import"),
        ("own_net:LOG", "is not callable"),
        ("own_net:number", "made a int"),
        ("own_net:broken", "refuses --args {}: ValueError: two$"),
        ("own_net:lookup", "refuses --args {}: KeyError: 'channels'$"),
        ("own_name:make", "cannot import --network own_name:make: name 'nn' is not defined$"),
        (".own_net:make", "cannot import"),
    ],
)
def test_a_users_factory_that_does_not_work(name: str, words: str, own: Path) -> None:
    with pytest.raises(NetworkError, match=words) as caught:
        open_network(own, NetOptions(name))
    assert "\n" not in caught.value.message


def test_a_nested_factory_and_wrong_arguments(own: Path) -> None:
    assert callable(find_factory("own_net:Nest.inner"))
    with pytest.raises(NetworkError, match="refuses --args"):
        open_network(own, NetOptions("own_net:make", {"breadth": 5}))
    with pytest.raises(NetworkError, match=r"weights do not fit.*0\.bias is \(5,\), must be \(3,\)"):
        open_network(own, NetOptions("own_net:make"))


# Hostile checkpoints


def hostile(path: Path, **spec: Any) -> Path:
    """A checkpoint whose spec says `spec`, with the tensors of a small network."""
    write(path, snapshot(Johnson(**ARGUMENTS), SPEC))
    return with_header(path, lambda header: {**header, "spec": {**header["spec"], **spec}})


@pytest.mark.parametrize("name", ["subprocess:check_output", "os:system", "builtins:eval", "builtins:exec", "own_net:make"])
def test_a_factory_in_a_file_is_never_called(name: str, own: Path) -> None:
    import own_net  # type: ignore[import-not-found]

    own_net.LOG.clear()
    path = hostile(own.with_name("net"), network=name, arguments={"args": f"touch {own}.ran", "shell": True})
    with pytest.raises(NetworkError, match="needs code that it may not call by itself") as caught:
        open_network(path)
    assert name in str(caught.value.hint)
    assert own_net.LOG == []
    assert not own.with_name("net.pth.ran").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 10**9},
        {"width": 10**30},
        {"width": 20_000},
        {"widths": [10**9, 7, 11]},
        {"blocks": 10**9},
        {"hidden": 10**12},
        {"widths": [5, 7]},
        {"widths": "abc"},
        {"width": "32"},
        {"width": -1},
        {"width": 2.5},
        {"width": float("nan")},
        {"norm": ["instance"]},
        {"norm": "os.system"},
        {"upsampling": {}},
        {"self": 1},
        {"nothing": 1},
        {"": 1},
    ],
)
def test_hostile_arguments_are_refused_without_memory(arguments: dict[str, Any], tmp_path: Path) -> None:
    path = hostile(tmp_path / "net", arguments=arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NetworkError) as caught:
        open_network(path)
    assert "\n" not in caught.value.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


RECORDS: dict[str, Any] = {
    "a module that is not there": {"none": {"in_channels": 3}},
    "an attribute that it has not": {"down1.conv": {"num_features": 3}},
    "an attribute that may not be set": {"down1.conv": {"forward": 3}},
    "a private one": {"down1.conv": {"__class__": "os"}},
    "text": {"down1.conv": {"in_channels": "3"}},
    "true": {"down1.conv": {"groups": True}},
    "nought": {"down1.conv": {"groups": 0}},
    "negative": {"down1.conv": {"out_channels": -5}},
    "huge": {"down1.conv": {"out_channels": 10**12}},
    "groups that do not divide": {"down1.conv": {"groups": 2}},
    "channels that contradict the weight": {"down2.conv": {"in_channels": 6}},
    "features that contradict the norm": {"down1.norm": {"num_features": 6}},
    "a huge bias": {"down1.conv": {"added_bias": 10**13}},
    "a bias of text": {"down1.conv": {"added_bias": "abc"}},
    "a bias where there is no place": {"residual": {"added_bias": 5}},
}


@pytest.mark.parametrize("name", RECORDS)
def test_hostile_records_are_refused(name: str, network: Johnson, tmp_path: Path) -> None:
    write(tmp_path / "net", replace(snapshot(network, SPEC), modules=RECORDS[name]))
    with pytest.raises(CheckpointError) as caught:
        open_network(tmp_path / "net")
    assert "\n" not in caught.value.message


def test_a_small_file_cannot_ask_for_a_huge_network_that_shrinks(network: Johnson, tmp_path: Path) -> None:
    """Full width 80,000 would need 400 GB before it is resized to what the file holds."""
    convs = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    norms = [name for name, m in network.named_modules() if isinstance(m, nn.InstanceNorm2d)]
    modules = dict(network.named_modules())
    record: dict[str, Any] = {n: {"in_channels": modules[n].in_channels, "out_channels": modules[n].out_channels} for n in convs}
    record |= {n: {"num_features": modules[n].num_features} for n in norms}
    tensors = dict(network.state_dict())
    write(tmp_path / "net", Checkpoint(replace(SPEC, arguments={"width": 20_000, "blocks": 2}), tensors, record))
    loaded = open_network(tmp_path / "net")
    assert same(loaded.module, network)


def test_widths_that_contradict_each_other_show_before_running(network: Johnson, tmp_path: Path) -> None:
    tensors = dict(network.state_dict())
    tensors["down2.conv.weight"] = tensors["down2.conv.weight"][:, :4]
    write(tmp_path / "net", Checkpoint(SPEC, tensors, {"down2.conv": {"in_channels": 4}}))
    with pytest.raises(NetworkError, match="does not run on 1x3x36x44"):
        open_network(tmp_path / "net")


@pytest.mark.parametrize("examples", [[[3]], [[1, 4, 36, 44]], [[1, 3, 1, 1]], [[1, 3, 36, 44], [1, 3, 36, 44]]])
def test_examples_that_do_not_fit(examples: list[list[int]], tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="does not run on"):
        open_network(hostile(tmp_path / "net", examples=examples))


def test_new_networks_that_need_more_memory_than_there_is() -> None:
    with pytest.raises(NetworkError, match=r"needs [\d,]+ GB"):
        new_module(ModelSpec("johnson", {"width": 100_000}))


def test_building_keeps_ties() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

    from compress.networks.load import _allocate

    with torch.device("meta"):
        module = Tied()
    _allocate(module)
    assert module.two.weight is module.one.weight
    assert module.one.weight.device.type == "cpu"
    tensors = Tied().state_dict()
    built = build(Checkpoint(ModelSpec("own:tied"), tensors), Tied)
    assert built.two.weight is built.one.weight


def test_options_fill_a_foreign_spec(network: Johnson, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "net.pth")
    options = NetOptions("johnson", None, ((1, 3, 40, 48),), PRESETS["caffe"])
    spec = open_network(tmp_path / "net.pth", options).spec
    assert spec.examples == ((1, 3, 40, 48),)
    assert spec.inputs == spec.outputs == (PRESETS["caffe"],)
    assert json.dumps(spec.to_json())
