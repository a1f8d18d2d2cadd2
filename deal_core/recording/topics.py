"""Find the colour and the aligned-depth topic of a recording by type, encoding and name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from deal_core.errors import RecordingError, nearest_hint
from deal_core.recording.image_encodings import ImageFormatError
from deal_core.recording.image_messages import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    MessageDecoder,
    content_of,
    is_rectified_topic,
)
from deal_core.recording.reader import Recording, Topic

_LOOKED_AT = 5  # messages of each topic
ALIGN_HINT = "record with `align_depth.enable:=true enable_sync:=true`"


@dataclass(frozen=True)
class ImageTopics:
    """The image topics of a recording, and the colour camera's camera_info if it was recorded."""

    color: Topic
    depth: Topic
    info: Topic | None

    @property
    def is_rectified(self) -> bool:
        """Whether the colour images are rectified, as the name of their topic says."""
        return is_rectified_topic(self.color.name)


@dataclass(frozen=True)
class _Candidate:
    topic: Topic
    encoding: str
    content: str  # "color", "depth" or empty

    @property
    def base(self) -> str:
        """The raw topic's name, without a transport's suffix."""
        return self.topic.name.removesuffix("/compressedDepth").removesuffix("/compressed")

    @property
    def names_depth(self) -> bool:
        """Whether the encoding is one of depth alone."""
        return any(name in self.encoding for name in ("16UC1", "32FC1", "compressedDepth"))


def find_topics(
    recording: Recording, decoder: MessageDecoder, *, color_topic: str | None = None, depth_topic: str | None = None
) -> ImageTopics:
    """Return the colour and depth topics of a recording.

    Coloured depth, infrared and lossy depth are not candidates. A raw topic is better than its compressed form, aligned
    depth better than other depth, a driver's colour image better than a picture that a node drew.

    Raises:
        RecordingError: no topic fits, or several fit equally well; the message lists them and names the option.
    """
    images = [t for t in recording.topics if t.type in (IMAGE, COMPRESSED) and t.count]
    wanted = {name for name in (color_topic, depth_topic) if name}
    for name in sorted(wanted):
        _check_exists(recording, images, name)
    first = _usual_encodings(recording, decoder, images)
    colors = [c for c in first if c.content == "color" and not _is_hidden(c.base)]
    depths = [c for c in first if c.content == "depth" and _may_be_depth(c)]
    color = _chosen(first, color_topic) or _only("colour", "--color-topic", recording, first, colors, _color_rank)
    depth = _chosen(first, depth_topic) or _only("depth", "--depth-topic", recording, first, depths, _depth_rank)
    info_name = color.base.rsplit("/", 1)[0] + "/camera_info"
    info = next((t for t in recording.topics if t.name == info_name and t.type == CAMERA_INFO), None)
    return ImageTopics(color.topic, depth.topic, info)


def _check_exists(recording: Recording, images: list[Topic], name: str) -> None:
    if name not in (t.name for t in images):
        known = [t.name for t in images]
        kind = next((t.type for t in recording.topics if t.name == name), None)
        found = f"the topic has type {kind}" if kind else f"its image topics are {', '.join(known) or 'none'}"
        raise RecordingError(f"{recording.path} has no images on '{name}': {found}.{nearest_hint(name, known)}")


def _usual_encodings(recording: Recording, decoder: MessageDecoder, images: list[Topic]) -> list[_Candidate]:
    """Return each image topic with the encoding that most of its first messages have; the very first may be odd."""
    candidates = []
    for topic in images:
        found: Counter[tuple[str, str]] = Counter()
        for message in recording.messages([topic.name]):
            try:
                found[decoder.encoding(message.data, message.type), content_of(message.data, message.type)] += 1
            except ImageFormatError:
                continue  # the next message may be readable; extraction counts the damaged ones
            if found.total() == _LOOKED_AT:
                break
        if found:
            candidates.append(_Candidate(topic, *found.most_common(1)[0][0]))
    return candidates


def _chosen(candidates: list[_Candidate], name: str | None) -> _Candidate | None:
    return next((c for c in candidates if c.topic.name == name), None)


def _only(
    what: str,
    option: str,
    recording: Recording,
    images: list[_Candidate],
    candidates: list[_Candidate],
    rank: Callable[[_Candidate], int],
) -> _Candidate:
    """Return the one best candidate."""
    if not candidates:
        hint = f"; {ALIGN_HINT}" if what == "depth" else ""
        raise RecordingError(
            f"{recording.path} has no {what} topic: its image topics are {_listed(images) or 'none'}{hint}, "
            f"or name one with {option}"
        )
    best = min(rank(c) for c in candidates)
    bases = sorted({c.base for c in candidates if rank(c) == best})
    if len(bases) > 1:
        raise RecordingError(
            f"{recording.path} has {len(bases)} {what} topics: choose one with {option} from "
            f"{_listed(c for c in candidates if c.base in bases)}"
        )
    return min((c for c in candidates if c.base == bases[0]), key=lambda c: len(c.topic.name))


def _listed(candidates: Iterable[_Candidate]) -> str:
    return ", ".join(f"{c.topic.name} ({c.encoding}, {c.topic.count} messages)" for c in candidates)


def _words(name: str) -> set[str]:
    return set(name.lower().replace("_", "/").split("/"))


def _is_hidden(base: str) -> bool:
    """Return whether a name means depth drawn in colours or infrared."""
    return bool(_words(base) & {"depth", "disparity", "ir", "infra", "infra1", "infra2", "infrared"})


def _may_be_depth(candidate: _Candidate) -> bool:
    # 16-bit infrared is mono16, or a 16-bit image without a named encoding, too, so the name must contain depth.
    named = "depth" in _words(candidate.base)
    return named if not candidate.names_depth else not _is_hidden(candidate.base) or named


def _color_rank(candidate: _Candidate) -> int:
    return not candidate.base.endswith(("/color/image_raw", "/rgb/image_raw", "/color/image_rect_raw"))


def _depth_rank(candidate: _Candidate) -> int:
    return not ({"aligned", "registered"} & _words(candidate.base) or "depth_to_color" in candidate.base)
