"""The executable `replay_node`: a recording played to a running segmentation node, its masks saved as PNG.

Example:
    ros2 run deal_ros replay_node recordings/kitchen_1 --out masks/
    ros2 run deal_ros replay_node kitchen.mcap --rate 30 --mask-topic /robot1/deal_segmentation/mask
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deal_core.errors import DealError, UsageError

if TYPE_CHECKING:
    from deal_ros.replay.player import ReplayOptions, ReplayResult


def main(args: Sequence[str] | None = None) -> int:
    """Replay a recording.

    Args:
        args: the command line with the program's name first; the process' own when left out.

    Returns:
        0 when every pair was answered, 1 when not or something failed, 2 for wrong use, 130 after Ctrl-C.
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
            limit=wanted.limit,
            ros_args=ros,
        )
    except DealError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("interrupted: the masks saved so far are whole", file=sys.stderr)
        return 130
    print(json.dumps(summary(result), indent=2) if wanted.json else sentence(result))
    return 1 if result.lost else 0


def replay_recording(
    path: Path,
    out: Path | None,
    *,
    options: ReplayOptions | None = None,
    color_topic: str | None = None,
    depth_topic: str | None = None,
    slop_ms: float = 0.0,
    limit: int | None = None,
    is_alive: Callable[[], bool] = lambda: True,
    ros_args: list[str] | None = None,
) -> ReplayResult:
    """Replay a recording's pairs and save the masks as `<out>/<stamp_ns>.png`, named by the recorded stamps.

    Args:
        path: a rosbag2 folder, a .mcap or a .db3.
        out: folder for the masks; they are not kept when left out.
        options: how to play, and on which topics.
        color_topic: the recorded colour topic, where it cannot be told.
        depth_topic: the recorded depth topic, where it cannot be told.
        slop_ms: largest difference between the stamps of colour and depth, milliseconds.
        limit: at most this many pairs.
        is_alive: asked while waiting; when it is false there is no use in waiting on (the node's process ended).
        ros_args: remappings and the like, as after `--ros-args`.

    Raises:
        RecordingError: the recording cannot be read, or holds no pairs.
        ReplayError: the node is not ready in time, goes away, or answers with something else than masks.
    """
    from itertools import islice

    from deal_core.errors import RecordingError
    from deal_core.recording.image_messages import MessageDecoder
    from deal_core.recording.reader import open_recording
    from deal_core.recording.tagged_frames import FrameReader, explain_no_pairs, read_camera
    from deal_core.recording.tags import TagTimeline
    from deal_core.recording.topics import find_topics
    from deal_core.structures import TagState
    from deal_ros.replay.player import replay, save_masks_to

    slop_ns = round(slop_ms * 1e6)
    with open_recording(path) as recording:
        decoder = MessageDecoder()
        topics = find_topics(recording, decoder, color_topic=color_topic, depth_topic=depth_topic)
        # Tags do not matter here: pairs are replayed whether somebody tagged them or not.
        frames = FrameReader(recording, topics, TagTimeline.constant(TagState()), decoder, slop_ns=slop_ns)
        result = replay(
            islice((frame.pair for frame in frames), limit),
            save_masks_to(out) if out else _forget,
            camera=read_camera(recording, decoder, topics),
            options=options,
            is_alive=is_alive,
            ros_args=ros_args,
        )
        if not result.sent:
            raise RecordingError(explain_no_pairs(recording, frames.counts, slop_ns))
    return result


def sentence(result: ReplayResult) -> str:
    """Return what came of a replay, for people."""
    lines = [f"sent {len(result.sent)} pairs, received {len(result.answered)} masks, lost {len(result.lost)}"]
    if result.latency_ms:
        ordered = sorted(result.latency_ms)
        lines[0] += f"; a mask took {ordered[len(ordered) // 2]:.0f} ms (median)"
    if result.lost:
        lines.append(f"lost: {', '.join(str(stamp) for stamp in result.lost[:10])}")
    if result.diagnostics:
        lines += [f"node, {concern}: {text}" for concern, text in result.diagnostics.messages.items()]
    return "\n".join(lines)


def summary(result: ReplayResult) -> dict[str, Any]:
    """Return what came of a replay, for scripts."""
    found = result.diagnostics
    return {
        "sent": list(result.sent),
        "answered": list(result.answered),
        "lost": list(result.lost),
        "unexpected": result.unexpected,
        "labels": dict(result.labels),
        "latency_ms": [round(value, 3) for value in result.latency_ms],
        "diagnostics": {"level": found.level, "messages": dict(found.messages), "values": dict(found.values)}
        if found
        else None,
    }


def _forget(stamp_ns: int, mask: Any) -> None:
    """Take a mask that nobody wants to keep."""


def _options(wanted: argparse.Namespace) -> ReplayOptions:
    from deal_ros.replay.player import ReplayOptions

    return ReplayOptions(
        color_topic=wanted.color_topic,
        depth_topic=wanted.depth_topic,
        mask_topic=wanted.mask_topic,
        rate_hz=wanted.rate,
        restamp=wanted.restamp,
        ready_timeout_s=wanted.ready_timeout,
        mask_timeout_s=wanted.mask_timeout,
    )


def _split_ros_args(args: list[str]) -> tuple[list[str], list[str]]:
    """Return our own arguments and those between `--ros-args` and `--`."""
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
        description="Play a recording to a running segmentation node and save its masks as PNG.",
        epilog="example: ros2 run deal_ros replay_node recordings/kitchen_1 --out masks/",
    )
    add = parser.add_argument
    add("recording", type=Path, help="rosbag2 folder, .mcap or .db3")
    add("--out", type=Path, help="folder for the masks, named by the recorded stamps; not kept when left out")
    add("--rate", type=_rate, default=0.0, metavar="HZ", help="pairs a second; 0 waits for each mask (default)")
    add("--restamp", action=argparse.BooleanOptionalAction, default=True, help="stamp pairs with the present time")
    add("--limit", type=int, metavar="N", help="at most N pairs")
    add("--color-topic", default=usual.color_topic, help="where to publish (default: %(default)s)")
    add("--depth-topic", default=usual.depth_topic, help="where to publish (default: %(default)s)")
    add("--mask-topic", default=usual.mask_topic, help="where masks come from (default: %(default)s)")
    add("--recorded-color-topic", metavar="TOPIC", help="colour topic in the recording, where it cannot be told")
    add("--recorded-depth-topic", metavar="TOPIC", help="depth topic in the recording, where it cannot be told")
    add("--slop-ms", type=float, default=0.0, metavar="MS", help="pair stamps that differ by up to MS (default: equal)")
    add("--ready-timeout", type=float, default=usual.ready_timeout_s, metavar="S", help="default: %(default)s")
    add("--mask-timeout", type=float, default=usual.mask_timeout_s, metavar="S", help="default: %(default)s")
    add("--json", action="store_true", help="print the whole result as JSON")
    return parser


def _rate(text: str) -> float:
    rate = float(text)
    if rate < 0:
        raise ValueError(f"a rate is not negative: {rate}")
    return rate


if __name__ == "__main__":
    sys.exit(main())
