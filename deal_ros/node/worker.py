"""A slot for the newest item and one thread that processes it; every dropped item is counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class WorkerCounts:
    """Counts of items by outcome: `submitted == done + dropped + sum(failed) + in_flight` at any time.

    Args:
        submitted: all items.
        done: items whose job succeeded.
        dropped_busy: items replaced by a newer item while the thread was busy.
        dropped_old: items that were too old when their job would have started.
        dropped_stopped: items that were waiting when the worker stopped, or were submitted afterwards.
        dropped_refused: items that the caller refused, by cause.
        failed: items whose job raised an exception, by cause.
        in_flight: items that wait or are being processed.
    """

    submitted: int = 0
    done: int = 0
    dropped_busy: int = 0
    dropped_old: int = 0
    dropped_stopped: int = 0
    dropped_refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0

    @property
    def dropped(self) -> int:
        """Number of items whose job was never started."""
        return self.dropped_busy + self.dropped_old + self.dropped_stopped + sum(self.dropped_refused.values())


class NewestItemWorker(Generic[T]):
    """Run a job on the newest item in a thread of its own.

    A new item replaces the item that waits. This keeps the latency of results minimal: a queue would add its length
    to the age of every result without increasing their number.

    Args:
        job: processes one item. If it raises, the failure is counted and reported, and the next item is processed.
        is_old: called before the job of an item starts; if it returns True, the item is dropped and counted.
        on_error: called for every failed job, in the worker's thread.
        cause_of: returns the cause under which a failure is counted; by default the type of the exception.

    Example:
        >>> from queue import Queue
        >>> done = Queue()
        >>> worker = NewestItemWorker(job=done.put)
        >>> worker.start()
        >>> worker.submit("frame 1")
        >>> done.get()
        'frame 1'
        >>> worker.stop()
        True
    """

    def __init__(
        self,
        job: Callable[[T], None],
        *,
        is_old: Callable[[T], bool] = lambda item: False,
        on_error: Callable[[T, Exception], None] = lambda item, error: None,
        cause_of: Callable[[Exception], str] = lambda error: type(error).__name__,
    ) -> None:
        self._job, self._is_old, self._on_error, self._cause_of = job, is_old, on_error, cause_of
        self._changed = threading.Condition()
        self._slot: list[T] = []
        self._running = self._stopping = False
        self._submitted = 0
        self._ended: Counter[str] = Counter()  # "done", or why an item was dropped: "busy", "old", "stopped"
        self._refused: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._calls: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None

    @property
    def counts(self) -> WorkerCounts:
        """A consistent snapshot of the counts."""
        with self._changed:
            return WorkerCounts(
                submitted=self._submitted,
                done=self._ended["done"],
                dropped_busy=self._ended["busy"],
                dropped_old=self._ended["old"],
                dropped_stopped=self._ended["stopped"],
                dropped_refused=Counter(self._refused),
                failed=Counter(self._failed),
                in_flight=len(self._slot) + self._running,
            )

    def start(self) -> None:
        """Start the thread; does nothing if it runs already."""
        with self._changed:
            if self._thread is not None:
                return
            self._stopping = False
            # A daemon, so that a job that never returns cannot keep the process alive; `stop` waits for other jobs.
            self._thread = threading.Thread(target=self._run, name="newest-item-worker", daemon=True)
            self._thread.start()

    def submit(self, item: T) -> None:
        """Submit an item and return at once."""
        with self._changed:
            self._submitted += 1
            if self._stopping or self._thread is None:
                self._ended["stopped"] += 1
                return
            self._ended["busy"] += len(self._slot)
            self._slot = [item]
            self._changed.notify_all()

    def refuse(self, cause: str) -> None:
        """Count an item as submitted and dropped."""
        with self._changed:
            self._submitted += 1
            self._refused[cause] += 1

    def clear(self, cause: str) -> None:
        """Drop the item that waits, if there is one; a running job continues."""
        with self._changed:
            self._refused[cause] += len(self._slot)
            self._slot.clear()

    def between_items(self, function: Callable[[], None]) -> None:
        """Call a function once in the worker's thread, before the next item or when the worker stops."""
        with self._changed:
            self._calls.append(function)
            self._changed.notify_all()

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> bool:
        """Wait for the running job, drop the item that waits, and end the thread.

        Returns:
            False if the running job did not finish in time.
        """
        with self._changed:
            thread, self._stopping = self._thread, True
            self._ended["stopped"] += len(self._slot)
            self._slot.clear()
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():
                return False
            self._thread = None
        self._make_calls()
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._slot or self._stopping or self._calls)
            self._make_calls()
            with self._changed:
                if self._stopping:
                    return
                if not self._slot:
                    continue
                item = self._slot.pop()
                self._running = True
            counter, outcome = self._attempt(item)
            with self._changed:
                self._running = False
                counter[outcome] += 1

    def _make_calls(self) -> None:
        with self._changed:
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    def _attempt(self, item: T) -> tuple[Counter[str], str]:
        """Process an item; return its counter and outcome, so that the caller counts and goes idle in one step."""
        try:
            if self._is_old(item):
                return self._ended, "old"
            self._job(item)
        except Exception as error:  # whatever a job raises, the next item must be processed
            self._on_error(item, error)
            return self._failed, self._cause_of(error)
        return self._ended, "done"
