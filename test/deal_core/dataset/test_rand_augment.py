"""RandAugment against timm's, which works on PIL images; and that depth goes where the image goes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp
from torch import Tensor

from deal_core.dataset.rand_augment import FILL, OPERATIONS, apply_operation, rand_augment

HEIGHT, WIDTH = 48, 64
MOVING = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}
# Its names of the variants that become stronger with the level, or are relative to the size of the image.
TIMM = {name: f"{name}Increasing" for name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")}
TIMM.update(TranslateX="TranslateXRel", TranslateY="TranslateYRel")


def picture() -> Tensor:
    """A smooth picture with all colours, so that resampling a little otherwise gives about the same."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 10.0
    waves = [np.sin(x + y / 2), np.cos(y - x / 3), np.sin(x / 2) * np.cos(y / 2)]
    return torch.from_numpy(np.stack([(110 + 70 * wave).round() for wave in waves]).astype(np.uint8))


def depth() -> Tensor:
    """Depth that says where a pixel comes from, and its validity."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return torch.from_numpy(np.stack([1 + columns + 1000 * rows, np.ones_like(rows)]).astype(np.float32))


def by_timm(name: str, level: float) -> list[np.ndarray]:
    """What timm makes of the picture, in either direction."""
    made = []
    for direction in (0.0, 1.0):
        operation = AugmentOp(
            TIMM.get(name, name),
            prob=1.0,
            magnitude=level,
            hparams={"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC, "magnitude_std": 0},
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("random.random", lambda direction=direction: direction)
            made.append(np.array(operation(Image.fromarray(picture().permute(1, 2, 0).numpy()))))
    return made


def difference(ours: Tensor, theirs: np.ndarray) -> float:
    """The grey levels by which at most one pixel in ten (the outline of what is moved) differs more."""
    return float(np.quantile(np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs.astype(int)), 0.9))


@pytest.mark.parametrize("level", [0.0, 3.0, 6.2, 9.0, 9.9])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_does_what_timm_does(name: str, level: float) -> None:
    theirs, met = by_timm(name, level), set()
    for seed in range(8):
        torch.manual_seed(seed)
        image, moved = apply_operation(name, picture(), depth(), level)
        assert image.dtype == torch.uint8 and image.shape == (3, HEIGHT, WIDTH)
        differences = [difference(image, one) for one in theirs]
        assert min(differences) <= 2
        met.add(int(np.argmin(differences)))
        assert torch.equal(moved, depth()) == (name not in MOVING or level == 0)
    if difference(torch.from_numpy(theirs[0]).permute(2, 0, 1), theirs[1]) > 2:
        assert met == {0, 1}, "either direction"


def test_there_are_the_fifteen_operations_of_the_recipe() -> None:
    assert len(OPERATIONS) == len(set(OPERATIONS)) == 15 and set(OPERATIONS) >= MOVING


@pytest.mark.parametrize("name", sorted(MOVING))
def test_depth_follows_to_the_nearest_pixel_and_is_invalid_where_it_comes_from_outside(name: str) -> None:
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    # Red and green say where a pixel comes from, blue that it is from inside.
    image = torch.stack([columns * 3, rows * 3, torch.full_like(rows, 255)]).to(torch.uint8)
    for seed in range(6):
        torch.manual_seed(seed)
        view, moved = apply_operation(name, image, depth(), 9.0)
        valid = moved[1] > 0.5
        outside = view[2] == FILL[2]
        assert outside.float().mean() > 0.02 and not (valid & outside).any()
        assert (moved[:, ~valid] == 0).all() and (valid | (view[2] < 255)).all()
        whole = view[2] == 255
        code = moved[0][whole].long() - 1
        for origin, channel in ((code % 1000, 0), (code // 1000, 1)):
            assert (origin - view[channel][whole] / 3.0).abs().max() <= 1.0


def test_operations_are_drawn_evenly_and_half_of_them_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, float]] = []

    def note(name: str, image: Tensor, depth: Tensor, level: float) -> tuple[Tensor, Tensor]:
        calls.append((name, level))
        return image, depth

    monkeypatch.setattr("deal_core.dataset.rand_augment.apply_operation", note)
    torch.manual_seed(0)
    for _ in range(1500):
        rand_augment(picture(), depth(), 2, 9.0)
    assert 1400 < len(calls) < 1600
    counts = [sum(name == one for name, _ in calls) for one in OPERATIONS]
    assert min(counts) > 60 and max(counts) < 145
    levels = np.array([level for _, level in calls])
    assert abs(np.median(levels) - 9) < 0.06 and levels.max() == 10.0
    # One deviation below the mean.
    assert math.isclose(np.quantile(levels, 0.1587), 8.5, abs_tol=0.08)


def test_none_drawn_changes_nothing_and_takes_no_random_number() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    image, moved = rand_augment(picture(), depth(), 0, 9.0)
    assert torch.equal(image, picture()) and torch.equal(moved, depth()) and torch.equal(torch.rand(2), expected)


def test_the_largest_level_leaves_something_to_see() -> None:
    torch.manual_seed(0)
    assert all(len(apply_operation(name, picture(), depth(), 10.0)[0].unique()) > 1 for name in OPERATIONS)
