"""Record a live camera: write tagged pairs to disk, and count everything that is missing.

The owner of the camera (the ROS node, or pyrealsense2) passes images and the operator's commands. A call only pairs and
queues; one thread writes.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deal_core.errors import RecordingError
from deal_core.recorder.demand import PairDemand
from deal_core.recorder.summary import Lost, RecordingCounts, RecordingSummary, Skipped, summarize
from deal_core.recorder.tag_commands import TagTrack, check_class_names, parse_tags
from deal_core.recorder.write_queue import (
    RESERVE_BYTES,
    LoggedMessage,
    LoggedTags,
    RecordingQueue,
    RgbdImages,
    WriterThread,
)
from deal_core.recording.depth_values import DepthValues
from deal_core.recording.image_encodings import ImageFormatError, RawImage
from deal_core.recording.image_messages import IMAGE, CameraImage, is_color_encoding, is_depth_encoding
from deal_core.recording.pair_rules import alignment_fault
from deal_core.recording.pairing import StampPairer
from deal_core.recording.tags import TagSpan
from deal_core.recording.topics import ALIGN_HINT
from deal_core.recording.writer import RecordingWriter, message_types, partial_folder
from deal_core.structures import CameraIntrinsics, ClassList, TagMarker, TagState

_NS_PER_S = 1_000_000_000
_USUAL_RATE_HZ = 30.0
_LATCHED_MESSAGES = 1000


@dataclass(frozen=True)
class RecorderSettings:
    """How to record.

    Attributes:
        classes: classes that tags may name.
        rate_hz: pairs to keep per second; 0 keeps all.
        only_if_changed: keep a pair only if the view differs from the last kept one.
        change_threshold: mean difference in grey levels, of 255, at which a view has changed.
        slop_ns: largest difference between the stamps of a pair; 0 pairs equal stamps only.
        sync_queue: number of images of each stream that may wait for a partner.
        aligned: whether depth is aligned to colour although its frame has another name; it is then recorded with the
            name of colour's frame.
        compress: "depth" compresses depth images with zstd at level 1; "none" compresses nothing.
        depth: how to read the numbers of depth images; the recording's session says it to its readers.
        tag_guard_s: time before and after a change of tags in which nothing is labelled.
        planned_minutes: duration for which the disk must have space at the start; 0 skips the check.
        queue_pairs: number of pairs that may wait for the disk.
        queue_mib: memory for waiting pairs, MiB.
        session: further facts for the recording (device, profiles, tool), plain JSON values.

    Raises:
        UsageError: tags cannot name a class.
    """

    classes: ClassList
    rate_hz: float = 5.0
    only_if_changed: bool = False
    change_threshold: float = 3.0
    slop_ns: int = 0
    sync_queue: int = 10
    aligned: bool = False
    compress: Literal["none", "depth"] = "none"
    depth: DepthValues = field(default_factory=DepthValues)
    tag_guard_s: float = 0.5
    planned_minutes: float = 10.0
    queue_pairs: int = 90
    queue_mib: int = 256
    session: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_class_names(self.classes)


@dataclass(frozen=True, eq=False)
class LatestImages:
    """The newest images of the camera, which may not be a pair.

    Attributes:
        color, depth: newest images; None before the first.
        age_s: time since the colour image arrived.
    """

    color: CameraImage | None
    depth: CameraImage | None
    age_s: float


@dataclass(frozen=True)
class RecorderState:
    """The state of the recorder at one moment.

    Attributes:
        path: path of the running recording; empty between recordings.
        tags: present tags.
        counts: counts of the running recording, or the last one.
        failure: why the running recording cannot continue; it should then be stopped.
    """

    path: str
    tags: TagState
    counts: RecordingCounts
    failure: str

    @property
    def is_recording(self) -> bool:
        """Whether a recording is running."""
        return bool(self.path)


class PairRecorder:
    r"""Record one camera, one recording after the other. All methods may be called from any thread.

    Args:
        settings: how to record.
        tags: tags at the start.
        clock: monotonic clock, seconds.

    Raises:
        RecordingError: from the methods that need a running recording, if no recording is running.

    Example:
        >>> recorder = PairRecorder(RecorderSettings(ClassList(("mug", "drill"))))  # doctest: +SKIP
        >>> recorder.start(Path("kitchen_1"))  # doctest: +SKIP
        >>> recorder.add_color(color), recorder.add_depth(depth)  # doctest: +SKIP
        >>> recorder.set_tags("mug, complete", source="keyboard")  # doctest: +SKIP
        >>> print("\n".join(recorder.stop().lines()))  # doctest: +SKIP
    """

    def __init__(
        self, settings: RecorderSettings, tags: TagState | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._clock = settings, clock
        self._lock = threading.RLock()
        self._tags = tags or TagState()
        self._tags.vector(settings.classes)
        self._marker = self._tags.marker
        self._color: CameraImage | None = None
        self._depth: CameraImage | None = None
        self._period_ns = 0
        self._heard_s = 0.0
        self._camera: CameraIntrinsics | None = None
        self._latched: dict[tuple[str, bytes], LoggedMessage] = {}
        self._session: _Session | None = None
        self._last_counts = RecordingCounts()
        message_types()  # loaded now, because images would have to wait at the start of a recording

    def add_color(self, image: CameraImage) -> None:
        """Add a colour image; its data must not change afterwards."""
        with self._lock:
            if self._color:
                self._period_ns = image.stamp_ns - self._color.stamp_ns
            self._color, self._heard_s = image, self._clock()
            if self._session:
                self._session.add_color(image)

    def add_depth(self, image: CameraImage) -> None:
        """Add a depth image; its data must not change afterwards."""
        with self._lock:
            self._depth = image
            if self._session:
                self._session.add_depth(image)

    def set_camera(self, camera: CameraIntrinsics) -> None:
        """Set the colour camera's intrinsics for the next recording."""
        with self._lock:
            self._camera = camera

    def add_message(self, topic: str, kind: str, data: bytes, *, is_latched: bool = False) -> None:
        """Add a message of another topic, such as TF or odometry, which is recorded unchanged.

        Args:
            topic: name of the topic.
            kind: type of the message.
            data: the serialised message.
            is_latched: whether it also belongs to later recordings, as one of /tf_static does.
        """
        with self._lock:
            message = LoggedMessage(self._now_ns(), topic, kind, data)
            if is_latched:
                key = topic, data
                if key in self._latched:
                    return
                self._latched[key] = message
                if len(self._latched) > _LATCHED_MESSAGES:
                    del self._latched[next(iter(self._latched))]
            if self._session:
                self._session.add_message(message)

    @property
    def has_images(self) -> bool:
        """Whether an image of each stream has arrived."""
        with self._lock:
            return self._color is not None and self._depth is not None

    @property
    def classes(self) -> ClassList:
        """Classes that tags may name."""
        return self._settings.classes

    @property
    def latest(self) -> LatestImages:
        """The newest images, for a preview; they do not slow a recording."""
        with self._lock:
            return LatestImages(self._color, self._depth, self._clock() - self._heard_s)

    @property
    def state(self) -> RecorderState:
        """The present state."""
        with self._lock:
            session = self._session
            if session is None:
                return RecorderState("", self._tags, self._last_counts, "")
            return RecorderState(str(session.path), self._tags, session.counts, session.failure)

    def note_dropped(self, pairs: int) -> None:
        """Count pairs that the camera did not deliver, as its frame numbers show."""
        with self._lock:
            if self._session:
                self._session.note_dropped(pairs)

    @property
    def is_behind(self) -> bool:
        """Whether pairs wait to be written; a source that can wait, such as a file, should wait then."""
        with self._lock:
            return self._session is not None and self._session.is_behind

    def start(self, path: Path, *, with_latest: bool = False) -> None:
        """Begin a recording in `<path>.partial`, which becomes `path` when it is stopped.

        Args:
            path: path of the recording.
            with_latest: record the newest images, too, and not only the following ones.

        Raises:
            RecordingError: a recording is running, images are missing or not aligned, the camera has another size, the
                disk has no space for the planned time, or `path` cannot be created.
        """
        with self._lock:
            if self._session:
                raise RecordingError(f"{self._session.path} is being recorded already: stop it first")
            first = _check_images(self._color, self._depth, self._camera, self._settings)
            _check_disk(path, first, self._settings, _NS_PER_S / self._period_ns if self._period_ns > 0 else 0)
            begin_ns = max(image.stamp_ns for image in first) - with_latest
            self._session = _Session(path, self._settings, self._camera, self._tags, first, begin_ns)
            for message in self._latched.values():
                self._session.add_message(replace(message, log_time_ns=begin_ns))
            if with_latest:
                self._session.add_color(first[0])
                self._session.add_depth(first[1])

    def stop(self) -> RecordingSummary:
        """Finish the recording: write the queue, the index and the summary; without a pair, raise an error."""
        with self._lock:
            session, self._session = self._running(), None
            try:
                return session.finish(self._now_ns())
            finally:
                self._last_counts = session.counts

    def set_tags(self, command: str, source: str) -> TagState:
        """Change the tags by a command of `parse_tags`; equal tags change nothing.

        Args:
            command: command, as in "mug, drill" or "+mug".
            source: origin of the command, as in "keyboard".

        Raises:
            UsageError: a name is not in the class list; the message suggests the nearest one.
        """
        with self._lock:
            tags = parse_tags(command, self._tags, self._settings.classes)
            if tags != self._tags:
                self._tags = tags
                if tags.marker is not TagMarker.IGNORE:
                    self._marker = tags.marker
                if self._session:
                    self._session.change_tags(self._now_ns(), tags, source)
            return self._tags

    def toggle(self, name: str, source: str) -> TagState:
        """Tag a class as present, or remove its tag; see `set_tags`."""
        with self._lock:
            return self.set_tags(("-" if name in self._tags.present else "+") + name, source)

    def toggle_ignore(self, source: str) -> TagState:
        """Set the marker to ignore, or back to the one before."""
        with self._lock:
            ignores = self._tags.marker is TagMarker.IGNORE
            return self.set_tags((self._marker if ignores else TagMarker.IGNORE).value, source)

    def toggle_complete(self, source: str) -> TagState:
        """Set the marker to complete, or from complete to partial."""
        with self._lock:
            complete = self._tags.marker is TagMarker.COMPLETE
            return self.set_tags((TagMarker.PARTIAL if complete else TagMarker.COMPLETE).value, source)

    def begin_segment(self, source: str) -> None:
        """Begin a segment of the running recording with the same tags, for a new place or moved objects."""
        with self._lock:
            self._running().begin_segment(self._now_ns(), source)

    def keep_next(self) -> None:
        """Keep the next pair of the running recording, regardless of `rate_hz` and `only_if_changed`."""
        with self._lock:
            self._running().keep_next()

    def discard_last(self) -> int:
        """Discard the last segment of the running recording; return the number of its pairs.

        A second call discards the segment before. The pairs stay in the file, with the marker ignore.

        Raises:
            UsageError: no segment is left.
        """
        with self._lock:
            return self._running().discard_last(self._now_ns())

    def _running(self) -> _Session:
        if self._session is None:
            raise RecordingError("no recording is running: start one first")
        return self._session

    def _now_ns(self) -> int:
        """Return the present time on the camera's clock."""
        if self._color is None:
            return 0
        return self._color.stamp_ns + round((self._clock() - self._heard_s) * _NS_PER_S)


class _Session:
    """One recording: pairs and selects images, and passes them to the writer's thread."""

    def __init__(
        self,
        path: Path,
        settings: RecorderSettings,
        camera: CameraIntrinsics | None,
        tags: TagState,
        first: tuple[RawImage, RawImage],
        newest_ns: int,
    ) -> None:
        self.path, self._settings = path, settings
        self._lock = threading.Lock()
        self._pairer = StampPairer[CameraImage, CameraImage](slop_ns=settings.slop_ns, queue_size=settings.sync_queue)
        # Images shortly before the start are ignored and not lost, but a clock that went back must be counted.
        self._begin_ns = newest_ns + settings.slop_ns
        self._may_be_early = dict.fromkeys(("color", "depth"), settings.sync_queue)
        self._last_ns = self._origin_ns = self._slot = -1
        self._demand = PairDemand(settings.rate_hz)
        self._dropped = 0
        self._is_asked_for = False
        self._stamps: array[int] = array("q")
        self._track = TagTrack(newest_ns + 1, tags, round(settings.tag_guard_s * _NS_PER_S), "start")
        self._log_ns = newest_ns
        session = dict(settings.session)
        if settings.depth != DepthValues():
            session["depth"] = asdict(settings.depth)
        is_compressed = settings.compress == "depth"
        self._writer = RecordingWriter(
            path, settings.classes, camera, session=session, survives=True, compress_depth=is_compressed
        )
        self._open = ExitStack()
        self._open.enter_context(self._writer)
        self._queue = RecordingQueue(settings.queue_pairs, settings.queue_mib * 2**20)
        self._put_tags(self._track.spans, newest_ns)
        threshold = settings.change_threshold if settings.only_if_changed else None
        self._thread = WriterThread(
            self._writer, self._queue, threshold, first, lambda: self.counts, aligned=settings.aligned
        )
        self._thread.start()

    @property
    def failure(self) -> str:
        return self._thread.failure

    @property
    def counts(self) -> RecordingCounts:
        with self._lock, self._queue.lock:
            found = self._pairer.counts
            unpaired = {"color": _named(found.unpaired_color), "depth": _named(found.unpaired_depth)}
            missed, wanted = self._demand.missed(unpaired, found.paired, self._pairer.earliest_pending)
            return RecordingCounts(
                received_color=found.received_color,
                received_depth=found.received_depth,
                unpaired_color=unpaired["color"],
                unpaired_depth=unpaired["depth"],
                pending_color=self._pairer.pending_color,
                pending_depth=self._pairer.pending_depth,
                paired=found.paired,
                written=self._queue.written,
                skipped=_named(self._queue.skipped),
                lost=_named(self._queue.lost),
                pending_pairs=self._queue.pending,
                dropped=self._dropped,
                missed=missed,
                wanted=wanted,
                color_hz=self._demand.rate_hz("color"),
                depth_hz=self._demand.rate_hz("depth"),
                others=dict(self._queue.others),
                others_lost=self._queue.others_lost,
            )

    @property
    def is_behind(self) -> bool:
        return not self._queue.is_empty

    def note_dropped(self, pairs: int) -> None:
        with self._lock:
            self._dropped += pairs

    def add_color(self, image: CameraImage) -> None:
        with self._lock:
            if not self._is_early("color", image):
                self._demand.see("color", image.stamp_ns)
                self._take(self._pairer.add_color(image.stamp_ns, image))

    def add_depth(self, image: CameraImage) -> None:
        with self._lock:
            if not self._is_early("depth", image):
                self._demand.see("depth", image.stamp_ns)
                self._take(self._pairer.add_depth(image.stamp_ns, image))

    def change_tags(self, now_ns: int, tags: TagState, source: str) -> None:
        self._put_tags(self._track.change(now_ns, tags, source), now_ns)

    def begin_segment(self, now_ns: int, source: str) -> None:
        self._put_tags([self._track.begin_segment(now_ns, source)], now_ns)

    def add_message(self, message: LoggedMessage) -> None:
        self._queue.put_message(message)

    def keep_next(self) -> None:
        with self._lock:
            self._is_asked_for = True

    def discard_last(self, now_ns: int) -> int:
        spans, number = self._track.discard_last(now_ns, np.array(self._stamps, np.int64))
        self._put_tags(spans, now_ns)
        return number

    def finish(self, now_ns: int) -> RecordingSummary:
        with self._lock:
            self._take(self._pairer.flush(cut=True))
        self._queue.close()
        self._thread.join()
        path, failure = self.path, self._thread.failure
        try:
            with self._open:
                self._writer.flush(sync=True)
                self._queue.note_written(self._writer.pairs_on_file)
                text = json.dumps(asdict(self._summary(path, failure)))
                self._writer.write_summary(max(now_ns, self._log_ns), text)
        except RecordingError as error:
            path = partial_folder(self.path)
            if not path.exists():
                raise
            failure = failure or str(error)
        self._queue.note_written(self._writer.pairs_on_file)
        self._queue.fail()
        return self._summary(path, failure)

    def _summary(self, path: Path, failure: str) -> RecordingSummary:
        counts, written = self.counts, self._thread
        stamps, offsets = written.stamps[: counts.written], written.offsets[: counts.written]
        timeline, classes = self._track.timeline(), self._settings.classes
        return summarize(str(path), failure, counts, stamps, offsets, timeline, classes)

    def _is_early(self, stream: str, image: CameraImage) -> bool:
        early = image.stamp_ns <= self._begin_ns and self._may_be_early[stream] > 0
        self._may_be_early[stream] = self._may_be_early[stream] - 1 if early else 0
        return early

    def _take(self, pairs: Sequence[RgbdImages]) -> None:
        for pair in pairs:
            if pair.stamp_ns <= self._last_ns:
                repeated = pair.stamp_ns == self._last_ns
                self._queue.lose(Lost.DUPLICATE_STAMP if repeated else Lost.STAMP_BACKWARDS)
                continue
            if self._last_ns < 0:
                self._origin_ns = pair.stamp_ns
            self._last_ns = pair.stamp_ns
            self._demand.fill(pair.stamp_ns)
            # The first pair of each period is kept, so that the rate is right on average if stamps jitter.
            slot = int((pair.stamp_ns - self._origin_ns) * self._settings.rate_hz // _NS_PER_S)
            if self._settings.rate_hz and slot == self._slot and not self._is_asked_for:
                self._queue.skip(Skipped.RATE)
            elif self._queue.put_pair(pair, is_asked_for=self._is_asked_for):
                self._slot, self._is_asked_for = slot, False
                self._stamps.append(pair.stamp_ns)

    def _put_tags(self, spans: Sequence[TagSpan], now_ns: int) -> None:
        for span in spans:
            self._log_ns = max(self._log_ns + 1, now_ns)  # readers apply them in this order
            self._queue.put_tags(LoggedTags(self._log_ns, span))


def _check_images(
    newest_color: CameraImage | None,
    newest_depth: CameraImage | None,
    camera: CameraIntrinsics | None,
    settings: RecorderSettings,
) -> tuple[RawImage, RawImage]:
    """Return the newest image of each stream; raise an error if they cannot be recorded."""
    if newest_color is None or newest_depth is None:
        streams = (("colour", newest_color), ("depth", newest_depth))
        missing = " and ".join(name for name, image in streams if image is None)
        raise RecordingError(
            f"no {missing} image has arrived: is the camera running, and {ALIGN_HINT.split(' ', 1)[1]}?"
        )
    try:
        color, depth = newest_color.raw(), newest_depth.raw()
    except ImageFormatError as error:
        raise RecordingError(str(error)) from error
    if not color.stamp_ns and not depth.stamp_ns:
        raise RecordingError("the images have stamp 0, so they cannot be paired: the camera driver must set the stamps")
    if not is_color_encoding(IMAGE, color.encoding):
        raise RecordingError(f"expected colour in a colour encoding, as rgb8; found '{color.encoding}'")
    if not is_depth_encoding(IMAGE, depth.encoding):
        raise RecordingError(
            f"expected depth as 16UC1 or 32FC1, found '{depth.encoding}': coloured depth cannot be recorded; "
            "switch the camera's colorizer off (`colorizer.enable:=false`)"
        )
    (height, width), (depth_height, depth_width) = color.size, depth.size
    if alignment_fault(color, depth, aligned=settings.aligned):
        raise RecordingError(
            f"depth is not aligned to colour: colour is {width}x{height} in frame '{color.frame_id}', depth "
            f"{depth_width}x{depth_height} in frame '{depth.frame_id}'; {ALIGN_HINT}, or if it is aligned although its "
            "frame has another name, say so with aligned:=true"
        )
    if doubt := _certain_doubt(depth, settings.depth):
        raise RecordingError(f"depth cannot be true: {doubt}")
    if camera and (camera.height, camera.width) != color.size:
        raise RecordingError(
            f"camera_info is for {camera.width}x{camera.height}, the colour image is {width}x{height}: it belongs to "
            "another camera or profile"
        )
    return color, depth


def _certain_doubt(depth: RawImage, values: DepthValues) -> str:
    """Return why no camera gives such depth; empty if it may be true, or the image is damaged."""
    try:
        doubts = values.sample(depth.pixels(), depth.encoding).doubts
    except ImageFormatError:
        return ""
    return next((doubt.as_parameter for doubt in doubts if doubt.is_certain), "")


def _check_disk(path: Path, first: tuple[RawImage, RawImage], settings: RecorderSettings, camera_hz: float) -> None:
    place = next(folder for folder in path.absolute().parents if folder.exists())
    rate = settings.rate_hz or camera_hz or _USUAL_RATE_HZ
    needed = sum(len(image.data) for image in first) * rate * settings.planned_minutes * 60 + RESERVE_BYTES
    free = shutil.disk_usage(place).free
    if settings.planned_minutes and free < needed:
        raise RecordingError(
            f"{place} has {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for {settings.planned_minutes:g} "
            f"minutes at {rate:.3g} Hz: free space, choose another output, a lower rate_hz, or fewer planned_minutes"
        )


def _named(counts: Mapping[Any, int]) -> dict[str, int]:
    return {cause.value: n for cause, n in counts.items() if n}
