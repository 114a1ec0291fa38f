"""A phone that is unplugged, freezes or closes the connection, at every step of a measurement: each ends in time, with a name,
and with the command that cleans up where something is left."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

from compress.cli import main
from tests.test_bench import tflite
from tests.virtual_phone.faults import Faults

# Every command that a measurement sends, in order: a piece of it that no other one has.
STEPS = (
    "getprop", "/proc/meminfo", "/proc/cpuinfo", "cpuinfo_max_freq", "dumpsys battery", "dumpsys power", "low_power", "loadavg",
    "thermalservice", "df -k", "get global stay_on", "put global stay_on", "mkdir", "sha256sum", "chmod", "mv ", "--help",
    "scaling_max_freq", "--graph", "report_peak_memory", "cmdline", "rm -rf",
)  # fmt: skip
GONE = {"closed", "disconnected", "not-found", "offline"}
TIMEOUT_S = 3.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name, seconds in {
        "link.ASK_S": 2.0,
        "link.INSIST_S": 1.0,
        "backends.android.HELP_S": TIMEOUT_S,
        "thermal.LOOK_S": 0.1,
        "thermal.LONGEST_S": 0.3,
    }.items():
        monkeypatch.setattr(f"android_bench.{name}", seconds)


def measured(phones, tmp_path, faults):
    """The error of a measurement with `faults`, once it is clear that nothing is left without a word."""
    phone, start = phones.add(faults), time.monotonic()
    model = tflite(tmp_path / "net.tflite")
    argv = ["bench", str(model), "--device", f"android:{phone.serial}", "--benchmark-binary", str(phones.program())]
    argv += ["--rounds", "1", "--samples", "3", "--threads", "2", "--timeout", str(TIMEOUT_S), "--json"]
    result = CliRunner().invoke(main, argv)
    took = time.monotonic() - start
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert took < 30
    assert result.exit_code == 1, result.output
    for name in phone.system.left_behind():
        assert f"adb -s {phone.serial} shell rm -rf /data/local/tmp/{name}" in result.output
    if phone.system.setting("global.stay_on_while_plugged_in") != "0":
        assert f"adb -s {phone.serial} shell settings put global stay_on_while_plugged_in 0" in result.output
    for name in phone.system.left_behind():
        for path in sorted((phone.system.tmp / name).iterdir()):
            path.unlink()
        (phone.system.tmp / name).rmdir()
    return json.loads(result.stdout)["error"]


@pytest.mark.parametrize("step", STEPS)
def test_unplugged(phones, tmp_path, step):
    error = measured(phones, tmp_path, Faults(cut_at=step))
    assert (error["kind"], error["reason"] in {*GONE, "left"}) == ("device", True), error


@pytest.mark.parametrize("step", STEPS[::4])
def test_closed(phones, tmp_path, step):
    error = measured(phones, tmp_path, Faults(refuse_at=step))
    assert (error["kind"], error["reason"] in {*GONE, "left"}) == ("device", True), error


# The others cost seconds of waiting each, and go the same ways.
@pytest.mark.parametrize("step", ["getprop", "mkdir", "--help", "--graph", "rm -rf"])
def test_frozen(phones, tmp_path, step):
    error = measured(phones, tmp_path, Faults(freeze_at=step))
    if step == "--graph":
        assert (error["kind"], error["hint"]) == ("measurement", "--timeout gives it longer")
    else:
        assert (error["kind"], error["reason"]) == ("device", "left" if step == "rm -rf" else "timeout")


@pytest.mark.parametrize("step", ["sha256sum", "--graph"])
def test_frozen_for_a_moment(phones, tmp_path, step, monkeypatch):
    """A phone that answers again over a new connection is left clean."""
    from android_bench.link import Link

    restore = Link.restore

    def thawed(link):
        phones.phones[0].faults = Faults()
        restore(link)

    monkeypatch.setattr(Link, "restore", thawed)
    measured(phones, tmp_path, Faults(freeze_at=step))
    assert phones.settle() == []
    assert phones.phones[0].system.setting("global.stay_on_while_plugged_in") == "0"
