"""The order of batches, and the size at which images are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.dataset.settings import DataSettings
from deal_core.trainer.views import BatchOrder, cached_size

ORDERS = st.fixed_dictionaries(
    {"frames": st.integers(4, 60), "batch_size": st.sampled_from([1, 2, 4]), "seed": st.integers(0, 2**32)}
)


@given(order=ORDERS, epochs=st.integers(1, 4))
def test_an_epoch_shows_each_frame_at_most_once_and_each_in_another_order(order: dict[str, int], epochs: int) -> None:
    per_epoch = order["frames"] // order["batch_size"]
    batches = list(BatchOrder(**order, start=0, stop=per_epoch * epochs))
    assert len(batches) == per_epoch * epochs and all(len(b) == order["batch_size"] for b in batches)
    shown = []
    for epoch in range(epochs):
        frames = [f for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for f, _ in batch]
        assert len(set(frames)) == len(frames) and set(frames) <= set(range(order["frames"]))
        assert len(frames) > order["frames"] - order["batch_size"]
        shown.append(frames)
    assert order["frames"] < 12 or len({tuple(f) for f in shown}) == epochs
    seeds = [seed for batch in batches for _, seed in batch]
    assert len(set(seeds)) == len(seeds), "no view twice"


@given(order=ORDERS, start=st.integers(0, 40), stop=st.integers(0, 40))
def test_batches_do_not_depend_on_where_the_run_starts(order: dict[str, int], start: int, stop: int) -> None:
    whole = list(BatchOrder(**order, start=0, stop=40))
    part = BatchOrder(**order, start=min(start, stop), stop=stop)
    assert list(part) == whole[min(start, stop) : stop] and len(part) == stop - min(start, stop)


@given(order=ORDERS, world=st.sampled_from([1, 2, 4]))
def test_the_shares_of_the_processes_make_up_the_batch(order: dict[str, int], world: int) -> None:
    order = {**order, "batch_size": 4}
    whole = list(BatchOrder(**order, start=0, stop=5))
    shares = [list(BatchOrder(**order, start=0, stop=5, rank=rank, world_size=world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert {len(part) for part in parts} == {4 // world}
        assert sorted(item for part in parts for item in part) == sorted(batch)


@given(order=ORDERS, seed=st.integers(0, 1000))
def test_weighted_frames_are_shown_as_often_as_their_weights_say(order: dict[str, int], seed: int) -> None:
    order = {**order, "batch_size": 1}
    frames = order["frames"]
    weights = tuple(np.random.default_rng(seed).uniform(0.2, 4, frames).tolist())
    epochs = 3
    shown = [f for (item,) in BatchOrder(**order, start=0, stop=epochs * frames, weights=weights) for f, _ in [item]]
    for epoch in range(epochs):
        counts = np.bincount(shown[epoch * frames : (epoch + 1) * frames], minlength=frames)
        expected = frames * np.array(weights) / sum(weights)
        assert counts.sum() == frames and (np.abs(counts - expected) < 1 + 1e-6).all()


@given(order=ORDERS, start=st.integers(0, 40), world=st.sampled_from([1, 2]))
def test_weighted_batches_depend_neither_on_where_the_run_starts_nor_on_processes(
    order: dict[str, int], start: int, world: int
) -> None:
    order = {**order, "batch_size": 2}
    weights = tuple(1.0 + (i % 3) for i in range(order["frames"]))
    whole = list(BatchOrder(**order, start=0, stop=40, weights=weights))
    shares = [
        list(BatchOrder(**order, start=start, stop=40, rank=rank, world_size=world, weights=weights))
        for rank in range(world)
    ]
    for step, batch in enumerate(whole[start:]):
        assert sorted(item for share in shares for item in share[step]) == sorted(batch)


def test_another_seed_gives_another_order() -> None:
    one, two = (list(BatchOrder(30, 4, seed, 0, 7)) for seed in (1, 2))
    assert one != two


@pytest.mark.parametrize(
    ("size", "changes", "kept"),
    [
        ((480, 640), {"crop_scale": (1, 1)}, (60, 60)),
        ((50, 640), {"crop_scale": (1, 1)}, None),
        ((480, 640), {}, (120, 160)),
        ((480, 240), {}, (240, 120)),
        ((100, 640), {}, None),
        ((480, 640), {"crop": "canvas", "long_side": (100, 160)}, (120, 160)),
        ((120, 90), {"crop": "canvas", "long_side": (100, 160)}, None),
    ],
)
def test_images_are_kept_as_large_as_their_views_need(
    size: tuple[int, int], changes: dict[str, Any], kept: tuple[int, int] | None
) -> None:
    settings = DataSettings.model_validate({"path": "x", "image_size": (60, 60), **changes})
    assert cached_size(size, settings) == kept
