"""An encoder of RVL of the tests' own, number by number."""

from __future__ import annotations

import struct

import numpy as np


def encode(depth: np.ndarray) -> bytes:
    """Write runs of zeros and of differences, in groups of three bits and a bit that says that more follow."""
    groups: list[int] = []

    def put(number: int) -> None:
        while True:
            low, number = number & 7, number >> 3
            groups.append(low | (8 if number else 0))
            if not number:
                return

    values, before, at = depth.ravel().astype(int).tolist(), 0, 0
    while at < len(values):
        for is_run in (lambda value: value == 0, lambda value: value != 0):
            begin = at
            while at < len(values) and is_run(values[at]):
                at += 1
            put(at - begin)
        for value in values[begin:at]:
            step, before = value - before, value
            put(2 * step if step >= 0 else -2 * step - 1)
    groups += [0] * (-len(groups) % 8)
    words = [int("".join(f"{group:x}" for group in groups[i : i + 8]), 16) for i in range(0, len(groups), 8)]
    return struct.pack(f"<{len(words)}I", *words)
