"""Image, depth and validity move together: pixels that know where they come from.

A sample's red and green say a pixel's column and row, and so does its depth; blue is full everywhere, so that what
comes in from outside (black) is told apart.
"""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deal_core.dataset.rand_augment import FILL
from deal_core.dataset.settings import DataSettings
from deal_core.dataset.transforms import TensorSample, TrainTransform, resize_sample, to_tensors
from deal_core.structures import Sample

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


@hypothesis_settings(max_examples=60)
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
        area, stretch = view.valid.numel() - int(view.valid.sum()), len(set(rows)) / len(set(columns))
        assert 0.015 < area / (HEIGHT * WIDTH) < 0.35 and 0.25 < stretch < 4
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


@pytest.mark.parametrize("size", [(48, 48), (24, 72)])
def test_crops_have_the_shape_of_the_network_where_it_is_asked_for(size: tuple[int, int]) -> None:
    shapes = []
    for seed in range(40):
        settings = data(crop_scale=(0.1, 0.2), crop_shape="network", crop_stretch=1.25, image_size=size)
        red, green = origin_by_image(TrainTransform(settings)(traceable(), seed))
        shapes.append((np.ptp(red[size[0] // 2]) + 1) / (np.ptp(green[:, size[1] // 2]) + 1))
    wanted = size[1] / size[0]
    assert 0.7 * wanted < min(shapes) < 0.95 * wanted and 1.05 * wanted < max(shapes) < 1.4 * wanted


def test_colour_jitter_changes_colours_only() -> None:
    plain = to_tensors(traceable())
    view = TrainTransform(data(color_jitter=0.5))(traceable(), 1)
    assert not torch.allclose(view.image, plain.image, atol=0.02)
    assert torch.equal(view.depth, plain.depth) and torch.equal(view.valid, plain.valid)


def test_hue_is_turned_as_far_as_asked_for_and_depth_stays() -> None:
    sample, turns = traceable(), []
    sample.image[:] = (200, 40, 40)
    for seed in range(40):
        view = TrainTransform(data(color_hue=0.1))(sample, seed)
        red, green, blue = (float(view.image[c].mean()) for c in range(3))
        turns.append(colorsys.rgb_to_hsv(red, green, blue)[0])
        assert torch.equal(view.depth, to_tensors(sample).depth)
    signed = [turn - 1 if turn > 0.5 else turn for turn in turns]
    assert -0.105 < min(signed) < -0.05 and 0.05 < max(signed) < 0.105


# --- the canvas ---------------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31 - 1),
    long_side=st.sampled_from([(16, 30), (64, 64), (40, 90), (100, 160)]),
    flip=st.booleans(),
    size=st.sampled_from([(HEIGHT, WIDTH), (64, 64), (30, 90)]),
)
def test_a_canvas_shows_image_and_depth_at_one_place_and_scale(
    seed: int, long_side: tuple[int, int], flip: bool, size: tuple[int, int]
) -> None:
    settings = data(crop="canvas", long_side=long_side, flip=flip, image_size=size)
    view = TrainTransform(settings)(traceable(), seed)
    assert view.image.shape == (3, *size) and view.depth.shape == view.valid.shape == (1, *size)
    shown = view.image[2].numpy() > 0.999
    rows, columns = np.nonzero(shown)
    box = np.zeros(size, bool)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert (box == shown).all(), "the image is one box"
    margin = (view.image.numpy() * 255).round()[:, ~shown]
    assert (margin == np.reshape(FILL, (3, 1))).all() and not view.valid[0].numpy()[~shown].any()
    # The visible part is as large as the drawn long side makes it, and cut off only where the canvas ends.
    for length, side, drawn in zip((HEIGHT, WIDTH), size, (rows, columns), strict=True):
        scaled = {round(length * long / WIDTH) for long in range(long_side[0], long_side[1] + 1)}
        assert np.ptp(drawn) + 1 in {min(n, side) for n in scaled}
    valid = view.valid[0].numpy()
    reach = 1.0 + max(1.0, WIDTH / long_side[0])
    for ours, theirs in zip(origin_by_depth(view), origin_by_image(view), strict=True):
        assert np.abs(ours - theirs)[valid].max(initial=0) <= reach


def test_a_canvas_places_the_image_everywhere_it_fits_and_takes_every_part_of_a_larger_one() -> None:
    places, parts = [], []
    for seed in range(60):
        small = TrainTransform(data(crop="canvas", long_side=(32, 32)))(traceable(), seed)
        places.append(np.argwhere(small.image[2].numpy() == 1)[0])
        large = TrainTransform(data(crop="canvas", long_side=(128, 128)))(traceable(), seed)
        red, green = origin_by_image(large)
        parts.append((green[0, 0], red[0, 0]))
    for corners, last in ((places, (HEIGHT - 24, WIDTH - 32)), (parts, (HEIGHT / 2, WIDTH / 2))):
        low, high = np.min(corners, 0), np.max(corners, 0)
        assert (low >= 0).all() and (low < np.array(last) * 0.15).all()
        assert (high <= np.array(last) + 0.5).all() and (high > np.array(last) * 0.85).all()


# --- everything at once -------------------------------------------------------------------------------------------


BORDER = 5


def marked() -> Sample:
    """A box painted in image and depth at one place; both are of one colour and one depth else."""
    image, depth = np.full((60, 80, 3), (60, 90, 150), np.uint8), np.full((60, 80), 1.0, np.float32)
    image[20:44, 26:58] = (190, 120, 40)
    depth[20:44, 26:58] = 2.0
    return Sample(image, depth, np.ones((60, 80), np.bool_), np.ones(1, np.float32), "kitchen/1")


def colour_spread(view: TensorSample, depth: float) -> float:
    """Return how much the colour varies over the pixels that have this depth, away from their outline."""
    inside = (view.depth[0].numpy() == depth).astype(np.uint8)
    inside = cv2.erode(inside, np.ones((2 * BORDER + 1,) * 2, np.uint8), borderValue=0).astype(bool)
    colours = view.image.numpy()[:, inside]
    return float(np.ptp(colours, axis=1).max()) if inside.any() else 0.0


@hypothesis_settings(max_examples=80)
@given(
    seed=st.integers(0, 2**31 - 1),
    crop=st.sampled_from([{}, {"crop_scale": (0.3, 0.9)}, {"crop": "canvas", "long_side": (50, 120)}]),
    rotation=st.sampled_from([0.0, 20.0]),
    count=st.integers(0, 4),
    magnitude=st.floats(0, 10),
    jitter=st.sampled_from([0.0, 0.4]),
    hue=st.sampled_from([0.0, 0.1]),
    erase=st.sampled_from([0.0, 1.0]),
    size=st.sampled_from([(60, 80), (64, 64), (90, 120)]),
)
def test_what_is_painted_in_image_and_depth_stays_at_one_place(
    seed: int,
    crop: dict[str, Any],
    rotation: float,
    count: int,
    magnitude: float,
    jitter: float,
    hue: float,
    erase: float,
    size: tuple[int, int],
) -> None:
    """Whatever the colours become, they are one colour where depth is that of the box, and one where it is not."""
    settings = data(
        **crop,
        flip=True,
        rotation=rotation,
        rand_augment=count,
        rand_augment_magnitude=magnitude,
        color_jitter=jitter,
        color_hue=hue,
        erase=erase,
        image_size=size,
    )
    view = TrainTransform(settings)(marked(), seed)
    assert view.image.shape == (3, *size) and float(view.image.min()) >= 0 and float(view.image.max()) <= 1
    assert (view.depth[~view.valid] == 0).all() and set(view.depth[view.valid].tolist()) <= {1.0, 2.0}
    for depth in (1.0, 2.0):
        assert colour_spread(view, depth) <= 3 / 255


def test_a_depth_that_is_moved_otherwise_than_its_image_would_be_seen() -> None:
    noticed = 0
    for seed in range(20):
        view = TrainTransform(data(flip=True, rand_augment=2, image_size=(60, 80)))(marked(), seed)
        view.depth = view.depth.roll(8, dims=-1)
        noticed += max(colour_spread(view, depth) for depth in (1.0, 2.0)) > 3 / 255
    assert noticed >= 18


EVERYTHING: dict[str, Any] = {
    "crop_scale": (0.3, 0.9),
    "flip": True,
    "rotation": 20.0,
    "color_jitter": 0.4,
    "erase": 0.5,
    "color_hue": 0.1,
    "rand_augment": 2,
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
    canvas = {"crop": "canvas", "long_side": (48, 80)}
    for settings in (data(), data(**EVERYTHING), data(**canvas), data(rand_augment=4), data(erase=1.0)):
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
