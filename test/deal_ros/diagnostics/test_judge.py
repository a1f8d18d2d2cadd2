"""Levels and sentences of /diagnostics, judged from snapshots."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from builtin_interfaces.msg import Time

from deal_ros.diagnostics.judge import assess, final_counts
from deal_ros.diagnostics.snapshots import LifecycleSnapshot, Limits, ModelSnapshot, NodeSnapshot, WorkSnapshot
from deal_ros.diagnostics.statistics import ResultSummary
from deal_ros.diagnostics.status import Level, Status, to_message
from deal_ros.input.image_input import InputSnapshot
from deal_ros.input.stamps import StampCounts
from deal_ros.input.synchronizer import SyncCounts
from deal_ros.node.worker import WorkerCounts

MODEL = ModelSnapshot(
    "m.safetensors", "ab" * 32, "torch", "nothing else is installed", "cpu", "float32", 3, "required", "equal stamps"
)
WORK = WorkSnapshot(
    inputs=(
        InputSnapshot("color", "/c", 0, 0.1, offers=("reliable",)),
        InputSnapshot("depth", "/d", 0, 0.1, offers=("reliable",)),
    ),
    depth_mode="required",
)
QUIET = NodeSnapshot(time_s=10.0, lifecycle=LifecycleSnapshot("active"), model=MODEL, active=WORK)


def status(concern: str, now: NodeSnapshot, before: NodeSnapshot | None = QUIET) -> Status:
    return next(s for s in assess(now, before) if s.concern == concern)


def working(**changes: object) -> NodeSnapshot:
    return replace(QUIET, active=replace(WORK, **changes))


def color_input(**changes: object) -> NodeSnapshot:
    return working(inputs=(replace(WORK.inputs[0], **changes), WORK.inputs[1]))


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, "none yet"),
        ({"encoding": "rgb8", "width": 64, "height": 48, "size_bytes": 9216}, "64x48"),
        ({"encoding": "jpeg", "size_bytes": 700}, "compressed to 700 bytes"),
    ],
)
def test_the_size_of_the_last_image_is_told(changes: dict[str, object], size: str) -> None:
    assert status("color input", color_input(**changes)).values["color_size"] == size


@pytest.mark.parametrize(
    ("changes", "level", "said"),
    [
        ({"received": 3}, Level.OK, "receiving"),
        ({}, Level.OK, "waiting for the first image"),
        ({"silent_s": 5.0, "offers": ()}, Level.WARN, "no input on /c: it has no publisher"),
        ({"silent_s": 11.0, "offers": ()}, Level.ERROR, "no input on /c: it has no publisher"),
        ({"silent_s": 5.0, "offers": (), "nearest": ("/a", "/b")}, Level.WARN, "image topics with one: /a, /b"),
        ({"silent_s": 5.0, "offers": ()}, Level.WARN, "no image topic has one"),
        ({"silent_s": 5.0, "offers": (), "publisher_left": True}, Level.WARN, "its publisher is gone"),
        ({"silent_s": 5.0, "offers": (), "is_subscribed": False}, Level.OK, "disabled by ~/enable"),
        ({"received": 3, "stamps": StampCounts(zero=3)}, Level.WARN, "3 images on /c have stamp 0"),
        (
            {"received": 3, "stamps": StampCounts(backwards=1)},
            Level.WARN,
            "an earlier stamp than the image before",
        ),
        ({"received": 3, "stamps": StampCounts(future=2, ahead_ms=700.0)}, Level.WARN, "the last by 700 ms"),
        ({"received": 3, "changes": 1, "last_change": "4x4 rgb8 to 8x8 rgb8"}, Level.WARN, "4x4 rgb8 to 8x8 rgb8"),
        ({"silent_s": 5.0}, Level.WARN, "no input on /c for 5 s, publisher offers reliable, we request reliable"),
        (
            {"silent_s": 0.5, "offers": ("best_effort",), "incompatible": True},
            Level.ERROR,
            "no input on /c, publisher offers best_effort, we request reliable; set color_qos to auto",
        ),
        (
            {"silent_s": 5.0, "offers": ("best_effort",), "requests": "best_effort", "best_effort_is_lossy": True},
            Level.WARN,
            "do not fit Fast DDS' default shared memory: set FAST",
        ),
        (
            {"received": 1, "requests": "best_effort", "best_effort_is_lossy": True, "size_bytes": 640 * 480 * 3},
            Level.WARN,
            "images on /c may be lost",
        ),
        ({"received": 3, "lost": 2}, Level.WARN, "2 messages on /c were lost on the way to the node since the last"),
        ({"received": 3, "lost": 2, "rmw": "rmw_cyclonedds_cpp"}, Level.WARN, "raise net.core.rmem_max"),
        ({"received": 3, "lost": 2, "rmw": "rmw_zenoh_cpp"}, Level.WARN, "transport/shared_memory/enabled=true"),
        ({"silent_s": 5.0, "offers": (), "rmw": "rmw_zenoh_cpp"}, Level.WARN, "ros2 run rmw_zenoh_cpp rmw_zenohd"),
        (
            {"received": 1, "requests": "best_effort", "best_effort_is_lossy": True, "size_bytes": 640 * 480},
            Level.OK,
            "receiving",
        ),
    ],
)
def test_an_input_is_judged_with_its_cause(changes: dict[str, object], level: Level, said: str) -> None:
    found = status("color input", color_input(**changes))
    assert found.level is level and said in found.message
    assert status("depth input", color_input(**changes)).level is Level.OK


def test_lost_messages_are_news_once_and_counted_in_all() -> None:
    before, now = color_input(received=3, lost=2), color_input(received=9, lost=5)
    assert "3 messages on /c were lost" in status("color input", now, before).message
    assert status("color input", now, now).level is Level.OK
    assert status("color input", now, now).values["color_lost"] == "5"


def test_the_memory_of_images_and_the_middleware_are_told() -> None:
    assert status("color input", color_input(received=1)).values["color_memory"] == "cpu"
    on_gpu = status("color input", color_input(received=1, memory="cuda"))
    assert on_gpu.level is Level.OK and on_gpu.values["color_memory"] == "cuda, copied to main memory"
    lifecycle = LifecycleSnapshot("active", rmw="rmw_zenoh_cpp")
    assert status("state", replace(QUIET, lifecycle=lifecycle)).values["rmw"] == "rmw_zenoh_cpp"


def test_rates_are_since_the_last_report() -> None:
    before = color_input(received=100)
    now = color_input(received=130)
    work = replace(now.active, work=WorkerCounts(submitted=20, done=20))  # type: ignore[type-var]
    now = replace(now, time_s=12.0, active=work)
    assert status("color input", now, before).values["color_rate_hz"] == "15.0"
    assert status("results", now, before).values["mask_rate_hz"] == "10.0"
    assert status("color input", now, None).values["color_rate_hz"] == "unknown"


@pytest.mark.parametrize(
    ("sync", "work", "results", "level", "said"),
    [
        (SyncCounts(), WorkerCounts(), ResultSummary(), Level.OK, "no frame to segment"),
        (SyncCounts(paired=2), WorkerCounts(done=2), ResultSummary(valid_depth=0.5), Level.OK, "2 masks"),
        (SyncCounts(paired=2), WorkerCounts(done=2), ResultSummary(valid_depth=0.0), Level.WARN, "no pixel"),
        (
            SyncCounts(paired=2),
            WorkerCounts(failed=Counter(step=2)),
            ResultSummary(last_error="step: bad"),
            Level.ERROR,
            "2 frames failed since the last report: step: bad",
        ),
        (SyncCounts(paired=2), WorkerCounts(done=1, failed=Counter(step=1)), ResultSummary(), Level.WARN, "1 frames"),
        (
            SyncCounts(paired=2),
            WorkerCounts(dropped_old=2),
            ResultSummary(oldest_dropped_ms=900.0),
            Level.ERROR,
            "2 frames were older than max_age_ms (250) and dropped, the last at 900 ms",
        ),
        (
            SyncCounts(unpaired_color=Counter({"queue full": 4})),
            WorkerCounts(),
            ResultSummary(),
            Level.ERROR,
            "4 colour: queue full",
        ),
        (
            SyncCounts(paired=9, unpaired_depth=Counter({"duplicate stamp": 1})),
            WorkerCounts(done=9),
            ResultSummary(),
            Level.WARN,
            "1 depth: duplicate stamp",
        ),
        (SyncCounts(paired=9), WorkerCounts(done=5, dropped_busy=4), ResultSummary(), Level.OK, "5 masks"),
        (
            SyncCounts(paired=9),
            WorkerCounts(done=4, dropped_busy=5),
            ResultSummary(),
            Level.WARN,
            "5 of 9 frames were replaced",
        ),
        (
            SyncCounts(paired=9),
            WorkerCounts(done=9),
            ResultSummary(troubles=2, last_trouble="depth ignored: step"),
            Level.WARN,
            "2 masks were published in spite of a problem: depth ignored: step",
        ),
    ],
)
def test_results_are_judged_with_their_cause(
    sync: SyncCounts, work: WorkerCounts, results: ResultSummary, level: Level, said: str
) -> None:
    now = working(sync=sync, work=work, results=results)
    found = status("results", now)
    assert found.level is level and said in found.message
    # What happened before the last report is no longer news.
    assert status("results", now, now).level is Level.OK
    assert status("results", now, now).values["failed"] == str(sum(work.failed.values()))


@pytest.mark.parametrize(
    ("state", "level", "said"),
    [
        (LifecycleSnapshot("inactive"), Level.OK, "inactive"),
        (LifecycleSnapshot("unconfigured", failure="no model"), Level.ERROR, "unconfigured: no model"),
        (LifecycleSnapshot("active", rivals=("/b",)), Level.WARN, "/b also publishes masks on this node's topic"),
        (LifecycleSnapshot("active", clock_jumps=1, last_clock_jump="back by 9.0 s"), Level.WARN, "back by 9.0 s"),
        (LifecycleSnapshot("active", reload="damaged", reload_failed=True), Level.WARN, "not replaced: damaged"),
        (LifecycleSnapshot("active", is_enabled=False), Level.OK, "disabled by ~/enable"),
    ],
)
def test_the_state_is_judged_with_its_cause(state: LifecycleSnapshot, level: Level, said: str) -> None:
    found = status("state", replace(QUIET, lifecycle=state))
    assert found.level is level and said in found.message


def test_what_listeners_lack_is_told_once() -> None:
    now = working(missed=1, missing=("points: no depth on /d",))
    assert status("results", now).level is Level.WARN and "points: no depth on /d" in status("results", now).message
    assert status("results", now, now).level is Level.OK
    off = working(missed=1, missing=("points: no depth on /d",), depth_mode="off")
    assert status("results", off).message.endswith("depth_mode is off")


def test_colour_alone_is_told_where_depth_was_wanted_all_the_time() -> None:
    before, now = (working(sync=SyncCounts(color_alone=n), depth_mode="optional") for n in (1, 3))
    assert "2 of 2 frames were segmented without depth" in status("results", now, before).message
    off = working(sync=SyncCounts(color_alone=1), depth_mode="off")
    assert status("results", now, off).level is Level.OK


def test_a_model_of_depth_that_is_switched_off_is_told() -> None:
    now = working(work=WorkerCounts(done=2), depth_mode="off", model_lacks_depth=True)
    found = status("results", now)
    assert found.level == Level.WARN and "uses depth but runs without it: depth_mode is off" in found.message


def test_a_node_that_is_not_active_tells_of_its_state_alone() -> None:
    bare = NodeSnapshot(1.0, LifecycleSnapshot("unconfigured"), limits=Limits())
    assert [s.concern for s in assess(bare, QUIET)] == ["state"]


def test_every_key_occurs_once_and_names_are_the_nodes() -> None:
    statuses = assess(QUIET, None)
    message = to_message(statuses, "robot1/deal_segmentation", Time(sec=7))
    keys = [entry.key for s in message.status for entry in s.values]
    assert len(keys) == len(set(keys))
    assert [s.name for s in message.status] == [
        f"robot1/deal_segmentation: {concern}"
        for concern in ("state", "color input", "depth input", "results", "model")
    ]
    assert message.header.stamp.sec == 7 and all(isinstance(s.level, bytes) for s in message.status)


def test_the_final_line_accounts_for_everything() -> None:
    sync = SyncCounts(12, 11, 9, 1, Counter({"queue full": 1}), Counter({"duplicate stamp": 2}), 1, 0)
    line = final_counts(sync, WorkerCounts(12, 4, 3, 1, 1, Counter(disabled=2), Counter(step=1), 0))
    assert line == (
        "received 12 colour and 11 depth; paired 9, colour alone 1, unpaired 1 colour and 2 depth, "
        "waiting 1 colour and 0 depth; published 4, dropped 3 busy, 1 old, 2 disabled, 1 at the stop, failed 1, "
        "in flight 0"
    )
