"""`compress bench`: networks and files timed side by side, in interleaved rounds of fresh processes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, SIZE, Talk, command, net_options, output_option
from compress.cli.comparing import check_picture, compare_files, draw_measured
from compress.cli.sustaining import DURATION, clock

if TYPE_CHECKING:
    from android_bench.backends import Backend
    from android_bench.job import Job, Seen
    from android_bench.places import Place
    from android_bench.record import Record
    from compress.errors import CompressError
    from compress.networks.load import NetOptions

MEASURED = (".safetensors", ".onnx", ".tflite")
DELEGATE = "xnnpack|none|gpu|gpu-fp32|nnapi|FILE.so"
WAY = "WORD[+WORD...]"
PHONE_THREADS = 4
ROUNDS = 5


@command(
    example="""
    compress bench dense.safetensors build/dense.onnx build/dense_256x256_fp32.tflite
    compress bench dense.safetensors build/ --threads 2 --rounds 7 -o records.jsonl
    compress bench candy.pth --network johnson --size 480x640 --json
    compress bench build/ --all-devices --benchmark-binary android_aarch64_benchmark_model --delegate xnnpack --delegate gpu
    compress bench build/ --plot cost.png
    compress bench dense.safetensors build/ --torch eager --torch compiled+channels-last --delegate xnnpack --delegate none
    compress bench dense.safetensors dense.onnx --device cuda --torch fp16+channels-last --torch compiled+bf16+graphs
    compress bench build/ --sustained 10m -o heat.jsonl
    compress bench --compare before.jsonl after.jsonl
    """
)
@net_options
@click.argument("files", nargs=-1, type=PATH, metavar="FILE...")
@click.option(
    "--device", "devices", multiple=True, metavar="cpu|cuda|android[:SERIAL]", help="Where; once a device.  [default: cpu]"
)
@click.option("--all-devices", is_flag=True, help="Every phone that adb sees, all at once.")
@click.option("--benchmark-binary", type=PATH, help="The benchmark_model program that runs on phones.")
@click.option(
    "--delegate",
    "delegates",
    multiple=True,
    default=("xnnpack",),
    show_default=True,
    metavar=DELEGATE,
    help="What runs a .tflite file; once each. On this CPU xnnpack or none, on a phone any.",
)
@click.option(
    "--torch",
    "ways",
    multiple=True,
    default=("eager",),
    show_default=True,
    metavar=WAY,
    help="How networks run; once each: eager or compiled, fp32, fp16 or bf16, channels-last, graphs (CUDA), joined by +.",
)
@click.option("--cores", default="all", show_default=True, metavar="all|big|MASK", help="Cores of a phone; MASK as f0.")
@click.option("--profile", is_flag=True, help="On phones also where the time goes, op by op, in a run of its own.")
@click.option("--photo", type=PATH, help="On phones also one run on this photo, compared with what this machine makes of it.")
@click.option("--threads", type=click.IntRange(1, 256), help="Threads of each.  [default: the cores of this machine; phones: 4]")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Fresh processes of each.  [default: 5]")
@click.option("--samples", type=click.IntRange(1, 200), default=10, show_default=True, help="Timed runs a process, at least.")
@click.option("--size", type=SIZE, help="Height and width, where the file leaves them open.  [default: its own, or 256]")
@click.option("--timeout", type=click.FloatRange(1, 86400), default=300, show_default=True, help="Seconds for a process.")
@click.option("--sustained", type=DURATION, help="Run each back to back for so long, in one process: does it become slower?")
@click.option("--compare", type=(PATH, PATH), metavar="BEFORE AFTER", help="Measure nothing: compare two files of records.")
@click.option("--plot", type=PATH, help="Draw latency against size, and quality where a card has it (.png, .svg or .pdf).")
@output_option("Records, one JSON line each (.jsonl).", required=False)
def bench(
    talk: Talk,
    net: NetOptions,
    files: tuple[Path, ...],
    compare: tuple[Path, Path] | None,
    plot: Path | None,
    output: Path | None,
    force: bool,
    **settings: Any,
) -> dict[str, Any]:
    """Time networks (torch), .onnx (ONNX Runtime) and .tflite (XNNPACK) files side by side on this CPU.

    Networks and .onnx files also run on a CUDA GPU, .tflite files on phones.

    A folder stands for the networks and files in it. Ratios are to the first file, from paired rounds. After Ctrl-C the rounds
    that are done are kept. A phone is asked first whether it is fit (compress devices), and left as it was.
    """
    from android_bench.places import places
    from android_bench.protocol import Run
    from android_bench.statistics import document
    from compress.errors import CompressError, UsageError
    from compress.files import check_output

    if compare:
        return compare_files(talk, *compare)
    if not files:
        raise UsageError("Missing argument 'FILE...'", "--compare BEFORE AFTER needs none")
    where = places(settings["devices"], settings["all_devices"])
    paths = expanded(files, {place.device for place in where})
    _check_cards(paths)
    if output:
        check_output(output, force=force, inputs=paths)
    if plot:
        check_picture(plot, force, paths)
    run = Run(jobs_for(paths, where, net, settings), _rounds(settings), settings["seed"])
    try:
        with clock(talk, run.jobs):
            run.measure(lambda index, job, seen: _say(talk, f"round {index + 1}/{run.rounds}", job, seen, len(run.jobs) == 1))
    except UsageError:
        raise
    except (CompressError, KeyboardInterrupt) as error:  # what was measured stays
        for left in run.left:
            if left is not error:
                talk.warn(str(left))
        _finish(talk, run.measured(), output)
        raise
    _finish(talk, run.measured(), output)
    if plot:
        draw_measured(talk, plot, run.measured())
    firsts = {job.place: record for job, record in reversed(run.measured())}
    records = [document(record, firsts[job.place]) for job, record in run.measured()]
    return {"records": records, **({"plot": str(plot)} if plot else {})}


def _rounds(settings: dict[str, Any]) -> int:
    from compress.errors import UsageError

    if settings["sustained"] and settings["rounds"]:
        raise UsageError("--sustained is one process for each file, and takes no --rounds")
    return 1 if settings["sustained"] else settings["rounds"] or ROUNDS


def expanded(files: Sequence[Path], devices: Collection[str] = ("cpu",)) -> list[Path]:
    """Each file, and for each folder what in it one of the `devices` runs. Raises UsageError for a folder with nothing."""
    from android_bench.backends import running
    from compress.errors import UsageError

    found: list[Path] = []
    for path in files:
        inside = [path]
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix in MEASURED and ".state." not in p.name]
            inside = [p for p in inside if any(running(p, device) for device in devices)]
        if not inside:
            raise UsageError(f"{path} holds nothing to measure", f"looked for {', '.join(MEASURED)}")
        found += inside
    return found


def _check_cards(paths: Sequence[Path]) -> None:
    """A card beside a file must be that file's: else the record would be of something that nobody exported."""
    from export.artifact import card_path, read_artifact

    for path in paths:
        if path.is_file() and path.suffix in (".onnx", ".tflite") and card_path(path).exists():
            read_artifact(path)


def jobs_for(paths: Sequence[Path], where: Sequence[Place], net: NetOptions, settings: dict[str, Any]) -> list[Job]:
    """One job for each file, device, backend that runs it there, and delegate of a phone. Raises UsageError, and DeviceError and
    MissingToolError for phones."""
    from android_bench import backends
    from android_bench.host import available_cores
    from android_bench.job import Job, Sampling

    told = {
        "network": net.network,
        "arguments": net.arguments,
        "examples": [list(shape) for shape in net.examples],
        "image_format": net.image_format.name if net.image_format else None,
    }
    sampling = Sampling(settings["samples"], timeout_s=settings["timeout"], sustained_s=settings["sustained"] or 0.0)
    devices = list(dict.fromkeys(place.device for place in where))
    used = {backend.name: backend for path in paths for backend in backends.for_file(path, devices)}
    for backend in used.values():
        if backend.require:
            backend.require()
    phone = phone_options(settings) if any(place.serial for place in where) else []
    jobs = []
    for place in where:
        threads = settings["threads"] or (PHONE_THREADS if place.serial else available_cores())
        jobs += [
            Job(str(path), backend.name, threads, settings["size"], settings["seed"], told, sampling, place.serial, options)
            for path in paths
            for backend in backends.running(path, place.device)
            for options in (phone if place.serial else options_here(backend, settings, devices))
        ]
    return jobs


def options_here(backend: Backend, settings: dict[str, Any], devices: Collection[str]) -> list[dict[str, Any]]:
    """Of each way to run a file on this machine that was asked for; the usual way has none. What only another of the `devices`
    can do is left to that, and the usual way measured here. Raises UsageError for what none of them can do."""
    from android_bench.ways import Way

    if backend.choice == "torch":
        ways = [Way.parse(text) for text in settings["ways"]]
        for way in ways:
            way.check(devices)
        fitting = [way for way in dict.fromkeys(ways) if way.fits(backend.device)] or [Way()]
        return [{} if way == Way() else {"torch": str(way)} for way in fitting]
    if backend.choice == "delegate":
        return [{} if name == "xnnpack" else {"delegate": name} for name in _delegates_here(settings["delegates"], devices)]
    return [{}]


def _delegates_here(asked: Sequence[str], devices: Collection[str]) -> list[str]:
    from android_bench.backends.tflite_cpu import DELEGATES
    from compress.errors import UsageError

    others = [name for name in asked if name not in DELEGATES]
    if others and "android" not in devices:
        raise UsageError(f"--delegate {others[0]}: phones only; this CPU has {' and '.join(DELEGATES)}", "--device android")
    return [name for name in dict.fromkeys(asked) if name in DELEGATES] or ["xnnpack"]


def phone_options(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each delegate that was asked for. Raises UsageError, MissingToolError, ImageError."""
    import re

    from android_bench.backends.android import DELEGATES
    from android_bench.program import read_program
    from compress.errors import UsageError
    from compress.photos import decode

    binary, cores = read_program(settings["benchmark_binary"]), settings["cores"]
    if cores not in ("all", "big") and not re.fullmatch(r"0*[0-9a-f]{1,32}", cores):
        raise UsageError(f"--cores {cores}: all, big, or a mask of cores in hexadecimal", "f0 is cores 4 to 7")
    for delegate in settings["delegates"]:
        if delegate not in DELEGATES and not (delegate.endswith(".so") and Path(delegate).is_file()):
            raise UsageError(f"--delegate {delegate}: neither one of {', '.join(DELEGATES)} nor the file of an external delegate")
    photo = settings["photo"]
    if photo:
        decode(photo)
    common = {
        "binary": str(binary.path),
        "cores": cores,
        "profile": settings["profile"],
        "photo": str(photo) if photo else None,
    }
    return [{**common, "delegate": delegate} for delegate in dict.fromkeys(settings["delegates"])]


def _say(talk: Talk, progress: str, job: Job, seen: Seen | CompressError, is_alone: bool) -> None:
    from android_bench.job import Seen
    from android_bench.statistics import median

    if isinstance(seen, Seen):
        samples = seen.round.samples_ms
        talk.say(f"{progress}  {job.name}: {median(samples):.2f} ms ({seen.round.runs} runs)")
    elif not is_alone:  # the error itself ends the command
        talk.warn(f"{seen.message}; left out of the rounds to come")


def _finish(talk: Talk, measured: Sequence[tuple[Job, Record]], output: Path | None) -> None:
    """Show what was measured, if anything was, and then write it: a full disk does not take the table with it."""
    from android_bench.record import write_records
    from compress.cli.timings import show

    if measured:
        show(talk, measured)
    if measured and output:
        write_records(output, [record for _, record in measured])
        talk.say(f"{len(measured)} records in {output}")
