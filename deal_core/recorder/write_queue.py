"""The bounded queue between a camera and the disk, and the thread that writes it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np

from deal_core.errors import RecordingError
from deal_core.recorder.summary import Lost, RecordingCounts, Skipped
from deal_core.recording.image_encodings import COLOR_ENCODINGS, DEPTH_ENCODINGS, ImageFormatError, RawImage
from deal_core.recording.image_messages import CameraImage
from deal_core.recording.pair_rules import alignment_fault, is_same_frame
from deal_core.recording.pairing import Pair
from deal_core.recording.tags import TagSpan
from deal_core.recording.writer import LOSS_TOPIC, MAX_STAMP_NS, RecordingWriter
from deal_core.structures import Float32Array, TagState

RESERVE_BYTES = 128 * 2**20
"""Free space at which recording ends, so that it can still be finished."""
_SYNC_PERIOD_S = 1.0
_WAITING_MESSAGES = 10_000  # of other topics: some seconds of TF
_VIEW_SIZE = (32, 24)

RgbdImages = Pair[CameraImage, CameraImage]


@dataclass(frozen=True)
class LoggedTags:
    """Tags on the way to the file, with their log time."""

    log_time_ns: int
    span: TagSpan


@dataclass(frozen=True)
class LoggedMessage:
    """A serialised message of another topic on the way to the file."""

    log_time_ns: int
    topic: str
    type: str
    data: bytes


class RecordingQueue:
    """A bounded queue of pairs, tags and other messages for the writer, which counts the outcome of every pair.

    Args:
        max_pairs: number of pairs that may wait.
        max_bytes: memory for waiting pairs; one pair may always wait.

    Attributes:
        lock: reentrant lock to hold while reading several counts.
        written: number of pairs in the file.
        pending: number of pairs on the way.
        skipped, lost: number of other pairs, by cause.
        others: number of other messages that were queued, by topic.
        others_lost: number of other messages that found the queue full, or the disk failed.
        is_on_disk: whether the writer waits for the disk.
    """

    def __init__(self, max_pairs: int, max_bytes: int) -> None:
        self.lock = threading.Condition()
        self.written = self.pending = 0
        self.skipped: Counter[Skipped] = Counter()
        self.lost: Counter[Lost] = Counter()
        self.others: Counter[str] = Counter()
        self.others_lost = 0
        self.is_on_disk = False
        self._items: deque[RgbdImages | LoggedTags | LoggedMessage] = deque()
        self._asked_for: set[int] = set()
        self._pairs = self._bytes = self._messages = 0
        self._max_pairs, self._max_bytes = max_pairs, max_bytes
        self._closed = self._failed = False

    def put_pair(self, pair: RgbdImages, *, is_asked_for: bool = False) -> bool:
        """Queue a pair, or count it as lost and return False.

        A requested pair is written even if the view has not changed.
        """
        with self.lock:
            size = _bytes(pair)
            if self._failed:
                self.lost[Lost.DISK_FAILED] += 1
                return False
            if self._pairs >= self._max_pairs or (self._pairs and self._bytes + size > self._max_bytes):
                self.lost[Lost.DISK_SLOW if self.is_on_disk else Lost.QUEUE_FULL] += 1
                return False
            self._items.append(pair)
            if is_asked_for:
                self._asked_for.add(pair.stamp_ns)
            self._pairs, self._bytes, self.pending = self._pairs + 1, self._bytes + size, self.pending + 1
            self.lock.notify()
            return True

    def put_tags(self, tags: LoggedTags) -> None:
        """Queue tags; they are never lost."""
        with self.lock:
            self._items.append(tags)
            self.lock.notify()

    def put_message(self, message: LoggedMessage) -> None:
        """Queue another message, or count it as lost if too many wait."""
        with self.lock:
            if self._failed or self._messages >= _WAITING_MESSAGES:
                self.others_lost += 1
                return
            self._items.append(message)
            self.others[message.topic] += 1
            self._messages += 1
            self.lock.notify()

    def get(self, timeout_s: float) -> RgbdImages | LoggedTags | LoggedMessage | None:
        """Return the next item; None after the timeout."""
        with self.lock:
            self.lock.wait_for(lambda: self._items or self._closed, max(timeout_s, 0))
            item = self._items.popleft() if self._items else None
            if isinstance(item, Pair):
                self._pairs, self._bytes = self._pairs - 1, self._bytes - _bytes(item)
            self._messages -= isinstance(item, LoggedMessage)
            return item

    def take_wish(self, stamp_ns: int) -> bool:
        """Return whether the pair with a stamp was requested, and forget the request."""
        with self.lock:
            wished = stamp_ns in self._asked_for
            self._asked_for.discard(stamp_ns)
            return wished

    @property
    def is_empty(self) -> bool:
        """Whether the queue is empty."""
        with self.lock:
            return not self._items

    @property
    def is_done(self) -> bool:
        """Whether the queue is closed and empty."""
        with self.lock:
            return self._closed and not self._items

    def close(self) -> None:
        """Close the queue: nothing follows."""
        with self.lock:
            self._closed = True
            self.lock.notify()

    def skip(self, cause: Skipped, *, taken: bool = False) -> None:
        """Count an unwanted pair; `taken` means that it was in the queue."""
        with self.lock:
            self.skipped[cause] += 1
            self.pending -= taken

    def lose(self, cause: Lost, *, taken: bool = False) -> None:
        """Count a lost pair; `taken` means that it was in the queue."""
        with self.lock:
            self.lost[cause] += 1
            self.pending -= taken

    def note_written(self, total: int) -> None:
        """Set the number of pairs in the file."""
        with self.lock:
            self.pending -= total - self.written
            self.written = total

    def fail(self) -> None:
        """Count all pending and all following pairs as lost to the disk."""
        with self.lock:
            if self.pending:
                self.lost[Lost.DISK_FAILED] += self.pending
            self.pending, self._failed = 0, True


class WriterThread(threading.Thread):
    """Writes the wanted pairs of the queue; ends with the queue, or when writing fails.

    Args:
        writer: open recording; no other thread may write until this one has ended.
        queue: queue of pairs and tags.
        change_threshold: mean difference in grey levels at which a view has changed; None writes all views.
        first: images of the first pair, whose format every pair must have.
        counts: returns the counts of all images so far.
        aligned: whether depth is aligned to colour although its frame has another name.

    Attributes:
        failure: why the thread ended before the queue.
        stamps, offsets: stamps and offsets of the pairs passed to the writer, nanoseconds.
    """

    def __init__(
        self,
        writer: RecordingWriter,
        queue: RecordingQueue,
        change_threshold: float | None,
        first: tuple[RawImage, RawImage],
        counts: Callable[[], RecordingCounts],
        *,
        aligned: bool = False,
    ) -> None:
        super().__init__(name="recording writer", daemon=True)
        self.failure = ""
        self.stamps: array[int] = array("q")
        self.offsets: array[int] = array("q")
        self._writer, self._queue, self._first, self._counts = writer, queue, first, counts
        self._change_threshold, self._aligned = change_threshold, aligned
        self._view: Float32Array | None = None

    def run(self) -> None:
        """Write until the queue is done."""
        try:
            due = time.monotonic() + _SYNC_PERIOD_S
            while not self._queue.is_done:
                item = self._queue.get(due - time.monotonic())
                if isinstance(item, Pair):
                    self._write(item)
                elif isinstance(item, LoggedMessage):
                    self._writer.write_message(item.topic, item.type, item.log_time_ns, item.data)
                elif item:
                    span, tags = item.span, item.span.tags or TagState()
                    self._writer.write_tags(span.stamp_ns, tags, span.source, log_time_ns=item.log_time_ns)
                if time.monotonic() >= due:
                    self._sync()
                    due = time.monotonic() + _SYNC_PERIOD_S
        except Exception as error:
            self.failure = str(error) or type(error).__name__
            self._queue.note_written(self._writer.pairs_on_file)
            self._queue.fail()
            if not isinstance(error, RecordingError):
                raise

    def _write(self, pair: RgbdImages) -> None:
        try:
            color, depth = pair.color.raw(), pair.depth.raw()
            fault = _fault(color, depth, self._first, self._aligned)
        except ImageFormatError:
            fault = Lost.BAD_IMAGE
        if fault:
            self._queue.lose(fault, taken=True)
            return
        if not is_same_frame(color.frame_id, depth.frame_id):
            depth = replace(depth, frame_id=color.frame_id)
        if self._change_threshold is not None:
            view, is_asked_for = _view(color), self._queue.take_wish(pair.stamp_ns)
            is_unchanged = self._view is not None and np.abs(view - self._view).mean() < self._change_threshold
            if is_unchanged and not is_asked_for:
                self._queue.skip(Skipped.UNCHANGED, taken=True)
                return
            self._view = view
        self.stamps.append(pair.stamp_ns)
        self.offsets.append(pair.offset_ns)
        self._queue.is_on_disk = True
        self._writer.write_images(color, depth)
        self._queue.is_on_disk = False
        self._queue.note_written(self._writer.pairs_on_file)

    def _sync(self) -> None:
        """Write everything to the disk, with the counts so far, so that a power cut loses only newer pairs."""
        counts = self._counts()
        if self.stamps:
            account = {"stamp_ns": self.stamps[-1], **asdict(counts), "loss": counts.loss}
            self._writer.write_text(LOSS_TOPIC, self.stamps[-1], json.dumps(account))
        self._queue.is_on_disk = True
        self._writer.flush(sync=True)
        self._queue.is_on_disk = False
        self._queue.note_written(self._writer.pairs_on_file)
        free = shutil.disk_usage(self._writer.path.parent).free
        if free < RESERVE_BYTES:
            raise RecordingError(
                f"the disk of {self._writer.path} is almost full ({free / 2**20:.0f} MiB free): recording ended"
            )


def _fault(color: RawImage, depth: RawImage, first: tuple[RawImage, RawImage], aligned: bool) -> Lost | None:
    """Return why a pair does not fit the first pair of the recording."""
    if (color.encoding, depth.encoding) != tuple(image.encoding for image in first):
        return Lost.ENCODING_CHANGE
    if {color.size, depth.size} != {first[0].size}:
        return Lost.SIZE_CHANGE
    if alignment_fault(color, depth, aligned=aligned):
        return Lost.NOT_ALIGNED
    if not (_is_sound(color) and _is_sound(depth)):
        return Lost.BAD_IMAGE
    return None


def _is_sound(image: RawImage) -> bool:
    if not 0 <= image.stamp_ns < MAX_STAMP_NS:
        return False
    if image.encoding not in COLOR_ENCODINGS and image.encoding not in DEPTH_ENCODINGS:
        return len(image.data) == image.height * image.step
    try:
        image.pixels()
    except ImageFormatError:
        return False
    return True


def _view(image: RawImage) -> Float32Array:
    """Return a small grey picture of an image of any 8-bit encoding: the mean over its bytes."""
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
    return np.asarray(cv2.resize(rows, _VIEW_SIZE, interpolation=cv2.INTER_AREA), np.float32)


def _bytes(pair: RgbdImages) -> int:
    return len(pair.color.data) + len(pair.depth.data)
