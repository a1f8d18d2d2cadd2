"""Optional libraries that are there, absent, or there and broken as cv_bridge is beside numpy 2."""

from __future__ import annotations

import doctest
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from deal_core.recording.image_encodings import ImageFormatError, RosbagsConverter
from deal_ros.input import optional_libraries
from deal_ros.input.cv_bridge_converter import BridgeConverter, rare_converters

LOADS = {
    "message_filters": """
class SimpleFilter: pass
class TimeSynchronizer:
    def __init__(self, filters, queue_size, slop=0.0): self.queues = [{} for _ in filters]
class ApproximateTimeSynchronizer(TimeSynchronizer): pass
""",
    "cv_bridge": """
import numpy
class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        if not message.encoding.startswith("bayer"):
            raise TypeError(f"Unrecognized image encoding [{message.encoding}]")
        return numpy.full((message.height, message.width, 3), 9, numpy.uint8)
""",
}
PAGE = 'import os, sys\nprint("A module that was compiled using NumPy 1.x cannot be run in NumPy 2", file=sys.stderr)\n'
BREAKS = "class CvBridge:\n    def imgmsg_to_cv2(self, *_):\n        {}"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Put a module of this name before any other, here and in processes started from here."""
    cached = (optional_libraries.message_filters, optional_libraries.cv_bridge, rare_converters)

    def make(name: str, content: str) -> None:
        (tmp_path / f"{name}.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        for function in cached:
            function.cache_clear()

    yield make
    for function in cached:
        function.cache_clear()


@pytest.mark.parametrize("name", LOADS)
def test_a_library_that_loads_is_used(stand_in: Callable[[str, str], None], name: str) -> None:
    stand_in(name, LOADS[name])
    found = getattr(optional_libraries, name)()
    assert found.is_usable and found.in_use == name and str(found).endswith(f"by {name}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('raise AttributeError("_ARRAY_API not found")', "AttributeError: _ARRAY_API not found"),
        ('raise ImportError("numpy.core.multiarray failed to import")', "multiarray failed to import"),
        (BREAKS.format("os.kill(os.getpid(), 11)"), "ended by signal 11: A module that was compiled using NumPy 1.x"),
        (BREAKS.format("import numpy; return numpy.ones((4, 4, 3))"), "it converts wrongly"),
    ],
)
def test_a_cv_bridge_that_breaks_is_left_alone_and_replaced(
    stand_in: Callable[[str, str], None], capfd: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    stand_in("cv_bridge", PAGE + content)
    found = optional_libraries.cv_bridge()
    assert found.in_use == "rosbags-image" and found.problem.startswith("does not load: ")
    assert reason in found.problem
    (converter,) = rare_converters()
    assert isinstance(converter, RosbagsConverter)
    assert capfd.readouterr() == ("", "")


def test_a_cv_bridge_that_loads_goes_first(stand_in: Callable[[str, str], None]) -> None:
    stand_in("cv_bridge", LOADS["cv_bridge"])
    bridge, rosbags = rare_converters()
    assert isinstance(bridge, BridgeConverter) and isinstance(rosbags, RosbagsConverter)
    with pytest.raises(ImageFormatError, match=r"'yuyv'.*\[yuv422_yuy2\]") as caught:
        bridge.to_rgb(np.zeros((2, 2, 2), np.uint8), "yuyv")
    assert caught.value.cause == "inconvertible"


def test_message_filters_without_the_queues_that_are_read_is_left_alone(stand_in: Callable[[str, str], None]) -> None:
    stand_in("message_filters", LOADS["message_filters"].replace("self.queues", "self.hidden"))
    assert str(optional_libraries.message_filters()).startswith(
        "pairing by deal_core (message_filters does not load: Attribute"
    )


def test_a_library_that_is_absent_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional_libraries.importlib.util, "find_spec", lambda name: None)
    assert (
        str(optional_libraries.cv_bridge.__wrapped__())
        == "rare encodings by rosbags-image (cv_bridge is not installed)"
    )


def test_example_in_the_docstring() -> None:
    assert doctest.testmod(optional_libraries).failed == 0
