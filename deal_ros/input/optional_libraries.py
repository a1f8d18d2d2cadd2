"""message_filters and cv_bridge: used where they are there and load; what does their work where they do not.

An apt ROS has both, its wheels on PyPI have neither. A cv_bridge that was compiled for numpy 1 cannot load beside
numpy 2: it prints a page, raises errors of several kinds, or ends the process. So each is tried in a process of its
own before it is let into this one.

Example:
    >>> print(OptionalLibrary("cv_bridge", "rare encodings", "rosbags-image", problem="is not installed"))
    rare encodings by rosbags-image (cv_bridge is not installed)
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass

from deal_core.isolated_python import try_python


@dataclass(frozen=True)
class OptionalLibrary:
    """How a library stands here, and what does its work.

    Args:
        name: as imported.
        work: what the project wants it for.
        instead: what does the work where the library cannot.
        problem: why it cannot be used, as the rest of a sentence; empty where it can.
    """

    name: str
    work: str
    instead: str
    problem: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether the library does the work."""
        return not self.problem

    @property
    def in_use(self) -> str:
        """The name of what does the work."""
        return self.name if self.is_usable else self.instead

    def __str__(self) -> str:
        return f"{self.work} by {self.in_use}" + (f" ({self.name} {self.problem})" if self.problem else "")


@functools.cache
def message_filters() -> OptionalLibrary:
    """Look once whether message_filters can pair."""
    return _look_at("message_filters", "pairing", "deal_core", _PAIR)


@functools.cache
def cv_bridge() -> OptionalLibrary:
    """Look once whether cv_bridge can convert."""
    return _look_at("cv_bridge", "rare encodings", "rosbags-image", _CONVERT)


# Both use what the project uses. The compiled half of cv_bridge is imported with the first conversion only.
_PAIR = """
from message_filters import ApproximateTimeSynchronizer, SimpleFilter, TimeSynchronizer
for pairer in (TimeSynchronizer([SimpleFilter()] * 2, 1), ApproximateTimeSynchronizer([SimpleFilter()] * 2, 1, 0.1)):
    assert pairer.queues == [{}, {}], "its synchronizers have no queues"
"""
_CONVERT = """
from types import SimpleNamespace
from cv_bridge import CvBridge
grey = SimpleNamespace(height=4, width=4, encoding="bayer_rggb8", is_bigendian=0, step=4, data=bytes([9] * 16))
assert (CvBridge().imgmsg_to_cv2(grey, "rgb8") == 9).all(), "it converts wrongly"
"""


def _look_at(name: str, work: str, instead: str, trial: str) -> OptionalLibrary:
    if importlib.util.find_spec(name) is None:
        return OptionalLibrary(name, work, instead, "is not installed")
    error = try_python(trial).error
    return OptionalLibrary(name, work, instead, f"does not load: {error}" if error else "")
