"""Fills the marked blocks of README and docs from the records. No number there is written by hand.

    python benchmarks/tables.py            fill them
    python benchmarks/tables.py --check    say which are out of date; exit code 1 when any is

A block is `<!-- table: NAME -->`, anything, `<!-- end -->`; NAME is a row of TABLES below.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import lines

from android_bench.record import Record, read_records
from android_bench.statistics import paired_ratio, summarise

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
NAMES = {  # file -> what it is, in a reader's words
    "dense.safetensors": "dense, PyTorch",
    "dense.onnx": "dense, ONNX Runtime",
    "dense_256x256_stock.tflite": "dense, TFLite fp32, onnx2tf alone",
    "dense_256x256_plain.tflite": "dense, TFLite fp32, no rewrites",
    "dense_256x256_fp32.tflite": "dense, TFLite fp32, `compress export`",
    "distilled.safetensors": "pruned and distilled, PyTorch",
    "distilled_256x256_fp32.tflite": "pruned and distilled, TFLite fp32",
    "distilled_256x256_dynamic.tflite": "pruned and distilled, TFLite dynamic range",
    "scratch.safetensors": "same widths from scratch, PyTorch",
}

EXPORTED = {  # role in export.jsonl -> the same
    "stock_fp32": "fp32, onnx2tf alone",
    "litert_torch_fp32": "fp32, litert-torch alone",
    "ours_fp32": "fp32, `compress export`",
    "ours_by_litert_torch_fp32": "fp32, `compress export --backend litert-torch`",
    "floor_fp32": "fp32, its convolutions alone",
    "stock_dynamic": "dynamic, onnx2tf alone",
    "ours_dynamic": "dynamic, `compress export`",
    "ours_by_litert_torch_dynamic": "dynamic, `compress export --backend litert-torch`",
    "stock_int8": "full int8, onnx2tf alone",
    "ours_int8": "int8, `compress export`",
    "ours_mixed": "mixed, `compress export`",
}


def latency(folder: Path) -> str:
    records = read_records(folder / "latency.jsonl")
    rows = [_latency_row(record, records[0]) for record in records]
    first = records[0]
    facts = (
        f"{first.host['cpu']}, {first.threads} threads, 256x256, {len(first.rounds)} interleaved rounds, {first.measured_at[:10]}"
    )
    return markdown(("network", "MB", "median ms", "95 %", "x dense in PyTorch"), rows) + f"\n{facts}.\n"


def targets(folder: Path) -> str:
    """What was to be reached, and what was."""
    by_name = {record.artifact: record for record in read_records(folder / "latency.jsonl")}
    dense, small = by_name["dense.safetensors"], by_name["distilled_256x256_dynamic.tflite"]
    rewritten = paired_ratio(by_name["dense_256x256_fp32.tflite"], by_name["dense_256x256_stock.tflite"])
    faster = paired_ratio(small, dense)
    roles = {(line["role"], line["network"]): line for line in _quality_means(folder)}
    shipped = next(line for (role, _), line in roles.items() if role == "distilled")
    helped = {line["name"]: median(line["samples_ms"]) for line in lines.read(folder / "help.jsonl")}
    rows = [
        ("TFLite fp32 of the dense network, x the latency of what onnx2tf alone makes", "<= 0.65", _interval(rewritten)),
        ("distilled (dynamic range) against dense in PyTorch: times faster", ">= 8",
         f"{1 / faster.value:.1f} ({1 / faster.high:.1f}..{1 / faster.low:.1f})"),
        ("the same: times smaller, bytes of the file against the fp32 checkpoint", ">= 15", f"{dense.bytes / small.bytes:.1f}"),
        ("style loss of distilled, x dense", "<= 1.10", f"{shipped['style']:.3f}"),
        ("content loss of distilled, x dense", "<= 1.10", f"{shipped['content']:.3f}"),
        ("samples a second in training, x a bare PyTorch loop", ">= 0.90", f"{_training_ratio(folder):.3f}"),
        ("`compress --help`", "< 300 ms", f"{helped['compress --help']:.0f} ms"),
    ]  # fmt: skip
    return markdown(("what", "target", "measured"), rows)


def quality(folder: Path) -> str:
    rows = [
        (
            f"{line['role']} (`{line['network']}`)",
            f"{line['style']:.3f}",
            f"{line['content']:.3f}",
            f"{line['relative_style']:.4f}",
            "" if line["psnr_db"] is None else f"{line['psnr_db']:.2f}",
            f"{line['ssim']:.3f}",
        )
        for line in _quality_means(folder)
    ]
    count = len({line["photo"] for line in lines.read(folder / "quality.jsonl")})
    headers = ("network", "style, x dense", "content, x dense", "style, x the photo's", "PSNR to dense, dB", "SSIM to dense")
    return markdown(headers, rows) + f"\nMeans over {count} photos.\n"


def models(folder: Path) -> str:
    """Each network against its own painting, the first one (public) as the measure."""
    found = lines.read(folder / "models.jsonl")
    rows = []
    for network, painting in dict.fromkeys((line["network"], line["painting"]) for line in found):
        own = [line for line in found if (line["network"], line["painting"]) == (network, painting)]
        means = {key: mean(line[key] for line in own) for key in ("style", "photo_style", "content")}
        rows.append((network, painting, means["style"] / means["photo_style"], means["content"]))
    shown = [(f"`{n}`", p, f"{s:.4f}", f"{s / rows[0][2]:.2f}", f"{c:,.0f}") for n, p, s, c in rows]
    count = len({line["photo"] for line in found})
    headers = ("network", "painting", "style, x the photo's", f"the same, x `{rows[0][0]}`", "content")
    return markdown(headers, shown) + f"\nMeans over {count} photos.\n"


def training(folder: Path) -> str:
    found = lines.read(folder / "training.jsonl")
    rows = [(line["name"], f"{1e3 * line['batch'] / median(line['samples_ms']):.2f}") for line in found]
    first = found[0]
    facts = f"{first['host']['cpu']}, {first['threads']} threads, {first['size']}x{first['size']}, batch {first['batch']}"
    return markdown(("loop", "samples a second"), rows) + f"\nRatio of paired steps: {_training_ratio(folder):.3f}. {facts}.\n"


def stripping(folder: Path) -> str:
    """Each network: channels that can go, then removed and how far the output moves, for each kind of dead channel and tool."""
    found = _by_network(folder)
    rows = []
    for name, cells in found.items():
        shown = [f"{cell['removed']} ({_gap(cell['gap'])})" for cell in cells.values()]
        rows.append((name, str(next(iter(cells.values()))["could"]), *shown))
    headers = ("network", "can go", *(f"{tool}, {kind}" for kind, tool in next(iter(found.values()))))
    return markdown(headers, rows)


def stripping_totals(folder: Path) -> str:
    """All networks together; an output that moves by more than 1e-9 of its range is no rounding."""
    found = _by_network(folder)
    rows = []
    for kind, tool in next(iter(found.values())):
        cells = [cells[kind, tool] for cells in found.values()]
        gaps = [cell["gap"] for cell in cells if cell["gap"] is not None]
        exact = sum(gap <= 1e-9 for gap in gaps)
        whole = sum(cell["removed"] == cell["could"] for cell in cells)
        spent = sum(median(cell["seconds"]) for cell in cells)
        removed, could = (sum(cell[key] for cell in cells) for key in ("removed", "could"))
        share = f"{removed} of {could}"
        rows.append(
            (f"{tool}, {kind}", share, f"{whole} of {len(cells)}", f"{exact} of {len(cells)}", _gap(max(gaps)), f"{spent:.1f}")
        )
    headers = ("tool, dead channels", "channels removed", "networks with all removed", "same output", "worst", "seconds")
    first = lines.read(folder / "stripping.jsonl")[0]
    versions = ", ".join(f"{package} {first['versions'][package]}" for package in ("torch-pruning", "torch"))
    facts = f"{versions}; {first['host']['cpu']}, {_threads(first)}, {first['measured_at'][:10]}"
    return markdown(headers, rows) + f"\n{facts}.\n"


def stripping_faults(folder: Path) -> str:
    """What each tool leaves out, and what it says."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for line in lines.read(folder / "stripping.jsonl"):
        for layer, said in line["faults"].items():
            layers = rows.setdefault((line["tool"], line["network"], said), [])
            layers += [] if layer in layers else [layer]
    shown = [(network, tool, ", ".join(f"`{layer}`" for layer in layers), said) for (tool, network, said), layers in rows.items()]
    return markdown(("network", "tool", "where", "what it says"), shown)


def strip_speed(folder: Path) -> str:
    """Median seconds of each stage; `ours`: all but torch.export and the comparison at the end."""
    found = lines.read(folder / "strip_speed.jsonl")
    rows = []
    for line in found:
        times = {stage: median(seconds[stage] for seconds in line["seconds"]) for stage in line["seconds"][0]}
        ours = median(sum(v for k, v in seconds.items() if k not in ("export", "comparison")) for seconds in line["seconds"])
        memory = median(max(peaks.values()) for peaks in line["peak_growth_bytes"])
        stages = [f"{times[stage]:.2f}" for stage in ("graph", "facts", "decision", "cut")]
        rest = (f"{times['export']:.1f}", f"{times['comparison']:.1f}", f"{memory / 1e6:.0f}", f"{line['bytes'] / 1e6:.0f}")
        rows.append((line["name"], f"{line['layers']:,}", f"{line['parameters'] / 1e6:.1f}", *stages, f"{ours:.2f}", *rest))
    headers = (
        "network", "layers", "M parameters", "graph", "facts", "decision", "cut", "**together, s**", "torch.export", "comparison",
        "MB at most", "MB weights",
    )  # fmt: skip
    first = found[0]
    how = f"{first['threads']} thread(s), median of {len(first['seconds'])} round(s)"
    return markdown(headers, rows) + f"\n{first['host']['cpu']}, {how}, {first['measured_at'][:10]}.\n"


def export_targets(folder: Path) -> str:
    """What an export was to reach, and what it does, at each size."""
    return export_targets_of(lines.read(folder / "export.jsonl"))


def export_targets_of(found: Sequence[dict[str, Any]]) -> str:
    """The same of lines that are read already."""
    sizes = sorted({line["size"] for line in found})
    at = [_Exports([line for line in found if line["size"] == size]) for size in sizes]
    rows = [
        ("fp32: latency, x onnx2tf alone", "<= 0.52", [one.ratio("ours_fp32", "stock_fp32") for one in at]),
        ("fp32: latency, x litert-torch alone", "<= 0.52", [one.ratio("ours_fp32", "litert_torch_fp32") for one in at]),
        ("fp32: latency, x its convolutions alone (the floor)", "<= 1.1", [one.ratio("ours_fp32", "floor_fp32") for one in at]),
        ("dynamic: latency, x onnx2tf's dynamic range", "<= 0.32", [one.ratio("ours_dynamic", "stock_dynamic") for one in at]),
        ("dynamic: PSNR to PyTorch, dB", ">= 36", [one.psnr("ours_dynamic") for one in at]),
        ("mixed: latency, x onnx2tf's full int8", "<= 0.2", [one.ratio("ours_mixed", "stock_int8") for one in at]),
        ("mixed: latency, x our dynamic", "<= 0.95", [one.ratio("ours_mixed", "ours_dynamic") for one in at]),
        ("mixed: PSNR to PyTorch, dB", ">= 30", [one.psnr("ours_mixed") for one in at]),
        ("XNNPACK partitions of fp32, dynamic", "1", [one.partitions("ours_fp32", "ours_dynamic") for one in at]),
        ("all variants: time of the export, x onnx2tf alone for fp32", "<= 0.7", [one.making("seconds") for one in at]),
        ("all variants: memory of the export, x onnx2tf alone for fp32", "<= 1", [one.making("peak_bytes") for one in at]),
        ("fp32: memory of a run, x onnx2tf alone", "<= 1", [one.memory("ours_fp32", "stock_fp32") for one in at]),
    ]
    headers = ("what", "target", *(f"{size}x{size}" for size in sizes))
    return markdown(headers, [(what, target, *cells) for what, target, cells in rows]) + f"\n{at[0].facts}.\n"


def export_files(folder: Path) -> str:
    """Every file that was timed, by every converter, at each size."""
    found = lines.read(folder / "export.jsonl")
    rows = []
    for size in sorted({line["size"] for line in found}):
        exports = _Exports([line for line in found if line["size"] == size])
        rows += [(f"{size}x{size}", *exports.row(role, name)) for role, name in EXPORTED.items() if role in exports.records]
    headers = ("size", "file", "MB", "operators", "XNNPACK partitions", "PSNR, dB", "median ms", "MB in memory")
    return markdown(headers, rows)


class _Exports:
    """The lines of one size of export.jsonl."""

    def __init__(self, found: Sequence[dict[str, Any]]) -> None:
        by = {(line["measure"], line["role"]): line for line in found}
        self.records = {role: Record.from_json(line["record"]) for (measure, role), line in by.items() if measure == "latency"}
        self._distances = {role: line["psnr_db"] for (measure, role), line in by.items() if measure == "distance"}
        self._makings = {role: line for (measure, role), line in by.items() if measure == "making"}
        first = found[0]
        threads, day = _threads(first), first["measured_at"][:10]
        self.facts = f"`{first['network']}`, {first['host']['cpu']}, {threads}, {day}"

    def ratio(self, role: str, baseline: str) -> str:
        if not {role, baseline} <= self.records.keys():
            return ""
        return _interval(paired_ratio(self.records[role], self.records[baseline]))

    def psnr(self, role: str) -> str:
        found = self._distances.get(role)
        return "" if found is None else f"{found:.1f}"

    def partitions(self, *roles: str) -> str:
        return ", ".join(str(self.records[role].executed["partitions"]) for role in roles)

    def making(self, what: str) -> str:
        """Of each pair of turns; the median."""
        pairs = zip(*(self._makings[role][what] for role in ("ours", "onnx2tf")), strict=True)
        return f"{median(ours / theirs for ours, theirs in pairs):.2f}"

    def memory(self, role: str, baseline: str) -> str:
        ours, theirs = self._memory(role), self._memory(baseline)
        return f"{ours / theirs:.2f}" if ours and theirs else ""

    def row(self, role: str, name: str) -> tuple[str, ...]:
        record, memory = self.records[role], self._memory(role)
        executed = record.executed
        return (
            name, f"{record.bytes / 1e6:.2f}", str(executed["nodes"]), str(executed["partitions"]), self.psnr(role),
            f"{summarise(record).median_ms:.1f}", f"{memory / 1e6:.0f}" if memory else "",
        )  # fmt: skip

    def _memory(self, role: str) -> float | None:
        peaks = [round_.peak_bytes for round_ in self.records[role].rounds if round_.peak_bytes]
        return median(peaks) if peaks else None


TABLES: dict[str, Callable[[Path], str]] = {
    "latency": latency,
    "targets": targets,
    "quality": quality,
    "models": models,
    "training": training,
    "stripping": stripping,
    "stripping-totals": stripping_totals,
    "stripping-faults": stripping_faults,
    "export-targets": export_targets,
    "export-files": export_files,
    "strip-speed": strip_speed,
}


def filled(text: str, folder: Path = RECORDS) -> str:
    """`text` with every marked block made anew. Raises KeyError for a name that is no table, ValueError for no end."""
    if text.count("<!-- table: ") != len(BLOCK.findall(text)):
        raise ValueError("a <!-- table: NAME --> has no <!-- end -->")
    return BLOCK.sub(lambda found: found[1] + TABLES[found[2]](folder) + found[4], text)


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    ruler = ["---", *("--:" for _ in headers[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (headers, ruler, *rows))


def documents() -> list[Path]:
    first = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
    return [path for path in (*first, *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()]


def _latency_row(record: Record, first: Record) -> tuple[str, ...]:
    summary = summarise(record)
    return (
        NAMES.get(record.artifact, record.artifact),
        f"{record.bytes / 1e6:.2f}",
        f"{summary.median_ms:.1f}",
        f"{summary.low_ms:.1f}..{summary.high_ms:.1f}",
        "1" if record is first else _interval(paired_ratio(record, first)),
    )


def _interval(ratio: Any) -> str:
    return f"{ratio.value:.3f} ({ratio.low:.3f}..{ratio.high:.3f})"


def _quality_means(folder: Path) -> list[dict[str, Any]]:
    """One row a network: losses as a share of the dense network's, in the order of the file."""
    found = lines.read(folder / "quality.jsonl")
    rows = []
    for role, network in dict.fromkeys((line["role"], line["network"]) for line in found):
        own = [line for line in found if (line["role"], line["network"]) == (role, network)]
        means = {key: mean(line[key] for line in own) for key in ("style", "content", "photo_style", "ssim")}
        known = [line["psnr_db"] for line in own if line["psnr_db"] is not None]
        rows.append({"role": role, "network": network, **means, "psnr_db": mean(known) if known else None})
    dense = dict(rows[0])
    for row in rows:
        row["relative_style"] = row["style"] / row["photo_style"]
        row |= {key: row[key] / dense[key] for key in ("style", "content")}
    return rows


def _by_network(folder: Path) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """Network -> (dead channels, tool) -> its line, in the order of the file."""
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for line in lines.read(folder / "stripping.jsonl"):
        found.setdefault(line["network"], {})[line["dead"], line["tool"]] = line
    return found


def _gap(gap: float | None) -> str:
    return "does not run" if gap is None else "0" if gap == 0 else f"{gap:.0e}" if gap < 1e-3 else f"{gap:.2f}"


def _threads(line: dict[str, Any]) -> str:
    return f"{line['threads']} thread" + ("s" if line["threads"] > 1 else "")


def _training_ratio(folder: Path) -> float:
    samples = {line["name"]: line["samples_ms"] for line in lines.read(folder / "training.jsonl")}
    return median(bare / ours for ours, bare in zip(samples["compress train"], samples["bare loop"], strict=True))


def main() -> None:
    stale = {path: new for path in documents() if (new := filled(path.read_text("utf-8"))) != path.read_text("utf-8")}
    for path, new in stale.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(new, "utf-8")
    if stale and "--check" in sys.argv:
        sys.exit("out of date: python benchmarks/tables.py")


if __name__ == "__main__":
    main()
