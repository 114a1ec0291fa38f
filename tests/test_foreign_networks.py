"""Users' own networks: stripped at their widths, or told in one line why not; their files under other names; every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils import _pytree as pytree

import compress
from compress import checkpoint
from compress.channels.rebuild import record_of
from compress.cli import main
from compress.errors import CheckpointError, NetworkError, ParityError, TraceError, UsageError
from compress.networks.foreign import load_foreign
from compress.networks.load import NetOptions, open_network
from tests import foreign_nets as nets

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils:FutureWarning")


def tensors_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(module(*inputs)) if isinstance(leaf, Tensor)]


# -- stripped ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", nets.EXPECTED, ids=lambda kind: kind.__name__)
def test_every_channel_that_can_go_goes(kind: type[nets.Net], tmp_path: Path) -> None:
    net = kind().eval()
    inputs = net.inputs()
    done = compress.strip(net, inputs)
    assert {space.name: space.after for space in done.report.spaces} == nets.EXPECTED[kind]
    alone, words = done.report.left_alone, nets.LEFT_ALONE.get(kind, {})
    assert alone.keys() == words.keys()
    assert all(word in alone[name] for name, word in words.items())
    expected, found = tensors_of(net, inputs), tensors_of(done.module, inputs)
    assert len(found) == len(expected)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
    compress.save(done.module, tmp_path / "small", kind, examples=[tuple(x.shape) for x in inputs])
    again = compress.load(kind, tmp_path / "small")
    assert record_of(again) == record_of(done.module)
    if kind is not nets.Mixed:  # loads as float32
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(again, inputs), found, strict=True))


def test_a_network_of_one_size_is_compared_at_that_one() -> None:
    assert {check.size for check in compress.strip(nets.OneSize().eval(), nets.OneSize().inputs()).report.checks} == {(12, 16)}


def test_a_mask_grows_with_its_picture() -> None:
    net = nets.Masked().eval()
    assert len({check.size for check in compress.strip(net, net.inputs()).report.checks}) == 3


def test_finding_culprits_is_cheap() -> None:
    """Six of 24 spaces: for each some five attempts, of at most three sizes."""
    net = nets.Long().eval()
    nets.Long.runs = 0
    compress.strip(net, net.inputs())
    assert nets.Long.runs < 6 * 6 * 3 + 30


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_other_precision(dtype: torch.dtype) -> None:
    net = nets.Net().eval().to(dtype)
    small = compress.strip(net, net.inputs()[0].to(dtype)).module
    assert (small.a.out_channels, small.a.weight.dtype) == (4, dtype)


# -- told why not --------------------------------------------------------------------------------------------------------------

_BY_NUMBERS = "torch.export cannot follow the network: it decides by the numbers in a tensor"


@pytest.mark.parametrize(
    ("kind", "message", "hint"),
    [
        (nets.Branch, _BY_NUMBERS, r"foreign_nets\.py:\d+: if y\.mean\(\) > 0:  \(torch\.where or a mask"),
        (nets.Loop, _BY_NUMBERS, r"foreign_nets\.py:\d+: while y\.abs\(\)\.max\(\) > 0\.1:  \("),
        (nets.Item, _BY_NUMBERS, r"foreign_nets\.py:\d+: return self\.c\(self\.a\(x\)\)\[:, :, int\(x\.sum"),
        (nets.Asserts, _BY_NUMBERS, r"foreign_nets\.py:\d+: assert bool\("),
        (
            nets.Numpy,
            "torch.export cannot follow the network: .numpy() is not",
            r"foreign_nets\.py:\d+: return .*\(only torch op",
        ),
        (nets.GivesAnObject, "torch.export does not know what the network gives: Found <class", "register_dataclass"),
        (nets.GivesNothing, "the network gives no tensor, but NoneType", "tensors in tuples, lists and dicts are known"),
        (nets.NoSuchKey, "the network does not run on 1x3x12x16: KeyError: 'z', at foreign_nets.py:", "--example gives"),
        (nets.Endless, "the network does not run on 1x3x12x16: maximum recursion depth exceeded, at", "--example gives"),
        (nets.Ends, "the network does not run on 1x3x12x16: usage: train.py, at foreign_nets.py:", "--example gives"),
        (nets.Raises, "the network does not run on 1x3x12x16: first line, at foreign_nets.py:", "--example gives"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_code_that_cannot_be_traced(kind: type[nets.Net], message: str, hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    import re

    net = kind().eval()
    with pytest.raises(TraceError) as caught:
        compress.strip(net, net.inputs())
    assert caught.value.message.startswith(message)
    assert re.search(hint, caught.value.hint or "")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # torch.export prints what it found so far


def test_inputs_that_do_not_fit() -> None:
    net = nets.Net().eval()
    for example, words in (
        (torch.rand(1, 4, 12, 16), "does not run on 1x4x12x16: Given groups=1"),
        (torch.rand(3, 12), "does not run on 3x12: Padding size 4"),
        ((torch.rand(1, 3, 12, 16),) * 2, "does not run on 1x3x12x16, 1x3x12x16: Net.forward() takes 2"),
        ([[torch.rand(1, 3, 12, 16)]], "inputs must be tensors, got a list"),
        ([torch.rand(1, 3, 12, 16), None], "inputs must be tensors, got a NoneType"),
    ):
        with pytest.raises(TraceError) as caught:
            compress.strip(net, example)  # type: ignore[arg-type]
        assert words in caught.value.message
    with pytest.raises(ParityError, match="gives different outputs for the same input"):
        compress.strip(nets.Random().eval(), net.inputs())


# -- files under other names ---------------------------------------------------------------------------------------------------


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ConvTranspose2d(5, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 1, 3)
    )


def old_style() -> nn.Sequential:
    net = plain()
    for number, dress in ((0, weight_norm), (2, spectral_norm), (3, spectral_norm)):
        dress(net[number])
    weight_norm(net[4], dim=None)
    return net


def new_style() -> nn.Sequential:
    net = plain()
    for number, dress in ((0, parametrizations.weight_norm), (2, parametrizations.spectral_norm)):
        dress(net[number])  # type: ignore[operator]
    parametrizations.spectral_norm(net[3])  # type: ignore[no-untyped-call]
    parametrizations.weight_norm(net[4], dim=None)  # type: ignore[arg-type]
    return net


def masked() -> nn.Sequential:
    net = plain()
    prune.random_structured(net[2], "weight", 0.5, 0)
    prune.random_unstructured(net[3], "bias", 0.5)
    return net


FORMS = {"plain": plain, "old style": old_style, "new style": new_style, "masked": masked}
PICTURE = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("prefix", ["", "net.", "net.inner."])
@pytest.mark.parametrize("into", ["plain", "old style", "new style"])
@pytest.mark.parametrize("of", FORMS)
def test_weights_in_every_form_load_into_every_other(of: str, into: str, prefix: str) -> None:
    source = FORMS[of]().train()
    with torch.no_grad():
        source(PICTURE)
        for parameter in source.parameters():
            parameter.mul_(1.2).add_(0.01)
        expected = source.eval()(PICTURE)
        tensors = {prefix + name: tensor for name, tensor in source.state_dict().items()}
        assert torch.allclose(load_foreign(FORMS[into](), tensors).eval()(PICTURE), expected, atol=1e-6)


@pytest.mark.parametrize(
    "nest",
    [
        lambda tensors: {
            "epoch": 3,
            "state_dict": {f"module.{name}": t for name, t in tensors.items()},
            "optimizer": {"state": {}},
        },
        lambda tensors: {"model_state_dict": {f"_orig_mod.module.{name}": t for name, t in tensors.items()}},
        lambda tensors: {"params_ema": tensors, "params": {name: t * 0 for name, t in tensors.items()}},
        lambda tensors: {"decoder": tensors, "step": 12, "args": {"lr": 0.1}},
        lambda tensors: {"n_averaged": torch.tensor(9), **{f"module.{name}": t for name, t in tensors.items()}},
        lambda tensors: {f"model.{name}": t.half() for name, t in tensors.items()},
        lambda tensors: {name: t for name, t in tensors.items() if "num_batches" not in name},
        lambda tensors: {name.replace("1.", "1.module."): t for name, t in tensors.items()},
    ],
    ids=[
        "state_dict",
        "compiled",
        "averaged",
        "another key",
        "AveragedModel",
        "half in a class",
        "before 0.4.1",
        "wrapped inside",
    ],
)
def test_files_of_other_tools(nest: Callable[[dict[str, Tensor]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer0, self.layer1 = nn.Conv2d(3, 5, 3), nn.Sequential(nn.BatchNorm2d(5))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer1(self.layer0(x))  # type: ignore[no-any-return]

    torch.manual_seed(8)
    net = Stem().eval()
    torch.save(nest(dict(net.state_dict())), tmp_path / "net.pth")
    assert torch.allclose(compress.load(Stem, tmp_path / "net.pth")(PICTURE), net(PICTURE), atol=2e-3)


def test_files_that_do_not_fit_are_told_by_their_own_names(tmp_path: Path) -> None:
    tensors = plain().state_dict()
    torch.save({**{name: t for name, t in tensors.items() if name != "3.bias"}, "head.weight": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(NetworkError, match=r"weights do not fit the network: missing 3\.bias; unexpected head\.weight"):
        compress.load(plain, tmp_path / "a.pth")
    torch.save({**tensors, "3.bias": torch.ones(7)}, tmp_path / "b.pth")
    with pytest.raises(NetworkError, match=r"3\.bias is \(7,\), must be \(6,\)"):
        compress.load(plain, tmp_path / "b.pth")
    torch.save({"first": tensors, "second": tensors}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="holds several state dicts: first, second") as caught:
        compress.load(plain, tmp_path / "c.pth")
    assert caught.value.hint == "save the one that is meant by itself"


def test_parts_that_make_no_weight_are_told(tmp_path: Path) -> None:
    """Ranks that nothing can be made of, a part too few, a weight whose parts make NaN, a class without shapes."""
    tensors = {name: tensor for name, tensor in plain().state_dict().items() if name != "0.weight"}
    weight = plain()[0].weight.detach()
    for parts in (
        {"0.weight_g": torch.ones(1, 1, 1, 1, 1, 5), "0.weight_v": weight},
        {"0.weight_v": weight},
        {"0.weight_mask": weight},
        {"0.weight_orig": weight, "0.weight_u": torch.ones(7), "0.weight_v": torch.ones(27)},
        {"0.weight_g": torch.ones(5, 1, 1, 1), "0.weight_v": weight[:4]},
    ):
        with pytest.raises(NetworkError, match="weights do not fit the network"):
            load_foreign(plain(), {**tensors, **parts})
    torch.save({**tensors, "0.weight_g": torch.zeros(5, 1, 1, 1), "0.weight_v": weight * 0}, tmp_path / "zero.pth")
    with pytest.raises(NetworkError, match=r"zero\.pth: NaN or inf in 0\.weight"):
        open_network(tmp_path / "zero.pth", NetOptions("tests.test_foreign_networks:old_first"))
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)).state_dict(), tmp_path / "lazy.pth")
    with pytest.raises(TraceError, match=r"no shapes yet: 0\.weight is lazy"):
        compress.load(nets.lazy, tmp_path / "lazy.pth")


def old_first() -> nn.Sequential:
    net = plain()
    weight_norm(net[0])
    return net


def test_what_is_no_factory(tmp_path: Path) -> None:
    torch.save(plain().state_dict(), tmp_path / "net.pth")
    with pytest.raises(UsageError, match="a Sequential is no factory of networks") as caught:
        compress.load(plain(), tmp_path / "net.pth")
    assert caught.value.exit_code == 2


# -- commands ------------------------------------------------------------------------------------------------------------------

FACTORY = "tests.foreign_nets:{}"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of `Net`, `normed` and `ContentAndStyle`, two photos, and this as the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, net in (("net", nets.Net()), ("normed", nets.normed()), ("two", nets.ContentAndStyle())):
        torch.save(net.state_dict(), f"{name}.pth")
    Path("photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{number}.png")
    return tmp_path


def told(factory: str, *shapes: str) -> list[str]:
    return ["--network", FACTORY.format(factory), *(word for shape in shapes for word in ("--example", shape))]


def test_parametrised_networks_go_through_every_command(folder: Path) -> None:
    """Channels pruned, fine-tuned from the network as it was, single weights, stripped again: each file opens in the next."""
    net, back = told("normed", "1x3x16x16"), told("normed")
    for words in (
        ["prune", "normed.pth", *net, "--ratio", "0.34", "--multiple", 1, "-o", "thin"],
        ["prune", "normed.pth", *net, "--widths", "a=3", "--plan-only", "-o", "plan.json"],
        ["prune", "normed.pth", *net, "--plan", "plan.json", "-o", "planned"],
        ["prune", "thin", *back, "--sparsity", "0.5", "-o", "sparse"],
        ["strip", "sparse", *back, "-o", "small"],
        ["bench", "small", *back, "--rounds", 1, "--samples", 1, "--size", 16],
    ):
        done = run(*words)
        assert done.exit_code == 0, done.output
    assert open_network(Path("thin"), NetOptions(FACTORY.format("normed"))).module.a.out_channels == 4
    assert open_network(Path("planned"), NetOptions(FACTORY.format("normed"))).module.a.out_channels == 3
    record = checkpoint.read(Path("small")).modules
    assert record["a"]["folded"] == record["c"]["folded"] == ["weight"]


def test_two_inputs(folder: Path) -> None:
    done = run("strip", "two.pth", *told("ContentAndStyle", "1x3x12x16", "1x5x10x9"), "-o", "small", "--json")
    assert done.exit_code == 0, done.output
    assert {space["name"]: space["after"] for space in json.loads(done.stdout)["spaces"]} == {"a": 3, "c": 2}
    assert checkpoint.read(Path("small")).spec.examples == ((1, 3, 12, 16), (1, 5, 10, 9))


def test_prints_of_a_network_stay_out_of_the_document(folder: Path) -> None:
    done = run("strip", "net.pth", *told("talking", "1x3x16x16"), "-o", "small", "--json")
    assert json.loads(done.stdout)["output"] == "small"
    assert "building" in done.stderr
    assert "running" in done.stderr


@pytest.mark.parametrize("name", ["strip", "prune", "finetune", "export", "bench", "stylize", "inspect", "train"])
def test_every_command_has_the_net_options(name: str) -> None:
    command = main.get_command(None, name)  # type: ignore[arg-type]
    assert command
    assert {"network", "arguments", "example", "image_format"} <= {parameter.name for parameter in command.params}


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["net.pth", *told("Branch", "1x3x16x16")], "it decides by the numbers in a tensor\n  foreign_nets.py:", 1),
        (["net.pth", *told("Net", "1x4x16x16")], "the network does not run on 1x4x16x16: Given groups=1", 1),
        (["net.pth", *told("Net", "16x16")], "the network does not run on 16x16: Padding size 4", 1),
        (["net.pth", *told("Net", "1x3x16")], "the network does not run on 1x3x16", 1),
        (["net.pth", *told("Net", "1x3x")], "not a shape: '1x3x'", 2),
        (["net.pth", *told("Net", "1x3x16x16", "1x3x16x16")], "Net.forward() takes 2 positional arguments but 3 were given", 1),
        (
            ["net.pth", *told("failing")],
            "error: tests.foreign_nets:failing (foreign_nets.py:",
            1,
        ),
        (["net.pth", *told("ending")], ") refuses --args {}: SystemExit: 3\n", 1),
        (["net.pth", *told("empty")], "refuses --args {}: StopIteration\n", 1),
        (["net.pth", *told("number")], "tests.foreign_nets:number made a int, not a torch module", 1),
        (["net.pth", *told("lazy")], "the network has no shapes yet: 0.weight is lazy\n  run it once", 1),
        (["net.pth", *told("scripted")], "a scripted network cannot be traced", 1),
        (["net.pth", *told("nothing")], "cannot import --network tests.foreign_nets:nothing: module", 1),
        (["net.pth", "--network", "own.py:make"], "a module, not a file: own:make", 1),
        (["net.pth", "--network", "own/net:make"], "not a network name: 'own/net:make'", 2),
        (["net.pth", "--network", "own_lacks:make"], "cannot import --network own_lacks:make: No module named 'not_there'\n", 1),
        (
            ["net.pth", "--network", "own_syntax:make"],
            "cannot import --network own_syntax:make: invalid syntax (own_syntax.py, line 1)\n",
            1,
        ),
        (["net.pth", "--network", "own_script:make"], "cannot import --network own_script:make: usage: own_script", 1),
        (["net.pth", *told("Net"), "--args", '{"breadth": 3}'], "got an unexpected keyword argument 'breadth'", 1),
        (["net.pth", *told("Net"), "--args", '{"width": 7}'], "a.bias is (6,), must be (7,)", 1),
        (["net.pth", *told("Net"), "--args", '{"width": "x"}'], "refuses --args {'width': 'x'}", 1),
        (["net.pth", *told("Net"), "--args", "[7]"], "--args must be a JSON object", 2),
        (["net.pth"], "net.pth does not say which network it is", 2),
        (["two.pth", *told("Net")], "weights do not fit the network: unexpected b.bias, b.weight", 1),
        (["bad.pth", *told("Net")], "bad.pth: NaN or inf in c.weight", 1),
        (["cut.pth", *told("Net")], "cut.pth is truncated or damaged", 1),
        (["own_syntax.py", *told("Net")], "own_syntax.py is no network file", 1),
        (["photos", *told("Net")], "photos is a folder, not a network file", 1),
    ],
)
def test_bad_input_is_one_line(folder: Path, arguments: list[str], message: str, code: int) -> None:
    Path("own_lacks.py").write_text("import not_there\n")
    Path("own_syntax.py").write_text("def make(:\n")
    Path("own_script.py").write_text("import sys\nsys.exit('usage: own_script')\n")
    Path("cut.pth").write_bytes(Path("net.pth").read_bytes()[:600])
    tensors = torch.load("net.pth", weights_only=True)
    tensors["c.weight"][1, 2] = float("inf")
    torch.save(tensors, "bad.pth")
    done = run("strip", *arguments, "-o", "out")
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert len(done.stderr.split("error: ")[1].splitlines()) <= 2  # the line, and its hint
    assert not Path("out").exists()


def test_code_that_fails_at_work_is_one_line(folder: Path) -> None:
    """In the commands that run a network and trace nothing."""
    for words, message in (
        (["stylize", "net.pth", "photos/0.png", "-o", "out"], "tests.foreign_nets:Raises does not run on a picture of "),
        (["finetune", "net.pth", "--teacher", "net.pth", "--teacher-network", FACTORY.format("Net"), "--teacher-format", "0..1",
          "--images", "photos", "--steps", 1, "--size", 32, "-o", "out"], "the network does not run on a picture of 32x32"),
    ):  # fmt: skip
        done = run(*words, *told("Raises", "1x3x32x32"), "--image-format", "0..1")
        assert done.exit_code == 1, done.output
        assert message in done.stderr
        assert "first line" in done.stderr
        assert "Traceback" not in done.output
    done = run("stylize", "two.pth", "photos/0.png", *told("ContentAndStyle", "1x3x12x16", "1x5x10x9"), "-o", "out")
    assert "ContentAndStyle has 2 inputs: a photo cannot feed them all" in done.stderr


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 3, 3)
    def forward(self, x):
        print("in forward")
        {line}
        return self.b(torch.relu(self.a(x)))
"""


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """The current folder is importable, stdout is the document and nothing else, and an error is no traceback."""
    (tmp_path / "mine.py").write_text(OWN.format(line="pass"))
    (tmp_path / "yours.py").write_text(OWN.format(line="x = -x if x.mean() > 0 else x"))
    net = nn.Sequential()
    net.a, net.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 3, 3)
    torch.save({"state_dict": {f"module.{name}": t for name, t in net.state_dict().items()}}, tmp_path / "net.pth")
    root = str(Path(__file__).parent.parent)
    for module, code in (("mine", 0), ("yours", 1)):
        words = ["strip", "net.pth", "--network", f"{module}:Net", "--example", "1x3x16x16", "-o", f"{module}.out", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "compress", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert done.returncode == code, done.stderr
        document = json.loads(done.stdout)
        assert "Traceback" not in done.stderr
        if code:
            assert document["error"]["kind"] == "trace"
            assert document["error"]["hint"].startswith("yours.py:11: x = -x if x.mean() > 0 else x")
    assert sorted(path.name for path in tmp_path.glob("*.out")) == ["mine.out"]
