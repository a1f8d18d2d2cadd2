"""What a person should know about a recording: how much is lost, why most likely, and which stamps are odd."""

from __future__ import annotations

from collections import Counter

import numpy as np

from deal_core.recording.pairing import UnpairedCause
from deal_core.recording.survey import StreamSurvey, median_period_ns, nearest_offsets
from deal_core.recording.tagged_frames import FrameReader
from deal_core.recording.tags import Skip
from deal_core.recording.topics import ALIGN_HINT

_NOTED, _TOO_MUCH = 0.05, 0.5
_AHEAD_NS = 10**9
_SKIP_CAUSES = {
    Skip.NOT_ALIGNED: f"depth is not aligned to colour: {ALIGN_HINT}",
    Skip.SIZE_CHANGED: "the size of the images changes: another profile or camera publishes on the topic, too",
    Skip.ENCODING_CHANGED: "the encoding of the images changes: another camera publishes on the topic, too",
    Skip.REPEATED: "stamps repeat: a bag was played in a loop, two drivers publish, or a clock was set back",
    Skip.BAD_COLOR: "colour images cannot be decoded",
    Skip.BAD_DEPTH: "depth images cannot be decoded",
    Skip.BAD_TAGS: "tags cannot be read",
    Skip.DAMAGED_FILE: "the file is damaged",
}


def loss_findings(reader: FrameReader) -> tuple[list[str], list[str]]:
    """Return notes and errors on the images of the smaller stream that are in no sound pair.

    Above a few per cent it is a note, above half an error. Pairs that were left out on purpose are not lost.

    Args:
        reader: reader of the recording, after its last frame.
    """
    counts, found = reader.counts, reader.survey
    sizes = [len(stream.stamps) + stream.unreadable for stream in (found.color, found.depth)]
    smaller = min(sizes)
    faulty = sum(n for cause, n in counts.skipped.items() if cause.is_fault)
    lost = smaller - (counts.pairing.paired - faulty)
    if not smaller or lost <= _NOTED * smaller:
        return [], []
    name = "colour" if sizes[0] <= sizes[1] else "depth"
    text = f"{lost} of {smaller} {name} images ({lost / smaller:.0%}) are in no sound pair; {_likely_cause(reader)}"
    return ([], [text]) if lost > _TOO_MUCH * smaller else ([text], [])


def stamp_findings(reader: FrameReader) -> list[str]:
    """Return notes on stamps that are 0, go back, or lie after the time of recording."""
    notes = []
    found = reader.survey
    for name, topic, stream in (
        ("colour", reader.topics.color.name, found.color),
        ("depth", reader.topics.depth.name, found.depth),
    ):
        if not len(stream.stamps):
            continue
        if unset := stream.unpaired[UnpairedCause.NO_STAMP]:
            notes.append(f"{unset} {name} images on {topic} have stamp 0: the camera driver must set the stamps")
        if odd := stream.unpaired[UnpairedCause.ODD_STAMP]:
            notes.append(
                f"{odd} {name} images on {topic} have stamps days away from the time of recording, unlike the others: "
                "the camera's clock was not set yet"
            )
        if back := stream.backwards:
            notes.append(
                f"{back} {name} images on {topic} have an earlier stamp than the image before: the camera's clock was "
                "set, a recording was restarted, or two cameras publish on this topic"
            )
        ahead = stream.ahead_ns
        if late := int(np.count_nonzero(ahead > _AHEAD_NS)):
            notes.append(
                f"{late} {name} images on {topic} have stamps in the future of their recording, by up to "
                f"{ahead.max() / 1e9:.0f} s: the clocks of camera and recorder differed"
            )
    return notes


def _likely_cause(reader: FrameReader) -> str:
    """Return the most frequent cause in words, with what can be done."""
    found = reader.survey
    causes: Counter[UnpairedCause | Skip | str] = Counter(
        {cause: n for cause, n in reader.counts.skipped.items() if cause.is_fault}
    )
    smaller = found.color if len(found.color.stamps) <= len(found.depth.stamps) else found.depth
    causes.update(smaller.unpaired)
    causes["unreadable"] += smaller.unreadable
    cause = causes.most_common(1)[0][0]
    if isinstance(cause, Skip):
        return _SKIP_CAUSES.get(cause, cause.value)
    if cause is UnpairedCause.NO_PARTNER:
        return _no_partner(found.color, found.depth, reader.slop_ns)
    if cause is UnpairedCause.DUPLICATE:
        return "stamps repeat: two drivers publish on the topic, or the stamps are too coarse"
    if cause is UnpairedCause.NO_STAMP:
        return "their stamps are 0: the camera driver must set the stamps"
    if cause is UnpairedCause.ODD_STAMP:
        return "their stamps are days away from the time of recording"
    return "their messages cannot be read"


def _no_partner(color: StreamSurvey, depth: StreamSurvey, slop_ns: int) -> str:
    one, other = (np.unique(np.asarray(stream.stamps, np.int64)) for stream in (color, depth))
    if len(other) < len(one):
        one, other = other, one
    begin, end = max(one[0], other[0]), min(one[-1], other[-1])
    outside = int(np.count_nonzero((one < begin) | (one > end)))
    if end < begin or outside > len(one) / 2:
        return (
            "colour and depth were recorded at different times: they overlap for "
            f"{max(int(end - begin), 0) / 1e9:.1f} s of {(max(one[-1], other[-1]) - min(one[0], other[0])) / 1e9:.1f} s"
        )
    offsets = nearest_offsets(one, other)
    apart = float(np.median(offsets[offsets > slop_ns])) if (offsets > slop_ns).any() else 0.0
    period = min(p for p in (median_period_ns(one), median_period_ns(other), np.inf) if p)
    if slop_ns < apart <= period:
        return (
            f"the nearest image of the other stream is typically {apart / 1e6:.1f} ms away: allow it with --slop-ms "
            f"{max(1, int(np.ceil(apart * 1.5 / 1e6)))} if the scene did not move, or record with `enable_sync:=true`"
        )
    return "their partners are missing: the recorder, the network or the camera dropped them"
