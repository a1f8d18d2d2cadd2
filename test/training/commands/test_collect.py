"""`deal collect` from the command line, on the SDK's software device: what it prints, what it leaves, its exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rs = pytest.importorskip("pyrealsense2", reason="pyrealsense2 has no wheel for this machine", exc_type=ImportError)

from helpers.software_camera import SoftwareCamera  # noqa: E402

from deal_core.dataset.check import check_recording  # noqa: E402
from deal_core.recording.image_messages import MessageDecoder  # noqa: E402
from deal_core.recording.reader import open_recording  # noqa: E402
from deal_core.recording.writer import TAGS_TOPIC  # noqa: E402

Deal = Callable[..., Any]
SIZE = (48, 64)
COMMAND = ("--classes", "mug,kettle", "--tags", "mug", "--width", "64", "--height", "48", "--keyframes", "0")
WAIT_S = 60


class Plugged:
    """A camera that films as soon as somebody takes its images."""

    def __init__(self) -> None:
        self.camera, self.pairs = SoftwareCamera(SIZE), 1_000_000
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._film)
        self.thread.start()

    def _film(self) -> None:
        color, depth = np.zeros((*SIZE, 3), np.uint8), np.full(SIZE, 700, np.uint16)
        number = 0
        while not self.is_over.wait(0.02):
            if number < self.pairs:
                number += 1
                self.camera.give(number, color, depth)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugged]:
    found = Plugged()
    offer(monkeypatch, found.camera.device)
    yield found
    found.is_over.set()
    found.thread.join()


def offer(monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    monkeypatch.setattr(rs, "context", lambda: SimpleNamespace(query_devices=lambda: [device]))


def tags_of(path: Path) -> list[tuple[str, list[str]]]:
    with open_recording(path) as found:
        said = [json.loads(MessageDecoder().text(m.data)) for m in found.messages([TAGS_TOPIC])]
    return [(tags["source"], tags["present"]) for tags in said]


def test_a_time_is_recorded_and_summed_up(deal: Deal, plugged: Plugged, tmp_path: Path) -> None:
    done = deal("collect", tmp_path / "kitchen", *COMMAND, "--duration", "1", "--json", "--max-loss", "1")
    summary = json.loads(done.stdout)
    assert done.returncode == 0 and summary["failure"] == "" and summary["path"] == str(tmp_path / "kitchen")
    report = check_recording(tmp_path / "kitchen")
    assert report.errors == [] and report.pairs == summary["counts"]["written"] > 10
    done = deal("collect", tmp_path / "kitchen", *COMMAND)
    assert done.returncode == 1 and "exists already: choose another name" in done.stderr


def test_keys_say_what_is_visible_and_end_it(
    deal: Deal, plugged: Plugged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Keys:
        """A terminal at which somebody presses these as soon as it listens."""

        def __init__(self, on_key: Callable[[str], object]) -> None:
            for key in "2xnkq":
                on_key(key)

        is_there = staticmethod(lambda: True)

        def close(self) -> None:
            pass

    monkeypatch.setattr("deal_core.recorder.terminal_keys.TerminalKeys", Keys)
    done = deal("collect", tmp_path / "kitchen", *COMMAND, "--max-loss", "1")
    assert done.returncode == 0, done.stderr
    assert "keys: 1 mug, 2 kettle, c clear" in done.stderr and "q end the recording" in done.stderr
    said = tags_of(tmp_path / "kitchen")
    assert said[0] == ("start", ["mug"])
    assert [tags for tags in said if tags[0] == "keyboard"] == [("keyboard", ["kettle", "mug"])] * 2


def test_the_page_is_there_until_it_ends_the_recording(deal: Deal, plugged: Plugged, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed (extra tag)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, heard = f"http://127.0.0.1:{port}", []

    def ask(path: str, body: dict[str, str] | None = None, **headers: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address + path, data, {"Content-Type": "application/json", **headers})
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return json.loads(answer.read())

    def visit() -> None:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end and not heard:
            try:
                heard.append(ask("/session"))
            except OSError:  # it does not listen yet
                time.sleep(0.05)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask("/state", Host="evil.example")
        with pytest.raises(urllib.error.HTTPError, match="410"):
            ask("/act", {"session": "of before", "tags": "+kettle"})
        for wish in ({"tags": "+kettle"}, {"name": "end"}):
            heard.append(ask("/act", {"session": heard[0]["session"], **wish}))

    visitor = threading.Thread(target=visit)
    visitor.start()
    page = ("--page", "--port", str(port), "--max-loss", "1", "--json")
    done = deal("collect", tmp_path / "kitchen", *COMMAND, *page)
    visitor.join()
    assert done.returncode == 0 and f"page: open {address}/" in done.stderr, done.stderr
    assert [answer["said"] for answer in heard[1:]] == ["tags: kettle, mug (partial)", "the recording ends"]
    assert ("page", ["kettle", "mug"]) in tags_of(tmp_path / "kitchen")
    with pytest.raises(OSError, match="refused"):
        ask("/state")


@pytest.mark.slow
def test_what_was_recorded_until_the_camera_fell_silent_is_kept(deal: Deal, plugged: Plugged, tmp_path: Path) -> None:
    plugged.pairs = 40
    done = deal("collect", tmp_path / "kitchen", *COMMAND, "--max-loss", "1")
    assert done.returncode == 1 and "unplugged" in done.stderr
    assert f"what was recorded is kept in {tmp_path / 'kitchen'}" in done.stderr.replace("\n", "")
    assert check_recording(tmp_path / "kitchen").pairs > 0


class Refusing:
    """A device of the SDK whose sensors do not open, as the SDK says it."""

    def __init__(self, inner: Any, reason: str) -> None:
        self._inner, self._reason = inner, reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def query_sensors(self) -> list[Any]:
        return [Refusing(sensor, self._reason) for sensor in self._inner.query_sensors()]

    def open(self, profiles: Any) -> None:
        raise RuntimeError(self._reason)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("xioctl(VIDIOC_S_FMT) failed, errno=16 Last Error: Device or resource busy", "used by another program"),
        ("failed to claim usb interface: 0, error: RS2_USB_STATUS_BUSY", "close other programs that use it"),
        ("failed to open usb interface: 0, error: RS2_USB_STATUS_ACCESS", "99-realsense-libusb.rules"),
        ("Cannot open '/dev/video2 Last Error: Permission denied", "may not be opened by this user"),
        (
            "failed to set power state",
            "close other programs that use it, such as realsense-viewer or a ROS driver; if no other program uses it",
        ),
        ("xioctl(VIDIOC_S_FMT) failed, errno=5 Last Error: Input/output error", "plug it in again, into a USB 3 port"),
    ],
)
@pytest.mark.parametrize("when", ["listed", "opened"])
def test_a_camera_that_does_not_open_says_what_to_do(
    deal: Deal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, said: str, when: str
) -> None:
    if when == "opened":
        offer(monkeypatch, Refusing(SoftwareCamera(SIZE).device, reason))
    else:

        def refuse() -> list[Any]:
            raise RuntimeError(reason)

        monkeypatch.setattr(rs, "context", lambda: SimpleNamespace(query_devices=refuse))
    done = deal("collect", tmp_path / "kitchen", *COMMAND)
    text = done.stderr.replace("\n", "")
    assert done.returncode == 1 and reason in text and said in text and "Traceback" not in text
    assert ("Software D435" if when == "opened" else "the camera") in text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(deal: Deal, plugged: Plugged, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file where a folder should be")
    done = deal("collect", tmp_path / "notes" / "kitchen", *COMMAND)
    assert done.returncode == 1 and "kitchen cannot be written (choose a writable folder): " in done.stderr


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read_only"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        if os.geteuid() == 0:
            pytest.skip("this machine lets nobody mount a file system")
        folder.chmod(0o500)
    yield folder
    folder.chmod(0o700) if done.returncode else subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder_is_named(deal: Deal, plugged: Plugged, read_only: Path) -> None:
    done = deal("collect", read_only / "kitchen", *COMMAND)
    assert done.returncode == 1 and "kitchen cannot be written (choose a writable folder): " in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--classes", ","), "--classes"),
        (("--tags", "mugg"), "Did you mean 'mug'"),
        (("--filters", "temporl"), "Did you mean 'temporal'"),
        (("--serial", "1", "--from", "a.db3"), "use one of them"),
        (("--port", "9000"), "add --page, or leave them out"),
        (("--page", "--host", "no.such.host.invalid"), "--host no.such.host.invalid: expected an address"),
    ],
)
def test_wrong_use_exits_with_2(
    deal: Deal, plugged: Plugged, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = deal("collect", tmp_path / "kitchen", *COMMAND, *options)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
