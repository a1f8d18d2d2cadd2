"""The page beside a running recording: a real Chromium, the real server, and the SDK's own software device."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed (extra tag)")
pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra dev)")
pytest.importorskip("pyrealsense2", reason="pyrealsense2 has no wheel for this machine", exc_type=ImportError)

from helpers.browser import NEEDS_CHROMIUM, WAIT_S, Browser, start_chromium
from helpers.software_camera import SoftwareCamera
from selenium.webdriver.common.by import By

from deal_core.dataset.check import check_recording
from deal_core.recorder.collect import Collected, collect_pairs
from deal_core.recorder.controls import Control, RecorderControls
from deal_core.recorder.live_page import create_live_app
from deal_core.recorder.pair_recorder import PairRecorder, RecorderSettings
from deal_core.recorder.realsense import RealSense, StreamRequest
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.reader import open_recording
from deal_core.recording.writer import TAGS_TOPIC
from deal_core.structures import ClassList, TagState
from deal_core.web.server import Door, ServingThread

CLASSES = ClassList(("mug", "red box", *(f"class {n}" for n in range(3, 13))))
SIZE = (48, 64)
PACE_S = 0.01

pytestmark = NEEDS_CHROMIUM


class Kitchen:
    """A camera that films one pair as soon as the one before was taken, its recorder, and the page's address."""

    def __init__(self, path: Path, open_: ExitStack) -> None:
        self.path, self.given = path, 0
        self.controls: RecorderControls
        self.done: Collected
        self._ended, self._taken, self._began = threading.Event(), threading.Semaphore(1), threading.Event()
        self._camera, self._open = SoftwareCamera(SIZE), open_
        self.door = open_.enter_context(Door("127.0.0.1", 0))
        self._threads = [threading.Thread(target=act) for act in (self._record, self._film)]
        for thread in self._threads:
            thread.start()
        open_.callback(self.end)
        assert self._began.wait(WAIT_S)
        app = partial(create_live_app, self.controls, "deal collect", self.door.token)
        open_.enter_context(ServingThread(app, self.door))

    def end(self) -> Collected:
        self._ended.set()
        return self.ended()

    def ended(self) -> Collected:
        """Wait until somebody has ended it."""
        for thread in self._threads:
            thread.join(WAIT_S)
        return self.done

    def film(self, pairs: int) -> None:
        """Wait until so many more were given and written."""
        counts = self.controls.recorder.state.counts
        until(lambda: self.controls.recorder.state.counts.written >= counts.written + pairs)

    def tags(self) -> list[dict[str, Any]]:
        with open_recording(self.path) as found:
            return [json.loads(MessageDecoder().text(m.data)) for m in found.messages([TAGS_TOPIC])]

    def _film(self) -> None:
        random = np.random.default_rng(0)
        while not self._ended.is_set():
            if self.given < 2 or self._taken.acquire(timeout=0.1):
                self.given += 1
                color = random.integers(0, 256, (*SIZE, 3), np.uint8)
                depth = random.integers(300, 4000, SIZE, np.uint16)
                self._camera.give(self.given, color, depth)
                time.sleep(PACE_S)

    def _record(self) -> None:
        def begin(recorder: PairRecorder) -> None:
            ends = lambda source: self._ended.set() or "the recording ends"  # noqa: E731
            end = Control("end", "q", "end the recording", ends, ends=True)
            self.controls = RecorderControls(recorder, [end])
            self._began.set()

        with RealSense(self._camera.device, StreamRequest(SIZE[1], SIZE[0], 30)) as source:
            settings = RecorderSettings(CLASSES, rate_hz=0, tag_guard_s=0.0, planned_minutes=0)
            self.done = collect_pairs(
                source,
                lambda: PairRecorder(settings, TagState()),
                self.path,
                is_stopped=self._ended.is_set,
                on_start=begin,
                on_pair=self._taken.release,
            )


class Tab(Browser):
    """What a person does on the page."""

    def open(self, address: str) -> None:
        self.browser.get(address)
        self.until(lambda: self.text("now") == "recording" and self.picture_width() > 0)

    def tap(self, selector: str, number: int = 0) -> None:
        self.browser.find_elements(By.CSS_SELECTOR, selector)[number].click()

    def states(self) -> list[int]:
        return [int(chip.get_attribute("data-state")) for chip in self.browser.find_elements(By.CLASS_NAME, "chip")]

    def until_states(self, *first: int) -> None:
        self.until(lambda: self.states()[: len(first)] == list(first))

    def picture_width(self) -> int:
        return int(self.run("document.getElementById('picture').naturalWidth"))


def until(is_true: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def kitchen(tmp_path: Path) -> Iterator[Kitchen]:
    with ExitStack() as open_:
        yield Kitchen(tmp_path / "kitchen", open_)


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    yield (shown := Tab(browser))
    shown.close_tabs()


@pytest.mark.slow
def test_what_is_tapped_is_recorded_as_if_by_key(kitchen: Kitchen, tab: Tab) -> None:
    tab.open(kitchen.door.address)
    assert tab.states() == [-1] * 12 and tab.text("name") == "kitchen"
    # A press in the program's terminal, and a tap: the same entry but for who said it.
    kitchen.controls.press("1", "keyboard")
    tab.until_states(1, -1)
    kitchen.film(5)
    before_ns = kitchen.controls.recorder.latest.color.stamp_ns  # type: ignore[union-attr]
    tab.tap(".chip", 1)
    tab.until_states(1, 1)
    after_ns = kitchen.controls.recorder.latest.color.stamp_ns  # type: ignore[union-attr]
    kitchen.film(5)
    tab.tap("[data-marker=complete]")
    tab.until_states(1, 1, 0, 0)
    tab.press("1", "3")
    tab.until_states(0, 1, 1, 0)
    tab.tap(".chip", 11)  # a class beyond the keys
    tab.until(lambda: tab.states()[11] == 1)
    tab.press("i")
    tab.until(lambda: "nothing is labelled now" in tab.text("hint"))
    tab.press("i")
    tab.until(lambda: tab.text("hint") == "")
    kitchen.film(3)
    tab.press("n")
    tab.until(lambda: "a new segment begins" in tab.text("say"))
    kitchen.film(5)
    tab.press("u")
    tab.until(lambda: "discarded the last segment" in tab.text("say"))
    kitchen.film(1)
    tab.tap("[data-name=end]")
    kitchen.film(3)  # a finger that slips ends nothing
    tab.tap("[data-name=end]")
    done = kitchen.ended()
    assert (done.failure, done.summary.loss) == ("", 0) and done.summary.counts.written >= 20
    assert check_recording(kitchen.path).errors == []

    said = kitchen.tags()
    by_key = next(tags for tags in said if tags["source"] == "keyboard")
    by_page = [tags for tags in said if tags["source"] == "page"]
    assert by_key["present"] == ["mug"] and by_page[0]["present"] == ["mug", "red box"]
    assert by_key.keys() == by_page[0].keys()
    assert before_ns <= by_page[0]["stamp_ns"] <= after_ns + 10**9
    named = [(tags["present"], tags["marker"]) for tags in by_page]
    rest = ["class 12", "class 3", "red box"]
    assert named[1:8] == [
        (["mug", "red box"], "complete"),
        (["red box"], "complete"),
        (["class 3", "red box"], "complete"),
        (rest, "complete"),
        (rest, "ignore"),
        (rest, "complete"),
        (rest, "complete"),  # the next segment
    ]
    assert [tags["marker"] for tags in said if tags["source"] == "discard"] == ["ignore"]


def test_two_tabs_show_the_same(kitchen: Kitchen, tab: Tab) -> None:
    tab.open(kitchen.door.address)
    first = tab.browser.current_window_handle
    tab.browser.switch_to.new_window("tab")
    tab.open(kitchen.door.address)
    tab.press("1", "2")
    tab.until_states(1, 1)
    tab.browser.switch_to.window(first)
    tab.until_states(1, 1)
    # Both tap the same button before they hear of each other: both mean the same.
    tab.run("(() => { toggle(0); toggle(0); })()")
    tab.until_states(-1, 1)
    assert kitchen.controls.recorder.state.tags.present == ("red box",)
    # An answer that was overtaken changes nothing.
    tab.run("(() => { take({...now, number: now.number - 1, states: now.states.map(() => 1)}); })()")
    assert tab.states()[:2] == [-1, 1]


def test_recording_goes_on_without_its_browser(kitchen: Kitchen, tmp_path: Path) -> None:
    driver = start_chromium(tmp_path / "profile")
    try:
        tab = Tab(driver)
        tab.open(kitchen.door.address)
        tab.press("1")
        tab.until_states(1)
        for pid in (driver.capabilities["goog:processID"], driver.service.process.pid):
            os.kill(pid, signal.SIGKILL)
    finally:
        driver.service.process.wait()
    kitchen.film(20)
    done = kitchen.end()
    assert (done.failure, done.summary.loss) == ("", 0)
    assert done.summary.tags["mug"].present >= 20


def test_browsers_that_do_not_read_cost_no_pair(kitchen: Kitchen) -> None:
    address = kitchen.door.socket.getsockname()
    with ExitStack() as open_:
        for path in ("picture.jpg", "state") * 4:
            slow = open_.enter_context(socket.create_connection(address))
            slow.settimeout(1)
            request = f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
            with suppress(TimeoutError):  # nobody reads more of it
                slow.sendall(request * 2000)
        kitchen.film(100)
    done = kitchen.end()
    assert (done.failure, done.summary.loss, done.summary.counts.dropped) == ("", 0, 0)
    assert done.summary.counts.written >= kitchen.given - 2  # the SDK keeps the first; the last may come too late
