"""Read the beginnings of a recording's images, and decide from these alone which belong together and which fit."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from deal_core.recording.image_encodings import COLOR_ENCODINGS, DEPTH_ENCODINGS, RARE_ENCODINGS, ImageFormatError
from deal_core.recording.image_messages import COMPRESSED, header_stamp, image_head, image_size
from deal_core.recording.pair_rules import alignment_fault
from deal_core.recording.pairing import PairingCounts, UnpairedCause, pair_stamps
from deal_core.recording.reader import RawMessage, Recording
from deal_core.recording.tags import Skip
from deal_core.recording.topics import ImageTopics
from deal_core.structures import Int64Array

_HEAD_BYTES, _COMPRESSED_HEAD_BYTES = 2048, 72 * 1024
_DAY_NS = 86_400 * 10**9
_HELD_BYTES = 64 * 2**20
_GREY = ("mono8", "8UC1")


@dataclass(frozen=True)
class ImageForm:
    """What all images of a stream have in common in a sound recording.

    Attributes:
        frame_id: optical frame.
        encoding: encoding, or format of a compressed image.
        size: (H, W); (0, 0) if unknown before decoding.
    """

    frame_id: str
    encoding: str
    size: tuple[int, int]

    @property
    def sort(self) -> str:
        """What may not change, because it is then of another sensor; empty if the encoding does not say it.

        16-bit infrared is mono16, and 8-bit infrared mono8.
        """
        name = self.encoding.split(";")[0].strip()
        if name in DEPTH_ENCODINGS:
            return "mono16" if name == "mono16" else "depth"
        if name in COLOR_ENCODINGS or name in RARE_ENCODINGS:
            return "grey" if name in _GREY else "colour"
        return ""


@dataclass
class StreamSurvey:
    """The images of one stream in the order of the files.

    Attributes:
        stamps: header stamps, nanoseconds.
        log_times: times of recording, nanoseconds.
        lengths: lengths of the serialised messages, bytes.
        forms: index in `kinds` for each image.
        kinds: the different forms.
        unreadable: number of messages without a readable head.
        unpaired: number of images without a partner, by cause.
    """

    stamps: array[int] = field(default_factory=lambda: array("q"))
    log_times: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    forms: array[int] = field(default_factory=lambda: array("i"))
    kinds: list[ImageForm] = field(default_factory=list)
    unreadable: int = 0
    unpaired: Counter[UnpairedCause] = field(default_factory=Counter)
    _known: dict[ImageForm, int] = field(default_factory=dict)

    def add(self, stamp_ns: int, log_time_ns: int, length: int, form: ImageForm) -> None:
        """Add the next image."""
        if form not in self._known:
            self._known[form] = len(self.kinds)
            self.kinds.append(form)
        self.stamps.append(stamp_ns)
        self.log_times.append(log_time_ns)
        self.lengths.append(length)
        self.forms.append(self._known[form])

    @property
    def backwards(self) -> int:
        """Number of images with an earlier stamp than the image before."""
        return int(np.count_nonzero(np.diff(np.asarray(self.stamps)) < 0))

    @property
    def ahead_ns(self) -> Int64Array:
        """Stamp minus time of recording of each image, nanoseconds."""
        return np.asarray(self.stamps, np.int64) - np.asarray(self.log_times, np.int64)

    def usable(self) -> list[int]:
        """Return the places of the images whose stamps can be used; count the others as unpaired."""
        stamps, ahead = np.asarray(self.stamps, np.int64), self.ahead_ns
        unset = (stamps == 0) & (np.count_nonzero(stamps == 0) > 1) | (stamps < 0)
        odd = np.zeros(len(stamps), np.bool_)
        if np.count_nonzero(~unset) > 2:
            odd = (np.abs(ahead - np.median(ahead[~unset])) > _DAY_NS) & ~unset
        self.unpaired[UnpairedCause.NO_STAMP] += int(unset.sum())
        self.unpaired[UnpairedCause.ODD_STAMP] += int(odd.sum())
        return [int(place) for place in np.flatnonzero(~(unset | odd))]


@dataclass(frozen=True)
class PlannedPair:
    """Two images of a recording that belong together.

    Attributes:
        stamp_ns: colour stamp.
        depth_stamp_ns: depth stamp.
        skip: why the pair cannot be a frame; None if nothing is wrong so far.
        why: the fault in words.
    """

    stamp_ns: int
    depth_stamp_ns: int
    skip: Skip | None = None
    why: str = ""


@dataclass
class Survey:
    """All images of a recording by their heads, and the pairs that they make.

    Attributes:
        color, depth: the streams.
        pairs: all pairs, in the order of their colour stamps.
        size: (H, W) that most aligned pairs have; None if no head tells it.
        examples: the first error message of each kind of unreadable head.
    """

    color: StreamSurvey = field(default_factory=StreamSurvey)
    depth: StreamSurvey = field(default_factory=StreamSurvey)
    pairs: list[PlannedPair] = field(default_factory=list)
    size: tuple[int, int] | None = None
    examples: dict[str, str] = field(default_factory=dict)
    _order: bytearray = field(default_factory=bytearray)  # 0 colour, 1 depth, for each image in the files' order

    @property
    def counts(self) -> PairingCounts:
        """Counts of all images by outcome."""
        return PairingCounts(
            received_color=len(self.color.stamps),
            received_depth=len(self.depth.stamps),
            paired=len(self.pairs),
            unpaired_color=+self.color.unpaired,
            unpaired_depth=+self.depth.unpaired,
            backwards_color=self.color.backwards,
            backwards_depth=self.depth.backwards,
        )

    @property
    def depth_encoding(self) -> str:
        """Encoding of the first depth image: "16UC1" or "32FC1"."""
        name = self.depth.kinds[0].encoding.split(";")[0].strip() if self.depth.kinds else ""
        return name if name in DEPTH_ENCODINGS else "16UC1"

    def held_bytes(self, wanted: dict[int, int]) -> int:
        """Return how much waits for its partner at most, if the wanted pairs are read in the order of the files.

        Args:
            wanted: depth stamp of each colour stamp.
        """
        of_depth = {depth: color for color, depth in wanted.items()}
        waiting: dict[int, int] = {}
        held = most = 0
        streams = (
            zip(self.color.stamps, self.color.lengths, strict=True),
            zip(self.depth.stamps, self.depth.lengths, strict=True),
        )
        seen: tuple[set[int], set[int]] = (set(), set())
        for stream in self._order:
            stamp, length = next(streams[stream])
            pair = of_depth.get(stamp) if stream else (stamp if stamp in wanted else None)
            if pair is None or stamp in seen[stream]:
                continue
            seen[stream].add(stamp)
            if pair in waiting:
                held -= waiting.pop(pair)
            else:
                waiting[pair] = length
                held += length
                most = max(most, held)
        return most


def survey_recording(recording: Recording, topics: ImageTopics, *, slop_ns: int = 0, aligned: bool = False) -> Survey:
    """Read the heads of all images, pair their stamps, and find the pairs that do not fit.

    Files are not streams: an image may lie anywhere in them, in any order, or in a file of its own. The majority of the
    pairs decides which size and encoding are the recording's.

    Args:
        recording: open recording.
        topics: topics of the images.
        slop_ns: largest difference between the stamps of a pair, nanoseconds.
        aligned: whether depth is known to be aligned to colour, so that the names of the frames do not matter.
    """
    found = Survey()
    names = (topics.color.name, topics.depth.name)
    is_compressed = COMPRESSED in (topics.color.type, topics.depth.type)
    for message in recording.heads(names, _COMPRESSED_HEAD_BYTES if is_compressed else _HEAD_BYTES):
        is_depth = message.topic == names[1]
        stream = found.depth if is_depth else found.color
        try:
            head = image_head(message.head, message.type, length=message.length)
            size = image_size(head, message.head, message.type)
        except ImageFormatError as error:
            stream.unreadable += 1
            found.examples.setdefault(f"{'depth' if is_depth else 'color'}: {error.cause}", str(error))
            continue
        form = ImageForm(head.frame_id, head.encoding, size)
        stream.add(head.stamp_ns, message.log_time_ns, message.length, form)
        found._order.append(is_depth)
    _pair(found, slop_ns)
    _judge(found, aligned)
    return found


def read_pairs(
    recording: Recording, topics: ImageTopics, survey: Survey, wanted: dict[int, int]
) -> Iterator[tuple[int, RawMessage, RawMessage]]:
    """Yield (colour stamp, colour, depth) of the wanted pairs in bounded memory, in the order of the files.

    Args:
        recording: open recording.
        topics: topics of the images.
        survey: survey of the recording.
        wanted: depth stamp of each wanted colour stamp.
    """
    if survey.held_bytes(wanted) <= _HELD_BYTES:
        yield from _read_together(recording, topics, wanted)
        return
    # The streams are far apart in the files: each is read by itself, at the place where the other one is.
    while wanted:
        before = len(wanted)
        yield from _read_apart(recording, topics, wanted)
        if len(wanted) == before:
            return


def _pair(found: Survey, slop_ns: int) -> None:
    stamps: list[list[int]] = []
    for stream in (found.color, found.depth):
        stamps.append([stream.stamps[place] for place in stream.usable()])
    color, depth = (Counter(each) for each in stamps)
    partners = pair_stamps(color, depth, slop_ns)
    pairs = [PlannedPair(c, d) for c, d in sorted(partners.items())]
    # Repeated stamps on both streams: a clock that was set back, or a recording that was played in a loop.
    repeats = (color - Counter(color.keys())) & (depth - Counter(depth.keys()))
    pairs += [PlannedPair(stamp, stamp, Skip.REPEATED) for stamp in repeats.elements()]
    taken = (partners.keys(), partners.values())
    for stream, count, used in zip((found.color, found.depth), (color, depth), taken, strict=True):
        stream.unpaired[UnpairedCause.NO_PARTNER] += len(count) - len(used)
        stream.unpaired[UnpairedCause.DUPLICATE] += count.total() - len(count) - repeats.total()
    found.pairs = pairs


def _judge(found: Survey, aligned: bool) -> None:
    """Mark the pairs that are not aligned, or of another size or encoding than most."""
    color, depth = (_form_by_stamp(stream) for stream in (found.color, found.depth))
    forms = [(color[pair.stamp_ns], depth[pair.depth_stamp_ns]) for pair in found.pairs]
    faults = [alignment_fault(*form, aligned=aligned) for form in forms]
    usual: Counter[tuple[int, int]] = Counter()
    sorts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for pair, form, fault in zip(found.pairs, forms, faults, strict=True):
        if pair.skip or fault:
            continue
        usual.update(each.size for each in form[:1] if 0 not in each.size)
        for counter, each in zip(sorts, form, strict=True):
            counter.update([each.sort] if each.sort else [])
    found.size = usual.most_common(1)[0][0] if usual else None
    sort = [counter.most_common(1)[0][0] if counter else "" for counter in sorts]
    for place, (pair, form, fault) in enumerate(zip(found.pairs, forms, faults, strict=True)):
        if pair.skip:
            continue
        skip, why = None, ""
        if fault:
            skip, why = Skip.NOT_ALIGNED, fault
        elif found.size and 0 not in form[0].size and form[0].size != found.size:
            skip, why = Skip.SIZE_CHANGED, f"most pairs are {found.size}, another is {form[0].size}"
        elif odd := [f for f, s in zip(form, sort, strict=True) if f.sort and s and f.sort != s]:
            skip, why = Skip.ENCODING_CHANGED, f"an image has the encoding '{odd[0].encoding}'"
        found.pairs[place] = PlannedPair(pair.stamp_ns, pair.depth_stamp_ns, skip, why)


def _form_by_stamp(stream: StreamSurvey) -> dict[int, ImageForm]:
    """Return the form of the first image with each stamp."""
    forms: dict[int, ImageForm] = {}
    for stamp, form in zip(stream.stamps, stream.forms, strict=True):
        forms.setdefault(stamp, stream.kinds[form])
    return forms


def _read_together(
    recording: Recording, topics: ImageTopics, wanted: dict[int, int]
) -> Iterator[tuple[int, RawMessage, RawMessage]]:
    of_depth = {depth: color for color, depth in wanted.items()}
    held: tuple[dict[int, RawMessage], dict[int, RawMessage]] = ({}, {})
    seen: tuple[set[int], set[int]] = (set(), set())
    for message in recording.messages([topics.color.name, topics.depth.name]):
        stream = int(message.topic == topics.depth.name)
        stamp = _stamp(message)
        pair = None
        if stamp is not None and stamp not in seen[stream]:
            pair = of_depth.get(stamp) if stream else (stamp if stamp in wanted else None)
        if stamp is None or pair is None:
            continue
        seen[stream].add(stamp)
        if (other := held[1 - stream].pop(pair, None)) is None:
            held[stream][pair] = message
        else:
            yield (pair, other, message) if stream else (pair, message, other)


def _read_apart(
    recording: Recording, topics: ImageTopics, wanted: dict[int, int]
) -> Iterator[tuple[int, RawMessage, RawMessage]]:
    """Yield pairs in the order of their colour images, and remove them from `wanted`.

    Depth images that would exceed the memory before their colour image comes are left for the next time.
    """
    needed = {depth: color for color, depth in wanted.items()}
    depths = recording.messages([topics.depth.name])
    held: dict[int, RawMessage] = {}
    size = 0
    for color in recording.messages([topics.color.name]):
        stamp = _stamp(color)
        if stamp not in wanted:
            continue
        partner = wanted[stamp]
        while partner in needed and partner not in held and (depth := next(depths, None)):
            at = _stamp(depth)
            if at in needed and at not in held and (at == partner or size + len(depth.data) <= _HELD_BYTES):
                held[at] = depth
                size += len(depth.data)
            elif at in needed and at not in held:
                del needed[at]
        if partner in held:
            depth = held.pop(partner)
            size -= len(depth.data)
            del wanted[stamp], needed[partner]
            yield stamp, color, depth
        else:
            needed.pop(partner, None)


def _stamp(message: RawMessage) -> int | None:
    try:
        return header_stamp(message.data)
    except ImageFormatError:
        return None


def median_period_ns(stamps: Sequence[int] | Int64Array) -> float:
    """Return the median time between neighbouring stamps, nanoseconds; 0 for less than two."""
    steps = np.diff(np.unique(np.asarray(stamps, np.int64)))
    return float(np.median(steps)) if steps.size else 0.0


def nearest_offsets(stamps: Int64Array, others: Int64Array) -> Int64Array:
    """Return the distance of each stamp to the nearest of some other sorted stamps, nanoseconds."""
    after = np.clip(np.searchsorted(others, stamps), 0, len(others) - 1)
    return np.asarray(
        np.minimum(np.abs(others[after] - stamps), np.abs(others[np.maximum(after - 1, 0)] - stamps)), np.int64
    )
