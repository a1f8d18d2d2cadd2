"""The tagging page, in a real Chromium against the real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deal_core.audit.result import Audit, WrongTag, WrongTags
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.taps import Box, Mark, Tap
from deal_core.structures import ClassList
from deal_core.tagging.store import ABSENT, PRESENT, UNKNOWN, states_of

pytest.importorskip("fastapi", reason="fastapi is not installed (extra tag)")
webdriver: Any = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra dev)")

from helpers.browser import NEEDS_CHROMIUM, WAIT_S, Browser  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CLASSES = ClassList(("mug", "pepper mill", "jar"))
MakeDataset = Callable[..., Path]

pytestmark = NEEDS_CHROMIUM


class Page(Browser):
    """`deal tag` as a process, and a browser whose tabs show it."""

    def __init__(self, driver: Any) -> None:
        super().__init__(driver)
        self.server: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self, dataset: Path, port: str = "0", *options: str) -> None:
        command = [sys.executable, "-m", "training.cli", "tag", str(dataset), "--port", port, *options]
        self.server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.server.stderr
        # What a killed server left is named first.
        told = iter(self.server.stderr.readline, "")
        said = next((line for line in told if "removed" not in line), "")
        assert "open http" in said, said
        self.address = said.partition("open ")[2].split()[0]

    def stop(self, how: int = signal.SIGINT) -> None:
        if self.server and self.server.poll() is None:
            os.kill(self.server.pid, how)
            self.server.communicate(timeout=WAIT_S)

    def open(self) -> None:
        self.browser.get(self.address)
        self.until(lambda: self.text("saved") == "✓ saved")

    def cell(self, frame: int) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, f'[data-frame="{frame}"]')

    def until_saved(self) -> None:
        self.until(lambda: self.run("queue.length === 0 && !sending"))

    def stage(self, frame: int, label: int) -> None:
        """Open a frame and choose the class that taps are for."""
        self.run(f"(() => {{ openFrame({frame}); hold({label}); }})()")
        self.until(lambda: self.run("el('marks').viewBox.baseVal.width") > 0)

    def at(self, x: int, y: int) -> tuple[float, float]:
        """The place in the window of a pixel of the open frame, of 32 x 24."""
        room = self.run(
            "(() => { const r = el('canvas').getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })()"
        )
        return room[0] + (x + 0.5) / 32 * room[2], room[1] + (y + 0.5) / 24 * room[3]

    def drag(self, *places: tuple[int, int]) -> None:
        """Press the mouse at the first pixel and release it at the last one."""
        actions = webdriver.ActionChains(self.browser, duration=0)
        moves = [tuple(round(value) for value in self.at(*place)) for place in places]
        actions.w3c_actions.pointer_action.move_to_location(*moves[0])
        actions.w3c_actions.pointer_action.pointer_down()
        for move in moves[1:]:
            actions.w3c_actions.pointer_action.move_to_location(*move)
        actions.w3c_actions.pointer_action.pointer_up()
        actions.perform()

    def touch(self, *places: tuple[int, int]) -> None:
        """Put a finger on the first pixel, and lift it at the last one."""
        for kind, at in (
            ("touchStart", places[0]),
            *(("touchMove", place) for place in places[1:]),
            ("touchEnd", None),
        ):
            points = [] if at is None else [dict(zip("xy", self.at(*at), strict=True))]
            self.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    shown = Page(browser)
    yield shown
    shown.close_tabs()
    shown.stop()


def on_disk(path: Path) -> np.ndarray:
    return states_of([frame.tags for frame in Dataset.open(path).frames], CLASSES)


def marks_on_disk(path: Path) -> list[set[Mark]]:
    return [set(frame.marks) for frame in Dataset.open(path).frames]


def test_taps_and_boxes_of_mouse_and_finger_are_on_disk(page: Page, make_dataset: MakeDataset) -> None:
    path = make_dataset(2)
    page.start(path)
    page.open()
    page.stage(0, 0)
    page.drag((5, 7))
    page.until_saved()
    assert marks_on_disk(path) == [{Tap("mug", 5, 7)}, set()]
    assert on_disk(path)[0].tolist() == [PRESENT, UNKNOWN, UNKNOWN], "a tap says that the class is there"
    page.until(lambda: page.run("el('stage').dataset.seconds"))  # the mask is shown
    assert page.run("el('mask').naturalWidth") == 32
    page.press("2")
    page.drag((20, 15), (15, 10), (10, 9))
    page.press("q")
    page.touch((1, 2))
    page.press("q", "3")
    page.touch((30, 20))
    page.touch((4, 4), (6, 6), (9, 12))
    page.until_saved()
    box, wrong, tap, other = (
        Box("pepper mill", 10, 9, 21, 16),
        Tap("pepper mill", 1, 2, False),
        Tap("jar", 30, 20),
        Box("jar", 4, 4, 10, 13),
    )
    assert marks_on_disk(path)[0] == {Tap("mug", 5, 7), box, wrong, tap, other}
    assert page.run("el('marks').childElementCount") == 5
    page.press("u", "u")
    page.until_saved()
    assert marks_on_disk(path)[0] == {Tap("mug", 5, 7), box, wrong}
    assert on_disk(path)[0].tolist() == [PRESENT, PRESENT, UNKNOWN]
    page.browser.find_element(By.ID, "clear").click()
    page.until_saved()
    assert marks_on_disk(path) == [set(), set()]
    page.chord(Keys.CONTROL, "z")
    page.press(Keys.ARROW_RIGHT)
    page.until_saved()
    assert marks_on_disk(path)[0] == {Tap("mug", 5, 7), box, wrong}
    assert page.run("staged") == 1 and page.run("el('marks').childElementCount") == 0
    page.press(Keys.ESCAPE)
    assert not page.browser.find_element(By.ID, "stage").is_displayed()


@pytest.mark.slow
def test_taps_of_two_tabs_are_both_kept_and_shown(page: Page, make_dataset: MakeDataset) -> None:
    path = make_dataset(2)
    page.start(path)
    page.open()
    first = page.browser.current_window_handle
    page.stage(0, 0)
    page.browser.switch_to.new_window("tab")
    page.open()
    page.stage(0, 0)
    page.drag((5, 7))
    page.until_saved()
    page.browser.switch_to.window(first)
    page.drag((9, 9))
    page.until_saved()
    assert marks_on_disk(path)[0] == {Tap("mug", 5, 7), Tap("mug", 9, 9)}
    page.until(lambda: page.run("el('marks').childElementCount") == 2)
    page.press("u")  # one's own tap, not that of the other tab
    page.until_saved()
    assert marks_on_disk(path)[0] == {Tap("mug", 5, 7)}


@pytest.mark.slow
def test_taps_outlive_a_server_that_is_killed_while_they_are_saved(page: Page, make_dataset: MakeDataset) -> None:
    path = make_dataset(2)
    page.start(path)
    page.open()
    port = page.run("location.port")
    page.stage(1, 2)
    page.drag((3, 3))
    page.stop(signal.SIGKILL)  # saved or not: the page knows
    page.drag((20, 11), (25, 18))
    page.until(lambda: page.text("saved") == "✗ not saved")
    page.start(path, port)
    page.until(lambda: page.text("saved") == "✓ saved")
    assert marks_on_disk(path)[1] == {Tap("jar", 3, 3), Box("jar", 20, 11, 26, 19)}
    assert on_disk(path)[1].tolist() == [UNKNOWN, UNKNOWN, PRESENT]


def test_what_the_keyboard_says_is_on_disk(page: Page, make_dataset: MakeDataset) -> None:
    path = make_dataset(6, 2)
    page.start(path)
    page.open()
    assert page.text("count") == "0 of 8 tagged"
    page.until(lambda: page.run("document.querySelector('.cell img').naturalWidth") > 0)

    page.press(Keys.ARROW_RIGHT, "1", "2", "2")  # the first frame: mug present, pepper mill absent
    page.until_saved()
    assert on_disk(path)[0].tolist() == [PRESENT, ABSENT, UNKNOWN]
    page.press("x", "c")  # the rest absent; the same in the rest of the segment, which has four frames
    page.until_saved()
    assert (on_disk(path)[:4] == [PRESENT, ABSENT, ABSENT]).all()
    assert (on_disk(path)[4:] == UNKNOWN).all()
    assert page.text("count") == "4 of 8 tagged"

    page.chord(Keys.CONTROL, "a")
    page.press("3")
    page.until_saved()
    assert (on_disk(path)[:4, 2] == UNKNOWN).all() and page.text("count") == "0 of 8 tagged"
    page.press("u")
    page.chord(Keys.CONTROL, "z")  # the copy, too
    page.until_saved()
    assert on_disk(path).tolist() == [[PRESENT, ABSENT, ABSENT], *[[UNKNOWN] * 3] * 7]

    page.press("f", Keys.ARROW_RIGHT)
    page.chord(Keys.SHIFT, Keys.ARROW_RIGHT)
    page.press("1")
    page.until_saved()
    assert on_disk(path)[:, 0].tolist() == [PRESENT, PRESENT, PRESENT, *[UNKNOWN] * 5]


def test_what_a_finger_or_mouse_says_is_on_disk(page: Page, make_dataset: MakeDataset) -> None:
    path = make_dataset(6)
    page.start(path)
    page.open()
    page.cell(1).find_elements(By.CLASS_NAME, "chip")[1].click()
    page.cell(2).find_element(By.CLASS_NAME, "shot").click()
    webdriver.ActionChains(page.browser).key_down(Keys.SHIFT).click(
        page.cell(4).find_element(By.CLASS_NAME, "shot")
    ).key_up(Keys.SHIFT).perform()
    page.browser.find_elements(By.CSS_SELECTOR, "#classes .chip")[0].click()
    page.until_saved()
    expected = np.full((6, 3), UNKNOWN)
    expected[1, 1] = expected[2:5, 0] = PRESENT
    assert (on_disk(path) == expected).all()


@pytest.mark.slow
def test_two_tabs_are_merged_and_told(page: Page, make_dataset: MakeDataset) -> None:
    path = make_dataset(4)
    page.start(path)
    page.open()
    first = page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    second = page.browser.current_window_handle
    page.open()
    page.run("(() => { poll = () => {}; })()")  # this tab hears of nothing by itself
    page.browser.switch_to.window(first)
    page.press(Keys.ARROW_RIGHT, "1")
    page.until_saved()
    page.browser.switch_to.window(second)
    page.run("(() => { change([[0, 0, 0], [0, 2, 1]]); })()")  # what it still takes for unknown
    page.until_saved()
    assert "changed mug in 1 frame" in page.text("say")
    assert on_disk(path)[0].tolist() == [PRESENT, UNKNOWN, PRESENT]
    assert page.run("states[0]") == [PRESENT, UNKNOWN, PRESENT]
    page.browser.switch_to.window(first)
    page.until(lambda: page.run("states[0]") == [PRESENT, UNKNOWN, PRESENT])  # it asks what others did


@pytest.mark.slow
def test_edits_outlive_a_server_that_is_killed(page: Page, make_dataset: MakeDataset) -> None:
    path = make_dataset(4)
    page.start(path)
    page.open()
    port = page.run("location.port")
    page.press(Keys.ARROW_RIGHT, "1")
    page.until_saved()
    page.stop(signal.SIGKILL)
    assert on_disk(path)[0, 0] == PRESENT
    page.press("2")
    page.until(lambda: page.text("saved") == "✗ not saved")
    assert on_disk(path)[0, 1] == UNKNOWN
    page.start(path, port)
    page.until(lambda: page.text("saved") == "✓ saved")
    assert on_disk(path)[0].tolist() == [PRESENT, PRESENT, UNKNOWN]


@pytest.mark.slow
def test_ten_thousand_frames_stay_few_elements(page: Page, make_dataset: MakeDataset) -> None:
    path = make_dataset(10_000)
    page.start(path)
    page.open()
    assert page.text("count") == "0 of 10,000 tagged"
    assert 1 < page.run("document.querySelectorAll('.cell').length") < 80
    page.run("(() => { const grid = document.getElementById('grid'); grid.scrollTop = grid.scrollHeight; })()")
    page.until(lambda: page.browser.find_elements(By.CSS_SELECTOR, '[data-frame="9999"]'))
    assert page.cell(9999).is_displayed()
    assert page.run("document.querySelectorAll('#grid *').length") < 3000
    page.press(Keys.HOME, Keys.END, "1")
    page.until_saved()
    assert on_disk(path)[:, 0].tolist() == [*[UNKNOWN] * 9999, PRESENT]


FOREIGN = """<script>
async function attack(page) {
  const found = [];
  const attempt = async (name, act) => { if (await act().then(() => true, () => false)) found.push(name); };
  const load = (kind, source) => new Promise((done, failed) => {
    const element = Object.assign(document.createElement(kind), {src: source, onload: done, onerror: failed});
    document.body.append(element);
  });
  const edits = page + "edits", read = options => fetch(page + "frames", options).then(answer => answer.text());
  const send = (type, body, mode) => fetch(edits, {method: "POST", mode, headers: {"Content-Type": type}, body});
  const edit = JSON.stringify({session: "", tagger: "t", seen: 0, changes: [[0, 0, 1]]});
  await attempt("read", () => read({}));
  await attempt("read with cookies", () => read({credentials: "include"}));
  await attempt("image", () => load("img", page + "thumbnails/0.jpg"));
  await attempt("script", () => load("script", page + "common.js"));
  await attempt("JSON", () => send("application/json", edit, "cors"));
  await attempt("socket", () => new Promise((done, failed) => {
    Object.assign(new WebSocket(edits.replace("http", "ws")), {onopen: done, onerror: failed});
  }));
  for (const type of ["text/plain", "application/x-www-form-urlencoded"]) {
    await send(type, edit, "no-cors").catch(() => {});
  }
  navigator.sendBeacon(edits, edit);
  const large = new Blob([new Uint8Array(50e6)]);
  await Promise.all(Array.from({length: 20}, () => send("text/plain", large, "no-cors").catch(() => {})));
  return found;
}
</script><body>"""


class Foreign(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(FOREIGN.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])  # another site, and another port of this one
def test_a_page_of_another_origin_can_neither_read_nor_write_nor_exhaust(
    page: Page, make_dataset: MakeDataset, name: str
) -> None:
    path = make_dataset(6)
    page.start(path)
    page.open()  # the person who is attacked has it open
    assert page.server
    before = largest_memory(page.server.pid)
    with ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as foreign:
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        page.browser.switch_to.new_window("tab")
        page.browser.get(f"http://{name}:{foreign.server_port}/")
        page.browser.set_script_timeout(WAIT_S)
        assert page.run(f"attack('{page.address}')") == []
        page.run(f"document.body.append(Object.assign(document.createElement('iframe'), {{src: '{page.address}'}}))")
        page.browser.switch_to.frame(0)
        assert page.browser.find_elements(By.ID, "grid") == [], "it is framed"
        foreign.shutdown()
    assert largest_memory(page.server.pid) - before < 50e6
    assert (on_disk(path) == UNKNOWN).all()
    page.browser.switch_to.default_content()
    page.open()
    page.press(Keys.ARROW_RIGHT, "1")
    page.until_saved()
    assert on_disk(path)[0, 0] == PRESENT, "the page's own requests are answered"


def largest_memory(pid: int) -> int:
    """Return the largest resident memory that a process has had, bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def test_tags_that_look_wrong_are_shown_first(page: Page, make_dataset: MakeDataset, tmp_path: Path) -> None:
    path = make_dataset(3)
    second = Dataset.open(path).frames[1]
    tag = WrongTag("jar", "present", second.recording, second.segment, (second.key,), 0.9)
    audit = Audit(str(path), 3, 1, (), WrongTags((tag,), 9, 1.0, 0.9, 1.0), (), (), (), ())
    audit.write(tmp_path / "audit.json")
    page.start(path, "0", "--audit", str(tmp_path / "audit.json"))
    page.open()
    assert page.run("shown") == [1]
    assert page.run("[...document.querySelectorAll('.cell .chip.suspect')].map(chip => chip.textContent)") == ["jar"]
    page.browser.find_element(By.ID, "suspect").click()
    assert page.run("shown") == [0, 1, 2]
