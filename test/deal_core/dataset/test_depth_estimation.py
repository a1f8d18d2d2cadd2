"""Estimated depth: a real network of tiny size, against its own steps one by one; folders that are gone on with."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.depth_model import MEAN, SIDE, STD, save_depth_model
from safetensors.numpy import load_file, save_file

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.depth_estimation import DepthEstimator, write_depth_maps
from deal_core.dataset.depth_maps import DepthMaps
from deal_core.dataset.writer import DatasetWriter
from deal_core.errors import DatasetError, ModelFileError, UsageError
from deal_core.structures import ClassList, RgbdPair, TagState, UInt8Array

pytest.importorskip("transformers")
LARGE = 400.0  # initial weights with which float16 overflows


def picture(seed: int, height: int = SIDE, width: int = 56) -> UInt8Array:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_depth_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def estimator(model: Path) -> DepthEstimator:
    return DepthEstimator.load(str(model), "cpu")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Five frames of two sizes, whose measured depth is nonsense."""
    with DatasetWriter(tmp_path / "kitchen", ClassList(("mug",))).recording("one") as recording:
        for stamp in range(5):
            image = picture(stamp, *((30, 40) if stamp % 2 else (40, 30)))
            recording.write(RgbdPair(stamp, image, np.full(image.shape[:2], 7, np.uint16)), TagState(), 0)
    return Dataset.open(tmp_path / "kitchen")


def by_hand(model: Path, image: UInt8Array) -> np.ndarray:
    """The steps of an image that needs no resizing."""
    from transformers import DepthAnythingForDepthEstimation

    network = DepthAnythingForDepthEstimation.from_pretrained(model).eval()
    normalised = (image.astype(np.float64) / 255 - MEAN) / STD
    with torch.no_grad():
        return network(torch.from_numpy(normalised.transpose(2, 0, 1)[None]).float()).predicted_depth[0].numpy()


def test_a_fitting_image_is_normalised_and_estimated(model: Path, estimator: DepthEstimator) -> None:
    image = picture(0)
    (depth,) = estimator.estimate([image])
    assert estimator.kind == "inverse"
    assert depth.shape == (SIDE, 56) and depth.dtype == np.float32 and depth.std() > 0.01
    np.testing.assert_allclose(depth, by_hand(model, image), atol=1e-4)


def test_other_images_keep_their_proportions_and_get_depth_of_their_own_size(
    model: Path, estimator: DepthEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    network = pytest.importorskip("transformers").DepthAnythingForDepthEstimation
    forward = network.forward

    def watched(self: Any, pixel_values: torch.Tensor) -> Any:
        seen.append(tuple(pixel_values.shape))
        return forward(self, pixel_values=pixel_values)

    monkeypatch.setattr(network, "forward", watched)
    sizes = [(84, 112), (112, 84), (84, 112), (91, 117), (1, 3)]
    images = [picture(n, *size) for n, size in enumerate(sizes)]
    depths = estimator.estimate(images)
    assert [depth.shape for depth in depths] == sizes
    assert seen[0][0] >= 2, "images of one size go together"
    assert all(height % 14 == width % 14 == 0 for *_, height, width in seen)
    assert (2, 3, SIDE, 56) in seen or (3, 3, SIDE, 56) in seen
    # The same image in a batch and alone; and as the image that is half as large.
    for image, depth in zip(images, depths, strict=True):
        np.testing.assert_allclose(estimator.estimate([image])[0], depth, rtol=1e-3, atol=1e-4)
    half = cv2.resize(images[0], (56, SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.resize(depths[0], (56, SIDE), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), by_hand(model, half).ravel())[0, 1] > 0.98


def test_a_metric_checkpoint_gives_metres(tmp_path: Path, dataset: Dataset) -> None:
    folder = save_depth_model(tmp_path / "metric", depth_estimation_type="metric", max_depth=20)
    estimator = DepthEstimator.load(str(folder), "cpu")
    assert estimator.kind == "metric"
    assert sum(write_depth_maps(estimator, dataset, tmp_path / "depth")) == 5
    maps = DepthMaps.open(tmp_path / "depth")
    assert maps.kind == "metric" and maps.scale == 0.001
    for frame in dataset.frames:
        (expected,) = estimator.estimate([dataset.load_image(frame)])
        assert 5 < expected.mean() < 20
        np.testing.assert_allclose(maps.load(frame.key, expected.shape), expected, atol=1e-3)


def test_maps_of_a_dataset_are_what_training_reads(estimator: DepthEstimator, dataset: Dataset, tmp_path: Path) -> None:
    assert list(write_depth_maps(estimator, dataset, tmp_path / "depth", batch_size=2)) == [True] * 5
    maps = DepthMaps.open(tmp_path / "depth")
    assert maps.kind == "inverse" and maps.model == estimator.description and "tiny" in maps.model
    estimated = dataset.with_depth(maps)
    assert estimated.depth_kind == "inverse"
    for index, frame in enumerate(dataset.frames):
        (expected,) = estimator.estimate([dataset.load_image(frame)])
        sample = estimated.load(index)
        assert sample.depth_valid.all() and sample.depth.max() == pytest.approx(1.0)
        np.testing.assert_allclose(sample.depth, expected.clip(0) / expected.max(), atol=1e-3)


def test_an_interrupted_run_makes_only_what_is_missing(
    model: Path, estimator: DepthEstimator, dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "depth"
    run = write_depth_maps(estimator, dataset, out, batch_size=2)
    assert next(run) and next(run) and next(run)
    run.close()
    kept = {file: file.read_bytes() for file in out.rglob("*.png")}
    assert len(kept) == 3
    for file in kept:
        os.utime(file, (1, 1))
    # The same model from another place goes on.
    moved = shutil.copytree(model, tmp_path / "elsewhere" / "tiny")
    again = DepthEstimator.load(str(moved), "cpu")
    assert sorted(write_depth_maps(again, dataset, out, batch_size=2)) == [False] * 3 + [True] * 2
    assert len(list(out.rglob("*.png"))) == 5
    assert all(file.stat().st_mtime == 1 and file.read_bytes() == data for file, data in kept.items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_leaves_nothing_half_written(estimator: DepthEstimator, dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "depth"

    def write_two_and_a_half() -> None:
        whole, written = Path.write_bytes, []

        def write_bytes(file: Path, data: Any) -> int:
            written.append(file)
            if len(written) == 3:
                whole(file, bytes(data)[:20])
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(file, data)

        Path.write_bytes = write_bytes  # type: ignore[method-assign]
        list(write_depth_maps(estimator, dataset, out, batch_size=1))

    process = multiprocessing.get_context("fork").Process(target=write_two_and_a_half)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len([file for file in out.rglob("*.png") if not file.name.startswith(".")]) == 2
    assert sum(write_depth_maps(estimator, dataset, out)) == 3
    dataset.with_depth(DepthMaps.open(out)).load(4)


@pytest.mark.parametrize("other", ["weights", "size", "kind", "precision"])
def test_maps_of_another_model_or_precision_are_refused(
    estimator: DepthEstimator, model: Path, dataset: Dataset, tmp_path: Path, other: str
) -> None:
    out = tmp_path / "depth"
    list(write_depth_maps(estimator, dataset, out))
    folder = shutil.copytree(model, tmp_path / "tiny")
    if other == "weights":
        weights = load_file(folder / "model.safetensors")
        weights["head.conv3.bias"] = weights["head.conv3.bias"] + 1
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    elif other == "size":
        edit(folder / "preprocessor_config.json", size={"height": 56, "width": 56})
    elif other == "kind":
        edit(folder / "config.json", depth_estimation_type="metric", max_depth=20)
    changed = DepthEstimator.load(str(folder), "cpu", "bfloat16" if other == "precision" else "float32")
    with pytest.raises(DatasetError, match=r"depth contains inverse depth of tiny .*choose another folder"):
        list(write_depth_maps(changed, dataset, out))


def test_lower_precision_is_close_and_overflow_is_told(model: Path, estimator: DepthEstimator, tmp_path: Path) -> None:
    image = picture(3)
    (exact,) = estimator.estimate([image])
    (low,) = DepthEstimator.load(str(model), "cpu", "bfloat16").estimate([image])
    assert low.dtype == np.float32 and 0 < np.abs(low - exact).max() < 0.05 * exact.max()
    large = save_depth_model(tmp_path / "large", spread=LARGE)
    with pytest.raises(UsageError, match="overflows at float16: choose another precision"):
        DepthEstimator.load(str(large), "cpu", "float16").estimate([image])


def test_a_damaged_image_is_named(estimator: DepthEstimator, dataset: Dataset, tmp_path: Path) -> None:
    file = dataset.frames[3].color
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DatasetError, match=f"{file.name}.*damaged"):
        list(write_depth_maps(estimator, dataset, tmp_path / "depth", batch_size=1))
    assert len(list((tmp_path / "depth").rglob("*.png"))) == 3


def edit(file: Path, **changed: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no weights", "model.safetensors"),
        ("cut weights", "is not a depth model"),
        ("a tensor is missing", "the weights lack 1 tensors, as head.conv3.bias"),
        ("no preprocessor", "preprocessor_config.json"),
        ("another network", "expected a DepthAnythingForDepthEstimation"),
        ("empty", "is not a depth model"),
    ],
)
def test_a_folder_that_is_no_depth_model_is_refused(model: Path, tmp_path: Path, damage: str, message: str) -> None:
    folder = shutil.copytree(model, tmp_path / "damaged")
    weights = folder / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "a tensor is missing":
        kept = load_file(weights)
        del kept["head.conv3.bias"]
        save_file(kept, weights, {"format": "pt"})
    elif damage == "no preprocessor":
        (folder / "preprocessor_config.json").unlink()
    elif damage == "another network":
        save_dpt(folder)
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    with pytest.raises(ModelFileError, match=message) as caught:
        DepthEstimator.load(str(folder), "cpu")
    assert str(folder) in str(caught.value)


def save_dpt(folder: Path) -> None:
    from transformers import DPTConfig, DPTForDepthEstimation

    small = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 8}
    config = DPTConfig(
        **small, image_size=32, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4] * 4, fusion_hidden_size=4
    )
    DPTForDepthEstimation(config).save_pretrained(folder)


def test_a_model_of_the_hub_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFileError, match=r"'nobody/no-such-model' is neither a folder .* give its path"):
        DepthEstimator.load("nobody/no-such-model", "cpu")


def test_what_is_missing_here_is_told(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    with pytest.raises(UsageError, match="device 'cuda:99' cannot be used here"):
        DepthEstimator.load(str(model), "cuda:99")
    with pytest.raises(UsageError, match="unknown precision 'half'"):
        DepthEstimator.load(str(model), "cpu", "half")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"needs transformers: pip install 'deal_ros\[depth\]'"):
        DepthEstimator.load(str(model), "cpu")


def test_a_batch_of_nothing_is_refused(estimator: DepthEstimator, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch size of at least 1, found 0"):
        list(write_depth_maps(estimator, dataset, tmp_path / "depth", batch_size=0))
