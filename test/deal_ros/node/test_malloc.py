"""Freed memory stays with the process, so that the next image finds it."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from deal_ros.node.malloc import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def image():
    np.ones((720, 1280, 3), np.uint8); np.ones((720, 1280), np.float32)
image()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    image()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no mallopt")
def test_images_made_again_find_their_pages() -> None:
    def faults(way: str) -> int:
        command = [sys.executable, "-c", FAULTS, way]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    pages = 20 * 720 * 1280 * 7 // resource.getpagesize()
    assert faults("keep") < pages / 20
