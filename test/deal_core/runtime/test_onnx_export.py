"""ONNX files: what they hold is checked when they are made and when they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deal_core.errors import BackendError, ModelFileError, UsageError
from deal_core.masks.class_scores import ScoreNetwork
from deal_core.models.factory import create_model
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold
from deal_core.models.segmenter import DECODERS
from deal_core.runtime.backends.choice import Wanted
from deal_core.runtime.backends.onnxruntime_backend import open_session
from deal_core.runtime.onnx_export import Exported, check_against_torch, describe, export_onnx
from deal_core.runtime.onnx_file import OPSET, read_onnx
from deal_core.runtime.open_backend import open_backend
from deal_core.runtime.segmenter import Segmenter
from deal_core.structures import ClassList

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")


@pytest.fixture(scope="module")
def loaded(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    return make_model()


@pytest.fixture(scope="module")
def exported(loaded: LoadedModel) -> Exported:
    return export_onnx(loaded)


@pytest.fixture
def file(exported: Exported, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.data)
    return path


def changed(exported: Exported, change: Callable[[Any], None]) -> bytes:
    graph = onnx.load_model_from_string(exported.data)
    change(graph)
    return bytes(graph.SerializeToString())


def test_any_batch_gives_what_torch_gives(exported: Exported, loaded: LoadedModel) -> None:
    assert exported.difference < 1e-3
    session, network = open_session(exported.data), ScoreNetwork(loaded.network).eval()
    for batch in (1, 2, 5):
        images = torch.rand(batch, 3, *loaded.info.input_size, generator=torch.Generator().manual_seed(batch))
        scores, tags = session.run(["scores", "tags"], {"image": images.numpy()})
        with torch.no_grad():
            expected = network(images)
        np.testing.assert_allclose(scores, expected[0].numpy(), atol=1e-3)
        np.testing.assert_allclose(tags, expected[1].numpy(), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_gives_what_torch_gives_for_any_batch(decoder: str, loaded: LoadedModel) -> None:
    torch.manual_seed(2)
    arguments, size = {"decoder": decoder, "encoder": "test_resnet"}, (40, 64)  # 40 is padded to 64
    network = create_model("segmenter", 2, **arguments).eval()
    info = ModelInfo("segmenter", arguments, ClassList(("mug", "drill")), size, Threshold(0.5, "argmax"))
    session = open_session(export_onnx(LoadedModel(network, info, loaded.sha256)).data)
    for batch in (1, 2, 5):
        images = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = network(images).scores
        found = session.run(["scores"], {"image": images.numpy()})[0]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
        assert expected.std() > 1e-3  # the scores differ from pixel to pixel, so that agreeing means something


def test_a_file_carries_what_the_model_file_says(file: Path, loaded: LoadedModel) -> None:
    found = read_onnx(file)
    assert found.info == loaded.info and found.model_sha256 == loaded.sha256 and found.precision == "float32"
    segmenter = Segmenter.load(file)
    assert segmenter.backend == "onnxruntime" and segmenter.classes == loaded.info.classes
    assert segmenter.model_hash == loaded.sha256


def test_an_onnx_file_has_one_size(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"works only at 24x32, but input_size is 48.*deal export --input-size 48"):
        open_backend(file, Wanted(), tmp_path, shorter_side=48)


def test_a_network_that_differs_is_refused(exported: Exported, loaded: LoadedModel) -> None:
    def shift(graph: Any) -> None:
        for tensor in graph.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim == 4:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.3), tensor.name))

    with pytest.raises(BackendError, match="differ from PyTorch's"):
        check_against_torch(changed(exported, shift), ScoreNetwork(loaded.network).eval(), loaded.info)


def test_what_is_no_such_file_is_told(exported: Exported, loaded: LoadedModel, tmp_path: Path) -> None:
    def other_opset(graph: Any) -> None:
        graph.opset_import[0].version = OPSET - 1

    def other_classes(graph: Any) -> None:
        describe(graph, dataclasses.replace(loaded.info, classes=ClassList(("one",))), loaded.sha256, "float32")

    def foreign(graph: Any) -> None:
        del graph.metadata_props[:]

    def weight_flipped(graph: Any) -> None:
        largest = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        largest.raw_data = largest.raw_data[:-1] + bytes([largest.raw_data[-1] ^ 1])

    path = tmp_path / "model.onnx"
    for contents, reason in (
        (exported.data[: len(exported.data) // 2], "damaged or truncated|is not by `deal export`"),
        (b"", "is not by `deal export`|damaged"),
        (changed(exported, other_opset), f"expected ONNX opset {OPSET}, found"),
        (changed(exported, other_classes), "contradicts its network"),
        (changed(exported, foreign), "an .onnx file that is not by `deal export`"),
        (changed(exported, weight_flipped), "damaged: the network is not the exported one"),
    ):
        path.write_bytes(contents)
        with pytest.raises(ModelFileError, match=reason):
            Segmenter.load(path)
    with pytest.raises(ModelFileError, match="found nothing"):
        read_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="found a folder"):
        read_onnx(tmp_path)


@pytest.mark.parametrize("field", ["opset", "ir_version"])
def test_a_file_too_new_for_onnxruntime_is_told(exported: Exported, field: str) -> None:
    def too_new(graph: Any) -> None:
        if field == "opset":
            graph.opset_import[0].version = 999
        else:
            graph.ir_version = 999

    with pytest.raises(BackendError, match=r"onnxruntime \d+\.\d+\.\d+ cannot run the model: .*999"):
        open_session(changed(exported, too_new))


def test_no_damage_goes_unnoticed(exported: Exported, tmp_path: Path) -> None:
    random, path = np.random.default_rng(1), tmp_path / "model.onnx"
    whole = np.frombuffer(exported.data, np.uint8)
    for _ in range(100):
        damaged = whole.copy()
        damaged[random.integers(len(whole))] ^= np.uint8(1 << random.integers(8))
        path.write_bytes(damaged.tobytes())
        try:
            found = read_onnx(path)
        except ModelFileError as error:
            assert str(path) in str(error)
        else:  # a flipped letter of the header's texts
            assert onnx.load_model_from_string(found.data).graph == onnx.load_model_from_string(exported.data).graph
