"""Find out whether message_filters and cv_bridge work here, and name the fallback if they do not.

ROS from apt has both, the ROS wheels on PyPI have neither. A cv_bridge compiled for numpy 1 cannot load with numpy 2:
it prints a page of text, raises various errors, or crashes the process. Each library is therefore tried in a process
of its own before this process imports it.

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
    """An optional library: whether it works here, and its fallback.

    Args:
        name: import name of the library.
        work: the task that the project uses it for.
        instead: name of the fallback.
        problem: why the library cannot be used, for example "is not installed"; empty if it can be used.
    """

    name: str
    work: str
    instead: str
    problem: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether the library can be used."""
        return not self.problem

    @property
    def in_use(self) -> str:
        """Name of the library, or of the fallback if the library cannot be used."""
        return self.name if self.is_usable else self.instead

    def __str__(self) -> str:
        return f"{self.work} by {self.in_use}" + (f" ({self.name} {self.problem})" if self.problem else "")


@functools.cache
def message_filters() -> OptionalLibrary:
    """Return whether message_filters can pair messages here; checked once."""
    return _look_at("message_filters", "pairing", "deal_core", _PAIR)


@functools.cache
def cv_bridge() -> OptionalLibrary:
    """Return whether cv_bridge can convert images here; checked once."""
    return _look_at("cv_bridge", "rare encodings", "rosbags-image", _CONVERT)


# Each script calls the functions that the project calls. cv_bridge imports its compiled part at the first conversion.
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
