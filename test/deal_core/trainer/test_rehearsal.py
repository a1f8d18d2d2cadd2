"""Rehearsal: what share of the training the frames of an earlier dataset make up, and that their order is fixed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.structures import Sample
from deal_core.trainer.rehearsal import RehearsedFrames
from deal_core.trainer.views import BatchOrder


class Numbers:
    """Frames whose samples are numbers."""

    def __init__(self, start: int, count: int) -> None:
        self.start, self.count = start, count

    def __len__(self) -> int:
        return self.count

    def load(self, frame: int) -> Sample:
        return self.start + frame  # type: ignore[return-value]


def shown(frames: RehearsedFrames, weights: list[float], seed: int, epochs: int) -> list[int]:
    length = frames.epoch
    order = BatchOrder(len(frames), 1, seed, 0, epochs * length, weights=tuple(weights), epoch=length)
    return [frame for batch in order for frame, _ in batch]


@given(st.integers(2, 40), st.integers(1, 200), st.floats(0.05, 0.9), st.integers(0, 5))
def test_an_epoch_shows_each_new_frame_and_a_share_of_old_ones(new: int, old: int, share: float, seed: int) -> None:
    frames = RehearsedFrames(Numbers(0, new), Numbers(1000, old), share)
    seen = Counter(shown(frames, frames.weights(None), seed, 1))
    of_new = sum(count for frame, count in seen.items() if frame < new)
    assert sum(seen.values()) == frames.epoch == round(new / (1 - share))
    assert abs(of_new - new) <= 1, "each new frame once, up to rounding"
    assert all(count <= 2 for frame, count in seen.items() if frame < new)


def test_the_next_epoch_rehearses_other_frames_and_the_order_follows_from_the_seed() -> None:
    frames = RehearsedFrames(Numbers(0, 10), Numbers(1000, 100), 0.5)
    weights = frames.weights(None)
    assert shown(frames, weights, 3, 8) == shown(frames, weights, 3, 8)
    old = {frame for frame in shown(frames, weights, 3, 8) if frame >= 10}
    assert len(old) > 40, "10 of 100 in each of 8 epochs"


def test_weights_of_new_frames_are_kept_and_frames_are_read_from_both() -> None:
    frames = RehearsedFrames(Numbers(0, 2), Numbers(1000, 4), 0.25)
    weights = frames.weights([3.0, 1.0])
    assert weights[:2] == [3.0, 1.0] and sum(weights[2:]) / sum(weights) == pytest.approx(0.25)
    assert [frames.load(i) for i in range(len(frames))] == [0, 1, 1000, 1001, 1002, 1003]
