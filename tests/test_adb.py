"""The real adb, with virtual phones: commands, transfers, and every way in which a connection fails."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from android_bench.adb import Adb, Answer, Listed, checked_serial, chosen, failure, find, parse_devices, usable
from android_bench.link import Link
from compress.errors import DeviceError, MissingToolError, UsageError
from tests.virtual_phone.faults import Faults

OLD = ("cmd",)  # before Android 7: no exit status, one stream, sync v1


@pytest.fixture(params=["new", "old"])
def link(phones, request):
    phone = phones.add(features=OLD if request.param == "old" else ("shell_v2", "cmd", "stat_v2"))
    return Link(Adb(), phone.serial)


def system(phones):
    return phones.phones[0].system


def test_exit_status_and_streams(phones, link):
    answer = link.shell(["sh", "-c", "echo out; echo err >&2; exit 37"])
    assert answer.code == 37
    if "shell_v2" in phones.phones[0].features:
        assert (answer.out, answer.err) == ("out\n", "err\n")
    else:
        assert answer.out == "out\nerr\n"
    assert link.shell(["sh", "-c", "kill -SEGV $$"]).code == 139
    assert link.shell(["no-such-program"]).code == 127


@pytest.mark.parametrize("word", ["a b", "it's", '"; rm -rf /', "$HOME", "`id`", "*", "tab\there", "new\nline", "é", ""])
def test_words_arrive_as_they_are(phones, word):
    link = Link(Adb(), phones.add().serial)
    assert link.shell(["printf", "%s|", word, "last"]).out == f"{word}|last|"


def test_push_pull_remove(phones, link, tmp_path):
    data = os.urandom(777_777)
    (tmp_path / "odd näme $(x).bin").write_bytes(data)
    link.push(tmp_path / "odd näme $(x).bin", "/data/local/tmp/run1", executable=True)
    there = system(phones).tmp / "run1"
    assert there.read_bytes() == data
    assert there.stat().st_mode & 0o777 == 0o755
    assert link.sha256("/data/local/tmp/run1", len(data)) == hashlib.sha256(data).hexdigest()
    link.pull("/data/local/tmp/run1", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    link.remove("/data/local/tmp/run1")
    link.remove("/data/local/tmp/run1")  # gone already: the same
    assert system(phones).left_behind() == []


def test_an_empty_file_and_a_phone_without_sha256sum(phones, tmp_path):
    link = Link(Adb(), phones.add().serial)
    (tmp_path / "x").write_bytes(b"")
    link.push(tmp_path / "x", "/data/local/tmp/x")
    system(phones).without("sha256sum")
    (tmp_path / "y").write_bytes(b"abc")
    link.push(tmp_path / "y", "/data/local/tmp/y")
    assert (system(phones).tmp / "y").read_bytes() == b"abc"
    for name in "xy":
        link.remove(f"/data/local/tmp/{name}")


@pytest.mark.parametrize("has_tool", [True, False])
def test_a_file_that_arrives_changed_is_refused(phones, tmp_path, has_tool):
    phone = phones.add(Faults(wrong_hash=True))
    if not has_tool:
        phone.system.without("sha256sum", "toybox")
    (tmp_path / "m").write_bytes(b"x" * 5000)
    with pytest.raises(DeviceError, match="m did not arrive as it is here") as caught:
        Link(Adb(), phone.serial).push(tmp_path / "m", "/data/local/tmp/m")
    assert caught.value.reason == "hash"
    assert phone.system.left_behind() == ["m.part"]
    Link(Adb(), phone.serial).remove("/data/local/tmp/m.part")


def test_a_full_phone(phones, tmp_path):
    phone = phones.add(Faults(full_after=100_000))
    (tmp_path / "m").write_bytes(b"x" * 500_000)
    with pytest.raises(DeviceError, match=r"m: no space left on the phone") as caught:
        Link(Adb(), phone.serial).push(tmp_path / "m", "/data/local/tmp/m")
    assert caught.value.reason == "full"
    Link(Adb(), phone.serial).remove("/data/local/tmp/m.part")


def test_a_push_that_is_cut(phones, tmp_path):
    phone = phones.add(Faults(cut_push_after=100_000))
    (tmp_path / "m").write_bytes(b"x" * 500_000)
    with pytest.raises(DeviceError) as caught:
        Link(Adb(), phone.serial).push(tmp_path / "m", "/data/local/tmp/m")
    assert caught.value.reason in ("disconnected", "offline", "not-found"), caught.value
    assert caught.value.exit_code == 1
    assert 0 < (phone.system.tmp / "m.part").stat().st_size < 500_000
    (phone.system.tmp / "m.part").unlink()


def test_a_command_that_is_cut_is_no_success(phones):
    """adb itself ends with 0 here, and says nothing."""
    phone = phones.add(Faults(cut_when_said=b"second"))
    with pytest.raises(DeviceError, match="the connection was lost while sh ran") as caught:
        Link(Adb(), phone.serial).shell(["sh", "-c", "echo first; echo second; echo third"])
    assert caught.value.reason == "disconnected"


def test_a_phone_that_goes_away(phones):
    phone = phones.add()
    link = Link(Adb(), phone.serial)
    assert link.read(["echo", "here"]) == "here"
    phone.disappear()
    deadline = time.monotonic() + 10
    reason = ""
    while reason not in ("not-found", "offline") and time.monotonic() < deadline:
        with pytest.raises(DeviceError) as caught:
            link.shell(["true"])
        reason = caught.value.reason
    assert reason in ("not-found", "offline")


def test_a_frozen_phone_costs_no_more_than_the_time_limit(phones):
    phone = phones.add(Faults(frozen=True))
    start = time.monotonic()
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1:\d+: no answer within 0\.7 s") as caught:
        Link(Adb(), phone.serial).shell(["true"], timeout_s=0.7)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - start < 5


def test_a_frozen_phone_comes_back(phones):
    phone = phones.add(Faults(frozen=True))
    link = Link(Adb(), phone.serial)
    with pytest.raises(DeviceError):
        link.shell(["true"], timeout_s=0.5)
    phone.faults = Faults()
    link.restore()
    assert link.read(["echo", "again"]) == "again"


def test_a_phone_that_closes_at_once(phones):
    phone = phones.add(Faults(refuse=True))
    with pytest.raises(DeviceError) as caught:
        Link(Adb(), phone.serial).shell(["true"])
    assert caught.value.reason == "closed"


def test_an_unauthorized_phone(phones):
    phone = phones.add(Faults(unauthorized=True))
    (listed,) = Adb().devices()
    deadline = time.monotonic() + 5
    while listed.state == "authorizing" and time.monotonic() < deadline:
        (listed,) = Adb().devices()
    assert (listed.serial, listed.state) == (phone.serial, "unauthorized")
    with pytest.raises(DeviceError, match="is unauthorized") as caught:
        chosen([listed], None)
    assert "allow this computer" in caught.value.hint
    with pytest.raises(DeviceError) as caught:
        Link(Adb(), phone.serial).shell(["true"])
    assert caught.value.reason == "unauthorized"


def test_an_offline_phone(phones):
    """It takes the connection and never greets; `adb connect` waits ten seconds for it, and we do not."""
    phone = phones.add(Faults(silent=True), connect=False)
    Adb().devices()
    connecting = subprocess.Popen(["adb", "connect", phone.serial], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 5
    listed: list[Listed] = []
    while not listed and time.monotonic() < deadline:
        listed = Adb().devices()
    assert listed[0].state in ("offline", "connecting", "authorizing")
    with pytest.raises(DeviceError) as caught:
        Link(Adb(), phone.serial).shell(["true"], timeout_s=3)
    assert caught.value.reason in ("offline", "unauthorized")
    phones.adb("disconnect", phone.serial)
    connecting.kill()
    connecting.wait()


def test_several_phones_and_none(phones, monkeypatch):
    with pytest.raises(DeviceError, match="adb sees no phone") as caught:
        chosen(Adb().devices(), None)
    assert (caught.value.reason, "adb connect" in caught.value.hint) == ("none", True)
    one, two = phones.add(), phones.add()
    listed = Adb().devices()
    assert {phone.serial for phone in listed} == {one.serial, two.serial}
    assert all(phone.details["model"] == "Slab_7" for phone in listed)
    with pytest.raises(UsageError, match="adb sees 2 phones"):
        chosen(listed, None)
    assert chosen(listed, two.serial).serial == two.serial
    monkeypatch.setenv("ANDROID_SERIAL", one.serial)
    assert chosen(listed, None).serial == one.serial
    with pytest.raises(DeviceError, match="emulator-5554: adb sees no such phone") as caught:
        chosen(listed, "emulator-5554")
    assert caught.value.reason == "not-found"


def test_twelve_commands_at_once(phones):
    link = Link(Adb(), phones.add().serial)
    said: dict[int, str] = {}
    threads = [threading.Thread(target=lambda n=n: said.update({n: link.read(["echo", str(n)])})) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {n: str(n) for n in range(12)}


def test_a_stop_ends_what_runs(phones):
    stop = threading.Event()
    link = Link(Adb(stop=stop), phones.add().serial)
    threading.Timer(0.5, stop.set).start()
    start = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        link.shell(["sleep", "5"], timeout_s=60)
    assert (caught.value.reason, time.monotonic() - start < 4) == ("stopped", True)
    assert Link(link.adb.without_stop(), link.serial).read(["echo", "still"]) == "still"


def test_endless_output_is_stopped(phones):
    with pytest.raises(DeviceError, match="said more than 32 MiB") as caught:
        Link(Adb(), phones.add().serial).shell(["yes", "x" * 4000], timeout_s=60)
    assert caught.value.reason == "flood"


def test_no_adb(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingToolError, match="adb is not installed") as caught:
        Adb()
    assert "apt install adb" in caught.value.hint
    sdk = tmp_path / "platform-tools" / "adb"
    sdk.parent.mkdir()
    sdk.write_text("#!/bin/sh\n")
    sdk.chmod(0o755)
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    assert find() == str(sdk)


def test_a_server_that_cannot_start(phones, monkeypatch, tmp_path):
    monkeypatch.setenv("ADB_SERVER_SOCKET", f"localfilesystem:{tmp_path}/no/such/folder/x.sock")
    with pytest.raises(DeviceError, match="adb's server cannot be started") as caught:
        Adb().devices()
    assert caught.value.reason == "server"


LISTING = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
0A041FDD4003BM         device usb:1-2 product:oriole model:Pixel_6 device:oriole transport_id:3
192.168.1.5:5555       offline product:x model:y device:z transport_id:9
adb-R5CT-abc._adb-tls-connect._tcp unauthorized transport_id:4
ce0117\tno permissions (user in plugdev group; are your udev rules wrong?); see [http://x.y/device.html] usb:3-1
emulator-5554\trecovery

"""


def test_every_state_is_read_and_said():
    found = parse_devices(LISTING)
    assert [(phone.serial, phone.state) for phone in found] == [
        ("0A041FDD4003BM", "device"),
        ("192.168.1.5:5555", "offline"),
        ("adb-R5CT-abc._adb-tls-connect._tcp", "unauthorized"),
        ("ce0117", "no permissions"),
        ("emulator-5554", "recovery"),
    ]
    assert found[0].details == {"usb": "1-2", "product": "oriole", "model": "Pixel_6", "device": "oriole", "transport_id": "3"}
    reasons = []
    for phone in found[1:]:
        with pytest.raises(DeviceError) as caught:
            usable(phone)
        reasons.append(caught.value.reason)
        assert phone.serial in caught.value.message
        assert caught.value.hint
    assert reasons == ["offline", "unauthorized", "no-permissions", "recovery"]
    assert parse_devices("") == parse_devices("List of devices attached\n\n") == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set", "unauthorized"),
        ("adb: device offline", "offline"),
        ("error: device '1' not found", "not-found"),
        ("adb: no devices/emulators found", "not-found"),
        ("error: insufficient permissions for device: user in plugdev group", "no-permissions"),
        ("error: protocol fault (couldn't read status): Success", "protocol"),
        ("error: closed", "closed"),
        ("adb: error: failed to copy 'a' to 'b': remote write failed: No space left on device", "full"),
        ("adb: error: failed to copy 'a' to 'b': remote couldn't create file: Read-only file system", "refused"),
        ("adb: error: failed to copy 'a' to 'b': couldn't read from device", "disconnected"),
        ("error: cannot connect to daemon at tcp:5037: Connection refused", "server"),
        ("adb: error: something nobody has seen", "adb"),
        ("", "adb"),
    ],
)
def test_what_adb_says_has_a_name(said, reason):
    error = failure(Answer(1, "", said), "ABC")
    assert (error.reason, error.message.startswith("ABC: ")) == (reason, True)
    assert error.to_json()["error"] == {"kind": "device", "message": error.message, "hint": error.hint, "reason": reason}


@pytest.mark.parametrize("serial", ["-s", "", "a b", "x\ny", "a;b", "$(id)", "x" * 300])
def test_odd_serials_are_refused(serial):
    with pytest.raises(UsageError, match="is no serial number"):
        checked_serial(serial)


def test_odd_names_on_the_phone_are_our_mistake():
    link = Link(Adb("adb"), "x1")
    for name in ("/data/local/tmp", "/data/local/tmp/", "/data/local/tmp/..", "/sdcard/x", "/data/local/tmp/a b"):
        with pytest.raises(ValueError, match="not ours to remove"):
            link.remove(name)
    for name in ("relative", "/a b", "/a/../b", "/a'b"):
        with pytest.raises(ValueError, match="no name for a file"):
            link.push(Path(__file__), name)
