"""What is sent to the rerun viewer, read back from a file with rerun's own reader."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError, UsageError
from deal_core.masks.mask_folder import write_cams
from deal_core.masks.score_dataset import CamSettings
from deal_core.models.model_file import LoadedModel
from deal_core.report.compare import Candidate, open_candidate, predict_frames
from deal_core.structures import ClassList

rr: Any = pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra view)")

from rerun.chunk import RrdReader  # noqa: E402

from deal_core.report.rerun_stream import Layers, annotation_context, layout, send_frames  # noqa: E402

CPU = CamSettings(device="cpu", flip=False)
CAMERA = "/world/camera"


@pytest.fixture(scope="module")
def masks(model: LoadedModel, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cams") / "pseudo masks"
    assert all(write_cams(model, dataset, folder, CPU, ignore_band=(0.3, 0.6)))
    return folder


def sent(path: Path, dataset: Dataset, layers: Layers) -> RrdReader:
    """Send the frames to a file, and open it."""
    stream = rr.RecordingStream("test")
    stream.save(path, default_blueprint=layout(dataset, layers))
    send_frames(stream, dataset, layers, CPU)
    stream.disconnect()
    return RrdReader(path)


def rows(reader: RrdReader) -> tuple[Counter[str], set[str]]:
    """Return how often each entity was sent, and which of them are static."""
    counts: Counter[str] = Counter()
    static = set()
    for chunk in reader.stream().to_chunks():
        if not chunk.entity_path.startswith("/__"):
            counts[chunk.entity_path] += chunk.num_rows
            static |= {chunk.entity_path} if chunk.is_static else set()
            assert chunk.is_static or set(chunk.timeline_names) == {"stamp", "frame"}
    return counts, static


def column(reader: RrdReader, entity: str, name: str) -> list[Any]:
    """Return a column of an entity over all of its chunks, in the order of frames."""
    found = []
    for chunk in reader.stream().to_chunks():
        if chunk.entity_path == entity:
            batch = chunk.to_record_batch().to_pydict()
            values = next((batch[key] for key in batch if key == name or key.endswith(f":{name}")), None)
            if values is not None:
                found += zip(batch.get("frame", [0] * len(values)), values, strict=True)
    return [value for _, value in sorted(found, key=lambda entry: entry[0])]


def test_every_frame_is_there_with_all_that_was_made_of_it(
    model: LoadedModel, masks: Path, dataset: Dataset, tmp_path: Path
) -> None:
    layers = Layers([Candidate("my/net", tmp_path, model), open_candidate(masks)], [("cams", masks)])
    reader = sent(tmp_path / "out.rrd", dataset, layers)
    counts, static = rows(reader)
    each = [
        *(f"{CAMERA}/{part}" for part in ("image", "depth", "edges", "truth", "cam/cams")),
        *(f"{CAMERA}/{kind}/my\\/net" for kind in ("cam", "prediction")),
        *(f"{CAMERA}/pseudo/pseudo\\ masks", "/iou/my\\/net", "/iou/pseudo\\ masks", "/frame"),
    ]
    assert static == {"/world", CAMERA}
    assert {entity: count for entity, count in counts.items() if entity not in static} == dict.fromkeys(
        each, len(dataset)
    )
    assert [store.kind for store in reader.blueprints()] == ["blueprint"]

    assert column(reader, f"{CAMERA}/image", "frame") == list(range(len(dataset)))
    stamps = [np.datetime64(stamp).astype("datetime64[ns]").astype(int) for stamp in column(reader, "/frame", "stamp")]
    assert stamps == [frame.stamp_ns for frame in dataset.frames]
    texts = [text[0] for text in column(reader, "/frame", "text")]
    for text, frame in zip(texts, dataset.frames, strict=True):
        assert f"segment {frame.segment}" in text and frame.key in text and ", ".join(frame.tags.present) in text

    predicted = predict_frames(layers.candidates[0], dataset, CPU)
    buffers = column(reader, f"{CAMERA}/prediction/my\\/net", "buffer")
    depths = column(reader, f"{CAMERA}/depth", "buffer")
    for buffer, depth, frame in zip(buffers, depths, predicted, strict=True):
        assert bytes(buffer[0]) == frame.mask.tobytes()
        millimetres = np.frombuffer(bytes(depth[0]), np.uint16).reshape(frame.mask.shape)
        np.testing.assert_allclose(millimetres / 1000, frame.sample.depth, atol=1e-3)


def test_classes_have_the_project_s_names_and_colours(dataset: Dataset, tmp_path: Path) -> None:
    classes = ClassList(("mug", "jar"), ((1, 2, 3), (200, 100, 0)))
    told = str(annotation_context(classes).context.as_arrow_array().to_pylist())
    assert all(name in told for name in ("background", "mug", "jar", "unlabelled"))
    colors = (0x010203FF, 0xC86400FF, 0x808080FF, 0)
    assert all(f"'color': {color}" in told or f"'rgba': {color}" in told for color in colors), told
    reader = sent(tmp_path / "out.rrd", dataset, Layers())
    (context,) = column(reader, CAMERA, "context")
    assert dataset.classes.names[0] in str(context)
    (matrix,) = column(reader, CAMERA, "image_from_camera")
    camera = dataset.camera(dataset.recordings[0])
    assert camera
    np.testing.assert_allclose(matrix[0], [camera.fx, 0, 0, 0, camera.fy, 0, camera.cx, camera.cy, 1], rtol=1e-5)


def test_frames_without_depth_truth_and_camera_are_shown(dataset: Dataset, tmp_path: Path) -> None:
    bare = [dataclasses.replace(frame, depth=None, mask=None, recording="none") for frame in dataset.frames]

    class Images:
        """Images alone, of a recording that has no folder of its own."""

        def image(self, frame: Any) -> Any:
            return dataset.load_image(dataset.frames[0])

        def depth(self, frame: Any, size: Any) -> None:
            return None

        def mask(self, frame: Any, size: Any) -> None:
            return None

    reader = sent(tmp_path / "out.rrd", Dataset(dataset.path, dataset.classes, bare, Images()), Layers())
    counts, _ = rows(reader)
    assert set(counts) == {"/world", CAMERA, f"{CAMERA}/image", "/frame"}
    assert column(reader, CAMERA, "image_from_camera") == []


def test_what_cannot_be_shown_is_refused(model: LoadedModel, masks: Path, dataset: Dataset, tmp_path: Path) -> None:
    stream = rr.RecordingStream("test")
    two = [*dataset.frames, *(dataclasses.replace(frame, recording="other") for frame in dataset.frames)]
    with pytest.raises(UsageError, match="expected one recording to show, found other, tiny"):
        send_frames(stream, Dataset(dataset.path, dataset.classes, two), Layers(), CPU)
    twice = [Candidate("net", tmp_path, model), Candidate("net", tmp_path, model)]
    with pytest.raises(UsageError, match="different names"):
        send_frames(stream, dataset, Layers(twice), CPU)
    few = dataset.subset(predicate=lambda frame: frame in dataset.frames[:2])
    assert all(write_cams(model, few, tmp_path / "few", CPU))
    with pytest.raises(DatasetError, match=r"few lacks the CAMs of 10 of 12 frames of .*: tiny/\d+\.npz"):
        send_frames(stream, dataset, Layers(cams=[("few", tmp_path / "few")]), CPU)
