"""Wait for the thread of a worker."""

from __future__ import annotations

import time
from collections.abc import Callable

from deal_ros.node.worker import WorkerCounts


def wait_idle(counts: Callable[[], WorkerCounts], timeout_s: float = 10.0) -> None:
    """Wait until no item waits or is being processed."""
    end = time.monotonic() + timeout_s
    while counts().in_flight:
        assert time.monotonic() < end, f"the worker is still busy: {counts()}"
        time.sleep(0.0005)
