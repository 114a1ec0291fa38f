"""What strip says and refuses: widths baked into code, NaN, networks that cannot be compared; files and back; the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from torch import Tensor, nn

from compress import checkpoint
from compress.channels import proof
from compress.channels.graph import trace
from compress.channels.rebuild import record_of
from compress.channels.strip import strip
from compress.cli import main
from compress.errors import NetworkError, ParityError, TraceError
from compress.networks.johnson import Johnson
from compress.networks.load import NetOptions, open_network, snapshot
from compress.spec import ModelSpec
from tests.strip_cases import Every, gap, make_constant_, randomise_, stripped_to

EXAMPLE = [torch.rand(1, 3, 12, 16)]


class Baked(nn.Module):
    """Two convolutions, and code between them that names the width of the second."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 7) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3), nn.Conv2d(width, 2, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.between(F.relu(self.b(F.relu(self.a(x))))))


def widths(report: object) -> dict[str, int]:
    return {space.name: space.after for space in report.spaces}  # type: ignore[attr-defined]


def test_a_view_that_bakes_a_width_in_is_found_by_bisection() -> None:
    net = randomise_(Baked(lambda x: x.view(x.shape[0], 7, -1).mean(2).view(-1, 7, 1, 1) + x)).float()
    make_constant_(net.a, [1, 2])
    make_constant_(net.b, [3])
    done = strip(net, EXAMPLE)
    assert widths(done.report) == {"a": 3, "b": 7, "c": 2}
    assert list(done.report.left_alone) == ["b"]
    assert "it fails with shape '[1, 7, -1]' is invalid" in done.report.left_alone["b"]
    assert next(space.reason for space in done.report.spaces if space.name == "b") == done.report.left_alone["b"]
    assert gap(net, done.module, (1, 3, 13, 9)) <= 1e-5


def test_a_slice_that_bakes_a_width_in() -> None:
    """`x[:, :5]` takes five channels, whatever there is: of those it took none may go, of the others one may."""
    net = randomise_(Baked(lambda x: torch.cat([x[:, 5:], x[:, :5]], 1))).float()
    make_constant_(net.a, [1, 2])
    make_constant_(net.b, [3, 6])
    done = strip(net, EXAMPLE)
    assert widths(done.report) == {"a": 3, "b[0:5]": 5, "b[5:7]": 1, "c": 2}
    assert list(done.report.left_alone) == ["b[0:5]"]
    assert gap(net, done.module, (1, 3, 13, 9)) <= 1e-5


def test_a_slice_that_reads_only_some() -> None:
    """Nobody reads the channels beside the slice: they go, all of them."""
    net = randomise_(Baked(lambda x: x[:, :5], 5)).float()
    make_constant_(net.b, [3])
    done = strip(net, EXAMPLE)
    assert widths(done.report) == {"a": 5, "b[0:5]": 4, "b[5:7]": 0, "c": 2}
    assert done.report.left_alone == {}


def test_a_width_that_shows_only_in_the_numbers() -> None:
    """Dividing by a count that the code computes from the shape: it runs, and is not the same."""
    net = randomise_(Baked(lambda x: x / x.shape[1])).float()
    make_constant_(net.b, [3])
    done = strip(net, EXAMPLE)
    assert widths(done.report) == {"a": 5, "b": 7, "c": 2}
    assert "the output moves by" in done.report.left_alone["b"]


def test_several_spaces_are_left_alone() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 7, 1), nn.Conv2d(7, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x) / x.shape[2]
            x = F.relu(self.b(x / x.shape[1]))
            return self.d(F.relu(self.c(x)) * x.shape[1])

    net = randomise_(Both()).float()
    for conv in (net.a, net.b, net.c):
        make_constant_(conv, [1])
    done = strip(net, EXAMPLE)
    assert widths(done.report) == {"a": 5, "b": 7, "c": 5, "d": 2}
    assert sorted(done.report.left_alone) == ["a", "b"]


def test_output_channels_are_never_cut() -> None:
    net = randomise_(Baked(F.relu)).float()
    make_constant_(net.c, [0])
    done = strip(net, EXAMPLE)
    assert done.report.removed == 0
    assert [(check.size, check.gap) for check in done.report.checks] == [((12, 16), 0.0)], "run all the same"
    assert done.report.spaces[-1].reason == "an output of the network"


def test_nan_is_refused_by_name() -> None:
    net = Baked(F.relu)
    net.b.weight.data[3, 2] = float("nan")
    with pytest.raises(NetworkError, match=r"NaN or inf in b\.weight"):
        strip(net, EXAMPLE)


def test_a_network_that_is_not_deterministic() -> None:
    net = Baked(lambda x: x + torch.rand(1))
    make_constant_(net.a, [1])
    with pytest.raises(ParityError, match="gives different outputs for the same input") as caught:
        strip(net, EXAMPLE)
    assert caught.value.exit_code == 1


def test_parity_error_says_how_much_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    worse = proof.Check((12, 16), "float32", 3e-4, 1e-5, 1.0, 0.0)
    monkeypatch.setattr(proof.Witness, "rounded", lambda self, stripped: [worse])
    net = Baked(F.relu)
    make_constant_(net.a, [1])
    with pytest.raises(
        ParityError, match=r"strip moved the output by 3\.0e-04 of its range at 12x16 in float32 \(limit 1\.0e-05\)"
    ):
        strip(net, EXAMPLE)


def test_a_size_that_the_network_does_not_take() -> None:
    net = Baked(F.relu)
    make_constant_(net.a, [1])
    with pytest.raises(TraceError, match=r"the network does not run at 2x3"):
        strip(net, EXAMPLE, sizes=[(2, 3)])


def test_sizes_asked_for_are_those_compared() -> None:
    net = randomise_(Baked(F.relu)).float()
    make_constant_(net.a, [1])
    checks = strip(net, EXAMPLE, sizes=[(9, 10), (31, 17)]).report.checks
    assert {check.size for check in checks} == {(12, 16), (9, 10), (31, 17)}


def test_a_network_with_float32_in_its_code_is_compared_in_float32() -> None:
    kernel = torch.full((7, 1, 2, 2), 0.25)
    net = randomise_(Baked(lambda x: F.conv2d(x, kernel, groups=7))).float()
    make_constant_(net.a, [1])
    done = strip(net, EXAMPLE)
    assert widths(done.report) == {"a": 4, "b": 7, "c": 2}
    assert {check.dtype for check in done.report.checks} == {"float32"}


def test_half_precision() -> None:
    net = randomise_(Baked(F.relu)).bfloat16()
    make_constant_(net.a, [1])
    done = strip(net, [EXAMPLE[0].bfloat16()])
    assert widths(done.report) == {"a": 4, "b": 7, "c": 2}
    assert {p.dtype for p in done.module.parameters()} == {torch.bfloat16}


def test_report_is_json() -> None:
    net = randomise_(Baked(F.relu)).float()
    make_constant_(net.a, [1], [0.5])
    report = strip(net, EXAMPLE).report
    document = json.loads(json.dumps(report.to_json()))
    assert document["removed"] == [{"space": "a", "channels": 1, "why": "1 constant"}]
    assert document["before"]["bytes"] - document["after"]["bytes"] == 4 * (27 + 1 + 7 * 9)
    assert document["before"]["parameters"] - document["after"]["parameters"] == 27 + 1 + 7 * 9
    assert document["before"]["macs"] - document["after"]["macs"] == 27 * 140 + 63 * 96


def every() -> Every:
    """Groups 1 and 3 of `grouped` are dead on both sides, one more channel of `enter` in each of the others, and two of `up`.

    What `bare` reads of these two is 0.5 and 0.75, normed: it gets a bias.
    """
    net = randomise_(Every()).float()
    make_constant_(net.enter, [0, 1, 3, 4, 5, 6, 9, 10, 11])
    make_constant_(net.grouped, [2, 3, 6, 7])
    with torch.no_grad():
        net.depthwise.bias[[4, 5, 6, 7, 12, 13, 14, 15]] = 0
        net.up.weight[:, 4] = 0
        net.up.bias[[4, 9]] = torch.tensor([0.5, 0.75])
    return net


def test_round_trip_through_a_file_twice(tmp_path: Path) -> None:
    """Strip, write, open: the same bits; then some more channels, strip again, write, open."""
    options = NetOptions("tests.strip_cases:Every")
    spec = ModelSpec("tests.strip_cases:Every", {}, ((1, 3, 12, 16),))
    done = stripped_to(every(), {"enter": 4, "grouped": 4, "up": 8})
    module = done.module
    assert (module.grouped.in_channels, module.grouped.out_channels, module.grouped.groups) == (4, 4, 2)
    assert (module.depthwise.in_channels, module.depthwise.out_channels, module.depthwise.groups) == (4, 8, 4)
    assert (module.up.in_channels, module.up.out_channels, module.up.groups) == (8, 8, 2)
    assert module.bare.bias is not None
    assert module.plain.num_features == 4
    for left, constants in ((4, [1, 4]), (3, [0])):
        path = tmp_path / f"{left}.safetensors"
        checkpoint.write(path, snapshot(module, spec))
        opened = open_network(path, options).module
        x = torch.rand(1, 3, 15, 11)
        assert torch.equal(opened(x), module(x))
        assert record_of(opened) == record_of(module)
        make_constant_(opened.bare, constants, [0.25, 0.5])
        module = strip(opened, EXAMPLE).module
        assert module.bare.out_channels == left
        assert gap(opened, module, (1, 3, 9, 8)) <= 1e-5


def test_tied_weights_stay_tied_through_a_file(tmp_path: Path) -> None:
    from tests.test_strip_networks import Shared

    net = randomise_(Shared()).float()
    for conv in (net.enter, net.twice):
        make_constant_(conv, [1, 6])
    module = strip(net, EXAMPLE).module
    spec = ModelSpec("tests.test_strip_networks:Shared")
    checkpoint.write(tmp_path / "net", snapshot(module, spec))
    opened = open_network(tmp_path / "net", NetOptions(spec.network)).module
    assert opened.one.weight is opened.two.weight
    assert torch.equal(opened(EXAMPLE[0]), module(EXAMPLE[0]))


# -- the command ---------------------------------------------------------------------------------------------------------------


def zeroed(path: Path) -> Path:
    net = Johnson(width=4, blocks=1).eval()
    spec = ModelSpec("johnson", {"width": 4, "blocks": 1}, ((1, 3, 24, 20),))
    graph = trace(net, [torch.rand(1, 3, 24, 20)])
    graph.zero_(net, {"down1.conv": [0, 2], "down3.conv": [1, 5, 15]})
    checkpoint.write(path, snapshot(net, spec, ({"command": "train"},)))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["strip", *map(str, arguments)])


def test_command_writes_a_smaller_network(tmp_path: Path) -> None:
    source, target = zeroed(tmp_path / "zeroed.safetensors"), tmp_path / "small.safetensors"
    before = source.read_bytes()
    result = run(source, "-o", target)
    assert result.exit_code == 0, result.output
    assert "down3.conv" in result.stdout
    assert "3 zero" in result.stdout
    assert "proved at 24x20" in result.stdout
    assert source.read_bytes() == before
    opened = open_network(target)
    assert [entry["command"] for entry in opened.checkpoint.history] == ["train", "strip"]
    assert opened.module.down3.conv.out_channels == 13
    assert gap(open_network(source).module, opened.module, (1, 3, 31, 17)) <= 1e-5


def test_command_prints_one_document(tmp_path: Path) -> None:
    result = run(zeroed(tmp_path / "zeroed"), "-o", tmp_path / "small", "--json", "--size", 31, "--size", "24x40")
    document = json.loads(result.stdout)
    assert document["output"] == str(tmp_path / "small")
    assert {"before", "after", "spaces", "removed", "not_understood", "left_alone", "checks"} <= set(document)
    assert [check["size"] for check in document["checks"]][:3] == [[24, 20], [31, 31], [24, 40]]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["missing", "-o", "out"], "missing: no such file", 1),
        (["net", "-o", "net"], "net is the input", 1),
        (["net", "-o", "there"], "there exists", 1),
        (["net"], "Missing option '-o'", 2),
        (["net", "-o", "out", "--size", "0"], "not a size: '0'", 2),
        (["net", "-o", "out", "--size", "1"], "the network does not run at 1x1", 1),
        (["net", "-o", "out", "--example", "1x4x9x9"], "does not run on 1x4x9x9", 1),
    ],
)
def test_command_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    zeroed(Path("net"))
    Path("there").write_text("kept")
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not Path("out").exists()
    assert Path("there").read_text() == "kept"
