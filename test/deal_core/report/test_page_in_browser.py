"""The report in a real Chromium: order, sizes, and what is asked of a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deal_core.evaluation.metrics import FrameScore, MaskEvaluator
from deal_core.evaluation.picture_folder import PictureWriter
from deal_core.evaluation.result import EvaluationResult
from deal_core.report.page import read_run, write_report
from deal_core.structures import ClassList

pytest.importorskip("selenium", reason="selenium is not installed (extra dev)")

from selenium.webdriver.common.by import By

CLASSES = ClassList(("mug", "a class with a long name", "jar"))
FIGURES = {"long name of a run: cams, walk": (0.2, 0.9, 0.4), "b": (0.8, 0.1, 0.6), "c": (0.5, 0.8, 0.55)}
MEAN_ORDER, LOWEST_ORDER, FIRST_ORDER = [0, 2, 1], [1, 0, 2], [0, 2, 1]
WAIT_S = 30


def write_run(folder: Path, name: str, figures: Sequence[float], drawn: Sequence[int]) -> Path:
    """Write an evaluated run with these figures of frames 0, 1, …, and pictures of those drawn."""
    rng = np.random.default_rng(0)
    truth = np.zeros((48, 64), np.uint8)
    truth[8:30, 10:40] = 1
    evaluator = MaskEvaluator(len(CLASSES))
    evaluator.update(np.where(rng.random(truth.shape) < 0.8, truth, 2).astype(np.uint8), truth, "kitchen/0")
    score = evaluator.score(CLASSES, rule="otsu", threshold=0.3)
    frames = tuple(FrameScore(f"kitchen/{index}", figure) for index, figure in enumerate(figures))
    EvaluationResult(name, "kitchen", CLASSES, len(frames), auto=score, per_frame=frames).write(folder)
    image = rng.integers(0, 255, (48, 64, 3), np.uint8)
    with PictureWriter(folder, CLASSES) as pictures:
        for index in drawn:
            pictures.add(frames[index].key, figures[index], image=image, prediction=truth, truth=truth)
    (folder / "history.jsonl").write_text(
        "".join(json.dumps({"step": s, "loss": 1 / (s + 1)}) + "\n" for s in range(9))
    )
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    drawn = {"b": (0, 1)}
    runs = [write_run(folder / str(i), n, f, drawn.get(n, (0, 1, 2))) for i, (n, f) in enumerate(FIGURES.items())]
    return write_report([read_run(run) for run in runs], folder / "report.html").as_uri()


@pytest.fixture
def at_width(browser: Any) -> Iterator[Callable[[int, str], None]]:
    """Show an address at a width of so many pixels, narrower than a window can be, in a scheme of colours."""

    def show(width: int, address: str, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(address)

    yield show
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get("about:blank")


def shown_order(browser: Any) -> list[int]:
    titles = [element.text for element in browser.find_elements(By.CSS_SELECTOR, ".frame h3")]
    return [int(title.removeprefix("kitchen/")) for title in titles]


def test_the_worst_frames_of_the_chosen_run_come_first(browser: Any, at_width: Any, page: str) -> None:
    from selenium.webdriver.support.ui import Select

    at_width(1280, page)
    assert shown_order(browser) == MEAN_ORDER
    order = Select(browser.find_element(By.ID, "order"))
    names = list(FIGURES)
    assert [option.text for option in order.options] == ["the mean of all runs", "the lowest of any run", *names]
    for choice, expected in (
        ("the lowest of any run", LOWEST_ORDER),
        (names[0], FIRST_ORDER),
        ("b", [1, 2, 0]),
        ("the mean of all runs", MEAN_ORDER),
    ):
        order.select_by_visible_text(choice)
        assert shown_order(browser) == expected, choice
    first = browser.find_element(By.CSS_SELECTOR, ".frame")
    assert all(f"{100 * figures[0]:.1f}" in first.text for figures in FIGURES.values())


def test_a_frame_that_one_run_did_not_draw_has_its_figure(browser: Any, at_width: Any, page: str) -> None:
    at_width(1280, page)
    card = next(card for card in browser.find_elements(By.CSS_SELECTOR, ".frame") if "kitchen/2" in card.text)
    assert "no pictures of this run" in card.text and "60.0" in card.text
    assert len(card.find_elements(By.CSS_SELECTOR, ".pic img")) == 2 + 2


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_all_is_legible(browser: Any, at_width: Any, page: str, width: int, scheme: str) -> None:
    at_width(width, page, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ink, paper = browser.execute_script(
        "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    )
    assert _luminance(ink) < _luminance(paper) if scheme == "light" else _luminance(ink) > _luminance(paper)


def test_pictures_are_there_and_grow_on_a_click_without_any_request(browser: Any, at_width: Any, page: str) -> None:
    at_width(1280, page)
    picture = browser.find_element(By.CSS_SELECTOR, ".frame .pic img")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    assert browser.execute_script("return arguments[0].decode().then(() => arguments[0].naturalWidth)", picture) == 64
    picture.click()
    assert "kitchen/0" in browser.find_element(By.CSS_SELECTOR, "dialog p").text
    requested = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [address for address in requested if not address.startswith("data:")] == []


def _luminance(color: str) -> float:
    red, green, blue = (int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])
    return 0.3 * red + 0.6 * green + 0.1 * blue
