"""The whole way on a small network, once; then every way in which it can go wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compress import checkpoint
from compress.cli import main
from compress.errors import ArtifactError, ConversionError, ImageError, MissingToolError, OutputError, ParityError, UsageError
from compress.image_format import PRESETS
from compress.networks.johnson import Johnson
from compress.networks.load import LoadedNetwork, open_network, snapshot
from compress.spec import ModelSpec
from export import conversion, kotlin, runtime, tflite, variants
from export.artifact import card_path, read_artifact
from export.export import ExportConfig, Made, Report
from export.export import export as run_export
from export.source import Source, from_network

SIZE = (40, 36)
ARGUMENTS = {"widths": [5, 6, 7], "hidden": 9, "blocks": 1}
VARIANTS = "fp32,fp16,dynamic,int8,mixed,int16x8"


def write_net(path: Path) -> Path:
    """A Johnson net with no two equal widths, two dead hidden channels, and outputs that span the pixels' range."""
    torch.manual_seed(0)
    module = Johnson(**ARGUMENTS).eval()  # type: ignore[arg-type]
    first = module.residual[0].first
    with torch.no_grad():
        for tensor in (first.conv.weight, first.conv.bias, first.norm.weight, first.norm.bias):
            tensor[[1, 4]] = 0
        module.out.weight *= 3
    formats = (PRESETS["imagenet"],)
    spec = ModelSpec("johnson", ARGUMENTS, ((1, 3, *SIZE),), formats, formats)
    checkpoint.write(path, snapshot(module, spec))
    return path


def write_photos(folder: Path) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for index, size in enumerate(((50, 61), (44, 40), (64, 38))):
        coarse = Image.fromarray(random.integers(0, 256, (5, 4, 3), np.uint8))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@dataclass(frozen=True)
class Exported:
    net: Path
    photos: Path
    folder: Path
    document: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One real export of every variant, through the command line."""
    home = tmp_path_factory.mktemp("exported")
    net, photos = write_net(home / "tiny.safetensors"), write_photos(home / "photos")
    command = [sys.executable, "-m", "compress", "export", net, "-o", home / "out", "--calibration", photos, "--json"]
    command += ["--variants", VARIANTS, "--min-psnr", 33]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in home.iterdir()) == ["out", "photos", "tiny.safetensors"]
    return Exported(net, photos, home / "out", json.loads(done.stdout), done.stderr)


def failed(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of a command that fails."""
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    return int(end.value.code or 0), capsys.readouterr().err


# What comes out


def test_every_variant_is_written_with_its_card(exported: Exported) -> None:
    names = ["tiny.onnx", *(f"tiny_40x36_{name}.tflite" for name in VARIANTS.split(","))]
    files = [*names, *(f"{name}.json" for name in names), "tiny_40x36.jpg", "Tiny.kt"]
    assert sorted(path.name for path in exported.folder.iterdir()) == sorted(files)
    for name in names:
        assert read_artifact(exported.folder / name).card.file == name


def test_the_document_keeps_its_contract(exported: Exported) -> None:
    rows = exported.document["artifacts"]
    assert [row["variant"] for row in rows] == VARIANTS.split(",")
    for row in rows:
        assert row["size"] == [40, 36]
        assert row["runs"] is True
        assert Path(row["path"]).stat().st_size == row["bytes"]
        assert {"max_abs", "mean_abs", "psnr_db", "ssim"} <= set(row["parity"])
    stages = [stage["stage"] for stage in exported.document["stages"]]
    assert stages == ["stripped", "onnx", "rewritten", *(f"tflite {name}" for name in VARIANTS.split(","))]


def test_the_better_variant_is_nearer(exported: Exported) -> None:
    found = {row["variant"]: row["parity"]["psnr_db"] for row in exported.document["artifacts"]}
    assert found["fp32"] > 100 > found["fp16"] > 60 > found["dynamic"] > 25
    assert found["int8"] < found["mixed"] < found["int16x8"]


def test_a_mixed_file_is_as_good_as_was_asked_for(exported: Exported) -> None:
    """Pixels' layers stay in dynamic range, and the card says which others do, and what was tried."""
    row = next(row for row in exported.document["artifacts"] if row["variant"] == "mixed")
    search = row["search"]
    assert search["chosen"]["db"] >= 33
    assert search["x_dynamic"] > 0
    tried = [point["db"] for point in search["points"]]
    assert [point["dynamic"] for point in search["points"]] == [*range(2, 2 + len(tried) - 1), 8]
    assert search["chosen"] == search["points"][-2]
    assert all(db < 33 for db in tried[:-2])
    assert len(search["order"]) == 8
    card = read_artifact(Path(row["path"])).card
    assert card.search == {key: value for key, value in search.items() if key != "x_dynamic"}
    executed = runtime.load(Path(row["path"])).executed()
    assert (executed["partitions"], executed["left"]) == (1, {})


def test_a_card_says_what_an_app_must_know(exported: Exported) -> None:
    card = read_artifact(exported.folder / "tiny_40x36_int8.tflite").card
    assert (card.kind, card.layout, card.variant, card.size) == ("tflite", "NHWC", "int8", SIZE)
    assert [(port.name, port.dtype, port.shape, port.format) for port in card.inputs] == [
        ("x", "float32", (1, 40, 36, 3), PRESETS["imagenet"])
    ]
    assert [port.name for port in card.outputs] == ["output"]
    assert card.signature == "serving_default"
    assert card.toolchain["onnx2tf"] == "1.29.24"
    assert card.pictures == "3 of the calibration photos"
    assert card.rewrites == {"subpixel-convolution": 2, "reflect-pad": 6, "replicate-pad": 2, "instance-norm": 7}
    assert card.operators["CONV_2D"] == 8
    assert card.delegates["xnnpack"]["partitions"] >= 1
    assert card.delegates["gpu"] == {"known": "by the operators' rules, not executed", "refused": []}
    assert card.min_runtime is not None
    assert card.parent == hashlib.sha256(exported.net.read_bytes()).hexdigest()


def test_the_fp32_file_computes_what_the_network_computes(exported: Exported) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (1, *SIZE, 3)).astype(np.float32)
    form = PRESETS["imagenet"]
    module = open_network(exported.net).module
    with torch.no_grad():
        tensor = module(torch.from_numpy(form.encode(pixels).transpose(0, 3, 1, 2).copy())).numpy()
    wanted = form.decode(tensor.transpose(0, 2, 3, 1))
    for name in ("tiny_40x36_fp32.tflite", "tiny.onnx"):
        assert np.abs(runtime.as_run(exported.folder / name)(pixels) - wanted).max() < 0.05


def test_the_onnx_file_takes_other_sizes_and_the_tflite_file_does_not(exported: Exported) -> None:
    pixels = np.full((1, 52, 44, 3), 99, np.float32)
    assert runtime.as_run(exported.folder / "tiny.onnx")(pixels).shape == pixels.shape
    with pytest.raises(ImageError, match="takes 40x36 pictures only, got 52x44"):
        runtime.as_run(exported.folder / "tiny_40x36_fp32.tflite")(pixels)
    with pytest.raises(ArtifactError, match="x must be 1x40x36x3 float32, got 1x52x44x3"):
        runtime.load(exported.folder / "tiny_40x36_fp32.tflite").run_tensors([pixels])


def test_the_dead_channels_are_gone_and_xnnpack_runs_it_in_one_piece(exported: Exported) -> None:
    runner = runtime.load(exported.folder / "tiny_40x36_fp32.tflite")
    assert runner.executed()["partitions"] == 1
    assert runner.executed()["left"] == {}
    import onnx

    graph = onnx.load(exported.folder / "tiny.onnx").graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    assert shapes["residual.0.first.conv.weight"][:2] == [7, 7]


def test_a_damaged_file_does_not_pass_for_its_card(exported: Exported, tmp_path: Path) -> None:
    source = exported.folder / "tiny_40x36_fp32.tflite"
    copy = tmp_path / source.name
    copy.write_bytes(source.read_bytes()[:3000])
    card_path(copy).write_bytes(card_path(source).read_bytes())
    with pytest.raises(ArtifactError, match="does not match"):
        runtime.as_run(copy)


def test_an_app_finds_the_files_by_their_real_names(exported: Exported) -> None:
    path = Path(exported.document["kotlin"])
    assert path == exported.folder / "Tiny.kt"
    text = path.read_text()
    for row in exported.document["artifacts"]:
        assert f'"{Path(row["path"]).name}", "{row["variant"]}", 40, 36, "serving_default",' in text
    assert text.count('listOf(Port("x", Type.FLOAT32, listOf(1, 40, 36, 3), FORMAT_1))') == len(VARIANTS.split(","))
    assert "fun run(x: Bitmap): Bitmap {" in text


@pytest.mark.parametrize("variant", VARIANTS.split(","))
def test_no_file_is_resized(exported: Exported, variant: str) -> None:
    path = exported.folder / f"tiny_40x36_{variant}.tflite"
    for shape in ((1, 80, 72, 3), (1, 36, 40, 3), (2, 40, 36, 3), (1, 20, 18, 3)):
        with pytest.raises(ArtifactError, match="x must be 1x40x36x3 float32, got "):
            runtime.load(path).run_tensors([np.zeros(shape, np.float32)])
    with pytest.raises(ImageError, match="takes 40x36 pictures only, got 36x40"):
        runtime.as_run(path)(np.zeros((1, 36, 40, 3), np.float32))


# What is refused before the work


def test_existing_outputs_are_refused_and_kept(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in exported.folder.iterdir()}
    code, said = failed(["export", exported.net, "-o", exported.folder], capsys)
    assert code == 1
    assert "tiny.onnx exists\n  --force replaces it" in said
    assert {path: path.read_bytes() for path in exported.folder.iterdir()} == before


def test_a_file_in_the_place_of_the_kotlin_is_refused_and_kept(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Tiny.kt").write_text("of somebody")
    code, said = failed(["export", exported.net, "-o", tmp_path], capsys)
    assert (code, "Tiny.kt exists\n  --force replaces it" in said) == (1, True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of somebody"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--variants", "int8"], 2, "int8 needs photos to find the range of every activation\n  --calibration DIR"),
        (["--variants", "int9"], 2, "no variant named int9\n  there are fp32, fp16, dynamic, int8"),
        (["--variants", ""], 2, "no variant named"),
        (["--target", "tpu"], 2, "tpu"),
        (["--size", "0"], 2, "not a size"),
        (["--variants", "fp32,int8", "--calibration", "/nonexistent"], 1, "/nonexistent is no folder"),
    ],
)
def test_bad_options_are_refused(
    options: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = failed(["export", write_net(tmp_path / "n.safetensors"), "-o", tmp_path / "out", *options], capsys)
    assert found[0] == code
    assert said in found[1]
    assert not list(tmp_path.glob("out/*"))


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    code, said = failed(["export", write_net(tmp_path / "n.safetensors"), "-o", tmp_path / "out"], capsys)
    assert (code, (tmp_path / "out").read_text()) == (1, "mine")
    assert "is a file, not a folder" in said


def test_a_missing_tool_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx2tf" else find(name, *rest))
    code, said = failed(["export", write_net(tmp_path / "n.safetensors"), "-o", tmp_path / "out"], capsys)
    assert code == 1
    assert said == "error: onnx2tf is not installed\n  pip install 'mobile-compress[export]'\n"


def test_a_config_refuses_nonsense() -> None:
    with pytest.raises(UsageError, match="no target named"):
        ExportConfig(variants.parse("fp32"), target="toaster")
    with pytest.raises(UsageError, match="no variant to make"):
        ExportConfig(())
    with pytest.raises(UsageError, match="time limit"):
        ExportConfig(variants.parse("fp32"), seconds=0)


# What goes wrong in the converter: a child process of ours stands in for it

Fake = Callable[[str], None]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Replace the converter by a line of Python. It finds `order` (job.json), and `built()` and `made(variant, bytes)`."""
    preamble = (
        "import json, os, signal, sys, time; from pathlib import Path; order = json.loads(Path('job.json').read_text())\n"
        "built = lambda: Path('graph_is_built').touch()\n"
        "made = lambda name, payload: Path(name + '.tflite').write_bytes(payload)\n"
        "names = [row['name'] for row in order['variants']]\n"
    )
    return lambda code: monkeypatch.setattr(tflite, "COMMAND", [sys.executable, "-c", preamble + code])


@pytest.fixture(scope="module")
def source(exported: Exported) -> Source:
    """The small network, traced and exported once for all tests of the converter."""
    found: Source = from_network(exported.net, open_network(exported.net), (), strip=False)
    built = found.build()
    return replace(found, build=lambda: built)


def export(source: Source, folder: Path, names: str = "fp32", **options: Any) -> Report:
    return run_export(source, folder, ExportConfig(variants.parse(names), **options))


def test_a_crash_is_one_line_and_its_log_is_kept(source: Source, fake: Fake, tmp_path: Path) -> None:
    fake("print('about to die', flush=True); os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ConversionError, match=r"tiny at 40x36: the converter crashed \(SIGSEGV\); log: ") as error:
        export(source, tmp_path)
    assert error.value.exit_code == 1
    assert (tmp_path / "tiny_40x36.log").read_text() == "about to die\n"
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.onnx", "tiny.onnx.json", "tiny_40x36.log"}


def test_a_hang_ends_when_its_time_is_up(source: Source, fake: Fake, tmp_path: Path) -> None:
    fake("import subprocess; subprocess.Popen(['sleep', '71.25']); time.sleep(70)")
    begin = time.monotonic()
    with pytest.raises(ConversionError, match="the converter took longer than 1 s"):
        export(source, tmp_path, seconds=1)
    assert time.monotonic() - begin < 40
    assert _is_gone("sleep 71.25")  # nor does its own child stay


def _is_gone(command: str) -> bool:
    """True when no process has that command line, or soon has not: a killed process takes a moment to go."""
    for _ in range(100):
        if not any(_command_line(process) == command for process in Path("/proc").glob("[0-9]*")):
            return True
        time.sleep(0.1)
    return False


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def test_an_exception_is_shown_by_its_own_words(source: Source, fake: Fake, tmp_path: Path) -> None:
    fake("raise ValueError('Dimensions must be equal')")
    with pytest.raises(ConversionError, match="the converter failed: ValueError: Dimensions must be equal; log: "):
        export(source, tmp_path)


def test_a_package_that_the_child_lacks_names_the_extra(source: Source, fake: Fake, tmp_path: Path) -> None:
    fake("import no_such_package")
    with pytest.raises(MissingToolError) as error:
        export(source, tmp_path)
    assert error.value.hint == "pip install 'mobile-compress[export]'"


def test_a_full_disk_is_said(source: Source, fake: Fake, tmp_path: Path) -> None:
    fake("raise OSError(28, os.strerror(28))")
    with pytest.raises(OutputError, match="no space left on the disk") as error:
        export(source, tmp_path)
    assert "TMPDIR" in str(error.value.hint)


def test_a_full_output_disk_leaves_nothing_half_written(
    source: Source, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    fake("built()")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="no space left on the disk"):
        export(source, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("problem", [OSError(28, os.strerror(28)), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_kotlin_is_written_whole_or_not_at_all(
    exported: Exported, source: Source, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException
) -> None:
    """An older one, of other files, does not stay either."""
    real = Path.write_text

    def write_text(path: Path, text: str, **options: Any) -> int:
        if path.suffix != ".kt":
            return real(path, text, **options)
        real(path, text[:100], **options)
        raise problem

    (tmp_path / "Tiny.kt").write_text("of an earlier network")
    monkeypatch.setattr(Path, "write_text", write_text)
    fake(files_of(exported) + "built(); made('fp32', real('fp32'))")
    with pytest.raises(OutputError if isinstance(problem, OSError) else KeyboardInterrupt):
        export(source, tmp_path, force=True)
    names = ["tiny.onnx", "tiny_40x36_fp32.tflite"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*names, *(f"{name}.json" for name in names), "tiny_40x36.jpg"]
    )


def test_files_that_kotlin_cannot_open_are_still_made(
    exported: Exported, source: Source, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(kotlin, "_TYPES", {})
    fake(files_of(exported) + "built(); made('fp32', real('fp32'))")
    report = run_export(source, tmp_path, ExportConfig(variants.parse("fp32")), said.append)
    assert report.kotlin is None
    assert said[-1] == "no Kotlin for an app: tiny_40x36_fp32.tflite: x is float32"
    assert (tmp_path / "tiny_40x36_fp32.tflite").exists()
    assert not list(tmp_path.glob("*.kt"))


def test_garbage_is_not_kept(source: Source, fake: Fake, tmp_path: Path) -> None:
    fake("built(); [made(name, b'\\x1c\\0\\0\\0TFL3 garbage' * 9) for name in names]")
    with pytest.raises(ConversionError, match="the converter made no fp32 file that runs: "):
        export(source, tmp_path)
    assert not list(tmp_path.glob("*.tflite*"))


def test_a_converter_that_says_nothing_and_makes_nothing(source: Source, fake: Fake, tmp_path: Path) -> None:
    fake("built()")
    with pytest.raises(ConversionError, match="ended well, but wrote no file"):
        export(source, tmp_path)


def files_of(exported: Exported) -> str:
    """Code that names the real files, for a fake converter to copy."""
    return f"real = lambda name: (Path({str(exported.folder)!r}) / f'tiny_40x36_{{name}}.tflite').read_bytes()\n"


def test_a_variant_that_fails_does_not_stop_the_others(exported: Exported, source: Source, fake: Fake, tmp_path: Path) -> None:
    fake(
        files_of(exported) + "built()\nfor name in names:\n"
        "    if name == 'fp16': print('loud', flush=True); raise RuntimeError('no such type')\n"
        "    made(name, real(name))\n"
    )
    stale = tmp_path / "tiny_40x36_fp16.tflite"
    stale.write_text("of an earlier network")
    report = export(source, tmp_path, "fp32,fp16,dynamic", force=True)
    assert [(made.variant, made.artifact is not None) for made in report.made] == [
        ("fp32", True),
        ("fp16", False),
        ("dynamic", True),
    ]
    assert report.made[1].problem == f"RuntimeError: no such type; log: {tmp_path}/tiny_40x36.log"
    assert not stale.exists()


def test_a_variant_that_crashes_when_run_is_not_kept(exported: Exported, source: Source, fake: Fake, tmp_path: Path) -> None:
    fake(files_of(exported) + "built(); made('fp32', real('fp32')); made('fp16', real('fp32')[:3000])")
    report = export(source, tmp_path, "fp32,fp16")
    assert report.made[0].artifact
    assert report.made[1].artifact is None
    assert report.made[1].problem
    assert not (tmp_path / "tiny_40x36_fp16.tflite").exists()


def test_a_variant_that_does_not_run_makes_the_command_fail(
    exported: Exported, fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(files_of(exported) + "built(); made('fp32', real('fp32')); 'fp16' in names and sys.exit('cannot')")
    with pytest.raises(SystemExit) as end:
        main(["export", str(exported.net), "-o", str(tmp_path), "--variants", "fp32,fp16", "--no-strip", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert end.value.code == 1
    assert document["error"]["kind"] == "conversion"
    assert [(row["path"] is None, row["bytes"] is None, row["parity"] is None) for row in document["artifacts"]] == [
        (False, False, False),
        (True, True, True),
    ]
    assert document["artifacts"][1]["runs"].startswith("cannot")


def test_a_wrong_quick_result_is_converted_again_with_care(
    exported: Exported, source: Source, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dynamic` stands for a wrong fp32: it runs, and is off by more than rounding."""
    asked: list[tflite.Job] = []
    real = tflite.convert
    monkeypatch.setattr(tflite, "convert", lambda job, folder: (asked.append(job), real(job, folder))[1])
    fake(files_of(exported) + "built(); made('fp32', real('fp32' if order['strict'] else 'dynamic'))")
    report = export(source, tmp_path)
    assert report.made[0].parity
    assert report.made[0].parity.relative < 1e-3
    assert [job.strict for job in asked] == [way.strict for way in conversion.WAYS] == [False, False, True]
    assert len(asked[0].onnx) < len(asked[1].onnx)  # the first try hides the shapes of inner values


def test_a_result_that_stays_wrong_is_an_error(exported: Exported, source: Source, fake: Fake, tmp_path: Path) -> None:
    fake(files_of(exported) + "built(); made('fp32', real('dynamic'))")
    with pytest.raises(ParityError, match=r"tiny at 40x36: the stage 'tflite fp32' moved the output by") as error:
        export(source, tmp_path)
    assert error.value.exit_code == 1
    assert not list(tmp_path.glob("*.tflite"))


def test_a_variant_that_is_far_off_is_said(exported: Exported) -> None:
    artifact = read_artifact(exported.folder / "tiny_40x36_int8.tflite")
    off = replace(artifact.card.parity[-1], psnr_db=12.0)
    far = Made("int8", SIZE, replace(artifact, card=replace(artifact.card, parity=(off,))))
    assert far.is_far
    assert not Made("fp32", SIZE, read_artifact(exported.folder / "tiny_40x36_fp32.tflite")).is_far


def test_a_network_that_gives_nan_is_refused(tmp_path: Path) -> None:
    class Overflow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 1e30 * 1e30

    path = tmp_path / "overflow.pth"
    path.write_bytes(b"")
    spec = ModelSpec("here:Overflow", {}, ((1, 3, 12, 8),), (PRESETS["0..1"],), (PRESETS["0..1"],))
    loaded = LoadedNetwork(Overflow().eval(), checkpoint.Checkpoint(spec, {}))
    with pytest.raises(ParityError, match="gives NaN or infinite values on ordinary input"):
        export(from_network(path, loaded, strip=False), tmp_path)


def test_ctrl_c_ends_the_child_and_its_children(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from export import child; folder = Path(sys.argv[1])\n"
        "child.run(['sh', '-c', 'sleep 77.25 & echo ready > started; wait'], folder, 100)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert _is_gone("sleep 77.25")


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes_in_another_process(exported: Exported, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "compress",
        "export",
        exported.net,
        "-o",
        tmp_path / "again",
        "--calibration",
        exported.photos,
        "--variants",
        VARIANTS,
        "--min-psnr",
        33,
    ]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=tmp_path, env=environment)
    for path in exported.folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


# Pixels in, pixels out


@pytest.mark.slow
def test_a_file_for_pixels_takes_bytes_and_makes_bytes(exported: Exported, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "compress",
        "export",
        exported.net,
        "-o",
        tmp_path,
        "--calibration",
        exported.photos,
        "--json",
    ]
    command += ["--variants", "fp32,dynamic,int8,mixed", "--min-psnr", 30, "--io", "uint8"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {row["variant"]: row for row in json.loads(done.stdout)["artifacts"]}
    assert found["fp32"]["parity"]["psnr_db"] > 55  # rounding to whole pixels costs what it costs
    assert found["fp32"]["parity"]["max_abs"] < 0.51
    pixels = np.random.default_rng(5).integers(0, 256, (1, *SIZE, 3)).astype(np.float32)
    wanted = runtime.as_run(tmp_path / "tiny.onnx")(pixels)
    app = (tmp_path / "Tiny.kt").read_text()
    assert 'private val FORMAT_1 = Format("RGB", listOf(0.0f, 0.0f, 0.0f), listOf(1.0f, 1.0f, 1.0f))' in app
    assert app.count("Type.UINT8, listOf(1, 40, 36, 3), FORMAT_1)") == 2 * len(found)
    for variant, row in found.items():
        path = Path(row["path"])
        card = read_artifact(path).card
        assert [(port.dtype, port.format) for port in (*card.inputs, *card.outputs)] == [("uint8", PRESETS["0..255"])] * 2
        gap = np.abs(runtime.as_run(path)(pixels) - wanted)
        assert gap.max() < (0.51 if variant == "fp32" else 90)
        with pytest.raises(ArtifactError, match="x must be 1x40x36x3 uint8, got 1x36x40x3 uint8"):
            runtime.load(path).run_tensors([np.zeros((1, 36, 40, 3), np.uint8)])
        card_path(path).unlink()  # the file itself says that it takes pixels
        assert np.array_equal(runtime.as_run(path)(pixels), runtime.as_run(path, PRESETS["0..255"])(pixels))


def test_pixels_need_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "plain.safetensors"
    torch.manual_seed(0)
    spec = ModelSpec("johnson", ARGUMENTS, ((1, 3, *SIZE),), (None,), (None,))
    checkpoint.write(net, snapshot(Johnson(**ARGUMENTS).eval(), spec))  # type: ignore[arg-type]
    code, said = failed(["export", net, "-o", tmp_path / "out", "--io", "uint8"], capsys)
    assert (code, said.splitlines()[1]) == (2, "error: no input is known to be a picture: x")


class Awkward(torch.nn.Module):
    """What converters get wrong or make slow: groups, aligned corners, gates, shuffles, group norms, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.grouped = torch.nn.Conv2d(6, 12, 3, padding=1, groups=3)
        self.norm = torch.nn.GroupNorm(4, 12)
        self.gate = torch.nn.Conv2d(12, 12, 1)
        self.wide = torch.nn.Conv2d(12, 20, 3, padding=1)
        self.up = torch.nn.ConvTranspose2d(5, 7, 3, 2, 1, 1)
        self.plain = torch.nn.InstanceNorm2d(7)
        self.leave = torch.nn.Conv2d(7, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.grouped(torch.relu(self.enter(x))))
        x = x * torch.nn.functional.hardsigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = torch.nn.functional.pixel_shuffle(torch.relu(self.wide(x)), 2)
        x = torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True)
        return torch.sigmoid(self.leave(torch.relu(self.plain(self.up(x)))))


def awkward() -> torch.nn.Module:
    torch.manual_seed(3)
    return Awkward().eval()


def test_what_converters_get_wrong_comes_out_right_and_in_one_piece(tmp_path: Path) -> None:
    form = (PRESETS["0..1"],)
    spec = ModelSpec(f"{awkward.__module__}:awkward", {}, ((1, 3, 24, 20),), form, form)
    module = awkward()
    loaded = LoadedNetwork(module, snapshot(module, spec))
    path = tmp_path / "awkward.safetensors"
    checkpoint.write(path, loaded.checkpoint)
    report = run_export(from_network(path, loaded), tmp_path / "out", ExportConfig((variants.VARIANTS["fp32"],)))
    made = report.made[0]
    assert made.parity is not None
    assert made.parity.psnr_db is None or made.parity.psnr_db > 100
    assert made.artifact is not None
    card = made.artifact.card
    assert card.signature == "serving_default"
    assert set(card.rewrites) >= {"saturation", "pixel-shuffle", "group-norm"}
    assert (card.delegates["xnnpack"]["partitions"], card.delegates["xnnpack"]["left"]) == (1, {})
    assert card.operators["RESIZE_BILINEAR"] == 1
    assert "TRANSPOSE" not in card.operators
