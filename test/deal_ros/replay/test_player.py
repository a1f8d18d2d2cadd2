"""Replaying to a node: every pair is answered or accounted for, and nobody waits in vain."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.structures import RgbdPair
from deal_ros.replay.player import NodeDiagnostics, ReplayError, ReplayOptions, ReplayResult, replay, save_masks_to

pytestmark = pytest.mark.ros
START = 1_600_000_000_000_000_000
MS = 1_000_000


def pairs(count: int, size: tuple[int, int] = (48, 64)) -> list[RgbdPair]:
    rng = np.random.default_rng(0)
    return [
        RgbdPair(START + i * 33 * MS, rng.integers(0, 256, (*size, 3), np.uint8), np.full(size, 900 + i, np.uint16))
        for i in range(count)
    ]


def totals(result: ReplayResult, *keys: str) -> list[int]:
    assert result.diagnostics is not None
    return [int(result.diagnostics.values[key]) for key in keys]


@pytest.fixture(scope="module", autouse=True)
def leaving_node(start_node: Callable[..., Any], pair_node: Any) -> Any:
    """A node that a test stops; it starts together with `pair_node`, because both import torch for seconds."""
    return start_node(depth_mode="off", max_age_ms=0)


@pytest.mark.slow
def test_masks_carry_the_recorded_stamps_and_the_nodes_account_follows(pair_node: Any) -> None:
    masks: dict[int, np.ndarray] = {}
    sent = pairs(3)
    result = replay(
        sent,
        masks.__setitem__,
        domain_id=pair_node.domain,
        is_alive=pair_node.node.is_alive,
        options=ReplayOptions(ready_timeout_s=200),  # the first of the tests that need the nodes to have started
    )
    stamps = tuple(pair.stamp_ns for pair in sent)
    assert result.sent == result.answered == tuple(masks) == stamps and result.lost == ()
    assert len(result.latency_ms) == 3 and min(result.latency_ms) > 0
    assert result.labels == {0: "background", 1: "mug", 2: "drill", 3: "box", 255: "unlabelled"}
    assert result.diagnostics is not None and set(result.diagnostics.messages) == {
        "state",
        "color input",
        "depth input",
        "results",
        "model",
    }
    assert all(mask.shape == (48, 64) and mask.dtype == np.uint8 for mask in masks.values())


def test_a_pair_that_the_node_refuses_is_lost_and_not_waited_for(pair_node: Any) -> None:
    good, bad, last = pairs(3)
    bad = RgbdPair(bad.stamp_ns, bad.color, bad.depth_mm[:-1])
    result = replay(
        [good, bad, last],
        lambda stamp_ns, mask: None,
        domain_id=pair_node.domain,
        # Had it to wait for the mask, the test would time out.
        options=ReplayOptions(mask_timeout_s=10_000),
    )
    assert result.lost == (bad.stamp_ns,) and result.answered == (good.stamp_ns, last.stamp_ns)
    assert result.diagnostics is not None and "unaligned_depth" in result.diagnostics.values["last_error"]


@pytest.mark.slow
def test_at_a_rate_what_is_not_answered_was_dropped(pair_node: Any) -> None:
    before = replay(pairs(1), lambda stamp_ns, mask: None, domain_id=pair_node.domain)
    options = ReplayOptions(rate_hz=50)
    after = replay(pairs(10), lambda stamp_ns, mask: None, domain_id=pair_node.domain, options=options)
    busy, failed, published = np.subtract(
        totals(after, "dropped_busy", "failed", "published"), totals(before, "dropped_busy", "failed", "published")
    )
    assert (len(after.answered), len(after.lost), 0) == (published, busy, failed)


@pytest.mark.slow
def test_recorded_stamps_are_kept_when_asked_for(pair_node: Any) -> None:
    options = ReplayOptions(restamp=False)
    result = replay(pairs(2), lambda stamp_ns, mask: None, domain_id=pair_node.domain, options=options)
    assert len(result.lost) == 2 and result.diagnostics is not None
    assert "older than max_age_ms" in result.diagnostics.messages["results"]


def test_without_a_node_it_says_what_is_missing(new_domain: Callable[[], int]) -> None:
    with pytest.raises(ReplayError, match=r"not ready after 0\.3 s: no labels next to /deal_segmentation/mask"):
        replay(pairs(1), lambda *_: None, domain_id=new_domain(), options=ReplayOptions(ready_timeout_s=0.3))
    with pytest.raises(ReplayError, match="process ended before it was ready"):
        replay(pairs(1), lambda *_: None, domain_id=new_domain(), is_alive=lambda: False)


@pytest.mark.slow
def test_a_node_that_reads_other_topics_is_named(pair_node: Any) -> None:
    said = ""
    for timeout_s in (0.5, 1, 2, 4, 8, 16):  # discovery takes longer on a busy machine
        options = ReplayOptions(color_topic="/elsewhere/image_raw", ready_timeout_s=timeout_s)
        with pytest.raises(ReplayError) as caught:
            replay(pairs(1), lambda *_: None, domain_id=pair_node.domain, options=options)
        said = str(caught.value)
        if "no subscriber" in said:
            break
    assert "/elsewhere/image_raw has no subscriber; the node subscribes to /camera/camera/color" in said


def test_a_node_that_goes_away_is_noticed(leaving_node: Any) -> None:
    def interrupted() -> Iterator[RgbdPair]:
        first, second = pairs(2)
        yield first
        assert leaving_node.node.stop(signal.SIGTERM) == 0
        yield second

    with pytest.raises(ReplayError, match="stopped after 1 masks"):
        replay(
            interrupted(),
            lambda *_: None,
            domain_id=leaving_node.domain,
            is_alive=leaving_node.node.is_alive,
            options=ReplayOptions(ready_timeout_s=200),
        )
    text = leaving_node.node.text()
    assert "received 1 colour and 0 depth" in text and "Traceback" not in text


def test_lost_is_what_was_sent_and_not_answered() -> None:
    diagnostics = NodeDiagnostics(0, {}, {})
    result = ReplayResult((1, 2, 2, 3), (2, 3), 0, {}, (1.0, 1.0), diagnostics)
    assert result.lost == (1, 2)


def test_masks_are_saved_as_they_are(tmp_path: Path) -> None:
    from PIL import Image

    mask = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
    save_masks_to(tmp_path / "new" / "folder")(12, mask)
    (file,) = (tmp_path / "new" / "folder").iterdir()
    assert file.name == "12.png"
    np.testing.assert_array_equal(np.asarray(Image.open(file)), mask)
