"""Image, depth and validity move together: pixels that know where they come from.

A sample's red and green say a pixel's column and row, and so does its depth; blue is full everywhere, so that what
comes in from outside (black) is told apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deal_core.config import DataSettings
from deal_core.data.sample import Sample
from deal_core.data.transforms import TensorSample, TrainTransform, resize_sample, to_tensors

HEIGHT, WIDTH = 48, 64
STEP = 3  # grey levels a pixel
HOLE = (slice(10, 22), slice(30, 45))


def traceable(height: int = HEIGHT, width: int = WIDTH) -> Sample:
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns * STEP, rows * STEP, np.full_like(rows, 255)], axis=-1).astype(np.uint8)
    depth = (1 + columns + 1000 * rows).astype(np.float32)
    valid = np.ones((height, width), np.bool_)
    valid[HOLE] = False
    depth[HOLE] = 0
    mask = (1 + (columns + rows) % 3).astype(np.uint8)
    return Sample(image, depth, valid, np.array([1, 0, np.nan], np.float32), "kitchen/1", mask)


def data(**changed: Any) -> DataSettings:
    still: dict[str, Any] = {"crop_scale": (1, 1), "flip": False, "color_jitter": 0, "image_size": (HEIGHT, WIDTH)}
    return DataSettings(path=Path("kitchen"), **{**still, **changed})


def origin_by_depth(view: TensorSample) -> tuple[np.ndarray, np.ndarray]:
    code = view.depth[0].numpy().astype(int) - 1
    return code % 1000, code // 1000


def origin_by_image(view: TensorSample) -> tuple[np.ndarray, np.ndarray]:
    red, green = (view.image[c].numpy() * 255 / STEP for c in (0, 1))
    return red, green


def assert_image_and_depth_agree(view: TensorSample, settings: DataSettings) -> None:
    """At every valid pixel, image and depth must come from one place, up to what resampling blurs."""
    assert view.image.shape == (3, *settings.image_size) and view.image.dtype == torch.float32
    assert view.depth.shape == view.valid.shape == (1, *settings.image_size)
    assert view.valid.dtype == torch.bool and view.depth.dtype == torch.float32
    assert float(view.image.min()) >= 0 and float(view.image.max()) <= 1
    valid = view.valid[0].numpy()
    assert (view.depth[0].numpy()[~valid] == 0).all()
    whole = valid & (view.image[2].numpy() > 0.999)  # at the border of a rotation, black is mixed in
    by_depth, by_image = origin_by_depth(view), origin_by_image(view)
    reach = 1.0 + max(HEIGHT / settings.image_size[0], WIDTH / settings.image_size[1])
    for ours, theirs in zip(by_depth, by_image, strict=True):
        assert np.abs(ours - theirs)[whole].max(initial=0) <= reach
    columns, rows = by_depth
    in_hole = np.zeros((HEIGHT, WIDTH), bool)
    in_hole[HOLE] = True
    assert not in_hole[rows[valid], columns[valid]].any()


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    crop=st.sampled_from([(1.0, 1.0), (0.3, 0.9), (0.1, 0.2)]),
    flip=st.booleans(),
    rotation=st.sampled_from([0.0, 25.0, 180.0]),
    erase=st.sampled_from([0.0, 1.0]),
    size=st.sampled_from([(HEIGHT, WIDTH), (24, 32), (60, 40), (96, 128)]),
)
def test_image_depth_and_validity_move_together(
    seed: int, crop: tuple[float, float], flip: bool, rotation: float, erase: float, size: tuple[int, int]
) -> None:
    settings = data(crop_scale=crop, flip=flip, rotation=rotation, erase=erase, image_size=size)
    view = TrainTransform(settings)(traceable(), seed)
    assert_image_and_depth_agree(view, settings)
    torch.testing.assert_close(view.tags, torch.tensor([1.0, 0.0, float("nan")]), equal_nan=True)


def test_nothing_changes_where_nothing_is_switched_on() -> None:
    sample = traceable()
    view, plain = TrainTransform(data())(sample, 5), to_tensors(sample)
    assert torch.equal(view.image, plain.image) and torch.equal(view.depth, plain.depth)
    assert torch.equal(view.valid, plain.valid)
    assert np.array_equal((plain.image * 255).round().byte().numpy().transpose(1, 2, 0), sample.image)
    assert (
        np.array_equal(plain.depth[0].numpy(), sample.depth)
        and plain.valid[0].numpy().sum() == sample.depth_valid.sum()
    )


def test_about_half_of_the_views_are_mirrored_and_then_exactly() -> None:
    plain = to_tensors(traceable())
    mirrored = 0
    for seed in range(60):
        view = TrainTransform(data(flip=True))(traceable(), seed)
        flipped = not torch.equal(view.image, plain.image)
        mirrored += flipped
        for name in ("image", "depth", "valid"):
            expected = getattr(plain, name).flip(-1) if flipped else getattr(plain, name)
            assert torch.equal(getattr(view, name), expected)
    assert 15 < mirrored < 45


def test_what_is_rotated_in_from_outside_has_no_depth() -> None:
    corners, angles = 0, []
    for seed in range(20):
        view = TrainTransform(data(rotation=30.0))(traceable(), seed)
        outside = view.image[2] == 0
        assert not (view.valid[0] & outside).any()
        corners += int(outside.any())
        columns, rows = origin_by_depth(view)
        middle = (slice(30, 40), slice(20, 40))
        angles.append(
            np.degrees(np.arctan2(np.diff(rows[middle], axis=1).mean(), np.diff(columns[middle], axis=1).mean()))
        )
    assert corners >= 15
    assert max(map(abs, angles)) < 32 and np.std(angles) > 8 and min(angles) < -5 and max(angles) > 5


def test_an_erased_box_is_noise_and_has_no_depth() -> None:
    sample = traceable()
    sample.depth_valid[:] = True
    sample.depth[:] = 1
    plain = to_tensors(sample)
    for seed in range(20):
        view = TrainTransform(data(erase=1.0))(sample, seed)
        rows, columns = np.nonzero(~view.valid[0].numpy())
        box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        assert not view.valid[0][box].any(), "a box"
        shares = [len(set(rows)) / HEIGHT, len(set(columns)) / WIDTH]
        assert all(0.15 < share <= 0.5 for share in shares)
        changed = (view.image != plain.image).any(0).numpy()
        assert changed[box].all() and changed.sum() == len(rows), "noise inside, nothing outside"
    share = np.mean([not TrainTransform(data(erase=0.3))(sample, seed).valid.all() for seed in range(100)])
    assert 0.15 < share < 0.45


def test_crops_keep_the_share_and_the_proportions_that_are_asked_for() -> None:
    shares, stretches = [], []
    for seed in range(40):
        view = TrainTransform(data(crop_scale=(0.25, 0.5)))(traceable(), seed)
        red, green = origin_by_image(view)
        width, height = np.ptp(red[HEIGHT // 2]) + 1, np.ptp(green[:, WIDTH // 2]) + 1
        shares.append(width * height / (WIDTH * HEIGHT))
        stretches.append((width / height) / (WIDTH / HEIGHT))
    assert 0.2 < min(shares) < 0.33 and 0.42 < max(shares) < 0.56
    # Around the image's own proportions, in which the network sees whole images later.
    assert 0.65 < min(stretches) < 0.9 and 1.1 < max(stretches) < 1.5


def test_colour_jitter_changes_colours_only() -> None:
    plain = to_tensors(traceable())
    view = TrainTransform(data(color_jitter=0.5))(traceable(), 1)
    assert not torch.allclose(view.image, plain.image, atol=0.02)
    assert torch.equal(view.depth, plain.depth) and torch.equal(view.valid, plain.valid)


EVERYTHING: dict[str, Any] = {
    "crop_scale": (0.3, 0.9),
    "flip": True,
    "rotation": 20.0,
    "color_jitter": 0.4,
    "erase": 0.5,
    "image_size": (24, 32),
}


def test_a_seed_gives_one_view_and_leaves_the_random_numbers_alone() -> None:
    transform = TrainTransform(data(**EVERYTHING))
    torch.manual_seed(1)
    expected_next = torch.rand(3)
    torch.manual_seed(1)
    first = transform(traceable(), 7)
    assert torch.equal(torch.rand(3), expected_next)
    torch.rand(10)
    for other in (transform(traceable(), 7), TrainTransform(data(**EVERYTHING))(traceable(), 7)):
        assert all(torch.equal(getattr(first, n), getattr(other, n)) for n in ("image", "depth", "valid"))
    assert not torch.equal(first.image, transform(traceable(), 8).image)


def test_the_sample_is_never_changed() -> None:
    for settings in (data(), data(**EVERYTHING), data(color_jitter=0.9), data(erase=1.0)):
        sample, before = traceable(), traceable()
        for seed in range(5):
            view = TrainTransform(settings)(sample, seed)
            for tensor in (view.image, view.depth):
                tensor.zero_()
        resize_sample(sample, (24, 32)).image[:] = 0
        for name in ("image", "depth", "depth_valid", "tags", "mask"):
            np.testing.assert_array_equal(getattr(sample, name), getattr(before, name))
        assert sample.image.flags.writeable


@pytest.mark.parametrize("size", [(24, 32), (16, 16), (96, 128), (48, 64), (31, 45), (96, 32)])
def test_resize_takes_depth_validity_and_mask_of_the_nearest_pixel(size: tuple[int, int]) -> None:
    sample = traceable()
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    sample.depth[:] = 1 + columns + 1000 * rows
    result = resize_sample(sample, size)
    assert result.depth.shape == size and result.depth.dtype == np.float32 and result.depth_valid.dtype == np.bool_
    code = result.depth.astype(int) - 1
    columns, rows = code % 1000, code // 1000
    centres = (np.mgrid[: size[0], : size[1]] + 0.5) * np.reshape((HEIGHT / size[0], WIDTH / size[1]), (2, 1, 1))
    assert np.abs(np.stack([rows, columns]) + 0.5 - centres).max() <= 0.5 + 1e-9
    assert sample.mask is not None and result.mask is not None
    np.testing.assert_array_equal(result.depth_valid, sample.depth_valid[rows, columns])
    np.testing.assert_array_equal(result.mask, sample.mask[rows, columns])
    assert result.key == sample.key and result.tags is sample.tags
    assert result.image.shape == (*size, 3) and result.image.dtype == np.uint8
    for ours, theirs in zip((columns, rows), origin_by_image(to_tensors(result)), strict=True):
        assert np.abs(ours - theirs).max() < 1 + 64 / size[0]


def test_resize_averages_the_image_where_it_shrinks() -> None:
    sample = traceable()
    halved = resize_sample(sample, (HEIGHT // 2, WIDTH // 2))
    blocks = sample.image.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(halved.image - blocks).max() <= 0.51


def test_resize_without_a_mask_and_to_the_same_size() -> None:
    sample = traceable()
    assert resize_sample(sample, (HEIGHT, WIDTH)) is sample
    without = Sample(sample.image, sample.depth, sample.depth_valid, sample.tags, sample.key)
    assert resize_sample(without, (24, 32)).mask is None
