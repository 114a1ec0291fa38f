"""`compress prune`: plans and numbers checked by hand, the strategies, what contradicts itself, and a kill in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn

from compress import checkpoint
from compress.channels.graph import trace
from compress.cli import main
from compress.errors import PlanError
from compress.image_format import PRESETS
from compress.networks.johnson import Johnson
from compress.networks.load import open_network, snapshot
from compress.pruning import plan as plans
from compress.pruning.criteria import criterion
from compress.pruning.iterative import Increments
from compress.pruning.weights import prunable_weights
from compress.spec import ModelSpec
from tests.test_features import vgg_tensors

ARGUMENTS = {"widths": [9, 14, 22], "hidden": 18, "blocks": 2}
TRUNK = ["down3", "residual.0.second", "residual.1.second"]


def prunable_count(a: int, b: int, c: int, hidden: int) -> int:
    """Convolution weights of a two-block Johnson network with these widths, counted by hand."""
    down = 3 * a * 81 + a * b * 9 + b * c * 9
    up = c * b * 9 + b * a * 9 + a * 3 * 81
    return down + 2 * (c * hidden * 9 + hidden * c * 9) + up


def parameter_count(a: int, b: int, c: int, hidden: int) -> int:
    """With biases, and scale and shift of the norms: three numbers a channel, one for each of the three outputs."""
    return prunable_count(a, b, c, hidden) + 3 * (a + b + c + 2 * (hidden + c) + b + a) + 3


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    torch.manual_seed(11)
    module = Johnson(**ARGUMENTS)  # type: ignore[arg-type]
    for name, parameter in module.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            nn.init.normal_(parameter)
    form = PRESETS["0..1"]
    spec = ModelSpec("johnson", ARGUMENTS, ((1, 3, 24, 32),), (form,), (form,))
    checkpoint.write(tmp_path / "dense.safetensors", snapshot(module, spec))
    return tmp_path / "dense.safetensors"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("a.png", (40, 52)), ("b.png", (37, 36))):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["prune", *map(str, arguments)])


def document(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def widths(path: Path) -> dict[str, int]:
    tensors = checkpoint.read(path).tensors
    return {name.removesuffix(".weight"): len(tensor) for name, tensor in tensors.items() if tensor.ndim == 4}


def tuning(photos: Path, steps: int = 4) -> tuple[object, ...]:
    fast = ("--crop-size", 16, "--batch", 1, "--precision", "fp32", "--preview-every", 0, "--learning-rate", 0.002)
    return ("--finetune", "distill", "--images", photos, "--steps", steps, *fast)


def test_sparsity_is_exact_and_the_rest_stays(dense: Path, tmp_path: Path) -> None:
    total, out = prunable_count(9, 14, 22, 18), tmp_path / "sparse.safetensors"
    found = document(dense, "--sparsity", 0.95, "-o", out)
    assert found["weights"] == {"prunable": total, "zeros_before": 0, "zeros_after": round(0.95 * total)}
    assert found["before"]["parameters"] == found["after"]["parameters"] == parameter_count(9, 14, 22, 18)
    before, after = open_network(dense).module, open_network(out).module
    assert prunable_weights(after).zeros == round(0.95 * total)
    for name, tensor in before.state_dict().items():
        same = after.state_dict()[name]
        assert torch.equal(tensor[same != 0], same[same != 0])
    entry = checkpoint.read(out).history[-1]
    assert entry["command"] == "prune"
    assert entry["planned"] == {"zeros": round(0.95 * total), "of": total}
    assert entry["measured"]["zeros"] == round(0.95 * total)
    assert entry["input"]["file"] == "dense.safetensors"


def test_a_ratio_leaves_the_widths_counted_by_hand(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    found = document(dense, "--ratio", 0.5, "--multiple", 1, "-o", out)
    half = {9: 5, 14: 7, 22: 11, 18: 9}  # of 9, halfway: the wider one
    wanted = {"down1.conv": 9, "down2.conv": 14, "down3.conv": 22, "up1.conv": 14, "up2.conv": 9}
    wanted |= {f"residual.{i}.first.conv": 18 for i in (0, 1)}
    spaces = {s["name"]: (s["before"], s["after"]) for s in found["spaces"]}
    assert spaces == {**{name: (width, half[width]) for name, width in wanted.items()}, "out": (3, 3)}
    assert {n: w for n, w in widths(out).items() if n in wanted} == {name: half[width] for name, width in wanted.items()}
    assert found["after"]["parameters"] == parameter_count(5, 7, 11, 9)
    assert found["removed"] == sum(wanted[name] - half[wanted[name]] for name in wanted)
    assert found["not_understood"] == []
    assert max(check["gap"] / check["limit"] for check in found["checks"]) <= 1


def test_the_channels_that_go_have_the_smallest_filters_of_all_that_write_them(dense: Path, tmp_path: Path) -> None:
    found = document(dense, "--ratio", 0.5, "--multiple", 1, "--plan-only", "-o", tmp_path / "plan.json")
    tensors = checkpoint.read(dense).tensors
    norms = sum(tensors[f"{name}.conv.weight"].abs().sum((1, 2, 3)) for name in TRUNK)
    assert isinstance(norms, Tensor)
    gone = next(space for space in found["spaces"] if space["name"] == "down3.conv")["channels"]
    assert gone == sorted(norms.argsort()[:11].tolist())


def test_the_default_multiple_keeps_narrow_spaces_alive(dense: Path, tmp_path: Path) -> None:
    document(dense, "--ratio", 0.5, "-o", tmp_path / "small.safetensors")
    found = widths(tmp_path / "small.safetensors")
    assert [found[name] for name in ("down1.conv", "down2.conv", "down3.conv", "residual.0.first.conv")] == [8, 8, 8, 8]


@pytest.mark.parametrize("rank", ["uniform", "global"])
@pytest.mark.parametrize("option", ["--macs", "--params"])
def test_a_limit_is_met_within_one_step(dense: Path, tmp_path: Path, option: str, rank: str) -> None:
    found = document(dense, option, "40%", "--rank", rank, "--multiple", 2, "-o", tmp_path / "small.safetensors")
    unit = {"--macs": "macs", "--params": "parameters"}[option]
    limit = int(0.4 * found["before"][unit])
    assert found["after"][unit] <= limit
    graph = trace(open_network(dense).module, (torch.zeros(1, 3, 24, 32),))
    removed = {s["name"]: s["before"] - s["after"] for s in found["spaces"]}
    for name, count in removed.items():
        if count:
            one_less = graph.predict({**removed, name: max(0, count - 2)})
            assert getattr(one_less, unit) > limit
    assert getattr(graph.predict(removed), unit) == found["after"][unit]


def test_macs_are_counted_at_the_size_asked_for(dense: Path, tmp_path: Path) -> None:
    plain = document(dense, "--ratio", 0.5, "--plan-only", "-o", tmp_path / "a.json")
    large = document(dense, "--ratio", 0.5, "--plan-only", "--size", "48x64", "-o", tmp_path / "b.json")
    assert large["before"]["macs"] == 4 * plain["before"]["macs"]


def test_widths_spelled_out(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    document(dense, "--widths", "down1.conv=4,residual.*=7", "-o", out)
    found = widths(out)
    assert (found["down1.conv"], found["residual.0.first.conv"], found["residual.1.first.conv"]) == (4, 7, 7)
    assert (found["down2.conv"], found["down3.conv"], found["up2.conv"]) == (14, 22, 9)


@pytest.mark.parametrize("target", [("--sparsity", 0.7), ("--macs", "70%")])
def test_a_saved_plan_does_what_was_printed(dense: Path, tmp_path: Path, target: tuple[object, ...]) -> None:
    direct, planned, plan = (tmp_path / name for name in ("direct.safetensors", "planned.safetensors", "plan.json"))
    printed = document(dense, *target, "--plan-only", "-o", plan)
    document(dense, *target, "-o", direct)
    applied = document(dense, "--plan", plan, "-o", planned)
    assert direct.read_bytes() == planned.read_bytes()
    assert applied["spaces"] == printed["spaces"]
    assert applied["after"]["parameters"] == printed["after"]["parameters"]
    first = plan.read_bytes()
    plans.write(plan, plans.read(plan))
    assert plan.read_bytes() == first


def test_plan_only_without_output_writes_beside_the_network(dense: Path) -> None:
    found = document(dense, "--ratio", 0.5, "--plan-only")
    assert found["output"] == str(dense.with_name("dense.plan.json"))
    assert plans.read(dense.with_name("dense.plan.json")).channels
    assert sorted(p.name for p in dense.parent.iterdir()) == ["dense.plan.json", "dense.safetensors"]


def test_float16_is_stored_and_its_zeros_are_counted(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.safetensors"
    found = document(dense, "--sparsity", 0.5, "--dtype", "float16", "-o", out)
    stored = checkpoint.read(out).tensors
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert found["after"]["bytes"] == found["before"]["bytes"] // 2
    names = prunable_weights(open_network(out).module).tensors
    assert found["weights"]["zeros_after"] == sum(int((stored[name] == 0).sum()) for name in names)


def test_the_three_strategies(dense: Path, photos: Path, tmp_path: Path) -> None:
    total = prunable_count(9, 14, 22, 18)
    outs = {name: tmp_path / f"{name}.safetensors" for name in ("without", "with", "iterative")}
    document(dense, "--sparsity", 0.6, "-o", outs["without"])
    document(dense, "--sparsity", 0.6, "-o", outs["with"], *tuning(photos, 8))
    iterative = ("--schedule", "iterative", "--increment", 0.25)
    said = document(dense, "--sparsity", 0.6, "-o", outs["iterative"], *iterative, *tuning(photos, 8))
    written = open_network(outs["iterative"]).module.state_dict()
    assert all(tensor["zeros"] == int((written[tensor["name"]] == 0).sum()) for tensor in said["tensors"])
    found = {name: checkpoint.read(path) for name, path in outs.items()}
    masks = {}
    for name, path in outs.items():
        tensors = prunable_weights(open_network(path).module).tensors
        assert sum(int((w == 0).sum()) for w in tensors.values()) == round(0.6 * total)
        masks[name] = torch.cat([(w == 0).flatten() for w in tensors.values()])
    assert torch.equal(masks["with"], masks["without"])
    assert not torch.equal(masks["iterative"], masks["without"])  # chosen after tuning
    assert found["iterative"].history[-2]["shares"] == [0.25, 0.5, 0.6]
    assert found["iterative"].history[-1]["done_steps"] == 8
    assert found["with"].history[-1]["loss"]["kind"] == "distillation"
    assert found["with"].history[-1]["loss"]["maps"] == [
        "down1", "down2", "down3", "residual.0", "residual.1", "up1", "up2"
    ]  # fmt: skip


def test_iterative_without_tuning_is_one_shot_and_says_so(dense: Path, tmp_path: Path) -> None:
    result = run(dense, "--sparsity", 0.6, "--schedule", "iterative", "-o", tmp_path / "a.safetensors")
    assert result.exit_code == 0
    assert "removes what one-shot removes" in result.stderr
    document(dense, "--sparsity", 0.6, "-o", tmp_path / "b.safetensors")
    one, two = (checkpoint.read(tmp_path / f"{name}.safetensors").tensors for name in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_channels_go_then_the_small_network_learns(dense: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    found = document(dense, "--ratio", 0.5, "--multiple", 1, "-o", out, *tuning(photos))
    assert found["after"]["parameters"] == parameter_count(5, 7, 11, 9)
    assert set(found["finetune"]) == {"output", "features"}
    history = checkpoint.read(out).history
    assert [entry["command"] for entry in history] == ["prune", "finetune"]
    assert history[-1]["loss"]["maps"] == ["down1", "down2", "down3", "residual.0", "residual.1", "up1", "up2"]
    assert len(history[0]["planned"]["channels"]["down3.conv"]) == 11
    untuned = tmp_path / "untuned.safetensors"
    document(dense, "--ratio", 0.5, "--multiple", 1, "-o", untuned)
    one, two = checkpoint.read(out).tensors, checkpoint.read(untuned).tensors
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in two.items()}
    assert not torch.equal(one["out.weight"], two["out.weight"])


def test_perceptual_tuning_paints(dense: Path, photos: Path, tmp_path: Path) -> None:
    torch.save(vgg_tensors(["conv1_1", "conv1_2"]), tmp_path / "vgg.pth")
    layers = ("--content-layers", "relu1_2", "--style-layers", "relu1_1,relu1_2", "--style-size", 32)
    perceptual = ("--finetune", "perceptual", "--style", photos / "a.png", "--weights", tmp_path / "vgg.pth", *layers)
    out = tmp_path / "small.safetensors"
    found = document(dense, "--ratio", 0.5, "-o", out, *tuning(photos, 2), *perceptual)
    assert {"content", "style"} <= set(found["finetune"])


@pytest.mark.slow
def test_a_killed_iterative_pruning_resumes_to_the_same_bytes(dense: Path, photos: Path, tmp_path: Path) -> None:
    def command(output: Path, *more: str) -> list[str]:
        target = ("--sparsity", 0.7, "--schedule", "iterative", "-o", output, "--save-every", 10, "--quiet")
        return [sys.executable, "-m", "compress", "prune", *map(str, (dense, *target, *tuning(photos, 70), *more))]

    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    state = tmp_path / "broken.state.safetensors"
    unbroken, process = subprocess.Popen(command(whole)), subprocess.Popen(command(broken))
    while not state.exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert state.exists()
    subprocess.run(command(broken, "--resume"), check=True)
    assert not state.exists()
    assert unbroken.wait() == 0
    assert broken.read_bytes() == whole.read_bytes()
    total = prunable_count(9, 14, 22, 18)
    assert prunable_weights(open_network(broken).module).zeros == round(0.7 * total)


def test_an_interrupted_tuning_leaves_a_network_and_resumes_only_as_it_was(
    dense: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, command = tmp_path / "net.safetensors", (*tuning(photos, 8), "--save-every", 2)
    hook = Increments.__call__

    def stop_at_5(self: Increments, step: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 5:
            raise KeyboardInterrupt
        hook(self, step, network, optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(Increments, "__call__", stop_at_5)
        assert run(dense, "--sparsity", 0.5, "-o", out, *command).exit_code == 130
    assert checkpoint.read(out).history[-1]["done_steps"] == 4
    result = run(dense, "--sparsity", 0.6, "-o", out, *command, "--resume")
    assert result.exit_code == 1
    assert "belongs to a training with other target" in result.stderr
    document(dense, "--sparsity", 0.5, "-o", out, *command, "--resume")
    document(dense, "--sparsity", 0.5, "-o", tmp_path / "whole.safetensors", *command)
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    result = run(dense, "--sparsity", 0.5, "-o", out, *command, "--resume")
    assert result.exit_code == 1
    assert "nothing to resume" in result.stderr


WRONG: list[tuple[Callable[[Path, Path], tuple[object, ...]], int, str]] = [
    (lambda d, p: ("--sparsity", 1.0), 2, "--sparsity must be at least 0 and below 1"),
    (lambda d, p: ("--sparsity", -0.5), 2, "--sparsity must be at least 0 and below 1"),
    (lambda d, p: ("--sparsity", "0.99999"), 1, "would leave none of the"),
    (lambda d, p: ("--ratio", 0.96), 1, "would leave no channel of the 9 in down1.conv"),
    (lambda d, p: ("--ratio", 0.05), 1, "nothing would go"),
    (lambda d, p: ("--ratio", 0), 1, "nothing would go"),
    (lambda d, p: ("--widths", "up1.conv=14"), 1, "nothing would go"),
    (lambda d, p: ("--macs", 10), 1, "10 MACs cannot be reached"),
    (lambda d, p: ("--params", "2M"), 1, "parameters already"),
    (lambda d, p: ("--params", "lots"), 2, "not an amount"),
    (lambda d, p: (), 2, "how much is to go?"),
    (lambda d, p: ("--method", "filters"), 2, "how much is to go?"),
    (lambda d, p: ("--method", "odd", "--ratio", 0.5), 2, "no method named 'odd'"),
    (lambda d, p: ("--sparsity", 0.5, "--ratio", 0.5), 2, "--sparsity and --ratio: one at a time"),
    (lambda d, p: ("--method", "magnitude", "--ratio", 0.5), 2, "magnitude does not take --ratio"),
    (lambda d, p: ("--ratio", 0.5, "--schedule", "iterative"), 2, "iterative goes with --sparsity"),
    (lambda d, p: ("--sparsity", 0.5, "--schedule", "iterative", "--plan-only"), 2, "it has no plan"),
    (lambda d, p: ("--sparsity", 0.5, "--schedule", "iterative", "--increment", 0), 2, "increment must be"),
    (lambda d, p: ("--sparsity", 0.5, "--plan", d), 2, "--plan says already what goes"),
    (lambda d, p: ("--plan", d, "--plan-only"), 2, "one at a time"),
    (lambda d, p: ("--plan", d), 1, "is not a plan"),
    (lambda d, p: ("--plan", p / "none.json"), 1, "no such file"),
    (lambda d, p: ("--widths", "nowhere=3"), 2, "no space is named nowhere"),
    (lambda d, p: ("--widths", "down1.conv=10"), 1, "down1.conv has 9 channels, 10 of them cannot stay"),
    (lambda d, p: ("--ratio", 0.5, "--finetune", "distill"), 2, "--finetune distill needs photos"),
    (lambda d, p: ("--ratio", 0.5, "--finetune", "perceptual", "--images", p), 2, "needs a painting"),
    (lambda d, p: ("--ratio", 0.5, "--finetune", "distill", "--images", p, "--style", p / "a.png"), 2, "says nothing to"),
    (lambda d, p: ("--ratio", 0.5, "--images", p), 2, "--images is for fine-tuning"),
    (lambda d, p: ("--ratio", 0.5, "--resume"), 2, "--resume is for fine-tuning"),
    (lambda d, p: ("--sparsity", 0.95, "--schedule", "iterative", *tuning(p, 4)), 2, "10 increments need at least 10 steps"),
    (lambda d, p: ("--ratio", 0.5, *tuning(p), "--feature-weight", -1), 2, "must be a number >= 0"),
    (lambda d, p: ("--ratio", 0.5, *tuning(p / "none")), 1, "is no folder"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    dense: Path, photos: Path, arguments: Callable[[Path, Path], tuple[object, ...]], code: int, message: str
) -> None:
    before = sorted(dense.parent.rglob("*"))
    result = run(dense, *arguments(dense, photos), "-o", dense.with_name("out.safetensors"))
    assert message in result.stderr
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert sorted(dense.parent.rglob("*")) == before


def test_missing_loss_weights_are_named_before_any_work(dense: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPRESS_WEIGHTS", raising=False)
    painting = ("--finetune", "perceptual", "--style", photos / "a.png")
    result = run(dense, "--ratio", 0.5, *tuning(photos), *painting, "-o", dense.with_name("out.safetensors"))
    assert result.exit_code == 1
    assert "--weights FILE" in result.stderr


def test_outputs_are_not_overwritten_and_inputs_never(dense: Path, photos: Path) -> None:
    bytes_before = dense.read_bytes()
    assert "is the input" in run(dense, "--ratio", 0.5, "-o", dense, "--force").stderr
    out = dense.with_name("out.safetensors")
    out.write_text("mine")
    result = run(dense, "--ratio", 0.5, "-o", out)
    assert result.exit_code == 1
    assert "exists" in result.stderr
    assert out.read_text() == "mine"
    assert run(dense, "--ratio", 0.5, "-o", out, "--force").exit_code == 0
    assert dense.read_bytes() == bytes_before
    result = run(dense, "--ratio", 0.5)
    assert result.exit_code == 2
    assert "-o FILE" in result.stderr


def test_nan_weights_are_named(dense: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in checkpoint.read(dense).tensors.items()}
    tensors["up1.conv.weight"][1, 2, 0, 1] = float("nan")
    torch.save(tensors, dense.with_name("nan.pth"))
    result = run(dense.with_name("nan.pth"), "--ratio", 0.5, "-o", dense.with_name("out.safetensors"))
    assert result.exit_code == 1
    assert "NaN or inf in up1.conv.weight" in result.stderr


def test_a_plan_fits_the_network_it_was_made_for_and_no_other(dense: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    document(dense, "--ratio", 0.5, "--plan-only", "-o", plan)
    arguments = {**ARGUMENTS, "widths": [9, 14, 26]}
    other = tmp_path / "other.safetensors"
    checkpoint.write(other, snapshot(Johnson(**arguments), ModelSpec("johnson", arguments, ((1, 3, 24, 32),))))  # type: ignore[arg-type]
    result = run(other, "--plan", plan, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 1
    assert "the plan was made for johnson" in result.stderr
    assert not (tmp_path / "out.safetensors").exists()
    found = plans.read(plan)
    with pytest.raises(PlanError, match=r"down3\.conv\.bias is \(22,\) there and is \(26,\) here"):
        found.check_fits(open_network(other).module)


BROKEN: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda p: [], "not a plan"),
    (lambda p: {**p, "plan": 99}, "format version 99"),
    (lambda p: {**p, "channels": {}}, "either weights or channels"),
    (lambda p: {**p, "channels": {"nowhere": [1]}}, "no channels to prune"),
    (lambda p: {**p, "channels": {"out": [1]}}, "no channels to prune"),
    (lambda p: {**p, "channels": {"down1.conv": [9]}}, "not among its 9"),
    (lambda p: {**p, "channels": {"down1.conv": [1, 1]}}, "not among its 9"),
    (lambda p: {**p, "channels": {"down1.conv": list(range(9))}}, "would leave no channel of the 9 in down1.conv"),
    (lambda p: {**p, "channels": {"down1.conv": "abc"}}, "not a plan"),
    (lambda p: {**p, "channels": {}, "weights": {"out.weight": "!"}}, "not a plan"),
    (lambda p: {**p, "channels": {}, "weights": {"out.weight": "eJwDAAAAAAE="}}, "not a plan"),
]


def test_what_is_no_json_is_no_plan(dense: Path, tmp_path: Path) -> None:
    for text in ("[" * 100_000, "", "{", "\x00"):
        (tmp_path / "plan.json").write_text(text)
        result = run(dense, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out.safetensors")
        assert result.exit_code == 1
        assert "is not a plan" in result.stderr


@pytest.mark.parametrize(("breaking", "message"), BROKEN)
def test_a_damaged_plan_is_refused(dense: Path, tmp_path: Path, breaking: Callable[[dict[str, Any]], Any], message: str) -> None:
    plan = tmp_path / "plan.json"
    document(dense, "--ratio", 0.5, "--plan-only", "-o", plan)
    plan.write_text(json.dumps(breaking(json.loads(plan.read_text()))))
    result = run(dense, "--plan", plan, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_more_zeros_than_asked_for_are_named(dense: Path, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse.safetensors"
    document(dense, "--sparsity", 0.8, "-o", sparse)
    result = run(sparse, "--sparsity", 0.5, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 1
    assert "are zero already, more than a sparsity of 0.5" in result.stderr
    found = document(sparse, "--sparsity", 0.9, "-o", tmp_path / "out.safetensors")
    assert found["weights"]["zeros_after"] == round(0.9 * found["weights"]["prunable"])


def test_a_network_that_cannot_be_traced_loses_weights_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wild.py").write_text(
        "import torch\n"
        "class Wild(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Conv2d(3, 5, 3)\n"
        "    def forward(self, x):\n"
        "        y = self.layer(x)\n"
        "        return y if y.sum().item() > 0 else -y\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    torch.save({"layer.weight": torch.randn(5, 3, 3, 3), "layer.bias": torch.randn(5)}, "wild.pth")
    net = ("wild.pth", "--network", "wild:Wild", "--example", "1x3x8x8")
    found = document(*net, "--sparsity", 0.5, "-o", "sparse.safetensors")
    assert found["weights"]["zeros_after"] == round(0.5 * 135)
    assert found["before"]["macs"] is None
    assert "cannot be traced" in found["not_understood"][0]
    result = run(*net, "--ratio", 0.5, "-o", "small.safetensors")
    assert result.exit_code == 1
    assert "torch.export cannot follow" in result.stderr


def test_a_layer_that_loses_every_weight_is_named(dense: Path, tmp_path: Path) -> None:
    result = run(dense, "--sparsity", 0.95, "-o", tmp_path / "sparse.safetensors")
    tensors = prunable_weights(open_network(tmp_path / "sparse.safetensors").module).tensors
    for name, weight in tensors.items():
        assert (f"{name} keeps no weight at all" in result.stderr) == (not weight.any())
    assert not tensors["out.weight"].any()


def test_scores_of_a_criterion() -> None:
    rows = [torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([[-3.0], [1.0]])]
    assert criterion("filters")(None, rows).tolist() == [6.0, 1.5]  # type: ignore[arg-type]
