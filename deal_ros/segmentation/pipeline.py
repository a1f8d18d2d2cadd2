"""Messages to masks without a node: synchroniser, worker and statistics joined, every message accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from deal_ros.diagnostics.snapshots import ResultStatistics
from deal_ros.input.conversions import stamp_to_ns
from deal_ros.input.create_synchronizer import create_synchronizer
from deal_ros.input.synchronizer import DepthMode, Frame, SyncCounts, Synchronizer, SyncLimits
from deal_ros.node.worker import NewestItemWorker, WorkerCounts
from deal_ros.segmentation.one_frame import SegmentedFrame, SegmentsImages, failure_cause, segment_frame
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.segmentation.rate_limit import RateLimit

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, eq=False)
class LastFrame:
    """The frame whose work came to its end last, and its result; None where it failed."""

    frame: Frame
    result: SegmentedFrame | None


def effective_depth_mode(wanted: str, is_used: bool) -> DepthMode:
    """Return the depth mode to run: optional depth that neither the model nor a listener uses is off."""
    mode = DepthMode(wanted)
    return DepthMode.OFF if mode is DepthMode.OPTIONAL and not is_used else mode


class SegmentationPipeline:
    """Pair images, segment the newest frame in a thread of its own, publish, count.

    `synchronizer.add_color`, `.add_depth` and `.expire` are for the executor's thread, as are the methods.
    `sync.paired + sync.color_alone == work.submitted` at any time.

    Args:
        segmenter: segments an image.
        parameters: how to pair, which frames are too old or too many, what of the answer to pass on.
        depth_mode: what is wanted of depth.
        publish: takes each result, in the worker's thread.
        publish_more: takes it after that; what it raises is reported, and the mask is out all the same.
        now_ns: the clock that header stamps are compared with, nanoseconds.
        on_error: told of each failed frame, in the worker's thread.
    """

    def __init__(
        self,
        segmenter: SegmentsImages,
        parameters: SegmentationParameters,
        depth_mode: DepthMode,
        *,
        publish: Callable[[SegmentedFrame], None],
        now_ns: Callable[[], int],
        on_error: Callable[[str], None],
        publish_more: Callable[[SegmentedFrame], None] = lambda result: None,
    ) -> None:
        self._segmenter, self._publish, self._publish_more = segmenter, publish, publish_more
        self._now_ns, self._on_error = now_ns, on_error
        self._parameters = parameters
        self._rate_limit = RateLimit()
        self.depth_mode = depth_mode
        self.statistics = ResultStatistics()
        self.last: LastFrame | None = None
        self.is_enabled = True
        self._worker = NewestItemWorker(
            self._segment, is_old=self._is_old, on_error=self._failed, cause_of=failure_cause
        )
        self.synchronizer = self._create_synchronizer()
        self._ended = SyncCounts()

    @property
    def sync(self) -> SyncCounts:
        """A snapshot of what became of every message."""
        return self._ended + self.synchronizer.counts

    @property
    def work(self) -> WorkerCounts:
        """A snapshot of what became of every frame."""
        return self._worker.counts

    def start(self) -> None:
        """Start the worker's thread."""
        self._worker.start()

    def stop(self) -> bool:
        """Let the running frame finish and end the thread; return False when it does not come to an end."""
        return self._worker.stop()

    def adapt(self, parameters: SegmentationParameters) -> None:
        """Work by these parameters from now on."""
        self._parameters = parameters
        self.synchronizer.adapt(
            SyncLimits.of(self.depth_mode, parameters.sync_policy, parameters.sync_slop_ms, parameters.sync_timeout_ms)
        )

    def pair_by(self, depth_mode: DepthMode) -> None:
        """Change what is wanted of depth; colour that waits for its depth goes on alone."""
        if depth_mode is self.depth_mode:
            return
        before, self.depth_mode = self.synchronizer, depth_mode
        before.adapt(SyncLimits(slop_ns=0, alone_after_s=0.0))
        before.expire()
        self._ended += before.counts.without_pending()
        self.synchronizer = self._create_synchronizer()

    def enable(self, is_enabled: bool) -> None:
        """Segment frames, or drop them, the one that waits included, and count them as dropped disabled."""
        self.is_enabled = is_enabled
        if not is_enabled:
            self._worker.clear("disabled")

    def use(self, segmenter: SegmentsImages, on_use: Callable[[], None]) -> None:
        """Go on with another segmenter after the running frame; `on_use` is called before its first frame.

        It is called in the worker's thread, or in that of `stop` where the pipeline stops before.
        """

        def swap() -> None:
            self._segmenter = segmenter
            on_use()

        self._worker.between_items(swap)

    def _create_synchronizer(self) -> Synchronizer:
        return create_synchronizer(
            self._admit,
            depth_mode=self.depth_mode,
            policy=self._parameters.sync_policy,
            slop_ms=self._parameters.sync_slop_ms,
            queue_size=self._parameters.sync_queue,
            timeout_ms=self._parameters.sync_timeout_ms,
        )

    def _admit(self, frame: Frame) -> None:
        if frame.depth is not None:
            offset_ns = stamp_to_ns(frame.depth.header.stamp) - frame.stamp_ns
            self.statistics.add_offset(abs(offset_ns) / _NS_PER_MS)
        if not self.is_enabled:
            self._worker.refuse("disabled")
        elif not self._rate_limit.allows(self._parameters.max_rate_hz):
            self._worker.refuse("rate")
        else:
            self._worker.submit(frame)

    def _segment(self, frame: Frame) -> None:
        age_at_start_ms = self._age_ms(frame)
        result = segment_frame(
            self._segmenter,
            frame,
            needs_depth=self.depth_mode is DepthMode.REQUIRED,
            classes=self._parameters.classes,
            min_confidence=self._parameters.min_confidence,
        )
        self._publish(result)
        self.last = LastFrame(frame, result)
        self.statistics.add_result(age_at_start_ms, self._age_ms(frame), result.inference_ms, result.valid_depth)
        if result.depth_error:
            self._report_trouble(f"frame {frame.stamp_ns}: depth left out: {result.depth_error}")
        try:
            self._publish_more(result)
        except Exception as error:  # the mask is out, and the next frame deserves its turn
            self._report_trouble(f"frame {frame.stamp_ns}: outputs beside the mask: {type(error).__name__}: {error}")

    def _report_trouble(self, message: str) -> None:
        self.statistics.add_trouble(message)
        self._on_error(message)

    def _is_old(self, frame: Frame) -> bool:
        age_ms = self._age_ms(frame)
        if not 0 < self._parameters.max_age_ms < age_ms:
            return False
        self.statistics.add_dropped(age_ms)
        return True

    def _failed(self, frame: Frame, error: Exception) -> None:
        self.last = LastFrame(frame, None)
        message = f"frame {frame.stamp_ns}: {failure_cause(error)}: {error}"
        self.statistics.add_error(message)
        self._on_error(message)

    def _age_ms(self, frame: Frame) -> float:
        """Return the age; nan for stamp 0, which is no time."""
        return (self._now_ns() - frame.stamp_ns) / _NS_PER_MS if frame.stamp_ns else math.nan
