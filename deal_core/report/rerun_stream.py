"""A recording of a dataset as a stream for the rerun viewer: image, depth and edges, CAMs, masks and predictions.

All data of one camera is under one entity, so that the 3D view of the viewer shows the depth at its place:

    world/camera                        pinhole, colours and names of class ids
    world/camera/image, depth, edges
    world/camera/cam/<name>             heat map of the strongest class over the grey image
    world/camera/truth                  class ids
    world/camera/pseudo/<name>          class ids, 255 where undecided
    world/camera/prediction/<name>      class ids
    frame                               segment, tags and name, as text
    iou/<name>                          mIoU of the frame, if it has a true mask

The timelines are `stamp`, the stamp of the colour image, and `frame`, the frame number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.drawing import depth_edge_picture, heat_overlay
from deal_core.errors import UsageError
from deal_core.evaluation.metrics import ConfusionMatrix
from deal_core.evaluation.picture_folder import PredictedFrame
from deal_core.masks.mask_folder import cam_paths, check_masks, read_cam
from deal_core.masks.score_dataset import CamSettings
from deal_core.report.compare import Candidate, check_candidate, predict_frames
from deal_core.structures import UNLABELLED, CameraIntrinsics, ClassList, Sample, UInt8Array, metres_to_depth

APPLICATION = "deal view"
CAMERA = "world/camera"
STAMP, FRAME = "stamp", "frame"
_JPEG_QUALITY = 90
_MASK_OPACITY = 0.6


@dataclass(frozen=True)
class Layers:
    """The layers in addition to image, depth, edges and truth.

    Args:
        candidates: Models and folders of pseudo masks, with unique names.
        cams: Names and folders of CAMs by `deal cams`; names must differ from each other and from those of models.
    """

    candidates: Sequence[Candidate] = ()
    cams: Sequence[tuple[str, Path]] = ()

    @property
    def models(self) -> list[Candidate]:
        """The candidates with a model."""
        return [candidate for candidate in self.candidates if candidate.model]

    @property
    def masks(self) -> list[Candidate]:
        """The candidates with existing masks."""
        return [candidate for candidate in self.candidates if not candidate.model]

    @property
    def heats(self) -> list[str]:
        """The names of all layers with CAMs."""
        return [*(candidate.name for candidate in self.models), *(name for name, _ in self.cams)]


def check_layers(dataset: Dataset, layers: Layers, settings: CamSettings) -> None:
    """Check that the layers can be shown.

    Raises:
        UsageError: the frames are not from exactly one recording, or two names are equal.
        DatasetError: masks or CAMs are for other classes, or lack frames.
        ModelFileError: a model is for other classes.
    """
    if len(dataset.recordings) != 1:
        found = ", ".join(dataset.recordings) or "none"
        raise UsageError(f"{dataset.path}: expected one recording to show, found {found}: choose with --recording")
    for names in ([candidate.name for candidate in layers.candidates], layers.heats):
        if len(set(names)) < len(names):
            raise UsageError(f"expected different names of all layers, found {', '.join(names)}")
    for candidate in layers.candidates:
        check_candidate(candidate, dataset, settings)
    for _, folder in layers.cams:
        check_masks(folder, dataset, "CAMs")


def send_frames(
    stream: rr.RecordingStream,
    dataset: Dataset,
    layers: Layers,
    settings: CamSettings | None = None,
    *,
    advance: Callable[[int], None] = lambda frames: None,
) -> None:
    """Send a recording to a stream, frame by frame in constant memory.

    Args:
        stream: Stream of the viewer; `layout` returns its layout.
        dataset: Frames of one recording.
        layers: Layers to show.
        settings: Settings of the scores of models.
        advance: Function to call with the number of processed frames.

    Raises:
        UsageError, DatasetError, ModelFileError: `check_layers` raises it, or a file is missing or damaged.
    """
    settings = settings or CamSettings()
    check_layers(dataset, layers, settings)
    stream.set_log_time_enabled(False)  # the time of this call is not part of the recording
    stream.send_recording_name(f"{dataset.path.name}/{dataset.recordings[0]}")
    stream.log("world", rr.ViewCoordinates.RDF, static=True)
    stream.log(CAMERA, annotation_context(dataset.classes), static=True)
    camera = dataset.camera(dataset.recordings[0])
    if camera:
        stream.log(CAMERA, _pinhole(camera), static=True)
    for index, (record, sample, predicted) in enumerate(_frames(dataset, layers.candidates, settings)):
        stream.set_time(FRAME, sequence=index)
        stream.set_time(STAMP, timestamp=np.datetime64(record.stamp_ns, "ns"))
        _send_frame(stream, dataset, record, sample)
        for candidate, frame in zip(layers.candidates, predicted, strict=True):
            _send_prediction(stream, candidate, frame, dataset.classes)
        for name, folder in layers.cams:
            scores = read_cam(cam_paths(folder, record.key)[0], len(dataset.classes))
            heat = cv2.resize(scores.max(axis=0), sample.image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            stream.log([*_camera_path("cam"), name], _picture(heat_overlay(sample.image, heat)))
        advance(index + 1)


def annotation_context(classes: ClassList) -> rr.AnnotationContext:
    """Return name and colour of every mask id; the background is transparent."""
    return rr.AnnotationContext(
        [
            rr.AnnotationInfo(id=0, label="background", color=(0, 0, 0, 0)),
            *(
                rr.AnnotationInfo(id=index, label=name, color=color)
                for index, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True), 1)
            ),
            rr.AnnotationInfo(id=UNLABELLED, label="unlabelled", color=tuple(classes.palette()[UNLABELLED].tolist())),
        ]
    )


def layout(dataset: Dataset, layers: Layers) -> rrb.Blueprint:
    """Return the layout of the viewer: measurements in the first row, results in the second, text in the last."""
    is_drawn = any(frame.mask for frame in dataset.frames)
    has_camera = bool(dataset.recordings) and dataset.camera(dataset.recordings[0]) is not None
    measured = [_view("Image", ["image"])]
    if dataset.has_depth:
        measured += [_view("Depth", ["depth"]), _view("Depth edges", ["edges"])]
        if has_camera:
            shown = [CAMERA, *(f"{CAMERA}/{part}" for part in ("image", "depth"))]
            # From above and behind the camera; y points down.
            eye = rrb.EyeControls3D(position=(0.3, -0.7, -0.5), look_target=(0, 0, 1), eye_up=(0, -1, 0))
            measured.append(rrb.Spatial3DView(origin="world", contents=shown, name="In space", eye_controls=eye))
    made = [
        *_tabs("CAM", [(name, [f"cam/{_escaped(name)}"]) for name in layers.heats]),
        *_tabs("Pseudo mask", [_over_image("pseudo", candidate.name) for candidate in layers.masks]),
        *_tabs("Prediction", [_over_image("prediction", candidate.name) for candidate in layers.models]),
        *([_view("Truth", ["image", "truth"])] if is_drawn else []),
    ]
    told: list[Any] = [rrb.TextDocumentView(origin="frame", name="Frame")]
    if is_drawn and layers.candidates:
        told.append(rrb.TimeSeriesView(origin="iou", name="mIoU of each frame"))
    rows = [rrb.Horizontal(*measured), *([rrb.Horizontal(*made)] if made else []), rrb.Horizontal(*told)]
    return rrb.Blueprint(
        rrb.Vertical(*rows, row_shares=[*[2] * (len(rows) - 1), 1]),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(state="collapsed", timeline=FRAME),
    )


def _frames(
    dataset: Dataset, candidates: Sequence[Candidate], settings: CamSettings
) -> Iterator[tuple[FrameRecord, Sample, Sequence[PredictedFrame]]]:
    """Yield every frame with the predictions of all candidates."""
    if not candidates:
        for record in dataset.frames:
            yield record, dataset.load(record), ()
        return
    every = zip(*(predict_frames(candidate, dataset, settings) for candidate in candidates), strict=True)
    for record, predicted in zip(dataset.frames, every, strict=True):
        yield record, predicted[0].sample, predicted


def _send_frame(stream: rr.RecordingStream, dataset: Dataset, record: FrameRecord, sample: Sample) -> None:
    stream.log(f"{CAMERA}/image", _picture(sample.image))
    if sample.depth_valid.any():
        stream.log(f"{CAMERA}/depth", _depth(dataset, sample))
        stream.log(f"{CAMERA}/edges", _picture(depth_edge_picture(sample.depth, sample.depth_valid)))
    if sample.mask is not None:
        stream.log(f"{CAMERA}/truth", _mask(sample.mask))
    tags = record.tags
    lines = [f"**segment {record.segment}**", f"visible: {', '.join(tags.present) or 'nothing tagged'}"]
    lines += [f"not visible: {', '.join(tags.absent)}"] if tags.absent else []
    text = "\n\n".join([*lines, f"tags are {tags.marker.value}", record.key])
    stream.log("frame", rr.TextDocument(text, media_type=rr.MediaType.MARKDOWN))


def _send_prediction(
    stream: rr.RecordingStream, candidate: Candidate, frame: PredictedFrame, classes: ClassList
) -> None:
    kind = "prediction" if candidate.model else "pseudo"
    stream.log([*_camera_path(kind), candidate.name], _mask(frame.mask))
    if frame.scores is not None:
        heat = heat_overlay(frame.sample.image, frame.scores.max(axis=0))
        stream.log([*_camera_path("cam"), candidate.name], _picture(heat))
    if frame.sample.mask is not None:
        matrix = ConfusionMatrix(len(classes))
        matrix.update(frame.mask, frame.sample.mask)
        stream.log(["iou", candidate.name], rr.Scalars(matrix.miou()))


def _depth(dataset: Dataset, sample: Sample) -> rr.DepthImage:
    """Return metric depth in millimetres, and relative inverse depth, which has no scale, unchanged."""
    if dataset.depth_kind == "metric":
        return rr.DepthImage(metres_to_depth(sample.depth), meter=1000.0)
    return rr.DepthImage(sample.depth)


def _pinhole(camera: CameraIntrinsics) -> rr.Pinhole:
    return rr.Pinhole(
        image_from_camera=[[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]],
        resolution=(camera.width, camera.height),
        camera_xyz=rr.ViewCoordinates.RDF,
    )


def _picture(rgb: UInt8Array) -> Any:
    """Return a JPEG, which needs a tenth of the bytes."""
    return rr.Image(rgb).compress(jpeg_quality=_JPEG_QUALITY)


def _mask(mask: UInt8Array) -> rr.SegmentationImage:
    return rr.SegmentationImage(mask, opacity=_MASK_OPACITY)


def _view(name: str, parts: Sequence[str]) -> Any:
    return rrb.Spatial2DView(origin=CAMERA, contents=[f"{CAMERA}/{part}" for part in parts], name=name)


def _tabs(title: str, views: Sequence[tuple[str, Sequence[str]]]) -> list[Any]:
    """Return one view, or tabs for several views."""
    named = [_view(f"{title}: {name}", parts) for name, parts in views]
    return [rrb.Tabs(*named, name=title)] if len(named) > 1 else named


def _over_image(kind: str, name: str) -> tuple[str, list[str]]:
    return name, ["image", f"{kind}/{_escaped(name)}"]


def _escaped(name: str) -> str:
    return str(rr.escape_entity_path_part(name))


def _camera_path(part: str) -> list[str]:
    return [*CAMERA.split("/"), part]
