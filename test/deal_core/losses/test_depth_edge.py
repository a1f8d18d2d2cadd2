"""The loss against an independent evaluation of its definition, and the properties its users rely on."""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deal_core.losses.depth_edge import (
    SOBEL_BOUND,
    DepthEdgeAlignmentLoss,
    cam_edges,
    depth_edge_alignment_loss,
    depth_edges,
    edge_sign,
    sobel_magnitude,
)

NAN = float("nan")


# --- an independent formulation: one pixel at a time, in float64, with logarithm and tanh as published ----------


def slow_g(x: float, mu: float = 2.5) -> float:
    if x <= 0.0:
        return -1.0
    if x >= 1.0:
        return 1.0
    return math.tanh(mu + math.log(x / (1.0 - x)))


def slow_sobel(image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    kernel_x = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            dx = dy = 0.0
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    value = image[min(max(i + di, 0), height - 1), min(max(j + dj, 0), width - 1)]
                    dx += kernel_x[di + 1, dj + 1] * value
                    dy += kernel_x.T[di + 1, dj + 1] * value
            out[i, j] = math.hypot(dx, dy)
    return out


def slow_loss(cams: np.ndarray, depth: np.ndarray, tags: np.ndarray, valid: np.ndarray, mu: float = 2.5) -> float:
    """Recommended normalisation; CAMs and depth (B, K, H, W) and (B, H, W) at the size of the comparison."""
    total = 0.0
    for image_cams, image_depth, image_tags, image_valid in zip(cams, depth, tags, valid, strict=True):
        present = [k for k, tag in enumerate(image_tags) if tag == 1]
        if not present or not image_valid.any():
            continue
        low, high = image_depth[image_valid].min(), image_depth[image_valid].max()
        filled = np.where(image_valid, image_depth, low)
        scaled = (filled - low) / (high - low) if high > low else np.zeros_like(filled)
        depth_strength = slow_sobel(scaled) / math.sqrt(20.0)
        height, width = image_depth.shape
        inner = 0.0
        for k in present:
            cam = np.maximum(image_cams[k], 0)
            cam = cam / cam.max() if cam.max() > 0 else cam
            strength = slow_sobel(cam)
            strength = strength / strength.max() if strength.max() > 0 else np.ones_like(strength)
            for i in range(height):
                for j in range(width):
                    around = image_valid[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                    if around.all():
                        inner += slow_g(strength[i, j], mu) * slow_g(depth_strength[i, j], mu)
        total -= inner / len(present) / (height * width)
    return total / len(cams)


def random_case(seed: int, batch: int = 2, classes: int = 3, size: int = 9, holes: float = 0.15):
    rng = np.random.default_rng(seed)
    cams = rng.normal(size=(batch, classes, size, size))
    depth = rng.uniform(0.4, 2.0, size=(batch, size, size))
    valid = rng.random((batch, size, size)) >= holes / 4
    tags = rng.choice([0.0, 1.0, NAN], size=(batch, classes))
    return cams, depth, tags, valid


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_definition(seed: int) -> None:
    cams, depth, tags, valid = random_case(seed)
    expected = slow_loss(cams, depth, tags, valid)
    measured = depth_edge_alignment_loss(
        torch.from_numpy(cams),
        torch.from_numpy(depth)[:, None],
        torch.from_numpy(tags),
        valid=torch.from_numpy(valid)[:, None],
        size=(9, 9),
    )
    assert measured.item() == pytest.approx(expected, abs=1e-9)
    single = depth_edge_alignment_loss(
        torch.from_numpy(cams).float(),
        torch.from_numpy(depth)[:, None].float(),
        torch.from_numpy(tags).float(),
        valid=torch.from_numpy(valid)[:, None],
        size=(9, 9),
    )
    assert single.item() == pytest.approx(expected, abs=1e-6)


def slow_bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cubic convolution with a = -3/4 from the 4x4 pixels around each point, edges repeated, without any filter."""

    def weight(x: float) -> float:
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    out = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = ((n + 0.5) * s / t - 0.5 for n, s, t in zip((i, j), image.shape, size, strict=True))
            for p in range(math.floor(y) - 1, math.floor(y) + 3):
                for q in range(math.floor(x) - 1, math.floor(x) + 3):
                    row, column = min(max(p, 0), image.shape[0] - 1), min(max(q, 0), image.shape[1] - 1)
                    out[i, j] += weight(y - p) * weight(x - q) * image[row, column]
    return out


@pytest.mark.parametrize("has_depth", [True, False])
@pytest.mark.parametrize("after", ["min_max", "sigmoid"])
def test_the_plain_reading_of_the_paper(after: str, has_depth: bool) -> None:
    """Depth as the camera gives it, resampled plainly, and Sobel magnitudes brought to [0, 1] at the end."""
    rng = np.random.default_rng(5)
    cams, depth = rng.normal(size=(7, 9)), rng.uniform(0.5, 1.5, (24, 30))
    depth[6:12, 5:15] = 0
    if not has_depth:
        depth[:] = 0

    def strength(values: np.ndarray) -> np.ndarray:
        magnitude = slow_sobel(values)
        if after == "sigmoid":
            return 1 / (1 + np.exp(-magnitude))
        return (magnitude - magnitude.min()) / (magnitude.max() - magnitude.min())

    cam = cams if after == "sigmoid" else np.maximum(cams, 0) / cams.max()
    expected = 0.0
    if has_depth:
        signs = [np.vectorize(slow_g)(strength(v)) for v in (cam, slow_bicubic(depth, (7, 9)))]
        expected = -float((signs[0] * signs[1]).mean())
    found = depth_edge_alignment_loss(
        torch.from_numpy(cams)[None, None],
        torch.from_numpy(depth)[None, None],
        torch.ones(1, 1),
        size=(7, 9),
        cam_value="none" if after == "sigmoid" else "relu_max",
        cam_edge=after,
        depth_value="none",
        depth_edge=after,
        depth_resize="bicubic",
        holes="edges",
    )
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_cams_whose_outermost_cells_lie_on_the_outermost_pixels() -> None:
    cams = torch.rand(1, 1, 3, 3, dtype=torch.float64)
    places = np.linspace(0, 2, 9)
    lines = np.stack([np.interp(places, range(3), line) for line in cams[0, 0].numpy()])
    large = np.stack([np.interp(places, range(3), line) for line in lines.T]).T
    assert torch.allclose(
        cam_edges(cams, size=(9, 9), corners=True), cam_edges(torch.from_numpy(large)[None, None], size=(9, 9))
    )


def test_resampling_is_bicubic_for_depth_and_bilinear_for_cams() -> None:
    rng = np.random.default_rng(3)
    depth = rng.uniform(0.5, 1.5, (24, 32)).astype(np.float32)
    cams = rng.normal(size=(1, 1, 6, 8))
    small = np.array(Image.fromarray(depth).resize((16, 12), Image.Resampling.BICUBIC), np.float64)
    rows, columns = _bilinear_matrix(6, 12), _bilinear_matrix(8, 16)
    expected = slow_loss((rows @ cams[0, 0] @ columns.T)[None, None], small[None], np.ones((1, 1)), small[None] > 0)
    measured = depth_edge_alignment_loss(
        torch.from_numpy(cams).float(), torch.from_numpy(depth)[None, None], torch.ones(1, 1)
    )
    assert measured.item() == pytest.approx(expected, abs=1e-5)


def _bilinear_matrix(source: int, target: int) -> np.ndarray:
    matrix = np.zeros((target, source))
    for i in range(target):
        position = min(max((i + 0.5) * source / target - 0.5, 0), source - 1)
        low = int(position)
        high = min(low + 1, source - 1)
        matrix[i, low] += 1 - (position - low)
        matrix[i, high] += position - low
    return matrix


@given(st.floats(0, 1), st.floats(0.1, 4))
def test_closed_form_of_g(x: float, mu: float) -> None:
    assert edge_sign(torch.tensor(x, dtype=torch.float64), mu).item() == pytest.approx(slow_g(x, mu), abs=1e-9)


def test_sobel_bound_is_the_maximum_over_binary_patches() -> None:
    patches = torch.tensor([[(n >> b) & 1 for b in range(9)] for n in range(512)], dtype=torch.float64)
    magnitudes = sobel_magnitude(patches.view(512, 1, 3, 3))[:, 0, 1, 1]
    assert magnitudes.max().item() == pytest.approx(SOBEL_BOUND)


@given(st.integers(0, 10_000), st.integers(4, 12), st.integers(4, 12))
@settings(max_examples=40)
def test_stays_in_its_range_and_ignores_scale_and_shift_of_depth(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cams = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    depth = torch.rand(2, 1, height, width, generator=generator, dtype=torch.float64) + 0.3
    tags = torch.randint(0, 2, (2, 3), generator=generator).double()
    terms = DepthEdgeAlignmentLoss(size=(height, width)).terms(cams, depth, tags)
    assert -1 <= terms.loss <= 1 and -1 <= terms.flat <= 1
    moved = DepthEdgeAlignmentLoss(size=(height, width)).terms(cams * 7, depth * 3 + 2, tags)
    assert moved.loss.item() == pytest.approx(terms.loss.item(), abs=1e-9)
    flipped = DepthEdgeAlignmentLoss(size=(height, width)).terms(cams.flip(-1), depth.flip(-1), tags)
    assert flipped.loss.item() == pytest.approx(terms.loss.item(), abs=1e-9)


def test_flat_is_the_loss_of_a_constant_cam() -> None:
    cams, depth, tags, valid = (torch.from_numpy(a) for a in random_case(5))
    terms = DepthEdgeAlignmentLoss(size=(9, 9)).terms(cams, depth[:, None], tags, valid[:, None])
    constant = depth_edge_alignment_loss(
        torch.full_like(cams, 0.7), depth[:, None], tags, valid=valid[:, None], size=(9, 9)
    )
    assert terms.flat.item() == pytest.approx(constant.item(), abs=1e-12)


def test_absent_and_unknown_classes_change_nothing() -> None:
    cams, depth, _, _ = (torch.from_numpy(a) for a in random_case(6))
    tags = torch.tensor([[1.0, 0.0, NAN], [0.0, 1.0, NAN]], dtype=torch.float64)
    other = cams.clone()
    other[0, 1:], other[1, 0], other[1, 2] = 99.0, -5.0, torch.rand(9, 9)
    assert depth_edge_alignment_loss(cams, depth[:, None], tags) == depth_edge_alignment_loss(
        other, depth[:, None], tags
    )


@pytest.mark.parametrize("what", ["no tags", "no depth", "constant depth", "zero cam"])
def test_degenerate_input_gives_finite_loss_and_gradient(what: str) -> None:
    cams = torch.randn(2, 3, 8, 8, requires_grad=True)
    depth, tags = torch.rand(2, 1, 16, 16) + 0.5, torch.ones(2, 3)
    valid = None
    if what == "no tags":
        tags = torch.tensor([[0.0, NAN, 0.0]] * 2)
    elif what == "no depth":
        depth = torch.tensor([0.0, NAN]).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    elif what == "constant depth":
        depth = torch.full((2, 1, 16, 16), 0.8)
    else:
        cams = torch.full((2, 3, 8, 8), -1.0, requires_grad=True)
    loss = depth_edge_alignment_loss(cams, depth, tags, valid=valid)
    loss.backward()
    assert torch.isfinite(loss) and cams.grad is not None and torch.isfinite(cams.grad).all()
    if what in ("no tags", "no depth"):
        assert loss.item() == 0.0 and not cams.grad.any()


def test_one_image_without_depth_does_not_change_the_gradient_of_another() -> None:
    cams, depth, tags = torch.randn(2, 2, 8, 8), torch.rand(2, 1, 16, 16) + 0.5, torch.ones(2, 2)
    valid = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    valid[1] = False
    alone = depth_edge_alignment_loss(cams[:1], depth[:1], tags[:1])
    both = depth_edge_alignment_loss(cams, depth, tags, valid=valid)
    assert both.item() == pytest.approx(alone.item() / 2, abs=1e-6)


def test_what_holes_hide_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(1, 1, 32, 32, generator=generator) + 0.5
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[..., 8:20, 10:18] = False
    cams, tags = torch.randn(1, 2, 16, 16, generator=generator), torch.ones(1, 2)
    garbage = depth.masked_fill(~valid, 60.0)
    zeros = depth.masked_fill(~valid, 0.0)
    first, second = (depth_edge_alignment_loss(cams, d, tags, valid=valid) for d in (garbage, zeros))
    assert first == second
    weight = depth_edges(garbage, valid, size=(16, 16)).weight[0, 0]
    assert not weight[3:11, 4:10].any() and weight[:3].all() and weight[11:].all()


def shadowed_scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A sloping table with two near boxes in stereo shadows: depth, true depth, and the mask of the first box."""
    depth, mask = scene()
    depth = depth - 0.25 * mask
    truth = depth.clone()
    depth[..., 20:40, 9:12] = 0
    depth[..., 20:40, 30:33] = float("nan")
    depth[..., 30:52, 42:44] = 0
    return depth, truth, mask


def test_filled_shadows_show_the_outlines_that_ignored_ones_hide() -> None:
    depth, truth, _ = shadowed_scene()
    options = {"size": (32, 32), "value": "inverse_min_max", "slope": "remove", "gain": 3.0}
    ignored, filled = (depth_edges(depth, holes=holes, **options) for holes in ("ignore", "fill"))
    complete = depth_edges(truth, holes="fill", **options)
    left = (0, 0, slice(11, 19), slice(5, 7))
    assert not ignored.weight[left].any()
    assert filled.weight[left].min() > 0.5
    around = (..., slice(11, 19), slice(0, 20))  # the first box, between its corners
    assert torch.allclose(filled.strength[around], complete.strength[around], atol=0.01)
    assert (filled.weight[..., :8, :] == 1).all() and filled.weight.max() == 1


def test_with_filled_holes_truth_beats_a_blob_beats_a_flat_map() -> None:
    depth, _, mask = shadowed_scene()
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    blob = torch.exp(-((y - 30) ** 2 + (x - 20) ** 2) / 60)[None, None]
    losses = {
        holes: [
            depth_edge_alignment_loss(cam, depth, torch.ones(1, 1), size=(32, 32), holes=holes).item()
            for cam in (mask, blob, torch.ones_like(mask))
        ]
        for holes in ("ignore", "fill")
    }
    assert losses["fill"][0] < losses["fill"][1] < losses["fill"][2]
    assert losses["fill"][1] - losses["fill"][0] > losses["ignore"][1] - losses["ignore"][0]


def test_without_holes_filling_changes_nothing() -> None:
    cams, depth, tags, _ = (torch.from_numpy(a) for a in random_case(10))
    tags = torch.ones_like(tags)
    losses = [depth_edge_alignment_loss(cams, depth[:, None], tags, holes=holes) for holes in ("ignore", "fill")]
    assert losses[0] == losses[1]


def test_an_image_without_depth_contributes_nothing_with_filled_holes() -> None:
    cams = torch.randn(2, 3, 8, 8, requires_grad=True)
    depth = torch.tensor([0.0, NAN]).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    for value in ("min_max", "inverse_min_max", "none"):
        loss = depth_edge_alignment_loss(cams, depth, torch.ones(2, 3), holes="fill", depth_value=value)
        assert loss.item() == 0.0
        (gradient,) = torch.autograd.grad(loss, cams)
        assert not gradient.any()


def test_what_filled_holes_hide_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(1, 1, 32, 32, generator=generator) + 0.5
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[..., 8:20, 10:18] = False
    cams, tags = torch.randn(1, 2, 16, 16, generator=generator), torch.ones(1, 2)
    first, second = (
        depth_edge_alignment_loss(cams, depth.masked_fill(~valid, hidden), tags, valid=valid, holes="fill")
        for hidden in (60.0, 0.0)
    )
    assert first == second


def test_gradcheck() -> None:
    cams = torch.randn(1, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).abs() + 0.1
    depth = torch.rand(1, 1, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.4
    tags = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    for cam_value in ("relu_max", "min_max", "sigmoid", "none"):
        for cam_edge in ("max", "bound", "min_max", "sigmoid"):
            assert torch.autograd.gradcheck(
                lambda c, v=cam_value, e=cam_edge: depth_edge_alignment_loss(
                    c, depth, tags, size=(8, 8), cam_value=v, cam_edge=e
                ),
                cams.requires_grad_(),
                fast_mode=True,
            )


def test_bfloat16_autocast_matches_float32() -> None:
    cams, depth, tags, valid = (torch.from_numpy(a).float() for a in random_case(7))
    rounded = cams.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = depth_edge_alignment_loss(rounded, depth[:, None], tags, valid=valid[:, None].bool())
    high = depth_edge_alignment_loss(rounded.float(), depth[:, None], tags, valid=valid[:, None].bool())
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(high.item(), abs=1e-6)


def scene(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A sloping table with two boxes of which one is the class; depth and the class's mask."""
    rows = torch.linspace(1.1, 0.7, size).view(size, 1).expand(size, size).clone()
    mask = torch.zeros(size, size)
    mask[20:40, 12:30] = 1.0
    rows = rows - 0.1 * mask
    rows[30:52, 44:56] -= 0.12
    return rows[None, None], mask[None, None]


def test_true_mask_beats_a_blob_beats_a_flat_map() -> None:
    depth, mask = scene()
    tags = torch.ones(1, 1)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    blob = torch.exp(-((y - 30) ** 2 + (x - 20) ** 2) / 60)[None, None]
    losses = [
        depth_edge_alignment_loss(cam, depth, tags, size=(32, 32)).item() for cam in (mask, blob, torch.ones_like(mask))
    ]
    assert losses[0] < losses[1] < losses[2]


def test_gradient_descent_on_a_cam_finds_the_silhouette() -> None:
    """From a soft blob that is larger than the object, the loss alone must sharpen the CAM to the silhouette."""
    depth, mask = scene()
    small = torch.nn.functional.avg_pool2d(mask, 2)[0, 0] > 0.5
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    logits = torch.exp(-((y - 14) ** 2 + (x - 9) ** 2) / 60)[None, None].requires_grad_()
    before, iou_before = (
        depth_edge_alignment_loss(logits, depth, torch.ones(1, 1), size=(32, 32)).item(),
        best_iou(logits, small),
    )
    optimizer = torch.optim.Adam([logits], lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss = depth_edge_alignment_loss(logits, depth, torch.ones(1, 1), size=(32, 32))
        loss.backward()
        optimizer.step()
    assert loss.item() < before - 0.1
    assert best_iou(logits, small) > iou_before + 0.05


def best_iou(cam: torch.Tensor, mask: torch.Tensor) -> float:
    scores = cam.detach()[0, 0].relu() / cam.detach().max()
    return max(float(((scores > t) & mask).sum() / ((scores > t) | mask).sum()) for t in torch.arange(0, 1, 0.05))


def test_every_option_changes_the_result_and_unknown_ones_are_refused() -> None:
    cams, depth, tags, valid = (torch.from_numpy(a) for a in random_case(8))
    tags = torch.ones_like(tags)
    arguments = {"cams": cams, "depth": depth[:, None], "tags": tags, "valid": valid[:, None], "size": (9, 9)}
    default = depth_edge_alignment_loss(**arguments)
    for option in (
        {"cam_value": "sigmoid"},
        {"cam_value": "min_max"},
        {"cam_value": "above_mean_max"},
        {"cam_edge": "bound"},
        {"depth_value": "none"},
        {"depth_value": "inverse_min_max"},
        {"cam_edge": "min_max"},
        {"cam_edge": "sigmoid"},
        {"depth_edge": "max"},
        {"depth_edge": "min_max"},
        {"depth_edge": "sigmoid"},
        {"depth_resize": "bicubic", "size": (5, 5)},
        {"holes": "edges"},
        {"depth_slope": "remove"},
        {"depth_gain": 2.0},
        {"holes": "fill"},
        {"mu": 1.0},
        {"size": (6, 6)},
    ):
        assert depth_edge_alignment_loss(**{**arguments, **option}) != default
    with pytest.raises(
        ValueError, match="expected depth_edge to be one of bound, max, min_max, sigmoid, got 'maximum'"
    ):
        depth_edge_alignment_loss(**arguments, depth_edge="maximum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected holes to be one of ignore, fill, edges, got 'keep'"):
        depth_edge_alignment_loss(**arguments, holes="keep")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected depth_kind to be one of metric, inverse, got 'disparity'"):
        depth_edge_alignment_loss(**arguments, depth_kind="disparity")  # type: ignore[arg-type]


def test_module_is_the_function() -> None:
    cams, depth, tags, valid = (torch.from_numpy(a) for a in random_case(9))
    options = {"size": (7, 7), "mu": 2.0, "cam_value": "sigmoid", "depth_value": "inverse_min_max"}
    for kind in ("metric", "inverse"):
        expected = depth_edge_alignment_loss(
            cams, depth[:, None], tags, valid=valid[:, None], depth_kind=kind, **options
        )
        module = DepthEdgeAlignmentLoss(**options, depth_kind=kind)
        assert module(cams, depth[:, None], tags, valid[:, None]) == expected


@pytest.mark.parametrize(
    ("cams", "depth", "tags", "message"),
    [
        ((3, 8, 8), (1, 1, 16, 16), (1, 3), "expected cams of shape"),
        ((2, 3, 8, 8), (2, 3, 16, 16), (2, 3), r"expected depth of shape \(2, 1, H, W\), got \(2, 3, 16, 16\)"),
        ((2, 3, 8, 8), (2, 1, 16, 16), (2, 4), r"expected tags of shape \(2, 3\), got \(2, 4\)"),
    ],
)
def test_wrong_shapes_are_named(cams, depth, tags, message) -> None:
    with pytest.raises(ValueError, match=message):
        depth_edge_alignment_loss(torch.zeros(cams), torch.ones(depth), torch.zeros(tags))


def test_a_flat_map_is_the_limit_of_weak_slopes_or_without_edges_by_the_bound() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    slope, flat = cam_edges(1e-3 * ramp + 1, size=(8, 8)), cam_edges(torch.ones(1, 1, 8, 8), size=(8, 8))
    assert torch.equal(flat, torch.ones_like(flat))
    # Replicate padding halves the difference across the first and last column.
    assert torch.allclose(slope[..., 1:-1], flat[..., 1:-1], atol=1e-3)
    assert not cam_edges(torch.ones(1, 1, 8, 8), size=(8, 8), edge="bound").any()


def test_a_plane_at_any_angle_makes_no_edges_once_its_slope_is_removed() -> None:
    """Inverse depth of a plane is linear in the image; a box on it keeps its outline."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 64), indexing="ij")
    plane = (1 / (0.9 + 0.35 * y + 0.1 * x))[None, None]
    options = {"value": "inverse_min_max", "slope": "remove"}
    inside = (..., slice(1, -1), slice(1, -1))  # replicate padding bends a slope at the border
    assert float(depth_edges(plane, size=(48, 64), **options).strength[inside].max()) < 1e-4
    assert float(depth_edges(plane, size=(48, 64)).strength[inside].min()) > 0.01
    box = plane.clone()
    box[..., 16:32, 20:36] *= 0.85
    edges = depth_edges(box, size=(48, 64), **options).strength[0, 0]
    assert edges[15:17, 21:35].min() > 0.05 and edges[20:28, 25:31].max() < 0.05 and edges[36:44, 2:62].max() < 1e-4


@given(st.integers(0, 10_000), st.floats(0.01, 1000), st.floats(0, 10), st.sampled_from(["keep", "remove"]))
@settings(max_examples=40)
def test_inverse_depth_of_any_scale_and_zero_is_as_good_as_metric_depth(
    seed: int, factor: float, shift: float, slope: Literal["keep", "remove"]
) -> None:
    cams, depth, tags, valid = (torch.from_numpy(a) for a in random_case(seed))
    depth, valid = depth[:, None].masked_fill(~valid[:, None], 0.0), valid[:, None]
    inverse = torch.where(valid, factor * (1 / depth + shift), 0.0)
    # At the size of the maps and smaller: inverse depth is what is resampled, whichever kind is given.
    for size in ((9, 9), (5, 6)):
        common = {"size": size, "depth_slope": slope}
        metric = depth_edge_alignment_loss(cams, depth, tags, depth_value="inverse_min_max", **common)
        for value in ("inverse_min_max", "min_max"):
            relative = depth_edge_alignment_loss(cams, inverse, tags, depth_value=value, depth_kind="inverse", **common)
            assert relative.item() == pytest.approx(metric.item(), abs=1e-6)


def test_the_kind_of_depth_changes_nothing_where_depth_is_not_inverted() -> None:
    depth = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(4)) + 0.5
    for value in ("min_max", "none"):
        metric, inverse = (depth_edges(depth, size=(12, 12), value=value, kind=k) for k in ("metric", "inverse"))
        assert torch.equal(metric.strength, inverse.strength)
    metric, inverse = (
        depth_edges(depth, size=(12, 12), value="inverse_min_max", kind=k) for k in ("metric", "inverse")
    )
    assert not torch.allclose(metric.strength, inverse.strength, atol=1e-3)


def test_classes_that_no_image_shows_change_nothing() -> None:
    torch.manual_seed(3)
    depth, tags = torch.rand(2, 1, 32, 32) + 0.5, torch.tensor([[1.0, 0.0, 0.0, math.nan], [0.0, 0.0, 1.0, 0.0]])
    cams = torch.rand(2, 4, 16, 16, requires_grad=True)
    loss = depth_edge_alignment_loss(cams, depth, tags)
    (gradient,) = torch.autograd.grad(loss, cams)
    assert not gradient[:, [1, 3]].any() and gradient[0, 0].any() and gradient[1, 2].any()
    assert not gradient[0, 2].any() and not gradient[1, 0].any()
    few = depth_edge_alignment_loss(cams[:, [0, 2]], depth, tags[:, [0, 2]])
    assert float(loss.detach()) == pytest.approx(float(few.detach()), abs=1e-6)
    nobody = depth_edge_alignment_loss(cams, depth, torch.zeros(2, 4))
    assert float(nobody.detach()) == 0 and not torch.autograd.grad(nobody, cams)[0].any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["one", "all"])
@pytest.mark.parametrize("options", [{}, {"cam_value": "min_max"}, {"cam_value": "sigmoid", "cam_edge": "bound"}])
def test_cams_that_are_not_finite_give_a_nan_loss(value: float, where: str, options: dict[str, Any]) -> None:
    cams = torch.randn(2, 2, 6, 7)
    cams[0, 0, 2, 2] = value
    if where == "all":
        cams[:] = value
    depth, tags = torch.rand(2, 1, 24, 28) + 0.5, torch.tensor([[1.0, math.nan], [0.0, 1.0]])
    assert math.isnan(depth_edge_alignment_loss(cams, depth, tags, size=(12, 14), **options))
    tags = torch.tensor([[0.0, 1.0], [math.nan, 1.0]])  # the class counts nowhere: neither loss nor gradient
    if where == "one":
        cams.requires_grad_(True)
        loss = depth_edge_alignment_loss(cams, depth, tags, size=(12, 14), **options)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(cams.grad).all()
