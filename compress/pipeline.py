"""The whole way in one call: prune, distil, strip, export, prove, time, check, look. `compress demo` is a call of this.

Each step is the function behind a command, and the command that would do the same is said. Never here: how any step is done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from android_bench.backends import for_file
from android_bench.budget import Budget, entry_of, limits_from
from android_bench.budget_file import update_budget
from android_bench.evidence import gather
from android_bench.job import Job as BenchJob
from android_bench.protocol import Run as BenchRun
from android_bench.record import write_records
from android_bench.statistics import doubts, paired_ratio, summarise
from compress import checkpoint
from compress.demo_photos import HELD_ASIDE, TRAINED_ON, copy_photos
from compress.errors import CompressError, MissingToolError, ParityError, UsageError
from compress.features.weights import how_to_get
from compress.files import check_folder, identity, write_text
from compress.image_format import Run
from compress.losses.distillation import DistillationConfig
from compress.losses.perceptual import PerceptualConfig, PerceptualLoss
from compress.metrics.psnr import psnr
from compress.metrics.ssim import ssim
from compress.metrics.style import style_and_content
from compress.networks.load import LoadedNetwork, open_network
from compress.networks.run import run_of_network
from compress.photos import Pixels, decode, encode, fit, list_photos
from compress.pruning import plan as plans
from compress.pruning import recovery, stage
from compress.pruning.target import Target
from compress.sheet import sheet
from compress.training.images import CropConfig
from compress.training.job import Job
from compress.training.job import Talk as TrainingTalk
from compress.training.loop import TrainingConfig
from export import variants
from export.export import ExportConfig, export
from export.runtime import as_run
from export.source import from_network

Size = tuple[int, int]


class Talk(TrainingTalk, Protocol):
    """Who listens: progress and facts, and a console for bars."""

    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class Settings:
    """`widths`: glob patterns of channel spaces -> channels that stay. `steps`: of distillation. `style`, `weights`: painting
    and loss network for the style column; None leaves it empty and says what to fetch."""

    widths: Mapping[str, int]
    steps: int = 900
    size: int = 256
    rounds: int = 5
    seed: int = 0
    style: Path | None = None
    weights: Path | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rounds < 1 or self.size < 32 or self.size % 4:
            raise UsageError("a demo needs steps and rounds of at least 1, and a size of at least 32 that is a multiple of 4")


@dataclass(frozen=True)
class Row:
    """One line of the table. `ms`: median. `psnr_db`, `ssim`: to the dense network's output; None for the network itself.
    `style`: share of the unstylised photo's style loss. `content`: unweighted. Means over the photos held aside."""

    name: str
    file: str
    bytes: int
    ms: float
    times_faster: float
    times_smaller: float
    psnr_db: float | None
    ssim: float | None
    style: float | None
    content: float | None


@dataclass(frozen=True)
class Outcome:
    """`rows`: dense network first. `missing`: what the style and content columns lack, None when they are there."""

    folder: Path
    rows: tuple[Row, ...]
    limits: int
    missing: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "rows": [asdict(row) for row in self.rows],
            "limits": self.limits,
            "missing": self.missing,
        }


@dataclass(frozen=True)
class Contender:
    """One line of the table while it is being made: a file to time, and how to run it on pictures."""

    name: str
    path: Path
    run: Run


def demo(dense: Path, shipped: Path | None, folder: Path, settings: Settings, talk: Talk) -> Outcome:
    """Make a small network of `dense` in `folder`, and compare; `shipped`: a small network that was distilled for longer.

    Raises whatever the steps raise; what is done by then stays in `folder`.
    """
    judge, missing = _judge(settings)
    train, held = (
        copy_photos(names, folder / "photos" / kind) for names, kind in ((TRAINED_ON, "train"), (HELD_ASIDE, "held-aside"))
    )
    talk.say(f"1/6 photos of scikit-image: trained on {_names(TRAINED_ON)}; held aside {_names(HELD_ASIDE)}")
    networks = check_folder(folder / "networks")
    dense, shipped = (_unpacked(path, networks / path.name) if path else None for path in (dense, shipped))  # type: ignore[assignment]
    small = compressed(open_network(dense), identity(dense), networks / "small.safetensors", train, settings, talk)
    files = {
        path.stem: exported(path, folder / "files", train, settings, talk)
        for path in (dense, small, *([shipped] if shipped else []))
    }
    contenders = _contenders(dense, files)
    timed = _timed(contenders, folder / "files" / "records.jsonl", settings, talk)
    limits = checked(folder, talk)
    pictures = [fit(decode(path), settings.size, settings.size) for path in list_photos(held)]
    rows = _rows(contenders, timed, pictures, judge)
    looked = _look(contenders, pictures, folder / "pictures.png")
    talk.say(f"6/6 pictures side by side: {looked}")
    outcome = Outcome(folder, rows, limits, missing)
    write_text(folder / "table.json", json.dumps(outcome.to_json(), indent=2) + "\n")
    return outcome


def compressed(
    loaded: LoadedNetwork, file: Mapping[str, Any], output: Path, photos: Path, settings: Settings, talk: Talk
) -> Path:
    """Prune channels, strip (which proves itself), distil: what `compress prune --finetune distill` does."""
    subject = stage.subject(loaded)
    plan = plans.plan(loaded.module, subject.examples, Target(widths=settings.widths), loaded.spec, subject.graph)
    pruned = stage.prune(subject, plan, {"command": "prune", "input": dict(file), "seed": settings.seed})
    before, after = (sum(p.numel() for p in one.module.parameters()) for one in (loaded, pruned.loaded))
    talk.say(f"2/6 pruned and stripped, proved to compute the same: {before:,} parameters to {after:,}; distilling on the photos")
    assert subject.graph
    kept = recovery.kept_outputs(loaded.module, subject.graph, plan.channels)
    objective = recovery.distil(pruned.loaded, loaded, DistillationConfig(), kept)
    job = Job(
        photos,
        CropConfig(settings.size, 1, seed=settings.seed),
        TrainingConfig(settings.steps, learning_rate=2e-3, seed=settings.seed),
        preview_every=0,
    )
    recovery.fine_tune(talk, pruned.loaded, objective, job, output, {"command": "finetune", "teacher": dict(file)})
    return output


def exported(network: Path, folder: Path, photos: Path, settings: Settings, talk: Talk) -> dict[str, Path]:
    """Variant -> file: what `compress export` does. Raises ParityError when a variant runs and is visibly not the network."""
    rows = variants.parse("fp32,dynamic")
    config = ExportConfig(rows, calibration=photos, seed=settings.seed, force=True)
    source = from_network(network, open_network(network), [(settings.size, settings.size)])
    report = export(source, check_folder(folder), config)
    for made in report.made:
        if made.artifact is None or made.is_far:
            raise ParityError(f"{network.stem} as {made.variant}: {made.problem or 'visibly another picture'}")
        parity = made.parity
        assert parity
        talk.say(f"3/6 {made.artifact.path.name}: {made.artifact.card.bytes:,} bytes, {parity.psnr_db or np.inf:.1f} dB")
    return {made.variant: made.artifact.path for made in report.made if made.artifact}


def checked(folder: Path, talk: Talk) -> int:
    """Write a budget from what is there and hold the files against it, as `compress check` does. Returns how many limits."""
    file = folder / "compress-budget.toml"
    evidence = gather([folder / "files"])
    budget: Budget = update_budget(file, {entry_of(card): limits_from(card, evidence.records) for card in evidence.cards})
    verdicts = [verdict for card in evidence.cards for verdict in budget.verdicts(card, evidence.records)]
    broken = [verdict.line for verdict in verdicts if not verdict.kept]
    if broken:
        raise CompressError(f"over the budget that was just written: {broken[0]}")
    talk.say(f"5/6 {len(verdicts)} limits on bytes and parity written to {file.name}, all kept")
    return len(verdicts)


def _unpacked(bundled: Path, path: Path) -> Path:
    """A bundled network as a float32 checkpoint, what a training writes: bundled ones are stored in half of that."""
    checkpoint.write(path, checkpoint.read(bundled).astype(torch.float32))
    return path


def _contenders(dense: Path, files: Mapping[str, Mapping[str, Path]]) -> list[Contender]:
    loaded = open_network(dense)
    found = [Contender(f"{dense.stem}, torch", dense, run_of_network(loaded.module, loaded.spec))]
    for stem, made in files.items():
        wanted = made if stem == dense.stem else {"dynamic": made["dynamic"]}
        found += [Contender(f"{stem}, {variant}", path, as_run(path)) for variant, path in wanted.items()]
    return found


def _timed(contenders: Sequence[Contender], output: Path, settings: Settings, talk: Talk) -> list[tuple[float, float]]:
    """(median ms, times faster than the first) of each, from interleaved rounds of fresh processes, as `compress bench` does."""
    threads = min(2, os.cpu_count() or 1)
    size = (settings.size, settings.size)
    jobs = [BenchJob(str(c.path), for_file(c.path, ["cpu"])[0].name, threads, size, settings.seed) for c in contenders]
    talk.say(
        f"4/6 timing {len(jobs)} files at {size[0]}x{size[1]}, {threads} threads, {settings.rounds} rounds of fresh processes"
    )
    records = BenchRun(jobs, settings.rounds, settings.seed).measure()
    write_records(output, records)
    for contender, record in zip(contenders, records, strict=True):
        if found := doubts(record):
            talk.warn(f"timing of {contender.name}: {'; '.join(found)}")
    return [(summarise(record).median_ms, 1 / paired_ratio(record, records[0]).value) for record in records]


def _rows(
    contenders: Sequence[Contender],
    timed: Sequence[tuple[float, float]],
    pictures: Sequence[Pixels],
    judge: PerceptualLoss | None,
) -> tuple[Row, ...]:
    first = contenders[0]
    wanted = [_through(first.run, picture) for picture in pictures]
    rows = []
    for contender, (ms, faster) in zip(contenders, timed, strict=True):
        made = [_through(contender.run, picture) for picture in pictures]
        size = contender.path.stat().st_size
        quality = style_and_content(contender.run, pictures, judge) if judge else []
        rows.append(
            Row(
                contender.name,
                contender.path.name,
                size,
                ms,
                faster,
                first.path.stat().st_size / size,
                None if contender is first else _mean([psnr(a, b) for a, b in zip(made, wanted, strict=True)]),
                None if contender is first else _mean([ssim(a, b) for a, b in zip(made, wanted, strict=True)]),
                _mean([one.relative_style for one in quality]),
                _mean([one.content for one in quality]),
            )
        )
    return tuple(rows)


def _look(contenders: Sequence[Contender], pictures: Sequence[Pixels], path: Path) -> Path:
    columns = ["photo, held aside", *(contender.name for contender in contenders)]
    encode(path, sheet([[picture, *(_through(c.run, picture) for c in contenders)] for picture in pictures], columns))
    return path


def _judge(settings: Settings) -> tuple[PerceptualLoss | None, str | None]:
    """The loss network that fills the style and content columns, or what is missing for them."""
    try:
        if settings.style is None:
            raise MissingToolError("style and content loss: no painting", f"give it with --style; {how_to_get('vgg19')}")
        return PerceptualLoss(PerceptualConfig(weights=settings.weights), decode(settings.style)), None
    except MissingToolError as error:
        return None, str(error)


def _through(run: Run, picture: Pixels) -> NDArray[np.float32]:
    return run(picture.astype(np.float32)[None])[0]


def _mean(values: Sequence[float | None]) -> float | None:
    """None for no values; identical pictures have no PSNR and do not count."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _names(files: Sequence[str]) -> str:
    return ", ".join(Path(name).stem for name in files)
