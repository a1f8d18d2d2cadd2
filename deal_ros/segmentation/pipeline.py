"""Pipeline from image messages to masks: synchroniser, worker and statistics; every message is counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from deal_core.recording.depth_values import DepthReading
from deal_core.runtime.segmenter import Segmenter
from deal_ros.diagnostics.statistics import ResultStatistics
from deal_ros.input.conversions import ImageMessage, stamp_to_ns
from deal_ros.input.create_synchronizer import create_synchronizer
from deal_ros.input.synchronizer import DepthMode, Frame, SyncCounts, Synchronizer, SyncLimits
from deal_ros.node.worker import NewestItemWorker, WorkerCounts
from deal_ros.segmentation.one_frame import Refine, SegmentedFrame, failure_cause, segment_frame
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.segmentation.rate_limit import RateLimit

_NS_PER_MS = 1_000_000
_BACK_NS = 50 * _NS_PER_MS  # less is no restart: messages may arrive out of order


@dataclass(frozen=True, eq=False)
class LastFrame:
    """The last frame whose job ended, and its result; None if the job failed."""

    frame: Frame
    result: SegmentedFrame | None


class SegmentationPipeline:
    """Pair images, segment the newest frame in a thread of its own, and publish and count the results.

    Call all methods, and `synchronizer.add_color`, `.add_depth` and `.expire`, from the executor's thread.
    `sync.paired + sync.color_alone == work.submitted` at any time.

    Args:
        segmenter: segments an image.
        parameters: parameters of pairing, rate and age limits, and mask.
        depth_mode: whether frames have depth.
        publish: called with each result in the worker's thread; publishes the mask.
        publish_more: called after `publish`; an exception is reported, but the mask has been published.
        align: reads a depth image and aligns it to colour, in the worker's thread; None if depth is aligned.
        now_ns: clock that header stamps are compared with, nanoseconds.
        on_error: called with a message for each failed frame, in the worker's thread.
        refine: returns better class scores, in the worker's thread; None for the scores of the network.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        parameters: SegmentationParameters,
        depth_mode: DepthMode,
        *,
        publish: Callable[[SegmentedFrame], None],
        now_ns: Callable[[], int],
        on_error: Callable[[str], None],
        publish_more: Callable[[SegmentedFrame], None] = lambda result: None,
        refine: Refine | None = None,
        align: Callable[[ImageMessage], DepthReading] | None = None,
    ) -> None:
        self._align = align
        self._segmenter, self._publish, self._publish_more = segmenter, publish, publish_more
        self._refine = refine
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
        self._latest_ns = 0
        self._span_ns: dict[str, tuple[int, int]] = {}  # first and last stamp of each stream since the last restart

    @property
    def sync(self) -> SyncCounts:
        """A snapshot of the counts of messages by outcome."""
        return self._ended + self.synchronizer.counts

    @property
    def work(self) -> WorkerCounts:
        """A snapshot of the counts of frames by outcome."""
        return self._worker.counts

    def start(self) -> None:
        """Start the worker's thread."""
        self._worker.start()

    def stop(self) -> bool:
        """Wait for the running frame and end the thread; return False if the frame does not finish in time."""
        return self._worker.stop()

    def adapt(self, parameters: SegmentationParameters) -> None:
        """Use these parameters from now on."""
        self._parameters = parameters
        self.synchronizer.adapt(self._limits())

    def pair_by(self, depth_mode: DepthMode) -> None:
        """Change the depth mode; colour images that wait for depth become frames without depth."""
        if depth_mode is self.depth_mode:
            return
        before, self.depth_mode = self.synchronizer, depth_mode
        before.adapt(SyncLimits(slop_ns=0, alone_after_s=0.0))
        before.expire()
        self._ended += before.counts.without_pending()
        self.synchronizer = self._create_synchronizer()

    def notice_restart(self, stream: str, message: ImageMessage) -> None:
        """Pair anew if a recording restarted, because its stamps are then no duplicates; call it before each image.

        It restarted if the clock goes back (simulated time), or if an image is as old as the first one of its stream.
        What waits is counted as no longer wanted.

        Args:
            stream: "color" or "depth".
            message: image that is added next.
        """
        now_ns, stamp_ns = self._now_ns(), stamp_to_ns(message.header.stamp)
        first_ns, last_ns = self._span_ns.get(stream, (stamp_ns, stamp_ns))
        is_back = now_ns < self._latest_ns - _BACK_NS
        if is_back or (stamp_ns <= first_ns and last_ns - first_ns > _BACK_NS):
            self._ended += self.synchronizer.counts.without_pending()
            self.synchronizer = self._create_synchronizer()
            self._span_ns.clear()
            first_ns = last_ns = stamp_ns
        self._latest_ns = now_ns if is_back else max(self._latest_ns, now_ns)
        self._span_ns[stream] = min(first_ns, stamp_ns), max(last_ns, stamp_ns)

    def enable(self, is_enabled: bool) -> None:
        """Segment frames, or drop them, including the frame that waits, and count them as disabled."""
        self.is_enabled = is_enabled
        if not is_enabled:
            self._worker.clear("disabled")

    def use(self, segmenter: Segmenter, on_use: Callable[[], None]) -> None:
        """Replace the segmenter after the running frame, and call `on_use` before the new segmenter's first frame.

        `on_use` is called in the worker's thread, or in the thread that calls `stop` if the pipeline stops first.
        """

        def swap() -> None:
            self._segmenter = segmenter
            on_use()

        self._worker.between_items(swap)

    def _create_synchronizer(self) -> Synchronizer:
        return create_synchronizer(self._admit, self.depth_mode, self._limits(), self._parameters.sync_queue)

    def _limits(self) -> SyncLimits:
        wanted = self._parameters
        return SyncLimits.of(self.depth_mode, wanted.sync_policy, wanted.sync_slop_ms, wanted.sync_timeout_ms)

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
            depth_values=self._parameters.depth_values,
            aligned=self._parameters.aligned,
            refine=self._refine,
            align=self._align,
        )
        self._publish(result)
        self.last = LastFrame(frame, result)
        self.statistics.add_result(age_at_start_ms, self._age_ms(frame), result.inference_ms, result.valid_depth)
        if result.depth_error:
            self._report_trouble(f"frame {frame.stamp_ns}: depth ignored: {result.depth_error}")
        if doubt := result.depth_doubt:
            self._report_trouble(f"frame {frame.stamp_ns}: {doubt}")
        try:
            self._publish_more(result)
        except Exception as error:  # the mask has been published, and the next frame must be segmented
            problem = f"{type(error).__name__}: {error}"
            self._report_trouble(f"frame {frame.stamp_ns}: outputs other than the mask: {problem}")

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
        """Return the age of a frame; nan if its stamp is 0 (not set)."""
        return (self._now_ns() - frame.stamp_ns) / _NS_PER_MS if frame.stamp_ns else math.nan
