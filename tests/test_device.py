"""A phone as data, what stands in the way of measuring on it, `compress devices`, and settings that go back to what they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from android_bench.adb import Adb
from android_bench.device import Condition, Needs, Phone, free_bytes, limits_khz, obstacles, read_condition, read_phone, refuse
from android_bench.link import Link
from android_bench.program import read_program
from android_bench.settings import kept_awake
from android_bench.thermal import Thermal, cool_down, has_cooled, parse_thermal
from compress.cli import main
from compress.errors import DeviceError, MissingToolError, UsageError
from tests.virtual_phone.faults import Faults


def devices(*arguments):
    return CliRunner().invoke(main, ["devices", *arguments])


def test_what_a_phone_is(phones):
    phone = read_phone(Link(Adb(), phones.add().serial))
    assert (phone.name, phone.soc, phone.android, phone.api) == ("Acme Slab 7", "Acme A990", "14", 34)
    assert phone.abis == ("arm64-v8a", "armeabi-v7a", "armeabi")
    assert phone.core_khz == (1800000,) * 4 + (2400000,) * 3 + (2840000,)
    assert (f"{phone.big_cores:x}", phone.memory_bytes, "asimddp" in phone.features) == ("f0", 7812345 * 1024, True)
    facts = phone.facts()
    assert (facts["cores"], facts["name"], facts["abi"]) == (8, "Acme Slab 7", "arm64-v8a")
    assert phone.serial not in json.dumps(facts)


def test_how_a_phone_is(phones):
    system = phones.add().system
    system.battery(level=64, charging=False, celsius=27.5)
    system.thermal(status=1, cpu=41.5, skin=36.0)
    system.space(123 * 1024)
    system.screen("Asleep")
    link = Link(Adb(), phones.phones[0].serial)
    assert read_condition(link) == Condition(
        thermal=Thermal(1, {"cpu": 41.5, "skin": 36.0}),
        battery_percent=64,
        battery_celsius=27.5,
        is_charging=False,
        is_awake=False,
        is_saving=False,
        free_bytes=123 * 1024,
        load=0.31,
    )
    assert limits_khz(link)[-1] == 2840000


def test_a_phone_that_says_nothing_is_no_error(phones):
    """An old or locked one: what is not known is None, and no obstacle."""
    system = phones.add().system
    system.without("getprop", "dumpsys", "settings", "df")
    for path in (*system.root.glob("proc/*"), *system.root.glob("sys/**/cpuinfo_max_freq")):
        path.unlink()
    link = Link(Adb(), phones.phones[0].serial)
    phone, now = read_phone(link), read_condition(link)
    assert (phone.name, phone.abis, phone.core_khz, phone.api) == (link.serial, (), (0,) * 8, None)
    assert now == Condition()
    assert obstacles(phone, now) == []
    assert Phone("x").big_cores == 0


GOOD = Condition(Thermal(0), 80, 25.0, True, True, False, 10**10, 0.5)
PHONE = Phone("x", abis=("arm64-v8a",), core_khz=(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("change", "reason", "severity", "said"),
    [
        ({"battery_percent": 12, "is_charging": False}, "battery", "error", "its battery is at 12 %"),
        ({"battery_percent": 12}, "battery", "warning", "its battery is at 12 %"),
        ({"is_saving": True}, "low-power", "error", "it is saving power"),
        ({"is_awake": False}, "screen", "warning", "its screen was off"),
        ({"thermal": Thermal(3)}, "hot", "error", "it is hot (thermal status severe)"),
        ({"thermal": Thermal(1)}, "warm", "warning", "it is warm (thermal status light)"),
        ({"thermal": Thermal(0, {}, True)}, "thermal-override", "warning", "somebody has forced its thermal status"),
        ({"free_bytes": 10**6}, "full", "error", "1 MB are free under /data/local/tmp, 36 MB are needed"),
        ({"load": 11.0}, "load", "warning", "it is busy with something else (load 11)"),
    ],
)
def test_every_obstacle_has_a_name(change, reason, severity, said):
    assert obstacles(PHONE, GOOD) == []
    (found,) = obstacles(PHONE, Condition(**{**vars(GOOD), **change}), Needs(bytes=2_000_000))
    assert (found.reason, found.severity) == (reason, severity)
    assert found.message.startswith(said)
    if severity == "error":
        with pytest.raises(DeviceError, match="x") as caught:
            refuse(PHONE, [found])
        assert (caught.value.reason, caught.value.exit_code, caught.value.hint) == (reason, 1, found.hint)
    else:
        refuse(PHONE, [found])


def test_emulators_are_named():
    (found,) = obstacles(Phone("emulator-5554", is_emulator=True), GOOD)
    assert (found.reason, found.severity) == ("emulator", "warning")


def elf(path: Path, machine: int) -> Path:
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + machine.to_bytes(2, "little") + bytes(40))
    return path


def test_a_program_for_another_processor_is_refused(tmp_path):
    right, wrong = read_program(elf(tmp_path / "a", 183)), read_program(elf(tmp_path / "b", 62))
    assert (right.abi, wrong.abi) == ("arm64-v8a", "x86_64")
    assert obstacles(PHONE, GOOD, Needs(right)) == []
    (found,) = obstacles(PHONE, GOOD, Needs(wrong))
    assert (found.reason, found.message) == ("abi", "it runs arm64-v8a, and b is for x86_64")
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert read_program(tmp_path / "script").abi is None
    (tmp_path / "notes.txt").write_text("no program")
    with pytest.raises(UsageError, match=r"notes\.txt is no program for Android"):
        read_program(tmp_path / "notes.txt")
    with pytest.raises(UsageError, match="cannot read"):
        read_program(tmp_path)
    for missing in (None, tmp_path / "nowhere"):
        with pytest.raises(MissingToolError) as caught:
            read_program(missing)
        assert "--benchmark-binary FILE" in caught.value.hint
        assert "sha256" in caught.value.hint


CACHED = """Thermal Status: 2
Cached temperatures:
	Temperature{mValue=44.5, mType=0, mName=AP, mStatus=0}
	Temperature{mValue=NaN, mType=3, mName=SKIN, mStatus=0}
"""


def test_thermal_reports():
    assert parse_thermal(CACHED) == Thermal(2, {"cpu": 44.5})
    assert parse_thermal("") == parse_thermal("Can't find service: thermalservice") == Thermal()
    assert Thermal().name == "unknown"
    assert Thermal(9).name == "shutdown"
    both = CACHED + "Current temperatures from HAL:\n\tTemperature{mValue=30.0, mType=0, mName=A, mStatus=0}\nCooling:\n"
    assert parse_thermal(both + "\tTemperature{mValue=90.0, mType=0, mName=A, mStatus=0}") == Thermal(2, {"cpu": 30.0})
    start = Thermal(0, {"cpu": 30.0, "skin": 28.0})
    assert has_cooled(Thermal(0, {"cpu": 32.0, "gpu": 50.0}), start)
    assert not has_cooled(Thermal(0, {"cpu": 32.1}), start)
    assert not has_cooled(Thermal(1, {"cpu": 30.0}), start)
    assert has_cooled(Thermal(), Thermal())


def test_cooling_down_waits_and_gives_up(phones, monkeypatch):
    phone = phones.add()
    link = Link(Adb(), phone.serial)
    start = Thermal(0, {"cpu": 31.5, "skin": 29.0})
    monkeypatch.setattr("android_bench.thermal.LOOK_S", 0.1)
    monkeypatch.setattr("android_bench.thermal.LONGEST_S", 0.5)
    assert cool_down(link, start)[2] is True
    phone.system.thermal(status=2, cpu=60.0)
    now, waited, is_settled = cool_down(link, start)
    assert (now.status, is_settled) == (2, False)
    assert waited > 0.5
    link.adb.stop.set()
    with pytest.raises(DeviceError, match="stopped"):
        cool_down(link, start)


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/x 10 4 6 40% /data\n", 6144),
        ("Filesystem               Size     Used     Free   Blksize\n/data 10 4 7 4096\n", 7168),
        ("Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/with-a-long-name\n 10 4 5 40% /data\n", 5120),
        ("Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/x 10 4 6K 40% /data\n", None),
        ("df: /data/local/tmp: No such file", None),
        ("", None),
    ],
)
def test_free_space(text, free):
    assert free_bytes(text) == free


@pytest.mark.parametrize(("before", "after"), [("0", "0"), (None, None), ("7", "7"), ("3", "3")])
@pytest.mark.parametrize("wakefulness", ["Awake", "Asleep"])
def test_settings_go_back_whatever_happens(phones, before, after, wakefulness):
    system = phones.add().system
    system.screen(wakefulness)
    path = system.root / "settings" / "global.stay_on_while_plugged_in"
    path.unlink() if before is None else path.write_text(before)
    link = Link(Adb(), phones.phones[0].serial)

    def interrupted():
        with kept_awake(link, wakefulness == "Awake"):
            assert system.setting("global.stay_on_while_plugged_in") == "7"
            assert "Awake" in system.state("power").read_text()
            link.adb.stop.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert system.setting("global.stay_on_while_plugged_in") == after
    assert f"mWakefulness={wakefulness}" in system.state("power").read_text()


def test_settings_of_a_phone_that_went_away_are_named(phones):
    phone = phones.add()
    with pytest.raises(DeviceError, match="its screen may stay on") as caught, kept_awake(Link(Adb(), phone.serial), True):
        phone.disappear()
    assert caught.value.hint == f"adb -s {phone.serial} shell settings put global stay_on_while_plugged_in 0"


def test_devices_without_any(phones):
    result = devices()
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("adb sees no phone: connect a phone by cable with USB debugging on")
    assert len(result.stderr.splitlines()) == 1
    result = devices("--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"devices": []})


def test_devices(phones):
    good, hot, strange = phones.add(), phones.add(), phones.add(Faults(unauthorized=True))
    hot.system.thermal(status=4)
    hot.system.property("ro.product.model", "Pan 2")
    result = devices("--json")
    assert result.exit_code == 0, result.output
    found = {one["serial"]: one for one in json.loads(result.stdout)["devices"]}
    assert (found[good.serial]["name"], found[good.serial]["api"], found[good.serial]["big_cores"]) == ("Acme Slab 7", 34, "f0")
    assert found[good.serial]["obstacles"] == []
    assert [o["reason"] for o in found[hot.serial]["obstacles"]] == ["hot"]
    assert [(o["reason"], o["severity"]) for o in found[strange.serial]["obstacles"]] == [("unauthorized", "error")]
    assert found[strange.serial]["android"] is None
    result = devices()
    assert result.exit_code == 0
    for said in ("Acme Pan 2", "thermal status critical", "arm64-v8a", "nothing"):
        assert said in result.stdout
    assert "unlock the phone and allow this computer" in result.stderr


def test_devices_without_adb(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    result = devices("--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert (error["kind"], error["message"]) == ("missing", "adb is not installed")
