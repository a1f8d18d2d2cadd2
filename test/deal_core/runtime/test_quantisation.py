"""int8: masks as in float32, in a file that runs like any other; what it cannot be made of is refused."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.network_input import depth_to_input, image_to_input, resize_image
from deal_core.errors import BackendError, DatasetError
from deal_core.models.factory import create_model
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold
from deal_core.runtime import quantisation
from deal_core.runtime.backends.choice import Wanted
from deal_core.runtime.backends.onnxruntime_backend import open_session
from deal_core.runtime.onnx_export import Exported, export_onnx
from deal_core.runtime.onnx_file import OPSET, read_onnx
from deal_core.runtime.open_backend import open_backend
from deal_core.runtime.quantisation import Quantised, quantise
from deal_core.runtime.segmenter import Segmenter

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")


@pytest.fixture(scope="module")
def exported(model: LoadedModel) -> Exported:
    return export_onnx(model)


@pytest.fixture(scope="module")
def made(exported: Exported, model: LoadedModel, dataset: Dataset) -> Quantised:
    return quantise(exported, model.sha256, dataset)


@pytest.fixture
def file(made: Quantised, tmp_path: Path) -> Path:
    path = tmp_path / "int8.onnx"
    path.write_bytes(made.data)
    return path


def test_it_runs_like_any_other_model_and_says_what_it_is(
    file: Path, made: Quantised, exported: Exported, model: LoadedModel, dataset: Dataset
) -> None:
    found = read_onnx(file)
    assert (found.info, found.model_sha256, found.precision) == (model.info, model.sha256, "int8")
    segmenter = Segmenter.load(file)
    assert (segmenter.backend, segmenter.precision) == ("onnxruntime", "int8")
    # The agreement that was told, from masks of the two files as they run.
    (file.parent / "float.onnx").write_bytes(exported.data)
    other = Segmenter.load(file.parent / "float.onnx")
    same, either, total = 0, 0, 0
    for index in range(len(dataset)):
        image = dataset.load(index).image
        mask, expected = segmenter.segment(image).mask, other.segment(image).mask
        same += int(((mask == expected) & (mask + expected > 0)).sum())
        either += int(((mask > 0) | (expected > 0)).sum())
        total += int((mask == expected).sum())
    assert made.frames == len(dataset) and made.agreement == pytest.approx(same / either)
    assert made.same == pytest.approx(total / (len(dataset) * image.shape[0] * image.shape[1]))


def test_weights_are_bytes_but_those_of_the_logits(made: Quantised) -> None:
    graph = onnx.load_model_from_string(made.data)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]
    stored = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    maker = {name: node for node in graph.graph.node for name in node.output}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    as_bytes = [
        node
        for node in convolutions
        if node.input[1] in maker and stored[maker[node.input[1]].input[0]] == onnx.TensorProto.INT8
    ]
    assert len(convolutions) - len(as_bytes) == 1 and len(as_bytes) > 5
    scales = [onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.name.endswith("_scale")]
    assert any(scale.size > 1 for scale in scales)  # a scale for each channel


def test_any_batch_is_taken(made: Quantised) -> None:
    from deal_core.runtime.backends.onnxruntime_backend import open_session

    session, images = open_session(made.data), np.random.default_rng(0).random((3, 3, 24, 32), np.float32)
    together = session.run(["scores"], {"image": images})[0]
    for image, scores in zip(images, together, strict=True):
        np.testing.assert_allclose(session.run(["scores"], {"image": image[None]})[0][0], scores, atol=1e-5)


def test_masks_that_differ_are_refused(
    exported: Exported, model: LoadedModel, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "LEAST_AGREEMENT", 1.01)
    with pytest.raises(BackendError, match=r"have the same in both, expected at least 101%: use more frames"):
        quantise(exported, model.sha256, dataset)


def test_frames_are_needed_and_something_in_them(exported: Exported, model: LoadedModel, dataset: Dataset) -> None:
    none = dataset.subset(predicate=lambda _: False)
    with pytest.raises(DatasetError, match="expected frames to learn the ranges of int8 from, found none"):
        quantise(exported, model.sha256, none)
    blind = dataclasses.replace(exported, info=dataclasses.replace(exported.info, threshold=Threshold(1.0, "fixed")))
    with pytest.raises(BackendError, match="the model finds no class in the"):
        quantise(blind, model.sha256, dataset.subset(predicate=lambda frame: frame == dataset.frames[0]))


def test_a_frame_that_cannot_be_read_is_named(
    exported: Exported, model: LoadedModel, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise DatasetError("color/17.png: damaged")

    monkeypatch.setattr(Dataset, "load", damaged)
    with pytest.raises(DatasetError, match=r"color/17\.png: damaged"):
        quantise(exported, model.sha256, dataset)


def test_without_the_quantization_of_onnxruntime_the_extra_is_named(
    exported: Exported, model: LoadedModel, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization.shape_inference", None)
    with pytest.raises(BackendError, match=r"int8 needs .* pip install 'deal_ros\[export\]'"):
        quantise(exported, model.sha256, dataset)


def test_float32_is_not_had_from_an_int8_file(file: Path, make_model: Callable[..., LoadedModel]) -> None:
    with pytest.raises(
        BackendError, match=r"int8\.onnx computes in int8, but the requested precision is float32: use auto"
    ):
        open_backend(file, Wanted(is_onnx=True, precision="float32"))


@pytest.mark.slow
def test_a_model_that_sees_depth_learns_the_ranges_of_depth_too(dataset: Dataset) -> None:
    torch.manual_seed(0)
    arguments = {"encoder": "test_resnet", "inputs": "rgbd"}
    network = create_model("segmenter", len(dataset.classes), **arguments).eval()
    with torch.no_grad():  # one class wins everywhere, however this CPU multiplies bytes
        network.network.segmentation_head[0].bias[1] += 100
    info = ModelInfo("segmenter", arguments, dataset.classes, (32, 64), Threshold(0.5, "argmax"))
    made = quantise(export_onnx(LoadedModel(network, info, sha256="s")), "s", dataset)
    session = open_session(made.data)
    sample = dataset.load(0)
    image = image_to_input(resize_image(sample.image, (32, 64)))[None]
    with_depth, without = (
        session.run(["scores"], {"image": image, "depth": depth_to_input(depth, (32, 64))[None]})[0]
        for depth in (sample.depth, None)
    )
    assert not np.array_equal(with_depth, without)
