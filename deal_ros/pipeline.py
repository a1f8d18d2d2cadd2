"""Messages to masks without a node: synchroniser, worker and statistics joined, every message accounted for."""

from __future__ import annotations

from collections.abc import Callable

from deal_ros.diagnostics import ResultStatistics
from deal_ros.segmentation_job import SegmentedFrame, SegmentsImages, failure_cause, segment_frame
from deal_ros.segmentation_parameters import SegmentationParameters
from deal_ros.synchronizer import DepthMode, Frame, create_synchronizer
from deal_ros.worker import NewestItemWorker, WorkerCounts

_NS_PER_MS = 1_000_000


def effective_depth_mode(wanted: str, uses_depth: bool) -> DepthMode:
    """Return the depth mode to run: optional depth that the model does not use is off."""
    mode = DepthMode(wanted)
    return DepthMode.OFF if mode is DepthMode.OPTIONAL and not uses_depth else mode


class SegmentationPipeline:
    """Pair images, segment the newest frame in a thread of its own, publish, count.

    `synchronizer.add_color`, `.add_depth` and `.expire` are for the executor's thread. With the counts of
    `synchronizer` and `work`, `paired + color_alone == work.submitted` at any time.

    Args:
        segmenter: segments an image.
        parameters: how to pair, and how old a frame may be.
        depth_mode: what is wanted of depth.
        publish: takes each result, in the worker's thread.
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
    ) -> None:
        self._segmenter, self._publish, self._now_ns, self._on_error = segmenter, publish, now_ns, on_error
        self._max_age_ms = parameters.max_age_ms
        self.statistics = ResultStatistics()
        self._worker = NewestItemWorker(
            self._segment, is_old=self._is_old, on_error=self._failed, cause_of=failure_cause
        )
        self.synchronizer = create_synchronizer(
            self._worker.submit,
            depth_mode=depth_mode,
            policy=parameters.sync_policy,
            slop_ms=parameters.sync_slop_ms,
            queue_size=parameters.sync_queue,
            timeout_ms=parameters.sync_timeout_ms,
        )

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

    def _segment(self, frame: Frame) -> None:
        age_at_start_ms = self._age_ms(frame)
        result = segment_frame(self._segmenter, frame)
        self._publish(result)
        self.statistics.add_result(age_at_start_ms, self._age_ms(frame), result.inference_ms, result.valid_depth)

    def _is_old(self, frame: Frame) -> bool:
        age_ms = self._age_ms(frame)
        if not 0 < self._max_age_ms < age_ms:
            return False
        self.statistics.add_dropped(age_ms)
        return True

    def _failed(self, frame: Frame, error: Exception) -> None:
        message = f"frame {frame.stamp_ns}: {failure_cause(error)}: {error}"
        self.statistics.add_error(message)
        self._on_error(message)

    def _age_ms(self, frame: Frame) -> float:
        return (self._now_ns() - frame.stamp_ns) / _NS_PER_MS
