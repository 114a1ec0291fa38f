"""The whole way of one network: ONNX, rewrites, TFLite, each stage executed and held against the network as it was given.

Nothing reaches the output folder that has not run. Never here: how any of the steps is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from compress.errors import ArtifactError, CompressError, ConversionError, ParityError, UsageError
from compress.files import check_output, write_text, write_whole
from compress.image_format import ImageFormat
from compress.photos import encode, list_photos
from export import blame, child, flatbuffer, kotlin, litert_torch, metadata, parity, rewrites, runtime
from export import onnx as graphs
from export.artifact import Artifact, Card, Parity, Port, card_path, measure, write_card
from export.contact import contact_sheet
from export.conversion import Ran, Request, convert
from export.explain import LayerGap
from export.mixed import Search
from export.parity import PIXEL_FORMAT, Sample, Yardstick
from export.rewrites import pixels
from export.samples import InputSpec, Samples, gather, require_pictures
from export.source import Built, Size, Source, graph_run
from export.tflite import Failure
from export.tools import RECORDED, check_tools
from export.variants import REFERENCE, VARIANTS, Variant

Chain = tuple[Parity, ...]
IO = ("float32", "uint8")
BACKENDS = ("onnx2tf", litert_torch.NAME)
FAR_DB = 25.0  # below this PSNR a variant is visibly not the network, and that is said aloud
FAR_SHARE = 0.25  # the same of an output that is no picture: the largest difference, as a share of its range


@dataclass(frozen=True)
class ExportConfig:
    """`io`: what a file takes and makes: `float32`, the network's own tensors, or `uint8`, RGB pixels. `calibration`: a folder
    of photos, for what is calibrated and for parity; `photos`: at most so many of them; `percentile`: see quantise.ranges.
    `least_db`: PSNR that a mixed file must reach. `seconds`: time limit of one child process. `backend`: who converts;
    `converter_python`: where litert-torch is installed. `explain`: hold each layer of each variant against the float file's.
    """

    variants: tuple[Variant, ...]
    target: str = "cpu"
    io: str = "float32"
    calibration: Path | None = None
    photos: int = 16
    percentile: float = 100.0
    least_db: float = 30.0
    seed: int = 0
    force: bool = False
    seconds: float = 1800
    backend: str = "onnx2tf"
    converter_python: Path | None = None
    explain: bool = False

    def __post_init__(self) -> None:
        if self.target not in rewrites.TARGETS:
            raise UsageError(f"no target named {self.target!r}", f"there are {', '.join(rewrites.TARGETS)}")
        if not self.variants:
            raise UsageError("no variant to make", f"there are {', '.join(VARIANTS)}")
        if self.calibration is None and any(row.calibrated for row in self.variants):
            needy = ", ".join(row.name for row in self.variants if row.calibrated)
            raise UsageError(
                f"{needy} needs photos to find the range of every activation", "--calibration DIR, 16 photos or more"
            )
        if self.backend not in BACKENDS:
            raise UsageError(f"no backend named {self.backend!r}", f"there are {', '.join(BACKENDS)}")
        if self.converter_python and self.backend != litert_torch.NAME:
            raise UsageError("--converter-python is for --backend litert-torch", "onnx2tf is installed beside this program")
        if self.backend == litert_torch.NAME:
            litert_torch.check_variants([row.name for row in self.variants])
        if self.io not in IO:
            raise UsageError(f"--io is one of {', '.join(IO)}, got {self.io!r}")
        if self.photos < 1:
            raise UsageError(f"calibration needs a photo or more, got {self.photos}")
        if not 50 < self.percentile <= 100:
            raise UsageError(f"the percentile must be above 50 and at most 100, got {self.percentile}")
        if not 0 < self.least_db < 120:
            raise UsageError(f"the least PSNR must be between 0 and 120 dB, got {self.least_db}")
        if self.seconds <= 0:
            raise UsageError(f"the time limit must be above zero, got {self.seconds}")


@dataclass(frozen=True)
class Made:
    """One variant of one size. `artifact` None: there is no file, and `problem` says why. `search`: of a mixed one.

    `layers`: how near each layer is to the float file's, when that was asked for; `layers_unknown` says why it could not be told.
    """

    variant: str
    size: Size
    artifact: Artifact | None
    problem: str | None = None
    search: Search | None = None
    layers: tuple[LayerGap, ...] = ()
    layers_unknown: str = ""

    @property
    def parity(self) -> Parity | None:
        return self.artifact.card.own_parity if self.artifact else None

    @property
    def is_far(self) -> bool:
        """True for a file that runs and is visibly not the network."""
        found = self.parity
        if found is None:
            return False
        return found.psnr_db < FAR_DB if found.psnr_db is not None else found.relative > FAR_SHARE


@dataclass(frozen=True)
class Report:
    """`stages`: for each size the parity of every stage, variants last. `pictures`: what it was measured on, in words.
    `sheets`: for each size the contact sheet, where there are pictures. `kotlin`: the class that opens the files in an app.
    """

    onnx: Artifact
    made: tuple[Made, ...]
    stages: Mapping[Size, tuple[Parity, ...]]
    pictures: Mapping[Size, str]
    sheets: Mapping[Size, Path]
    kotlin: Path | None = None


def check_outputs(folder: Path, path: Path, sizes: Sequence[Size], config: ExportConfig) -> None:
    """Refuse before any work what could not be written: see `compress.files.check_output`. Raises OutputError."""
    files = [tflite_path(folder, path.stem, size, row.name) for size in sizes for row in config.variants]
    files = [folder / f"{path.stem}.onnx", *files]
    others = [kotlin_path(folder, path.stem), *(sheet_path(folder, path.stem, size) for size in sizes)]
    for output in (*files, *map(card_path, files), *others):
        check_output(output, force=config.force, inputs=[path])


def tflite_path(folder: Path, name: str, size: Size, variant: str) -> Path:
    """`<name>_<H>x<W>_<variant>.tflite`."""
    return folder / f"{name}_{size[0]}x{size[1]}_{variant}.tflite"


def sheet_path(folder: Path, name: str, size: Size) -> Path:
    """`<name>_<H>x<W>.jpg`."""
    return folder / f"{name}_{size[0]}x{size[1]}.jpg"


def kotlin_path(folder: Path, name: str) -> Path:
    """`<Name>.kt`, as the class in it is called."""
    return folder / f"{kotlin.class_name(name)}.kt"


def export(source: Source, folder: Path, config: ExportConfig, say: Callable[[str], None] = lambda _: None) -> Report:
    """Write `<name>.onnx` and `<name>_<H>x<W>_<variant>.tflite`, cards beside them, into `folder`.

    A variant that cannot be made or does not run is in the report with its reason; the others are written. Raises ParityError,
    ConversionError, OutputError, ImageError, MissingToolError; UsageError for int8 without photos.
    """
    check_tools()
    check_outputs(folder, source.path, source.sizes, config)
    for note in source.notes:
        say(note)
    if config.io == "uint8" or any(row.calibrated for row in config.variants):
        require_pictures(source.inputs[0])
    if config.calibration is not None:
        list_photos(config.calibration)  # for its errors, before the work
    converter = litert_torch.find(config.converter_python) if config.backend == litert_torch.NAME else None
    built = source.build()
    shipped: Artifact | None = None
    made: list[Made] = []
    stages: dict[Size, tuple[Parity, ...]] = {}
    pictures: dict[Size, str] = {}
    for index, size in enumerate(source.sizes):
        one = _Exporter(
            source, built, folder, config, index, gather(source.inputs[index], config.calibration, config.seed, config.photos),
            converter,
        )  # fmt: skip
        pictures[size] = one.samples.about
        yardstick, chain = one.before_tflite()
        if shipped is None:
            kotlin_path(folder, source.name).unlink(missing_ok=True)  # of an earlier export: it is not of the files that come now
            shipped = one.write_onnx(chain)
            say(f"wrote {shipped.path}")
        ready, places, chain = one.rewritten(yardstick, chain)
        say(f"{size[0]}x{size[1]}: rewrites for {config.target}: {sum(places.values())}; converting")
        found, chain = one.tflite(ready, places, chain)
        made += found
        stages[size] = (*chain, *(m.parity for m in found if m.parity and m.variant != REFERENCE))
    assert shipped is not None
    sheets = {size: path for size in source.sizes if (path := sheet_path(folder, source.name, size)).exists()}
    return Report(shipped, tuple(made), stages, pictures, sheets, _write_kotlin(folder, source.name, made, say))


@dataclass(frozen=True)
class _Ready:
    """A graph on its way to the converter, and what goes in and out of it: tensors of the network's own, or pixels."""

    graph: onnx.ModelProto
    inputs: tuple[InputSpec, ...]
    formats: Sequence[ImageFormat | None]
    yardstick: Yardstick
    calibration: Sequence[Sample]


@dataclass(frozen=True)
class _Exporter:
    """One size of one source on its way."""

    source: Source
    built: Built
    folder: Path
    config: ExportConfig
    index: int
    samples: Samples
    converter: litert_torch.Converter | None

    @property
    def size(self) -> Size:
        return self.source.sizes[self.index]

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        return self.source.inputs[self.index]

    def before_tflite(self) -> tuple[Yardstick, Chain]:
        """Run the network as given, and hold what was done to it up to ONNX against that."""
        yardstick = Yardstick.of(self.source.given, self.samples.compared, self.source.formats)
        runs = [*((stage.name, stage.run) for stage in self.built.stages), ("onnx", graph_run(self.built.graphs[self.index]))]
        return yardstick, tuple(yardstick.hold(name, [run(sample) for sample in yardstick.samples]) for name, run in runs)

    def rewritten(self, yardstick: Yardstick, chain: Chain) -> tuple[_Ready, Mapping[str, int], Chain]:
        """The graph at this size with the target's rewrites, each proved on its own, and all of them together."""
        ready = self._facing(graphs.specialised(self.built.graphs[self.index], {spec.name: spec.shape for spec in self.inputs}),
                             yardstick)  # fmt: skip
        yardstick = ready.yardstick
        few = yardstick.samples[:2]

        def gap(before: onnx.ModelProto, after: onnx.ModelProto) -> float:
            runs = [graph_run(model) for model in (before, after)]
            return parity.relative(*([run(sample) for sample in few] for run in runs))

        graph, places = rewrites.rewrite(ready.graph, self.config.target, gap)
        run = graph_run(graph)
        chain = (*chain, yardstick.hold("rewritten", [run(sample) for sample in yardstick.samples]))
        return self._as_asked(replace(ready, graph=graph)), places, chain

    def _facing(self, graph: onnx.ModelProto, yardstick: Yardstick) -> _Ready:
        """With its formats folded in, when pixels are asked for; else as it is."""
        formats, calibration = self.source.formats, self.samples.calibration
        if self.config.io == "float32":
            return _Ready(graph, self.inputs, formats, yardstick, calibration)
        taken = {spec.name: spec.format for spec in self.inputs if spec.format and spec.is_picture}
        given = {name: form for name, form in zip(self.source.outputs, formats, strict=True) if form}
        inputs = tuple(replace(spec, format=PIXEL_FORMAT) if spec.name in taken else spec for spec in self.inputs)
        facing = yardstick.in_pixels(taken)
        also = replace(yardstick, samples=calibration, given=()).in_pixels(taken).samples
        return _Ready(pixels.fold(graph, taken, given), inputs, facing.formats, facing, also)

    def _as_asked(self, ready: _Ready) -> _Ready:
        """With whole numbers in and out, when they are asked for."""
        if self.config.io == "float32":
            return ready
        taken = frozenset(spec.name for spec in ready.inputs if spec.is_picture)
        given = frozenset(name for name, form in zip(self.source.outputs, ready.formats, strict=True) if form)
        also = replace(ready.yardstick, samples=ready.calibration).in_bytes(taken).samples
        graph = pixels.as_bytes(ready.graph, taken | given)
        return replace(ready, graph=graph, yardstick=ready.yardstick.in_bytes(taken), calibration=also)

    def write_onnx(self, chain: Chain) -> Artifact:
        """The graph before rewrites, height and width free where the network allows it."""
        path, shipped = self.folder / f"{self.source.name}.onnx", self.built.shipped
        runner = runtime.load_graph(shipped.SerializeToString(), path.name)
        inputs = zip(runner.inputs, [spec.format if spec.is_picture else None for spec in self.inputs], strict=True)
        outputs = zip(runner.outputs, self.source.formats, strict=True)
        ports = tuple(tuple(replace(port, format=form) for port, form in pairs) for pairs in (inputs, outputs))
        taken, given = map(metadata.said_of, ports)
        size = runtime.size_of(ports[0], "NCHW")
        said = metadata.Essentials(REFERENCE, size, taken, given, self.source.sha256, self.size)
        _write(path, metadata.embed_onnx(shipped, said).SerializeToString())
        return self._carded(path, ports, runner.engine, chain)

    def tflite(self, ready: _Ready, places: Mapping[str, int], chain: Chain) -> tuple[list[Made], Chain]:
        """Every variant converted, executed, compared and written; and the chain with the fp32 file at its end."""
        wanted, source, yardstick = self.config.variants, self.source, ready.yardstick
        request = Request(
            ready.graph, ready.inputs, source.outputs, ready.formats, self.size, source.sha256, wanted, ready.calibration,
            self.config.seconds, self.config.percentile, self.config.least_db, self.converter, self.config.explain,
        )  # fmt: skip
        with child.scratch_folder() as scratch:
            try:
                conversion = convert(request, yardstick, scratch)
            except (ConversionError, ParityError) as error:
                where = blame.sentence(error, request, yardstick, scratch) if request.converter is None else ""
                raise self._explained(error, where) from error
            chain = (*chain, conversion.reference)
            made = [self._finished(row, conversion.made[row.name], places, yardstick, chain) for row in wanted]
        found = {name: ran.results for name, ran in conversion.made.items() if isinstance(ran, Ran)}
        path = sheet_path(self.folder, self.source.name, self.size)
        if (page := contact_sheet(yardstick, found)) is not None:
            encode(path, page)
        else:
            path.unlink(missing_ok=True)  # of an earlier export, that --force allowed to replace
        return made, chain

    def _finished(
        self, row: Variant, found: Ran | Failure, places: Mapping[str, int], yardstick: Yardstick, chain: Chain
    ) -> Made:
        path = tflite_path(self.folder, self.source.name, self.size, row.name)
        if isinstance(found, Failure):
            for stale in (path, card_path(path)):  # of an earlier export, that --force allowed to replace
                stale.unlink(missing_ok=True)
            return Made(row.name, self.size, None, found.reason + self._kept(found.log))
        own = () if row.name == REFERENCE else (yardstick.measure(f"tflite {row.name}", found.results),)
        payload = found.path.read_bytes()
        _write(path, payload)
        about: dict[str, Any] = {
            "variant": row.name,
            "size": self.size,
            "signature": found.signature,
            "rewrites": places,
            "operators": flatbuffer.Graph.of(payload).counts,
            "delegates": found.delegates,
            "min_runtime": flatbuffer.min_runtime(payload),
        }
        if self.converter:
            about["toolchain"] = _made_with(self.converter)
        if found.search:
            about["search"] = found.search.to_json()
        artifact = self._carded(path, (found.inputs, found.outputs), found.engine, (*chain, *own), **about)
        return Made(row.name, self.size, artifact, search=found.search, layers=found.layers, layers_unknown=found.layers_unknown)

    def _carded(self, path: Path, ports: tuple[tuple[Port, ...], ...], engine: str, chain: Chain, **more: Any) -> Artifact:
        kind = runtime.kind_of(path)
        layout = "NCHW" if kind == "onnx" else "NHWC"
        card = Card(
            file=path.name,
            **measure(path.read_bytes()),
            kind=kind,
            layout=layout,
            variant=REFERENCE,
            size=runtime.size_of(ports[0], layout),
            inputs=ports[0],
            outputs=ports[1],
            parent=self.source.sha256,
            target=self.config.target if kind == "tflite" else None,
            parity=chain,
            pictures=self.samples.about,
            ran=engine,
            toolchain=runtime.toolchain(*RECORDED),
        )
        artifact = Artifact(path, replace(card, **more))
        write_card(artifact)
        return artifact

    def _explained(self, error: CompressError, where: str) -> CompressError:
        """The same error, saying of which file, at which node, and where the converter's words are."""
        cause = error.__cause__
        kept = self._kept(cause.log) if isinstance(cause, child.ChildError) else ""
        message = f"{self.source.name} at {self.size[0]}x{self.size[1]}: {error.message}{f'; {where}' if where else ''}{kept}"
        return type(error)(message, error.hint)

    def _kept(self, log: str) -> str:
        """Keep a log beside the outputs; return the words that say where."""
        if not log.strip():
            return ""
        path = self.folder / f"{self.source.name}_{self.size[0]}x{self.size[1]}.log"
        write_text(path, log)
        return f"; log: {path}"


def _write_kotlin(folder: Path, name: str, made: Sequence[Made], say: Callable[[str], None]) -> Path | None:
    """The class that opens what was made; None when nothing was, or an app could not use it so, which is said."""
    cards = [one.artifact.card for one in made if one.artifact]
    if not cards:
        return None
    try:
        text = kotlin.source(name, cards)
    except ArtifactError as error:
        say(f"no Kotlin for an app: {error}")
        return None
    path = kotlin_path(folder, name)
    write_text(path, text)
    return path


def _made_with(converter: litert_torch.Converter) -> dict[str, str]:
    """The versions that a card names, with the converter's own packages in onnx2tf's place."""
    ours = {name: number for name, number in runtime.toolchain(*RECORDED).items() if name != "onnx2tf"}
    return ours | converter.toolchain


def _write(path: Path, payload: bytes) -> None:
    card_path(path).unlink(missing_ok=True)  # a card of an earlier file must not stand beside the new one
    with write_whole(path) as partial:
        partial.write_bytes(payload)
