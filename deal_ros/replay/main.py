"""The executable `replay_node`: replay a recording to a running segmentation node and save its masks as PNG.

Example:
    ros2 run deal_ros replay_node recordings/kitchen_1 --out masks/
    ros2 run deal_ros replay_node kitchen.mcap --rate 30 --mask-topic /robot1/deal_segmentation/mask
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deal_core.errors import DealError, UsageError

if TYPE_CHECKING:
    from deal_core.recording.tagged_frames import FrameReader
    from deal_ros.replay.player import RecordedPairs, ReplayOptions, ReplayResult


def main(args: Sequence[str] | None = None) -> int:
    """Replay a recording.

    Args:
        args: command line, starting with the program's name; None for `sys.argv`.

    Returns:
        0 if a mask was received for every pair that was sent, 1 if not, if more than half of the recording's images are
        in no sound pair, or if the replay failed; 2 for wrong use, 130 after Ctrl-C.
    """
    try:
        own, ros = _split_ros_args(list(sys.argv if args is None else args))
        wanted = _parser().parse_args(own[1:])
        result = replay_recording(
            wanted.recording,
            wanted.out,
            options=_options(wanted),
            color_topic=wanted.recorded_color_topic,
            depth_topic=wanted.recorded_depth_topic,
            slop_ms=wanted.slop_ms,
            aligned=wanted.aligned,
            depth_unit=wanted.depth_unit,
            max_depth_m=wanted.max_depth,
            limit=wanted.limit,
            ros_args=ros,
        )
    except DealError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("interrupted; all saved masks are complete", file=sys.stderr)
        return 130
    print(json.dumps(summary(result), indent=2) if wanted.json else sentence(result))
    return 1 if result.lost or (result.recorded and result.recorded.has_lost_most) else 0


def replay_recording(
    path: Path,
    out: Path | None,
    *,
    options: ReplayOptions | None = None,
    color_topic: str | None = None,
    depth_topic: str | None = None,
    slop_ms: float = 0.0,
    aligned: bool = False,
    depth_unit: str | None = None,
    max_depth_m: float | None = None,
    limit: int | None = None,
    is_alive: Callable[[], bool] = lambda: True,
    ros_args: list[str] | None = None,
) -> ReplayResult:
    """Replay the pairs of a recording and save the masks as `<out>/<stamp_ns>.png`, named after the recorded stamps.

    Args:
        path: a rosbag2 folder, a .mcap or a .db3 file.
        out: folder for the masks; None does not save them.
        options: topics, rate and timeouts of the replay.
        color_topic: the recorded colour topic; None detects it.
        depth_topic: the recorded depth topic; None detects it.
        slop_ms: maximum difference between the stamps of colour and depth, milliseconds.
        aligned: whether depth is aligned to colour although its frame has another name.
        depth_unit: unit of the recorded depth; None for the unit that the recording names, or "auto".
        max_depth_m: greatest depth that is a measurement, metres; None for that of the recording, or no limit.
        limit: maximum number of pairs; None replays all.
        is_alive: called while waiting; returns False if the node's process has ended.
        ros_args: ROS arguments such as remappings, as after `--ros-args`.

    Raises:
        RecordingError: the recording cannot be read or has no pairs.
        ReplayError: the node is not ready in time or stops, or a message on the mask topic is not a valid mask.
    """
    from dataclasses import replace
    from itertools import islice

    from deal_core.errors import RecordingError
    from deal_core.recording.image_messages import MessageDecoder
    from deal_core.recording.reader import open_recording
    from deal_core.recording.tagged_frames import FrameReader, explain_no_pairs, read_camera
    from deal_core.recording.tags import TagTimeline, read_session, recorded_depth
    from deal_core.recording.topics import find_topics
    from deal_core.structures import TagState
    from deal_ros.replay.player import replay, save_masks_to

    slop_ns = round(slop_ms * 1e6)
    with open_recording(path) as recording:
        depth = recorded_depth(read_session(recording, MessageDecoder()), depth_unit, max_depth_m)
        decoder = MessageDecoder(depth)
        topics = find_topics(recording, decoder, color_topic=color_topic, depth_topic=depth_topic)
        # All pairs are replayed, with and without tags.
        everything = TagTimeline.constant(TagState())
        frames = FrameReader(recording, topics, everything, decoder, slop_ns=slop_ns, aligned=aligned)
        size = frames.survey.size
        result = replay(
            islice((frame.pair for frame in frames), limit),
            save_masks_to(out) if out else lambda stamp_ns, mask: None,
            camera=read_camera(recording, decoder, topics, size),
            options=options,
            is_alive=is_alive,
            ros_args=ros_args,
        )
        if not result.sent:
            raise RecordingError(explain_no_pairs(recording, frames.counts, slop_ns))
        return replace(result, recorded=_recorded_pairs(frames))


def sentence(result: ReplayResult) -> str:
    """Return the result of a replay as text."""
    recorded = result.recorded
    of_all = f" of the recording's {recorded.pairs}" if recorded else ""
    lines = [f"sent {len(result.sent)}{of_all} pairs, received {len(result.answered)} masks, lost {len(result.lost)}"]
    if result.latency_ms:
        lines[0] += f"; median latency {statistics.median_high(result.latency_ms):.0f} ms"
    if result.lost:
        lines.append(f"lost: {', '.join(str(stamp) for stamp in result.lost[:10])}")
    if recorded:
        lines += [f"recording: {n} pairs skipped: {cause}" for cause, n in recorded.skipped.items()]
        lines += [f"recording: {n} images without a partner: {cause}" for cause, n in recorded.unpaired.items()]
        lines += [f"recording: {finding}" for finding in recorded.findings]
    if result.diagnostics:
        lines += [f"node, {concern}: {text}" for concern, text in result.diagnostics.messages.items()]
    return "\n".join(lines)


def summary(result: ReplayResult) -> dict[str, Any]:
    """Return the result of a replay as JSON values."""
    found = result.diagnostics
    return {
        "sent": list(result.sent),
        "answered": list(result.answered),
        "lost": list(result.lost),
        "unexpected": result.unexpected,
        "labels": dict(result.labels),
        "recorded": asdict(result.recorded) if result.recorded else None,
        "latency_ms": [round(value, 3) for value in result.latency_ms],
        "diagnostics": {"level": found.level, "messages": dict(found.messages), "values": dict(found.values)}
        if found
        else None,
    }


def _recorded_pairs(frames: FrameReader) -> RecordedPairs:
    """Return what the recording has, after its frames were read; with a limit, the rest is not judged."""
    from deal_core.recording.findings import loss_findings, stamp_findings
    from deal_ros.replay.player import RecordedPairs

    counts = frames.counts
    notes, errors = loss_findings(frames)
    doubts = counts.depth.findings()
    return RecordedPairs(
        pairs=counts.pairing.paired,
        skipped={cause.value: n for cause, n in counts.skipped.items()},
        unpaired=counts.pairing.unpaired,
        findings=(*errors, *notes, *stamp_findings(frames), *doubts[1], *doubts[0]),
        has_lost_most=bool(errors),
    )


def _options(wanted: argparse.Namespace) -> ReplayOptions:
    from deal_ros.replay.player import ReplayOptions

    return ReplayOptions(**{each.name: getattr(wanted, each.name) for each in fields(ReplayOptions)})


def _split_ros_args(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments of this program, and the arguments between `--ros-args` and `--`."""
    if "--ros-args" not in args:
        return args, []
    at = args.index("--ros-args")
    ros = args[at + 1 :]
    end = ros.index("--") if "--" in ros else len(ros)
    return args[:at] + ros[end + 1 :], ros[:end]


def _parser() -> argparse.ArgumentParser:
    from deal_ros.replay.player import ReplayOptions

    usual = ReplayOptions()
    parser = argparse.ArgumentParser(
        prog="replay_node",
        description="Replay a recording to a running segmentation node and save its masks as PNG.",
        epilog="example: ros2 run deal_ros replay_node recordings/kitchen_1 --out masks/",
    )
    add = parser.add_argument
    add("recording", type=Path, help="rosbag2 folder, .mcap or .db3 file")
    add("--out", type=Path, help="folder for the masks, named after the recorded stamps (default: masks are not saved)")
    add(
        "--rate",
        dest="rate_hz",
        type=_rate,
        default=0.0,
        metavar="HZ",
        help="rate of pairs; 0 waits for each mask (default)",
    )
    add("--restamp", action=argparse.BooleanOptionalAction, default=True, help="stamp pairs with the current time")
    add("--limit", type=int, metavar="N", help="maximum number of pairs (default: all)")
    add("--color-topic", default=usual.color_topic, help="topic to publish colour on (default: %(default)s)")
    add("--depth-topic", default=usual.depth_topic, help="topic to publish depth on (default: %(default)s)")
    add("--mask-topic", default=usual.mask_topic, help="mask topic of the node (default: %(default)s)")
    add("--recorded-color-topic", metavar="TOPIC", help="colour topic in the recording (default: detected)")
    add("--recorded-depth-topic", metavar="TOPIC", help="depth topic in the recording (default: detected)")
    add("--aligned", action="store_true", help="depth is aligned although its frame has another name")
    add("--depth-unit", metavar="UNIT", help="unit of the recorded depth: auto, m, mm, 0.1mm, ... (default: recorded)")
    add("--max-depth", type=float, metavar="M", help="greatest depth that is a measurement, metres (default: recorded)")
    add("--slop-ms", type=float, default=0.0, metavar="MS", help="maximum difference of stamps in a pair (default: 0)")
    for name, awaited in (("ready", "the node"), ("mask", "a mask")):
        dest = f"{name}_timeout_s"
        said = f"how long to wait for {awaited} (default: %(default)s)"
        add(f"--{name}-timeout", dest=dest, type=float, default=getattr(usual, dest), metavar="S", help=said)
    add("--json", action="store_true", help="print the whole result as JSON")
    return parser


def _rate(text: str) -> float:
    rate = float(text)
    if rate < 0:
        raise ValueError(f"a rate is not negative: {rate}")
    return rate


if __name__ == "__main__":
    sys.exit(main())
