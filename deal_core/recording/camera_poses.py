"""The poses of the colour camera in a recording: from TF, or from an odometry topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from deal_core.errors import RecordingError, nearest_hint
from deal_core.recording.image_encodings import ImageFormatError
from deal_core.recording.image_messages import ODOMETRY, TRANSFORMS, MessageDecoder
from deal_core.recording.reader import Recording, Topic
from deal_core.recording.transforms import PoseSamples, TransformTree, frame_name
from deal_core.structures import Float64Array

_STANDING = ("map", "odom")
"""Names of frames that stand still (REP 105), the better one first: an odometry drifts."""


@dataclass(frozen=True, eq=False)
class CameraPoses:
    """Poses of a camera.

    Attributes:
        poses: (4, 4) matrix from the optical frame of the camera to a frame that stands still, by stamp in nanoseconds.
        notes: where they are from, or why there are none; one sentence each, without any if nothing was recorded.
    """

    poses: dict[int, Float64Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_camera_poses(
    recording: Recording,
    decoder: MessageDecoder,
    camera_frame: str,
    stamps: Sequence[int],
    *,
    fixed_frame: str | None = None,
    odometry_topic: str | None = None,
) -> CameraPoses:
    """Return the poses of a camera at the stamps of its images, as far as the recording knows them.

    TF comes first: the pose is that of the camera's frame in `map`, else in `odom`, else in the highest frame in which
    it can move. Without such a frame, the pose is that of an odometry topic, with the transform from its body to the
    camera. All are interpolated at the stamps, and not extrapolated.

    Args:
        recording: Open recording.
        decoder: Decoder of the messages.
        camera_frame: Optical frame of the colour camera.
        stamps: Stamps of the images, nanoseconds.
        fixed_frame: Frame of TF to give the poses in; None chooses it.
        odometry_topic: Topic of nav_msgs/Odometry to read instead of TF; None for TF, or the topic that knows the most.

    Raises:
        RecordingError: the fixed frame or the odometry topic is named, and the recording does not have it.
    """
    odometries = [topic for topic in recording.topics if topic.type == ODOMETRY and topic.count]
    if odometry_topic is not None and odometry_topic not in [topic.name for topic in odometries]:
        names = [topic.name for topic in odometries]
        raise RecordingError(
            f"{recording.path} has no odometry topic '{odometry_topic}': expected one of "
            f"{', '.join(names) or 'none, it has no nav_msgs/Odometry'}.{nearest_hint(odometry_topic, names)}"
        )
    tree, unreadable = _read_tree(recording, decoder, stamps)
    above = _frames_above(tree, camera_frame, stamps)
    if fixed_frame is not None and frame_name(fixed_frame) not in above:
        raise RecordingError(
            f"{recording.path}: TF never gives the pose of {camera_frame} in '{fixed_frame}': expected one of "
            f"{', '.join(above) or 'no frame, because no transform of the camera was recorded'}"
        )
    damage = [f"{count} messages of TF cannot be read" for count in (unreadable,) if count]
    if odometry_topic is None and (fixed := fixed_frame or _standing(above)):
        found = {stamp: tree.at(fixed, camera_frame, stamp) for stamp in stamps}
        return _told(found, f"of TF, in the frame {frame_name(fixed)}", damage)
    chosen = [topic for topic in odometries if odometry_topic in (None, topic.name)]
    if not chosen:
        known = any(topic.type == TRANSFORMS and topic.count for topic in recording.topics)
        no_motion = f"no poses: TF does not tell how {camera_frame} moves, and there is no odometry topic"
        return CameraPoses(notes=(*damage, no_motion) if known else ())
    read = [(_read_odometry(recording, decoder, topic, tree, camera_frame, stamps), topic) for topic in chosen]
    (found, why), topic = max(read, key=lambda entry: sum(pose is not None for pose in entry[0][0].values()))
    others = [f"{other.name} is another odometry topic" for other in chosen if other is not topic]
    return _told(found, f"of {topic.name}", [*damage, *why, *others])


def _told(found: dict[int, Float64Array | None], origin: str, notes: Sequence[str]) -> CameraPoses:
    poses = {stamp: pose for stamp, pose in found.items() if pose is not None}
    return CameraPoses(poses, (f"poses {origin} for {len(poses)} of {len(found)} frames", *notes))


def _read_tree(recording: Recording, decoder: MessageDecoder, stamps: Sequence[int]) -> tuple[TransformTree, int]:
    """Return all transforms of a recording, and the number of messages that cannot be read."""
    tree, unreadable = TransformTree(stamps), 0
    topics = [topic.name for topic in recording.topics if topic.type == TRANSFORMS]
    for message in recording.messages(topics):
        try:
            found = decoder.transforms(message.data)
        except ImageFormatError:
            unreadable += 1
            continue
        for each in found:
            is_static = message.topic.rsplit("/", 1)[-1] == "tf_static"
            tree.add(each.parent, each.child, each.stamp_ns, each.pose, is_static=is_static)
    return tree, unreadable


def _frames_above(tree: TransformTree, camera_frame: str, stamps: Sequence[int]) -> dict[str, bool]:
    """Return the frames above the camera at the stamp at which there are the most, and whether it can move in each."""
    return max((tree.above(camera_frame, stamp) for stamp in stamps), key=len, default={})


def _standing(above: dict[str, bool]) -> str | None:
    """Return the frame that stands still; None if the camera moves in none."""
    moving = [name for name, moves in above.items() if moves]
    return next((name for name in _STANDING if name in moving), moving[-1] if moving else None)


def _read_odometry(
    recording: Recording,
    decoder: MessageDecoder,
    topic: Topic,
    tree: TransformTree,
    camera_frame: str,
    stamps: Sequence[int],
) -> tuple[dict[int, Float64Array | None], list[str]]:
    """Return the poses of the camera by an odometry topic at some stamps, and what is wrong."""
    body: PoseSamples = PoseSamples(sorted(stamps))
    bodies: Counter[str] = Counter()
    unreadable = 0
    for message in recording.messages([topic.name]):
        try:
            each = decoder.odometry(message.data)
        except ImageFormatError:
            unreadable += 1
            continue
        bodies[frame_name(each.child)] += 1
        body.add(each.stamp_ns, frame_name(each.child), each.pose)
    notes = [f"{unreadable} messages of {topic.name} cannot be read"] if unreadable else []
    found: dict[int, Float64Array | None] = {}
    for stamp in stamps:
        at = body.at(stamp)
        mount = None if at is None else tree.at(at[0], camera_frame, stamp)
        found[stamp] = None if at is None or mount is None else at[1] @ mount
    if bodies and not any(pose is not None for pose in found.values()):
        names = ", ".join(bodies)
        notes.append(f"{topic.name} gives the pose of {names}, but TF does not tell where {camera_frame} is on it")
    return found, notes
