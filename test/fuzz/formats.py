"""The files that people bring, one harness for each format: what is changed, and how the project opens it."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fuzz.engine import Target
from helpers.layouts import make_coco, make_hope, make_voc
from PIL import Image

from deal_core.errors import DealError

OLD = Path(__file__).parents[1] / "written_by_0_1_0"


@dataclass(frozen=True)
class Place:
    """Where a harness works: an empty folder, and what makes bags."""

    folder: Path
    new_bag: Callable[[], Any]


Harness = Callable[[Place], Target]
FORMATS: dict[str, Harness] = {}


def harness(make: Harness) -> Harness:
    """List a function as the harness of the format that it is named after."""
    FORMATS[make.__name__] = make
    return make


# Images


@harness
def image_file(place: Place) -> Target:
    from deal_core.dataset.image_files import is_image, orientation_of, read_color, read_ids, read_image
    from deal_core.errors import DatasetError

    file = place.folder / "image.png"

    def read() -> None:
        is_image(file)
        orientation_of(file)
        errors = []
        for reader in (
            lambda: read_image(file, "image", "draw it again"),
            lambda: read_color(file, "image", "draw it again"),
            lambda: read_ids(file, "draw it again"),
        ):
            try:
                reader()
            except DatasetError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    return Target(file, read, images(), mend=png_with_checksums)


@harness
def image_message(place: Place) -> Target:
    from deal_core.errors import DealError
    from deal_core.recording.image_messages import COMPRESSED, IMAGE, MessageDecoder, content_of

    bag, file = place.new_bag(), place.folder / "message.cdr"
    color, depth = bag.color_of(1), bag.depth_of(1)
    for pixels, encoding in (
        (color, "rgb8"),
        (depth, "16UC1"),
        (depth.astype(np.float32), "32FC1"),
        (color[..., 0], "bayer_rggb8"),
        (np.dstack([color[..., 0]] * 2), "yuv422_yuy2"),
    ):
        bag.image("/i", 1, np.ascontiguousarray(pixels), encoding)
    for form, content in (
        ("rgb8; jpeg compressed bgr8", cv2.imencode(".jpg", color)[1].tobytes()),
        ("16UC1; compressedDepth png", struct.pack("<iff", 0, 0, 0) + cv2.imencode(".png", depth)[1].tobytes()),
        ("32FC1; compressedDepth png", struct.pack("<iff", 0, 100, 1) + cv2.imencode(".png", depth)[1].tobytes()),
        ("16UC1; compressedDepth rvl", struct.pack("<iffII", 1, 0, 0, 8, 6) + bytes(range(40))),
        ("rgb8; webp", cv2.imencode(".webp", color)[1].tobytes()),
        ("16UC1; tiff", cv2.imencode(".tiff", depth)[1].tobytes()),
    ):
        bag.compressed("/c", 1, form, content)
    seeds = [data for *_, data in bag.messages]
    decoder = MessageDecoder()

    def read() -> None:
        data, errors = file.read_bytes(), []
        for kind in (IMAGE, COMPRESSED):
            for decode in (content_of, decoder.color, decoder.depth):
                try:
                    decode(data, kind)
                except DealError as error:
                    errors.append(error)
        if len(errors) > 4:
            raise errors[0]

    return Target(file, read, seeds)


@harness
def camera_message(place: Place) -> Target:
    from deal_core.recording.image_messages import MessageDecoder

    bag, file = place.new_bag(), place.folder / "message.cdr"
    bag.camera_info("/i", 1, 60.0)
    decoder = MessageDecoder()
    return Target(file, lambda: decoder.camera(file.read_bytes()), [data for *_, data in bag.messages])


# Recordings


@harness
def mcap(place: Place) -> Target:
    bag, seeds = small_bag(place), []
    for compression in ("none", "storage", "lz4", "message"):
        folder = bag.save(place.folder / compression, compression=compression)
        seeds.append(next(folder.glob("*.mcap")).read_bytes())
    return Target(
        place.folder / "bag.mcap", lambda: read_recording(place.folder / "bag.mcap"), seeds, mend=mcap_unchecked
    )


@harness
def db3(place: Place) -> Target:
    bag, seeds = small_bag(place), []
    for compression in ("none", "message"):
        folder = bag.save(place.folder / compression, "sqlite3", compression)
        seeds.append(next(folder.glob("*.db3")).read_bytes())
    return Target(place.folder / "bag.db3", lambda: read_recording(place.folder / "bag.db3"), seeds)


@harness
def compressed_file(place: Place) -> Target:
    folder = small_bag(place).save(place.folder / "bag", compression="file")
    (packed,) = folder.glob("*.zstd")
    file = place.folder / "bag.mcap.zstd"
    return Target(file, lambda: read_recording(file), [packed.read_bytes()])


@harness
def metadata(place: Place) -> Target:
    from deal_core.recording.reader import open_recording

    folder = small_bag(place).save(place.folder / "bag")
    return Target(folder / "metadata.yaml", lambda: open_recording(folder).close(), text=True)


@harness
def messages_of_tags(place: Place) -> Target:
    from deal_core.recording.image_messages import MessageDecoder
    from deal_core.recording.reader import RawMessage
    from deal_core.recording.tags import read_session, read_tags, recorded_depth
    from deal_core.recording.writer import SESSION_TOPIC, TAGS_TOPIC

    decoder, file = MessageDecoder(), place.folder / "message.json"

    class Stored:
        path = place.folder

        def messages(self, topics: list[str]) -> list[RawMessage]:
            bag = place.new_bag()
            bag.text(topics[0], 5, file.read_bytes().decode(errors="replace"))
            return [RawMessage(topics[0], "std_msgs/msg/String", 5, bag.messages[0][3])]

    def read() -> None:
        text = file.read_bytes()
        if b"classes" in text:
            recorded_depth(read_session(Stored(), decoder))
        read_tags(Stored(), decoder, None)

    assert SESSION_TOPIC != TAGS_TOPIC
    tags = {"stamp_ns": 5, "present": ["mug"], "absent": ["drill"], "marker": "partial", "source": "keyboard"}
    session = {"classes": [{"name": "mug", "color": [1, 2, 3]}], "depth": {"unit": "mm", "max_m": 3.0}}
    return Target(file, read, [json.dumps(tags).encode(), json.dumps(session).encode()], text=True)


# Datasets


@harness
def dataset_yaml(place: Place) -> Target:
    folder = old_dataset(place)
    return Target(folder / "dataset.yaml", lambda: open_folder(folder), text=True)


@harness
def frames_jsonl(place: Place) -> Target:
    folder = old_dataset(place)
    (file,) = folder.glob("recordings/*/frames.jsonl")
    return Target(file, lambda: open_folder(folder), text=True)


@harness
def camera_json(place: Place) -> Target:
    from deal_core.dataset.dataset import Dataset

    folder = old_dataset(place)
    (file,) = folder.glob("recordings/*/camera.json")
    dataset = Dataset.open(folder)
    return Target(file, lambda: dataset.camera(dataset.recordings[0]), text=True)


@harness
def poses(place: Place) -> Target:
    from deal_core.dataset.poses import read_trajectory

    file = place.folder / "poses.json"
    pose = {"rotation": [[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], "position": [0.5, 1e-3, -2]}
    seed = json.dumps({"1700000000000000000": pose, "1700000000033000000": pose}).encode()
    return Target(file, lambda: read_trajectory(file), [seed], text=True)


@harness
def trajectory(place: Place) -> Target:
    from deal_core.dataset.poses import read_trajectory

    file = place.folder / "trajectory.txt"
    seed = b"# stamp tx ty tz qx qy qz qw\n1305031098.6659 0.5 -1.0 2.0 0.0 0.0 0.6 0.8\n1305031099,0,0,0,0,0,0,1\n"
    return Target(file, lambda: read_trajectory(file), [seed], text=True)


@harness
def depth_json(place: Place) -> Target:
    from deal_core.dataset.depth_maps import DepthMaps

    file = place.folder / "depth.json"
    seed = b'{"format": "deal-depth", "version": 1, "kind": "inverse", "scale": 1.5e-05, "model": "x"}'
    return Target(file, lambda: DepthMaps.open(place.folder), [seed], text=True)


@harness
def coco(place: Place) -> Target:
    from deal_core.dataset.coco import open_coco

    root = make_coco(place.folder / "coco")
    return Target(root / "annotations/instances_train2014.json", lambda: load_all(open_coco(root)), text=True)


@harness
def bop(place: Place) -> Target:
    from deal_core.dataset.bop import open_bop

    root = make_hope(place.folder)
    file = root / "val/000001/scene_gt.json"
    others = [file.with_name(f"{name}.json").read_bytes() for name in ("scene_gt_info", "scene_camera")]
    return Target(file, lambda: load_all(open_bop(root, "val")), [file.read_bytes(), *others], text=True)


@harness
def bop_camera(place: Place) -> Target:
    from deal_core.dataset.bop import open_bop

    root = make_hope(place.folder)
    return Target(root / "val/000001/scene_camera.json", lambda: load_all(open_bop(root, "val")), text=True)


@harness
def voc_list(place: Place) -> Target:
    from deal_core.dataset.voc import open_voc

    root = make_voc(place.folder) / "VOCdevkit/VOC2012"
    return Target(root / "ImageSets/Segmentation/val.txt", lambda: load_all(open_voc(root, "val")), text=True)


@harness
def voc_xml(place: Place) -> Target:
    from deal_core.dataset.voc import open_voc

    root = make_voc(place.folder) / "VOCdevkit/VOC2012"
    entity = b'<!DOCTYPE a [<!ENTITY b "chair">]><a><object><name>&b;</name></object></a>'
    seed = b'<?xml version="1.0" encoding="utf-8"?>' + entity
    file = root / "Annotations/2007_000005.xml"
    return Target(file, lambda: open_voc(root, "val"), [file.read_bytes(), seed], text=True)


# Tags of other tools


@harness
def tags_csv(place: Place) -> Target:
    return exchanged(place, "csv")


@harness
def tags_coco(place: Place) -> Target:
    return exchanged(place, "coco")


@harness
def tags_labelstudio(place: Place) -> Target:
    return exchanged(place, "labelstudio")


@harness
def tags_voc(place: Place) -> Target:
    return exchanged(place, "voc")


# Masks of other tools


@harness
def masks_png(place: Place) -> Target:
    file = place.folder / "masks" / "drive" / "1.png"
    file.parent.mkdir(parents=True)
    return foreign_masks(place, "png", file, images(), mend=png_with_checksums)


@harness
def masks_coco(place: Place) -> Target:
    return foreign_masks(
        place, "coco", place.folder / "masks.json", [exported_masks(place, "coco"), COCO_SHAPES], text=True
    )


@harness
def masks_cvat(place: Place) -> Target:
    return foreign_masks(
        place, "cvat", place.folder / "masks.xml", [exported_masks(place, "cvat"), CVAT_SHAPES], text=True
    )


@harness
def masks_label_studio(place: Place) -> Target:
    seeds = [exported_masks(place, "label-studio").replace(b'"predictions"', b'"annotations"'), LABEL_STUDIO_SHAPES]
    return foreign_masks(place, "label-studio", place.folder / "masks.json", seeds, text=True)


@harness
def masks_yolo(place: Place) -> Target:
    (place.folder / "masks" / "labels").mkdir(parents=True)
    (place.folder / "masks" / "data.yaml").write_text("names: [mug, drill]")
    seeds = [b"0 0.1 0.1 0.5 0.1 0.5 0.9\n1 0.2 0.2 0.3 0.2 0.3 0.4 0.2 0.4 0.77\n", b"1 0.5 0.5 0.2 0.2\n"]
    return foreign_masks(place, "yolo", place.folder / "masks" / "labels" / "1.txt", seeds, text=True)


@harness
def masks_yolo_names(place: Place) -> Target:
    (place.folder / "masks" / "labels").mkdir(parents=True)
    (place.folder / "masks" / "labels" / "1.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.9\n")
    seeds = [b"names: [mug, drill]\n", b"path: x\nnc: 2\nnames:\n  0: mug\n  1: drill\n"]
    return foreign_masks(place, "yolo", place.folder / "masks" / "data.yaml", seeds, text=True)


@harness
def masks_labelmap(place: Place) -> Target:
    folder = place.folder / "masks" / "SegmentationClass"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((6, 8, 3), (250, 50, 83), np.uint8)).save(folder / "1.png")
    seed = b"# label:color_rgb:parts:actions\nbackground:0,0,0::\nmug:250,50,83::\n"
    return foreign_masks(place, "cvat-masks", place.folder / "masks" / "labelmap.txt", [seed], text=True)


@harness
def masks_ade_names(place: Place) -> Target:
    folder = place.folder / "masks" / "annotations"
    folder.mkdir(parents=True)
    Image.fromarray(np.ones((6, 8), np.uint8)).save(folder / "1.png")
    seeds = [b"Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t1\t2\tmug, cup\n2\t0.1\t1\t2\tdrill\n", b"mug\ndrill\n"]
    return foreign_masks(place, "ade", place.folder / "masks" / "objectInfo150.txt", seeds, text=True)


# Models and what is made with them


@harness
def model_file(place: Place) -> Target:
    from deal_core.models.model_file import load_model, read_info

    file = place.folder / "model.safetensors"
    seeds = [(OLD / run / "model.safetensors").read_bytes() for run in ("cam_run", "distill_run")]
    load_model(OLD / "cam_run" / "model.safetensors")  # imports take memory, too

    def read() -> None:
        read_info(file)
        load_model(file)

    return Target(file, read, seeds, text=True, mend=safetensors_with_length)


@harness
def onnx(place: Place) -> Target:
    from deal_core.models.model_file import load_model
    from deal_core.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
    from deal_core.runtime.onnx_export import export_onnx
    from deal_core.runtime.onnx_file import read_onnx

    file = place.folder / "model.onnx"
    seed = export_onnx(load_model(OLD / "cam_run" / "model.safetensors")).data

    def read() -> None:
        model = read_onnx(file)
        OnnxRuntimeBackend(model.data)(np.zeros((1, 3, *model.info.input_size), np.float32))

    return Target(file, read, [seed], mend=onnx_with_hash)


@harness
def checkpoint(place: Place) -> Target:
    import argparse

    import torch

    from deal_core.models.checkpoints import read_checkpoint

    file = place.folder / "weights.pth"
    seeds = []
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        content = io.BytesIO()
        weights = {"state_dict": {"a.weight": torch.ones(2, 3), "b": torch.zeros(1)}, "args": argparse.Namespace(x=1)}
        torch.save(weights, content, **options)
        seeds.append(content.getvalue())
    return Target(file, lambda: read_checkpoint(file), seeds, mend=zip_with_checksums)


@harness
def cam_file(place: Place) -> Target:
    from deal_core.masks.mask_folder import read_cam

    file, seeds = place.folder / "cam.npz", []
    for save in (np.savez, np.savez_compressed):
        content = io.BytesIO()
        save(content, scores=np.ones((2, 6, 8), np.uint8), classes=np.array([1, 3], np.uint8))
        seeds.append(content.getvalue())
    return Target(file, lambda: read_cam(file, 3), [*seeds, *npz_bombs()], mend=zip_with_checksums)


@harness
def cams_json(place: Place) -> Target:
    from deal_core.dataset.dataset import Dataset
    from deal_core.masks.mask_folder import check_masks, recorded_threshold

    dataset = Dataset.open(old_dataset(place))
    folder = place.folder / "masks"
    shutil.copytree(OLD / "masks", folder)

    def read() -> None:
        recorded_threshold(folder, "otsu")
        check_masks(folder, dataset)

    return Target(folder / "cams.json", read, text=True)


@harness
def evaluation(place: Place) -> Target:
    from deal_core.evaluation.result import EvaluationResult

    shutil.copy(OLD / "cam_run" / "evaluation.json", place.folder)
    return Target(place.folder / "evaluation.json", lambda: EvaluationResult.read(place.folder), text=True)


@harness
def pictures(place: Place) -> Target:
    from deal_core.evaluation.picture_folder import read_pictures

    shutil.copytree(OLD / "cam_run" / "pictures", place.folder / "pictures")
    return Target(place.folder / "pictures" / "pictures.json", lambda: read_pictures(place.folder), text=True)


@harness
def frame_file(place: Place) -> Target:
    from deal_core.evaluation.decided_frames import _packed, _unpacked
    from deal_core.evaluation.frame_file import FrameFile

    path = place.folder / "1-of-1.frames"
    file = FrameFile(path, "about")
    for key in ("a/1", "a/2"):
        file.append(key, 5, _packed([np.zeros((4, 6), np.uint8), np.ones(2, np.float32), *[np.zeros(3, np.uint8)] * 3]))
    file.close()

    def read() -> None:
        opened = FrameFile(path, "about", may_write=False)
        try:
            for key in opened.keys:
                _unpacked(opened.read(key))
        finally:
            opened.close()

    return Target(path, read)


@harness
def feature_maps(place: Place) -> Target:
    import torch
    from safetensors.torch import save

    from deal_core.features.kept_maps import KeptMaps

    file = place.folder / "a.safetensors"
    seed = save({"0": torch.zeros(4, 3, 2, dtype=torch.float16), "1": torch.ones(2, 2, 1, dtype=torch.float16)})
    return Target(file, lambda: KeptMaps((file,), ()).read(0), [seed], mend=safetensors_with_length)


@harness
def verdict(place: Place) -> Target:
    from deal_core.quality.verdict import ClassVerdict, Finding, Verdict

    found = Finding("coverage", "doubtful", "few pixels", "train longer")
    Verdict("doubtful", 0.5, (found,), (ClassVerdict("mug", "good", 0.9, (found,)),), 3).write(place.folder)
    return Target(place.folder / "quality.json", lambda: Verdict.read(place.folder), text=True)


@harness
def history(place: Place) -> Target:
    from deal_core.experiments.run import epochs_done
    from deal_core.models.model_file import read_info
    from deal_core.quality.training_facts import facts_of_training
    from deal_core.report.page import read_history

    shutil.copy(OLD / "cam_run" / "history.jsonl", place.folder)
    file = place.folder / "history.jsonl"
    info = read_info(OLD / "cam_run" / "model.safetensors")

    def read() -> None:
        epochs_done(place.folder)
        facts_of_training(info, place.folder)
        read_history(file)

    return Target(file, read, text=True)


@harness
def settings(place: Place) -> Target:
    from deal_core.settings_file import load_settings
    from deal_core.trainer.settings import TrainSettings

    shutil.copy(OLD / "train.yaml", place.folder)
    file = place.folder / "train.yaml"
    default = Path(__file__).parents[2] / "config" / "train.yaml"
    return Target(
        file, lambda: load_settings(TrainSettings, file), [file.read_bytes(), default.read_bytes()], text=True
    )


@harness
def override(place: Place) -> Target:
    from deal_core.settings_file import load_settings
    from deal_core.trainer.settings import TrainSettings

    file = place.folder / "override.txt"

    def read() -> None:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
        load_settings(TrainSettings, OLD / "train.yaml", [text])

    seeds = [b"deal.weight=0.1", b"data.path=x", b"model.arguments={backbone: resnet18}", b"seed=11"]
    return Target(file, read, seeds, text=True)


@harness
def launch_parameters(place: Place) -> Target:
    from deal_ros.node.launch_parameters import ParameterFile

    config = Path(__file__).parents[2] / "config" / "segmentation.param.yaml"
    file = place.folder / "node.param.yaml"

    def read() -> None:
        found = ParameterFile.read(file)
        found.values("model")
        found.without(["model"])

    return Target(file, read, [config.read_bytes()], text=True)


@harness
def labels(place: Place) -> Target:
    from deal_ros.segmentation.labels import names_from_json

    file = place.folder / "labels.json"
    seed = b'{"labels": [{"id": 1, "name": "mug", "color": [1, 2, 3]}], "unlabelled": 255, "model": "ab"}'
    return Target(file, lambda: names_from_json(file.read_bytes().decode(errors="replace")), [seed], text=True)


@harness
def cache_file(place: Place) -> Target:
    from deal_core.runtime.backends.cache import cached

    key = {"model": "x"}
    cached(place.folder, "onnx", key, lambda: b"content")
    (file,) = place.folder.iterdir()
    return Target(file, lambda: cached(place.folder, "onnx", key, lambda: b"content"))


# What several harnesses need


def images() -> list[bytes]:
    """One small image of every kind that is read."""
    rng = np.random.default_rng(0)
    color = rng.integers(0, 255, (6, 8, 3), np.uint8)
    grey = np.zeros((6, 8), np.uint8)
    grey[2:4] = 1
    found = [
        cv2.imencode(".png", color)[1].tobytes(),
        cv2.imencode(".png", grey)[1].tobytes(),
        cv2.imencode(".png", rng.integers(0, 65535, (6, 8), np.uint16))[1].tobytes(),
        cv2.imencode(".jpg", color)[1].tobytes(),
        cv2.imencode(".jpg", color, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes(),
        cv2.imencode(".webp", color)[1].tobytes(),
        cv2.imencode(".webp", color, (cv2.IMWRITE_WEBP_QUALITY, 101))[1].tobytes(),
        cv2.imencode(".bmp", color)[1].tobytes(),
        cv2.imencode(".tiff", color)[1].tobytes(),
        cv2.imencode(".tiff", rng.random((6, 8), np.float32))[1].tobytes(),
    ]
    palette = Image.fromarray(grey, "P")
    palette.putpalette(list(range(256)) * 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, form, options in (
        (palette, "PNG", {}),
        (Image.fromarray(grey).convert("1"), "PNG", {}),
        (Image.fromarray(grey), "PNG", {"exif": exif}),
        (Image.fromarray(color), "JPEG", {"exif": exif}),
        (Image.fromarray(color).convert("CMYK"), "JPEG", {}),
        (Image.fromarray(color).convert("RGBA"), "TIFF", {"compression": "tiff_deflate"}),
        (Image.fromarray(grey), "TIFF", {"compression": "tiff_lzw"}),
        (Image.fromarray(grey), "BMP", {}),
    ):
        content = io.BytesIO()
        image.save(content, form, **options)
        found.append(content.getvalue())
    return found


def small_bag(place: Place) -> Any:
    """A bag of two pairs with tags and a session."""
    bag = place.new_bag()
    bag.session("mug", "drill")
    bag.tags(0, "mug", log_time=5)
    for stamp in (10**8, 2 * 10**8):
        bag.pair(stamp)
    bag.camera_info("/camera/camera/color/camera_info", 10**8, 60.0)
    return bag


def read_recording(path: Path) -> None:
    """Open a recording, read all of it, look at it as `deal check` does, and repair it."""
    from deal_core.errors import DealError
    from deal_core.recording.image_messages import MessageDecoder
    from deal_core.recording.reader import open_recording
    from deal_core.recording.repair import repair_recording
    from deal_core.recording.tags import read_session, read_tags
    from deal_core.recording.topics import find_topics

    failed = None
    try:
        with open_recording(path) as recording:
            names = [topic.name for topic in recording.topics]
            for _ in recording.heads(names, 64):
                pass
            for _ in recording.messages(names):
                pass
            decoder = MessageDecoder()
            read_tags(recording, decoder, read_session(recording, decoder).classes)
            find_topics(recording, decoder)
    except DealError as error:
        failed = error
    out = path.parent / "out_of_repair"
    try:
        repair_recording(path, out)
    except DealError as error:
        failed = error
    finally:
        shutil.rmtree(out, ignore_errors=True)
    if failed:
        raise failed


def old_dataset(place: Place) -> Path:
    """A copy of a dataset of four frames."""
    folder = place.folder / "dataset"
    shutil.copytree(OLD / "dataset", folder)
    return folder


def open_folder(folder: Path) -> None:
    """Open a dataset, check it, and open its tags for editing."""
    from deal_core.dataset.check import check_dataset
    from deal_core.dataset.dataset import Dataset
    from deal_core.tagging.store import TagStore

    dataset = Dataset.open(folder)
    for recording in dataset.recordings:
        dataset.camera(recording)
    len(dataset.tags)
    dataset.split_by_segment(0.5)
    check_dataset(folder)
    with TagStore(folder) as store:
        store.states()


def load_all(dataset: Any) -> None:
    """Load all frames of a dataset."""
    dataset.split_by_segment(0.5)
    for index in range(len(dataset)):
        dataset.load(index)


def exchanged(place: Place, form: str) -> Target:
    """Tags in the format of another tool, as the project itself writes them."""
    from deal_core.dataset.dataset import Dataset
    from deal_core.tagging.choices import TagFormat
    from deal_core.tagging.interchange import export_tags, import_tags
    from deal_core.tagging.store import states_of

    dataset = Dataset.open(old_dataset(place))
    states = states_of([frame.tags for frame in dataset.frames], dataset.classes)
    file = path = place.folder / "tags"
    export_tags(path, TagFormat(form), dataset.path, dataset.frames, states, dataset.classes)
    if form == "voc":
        file = next(iter(sorted(path.iterdir())))
    return Target(
        file, lambda: import_tags(path, TagFormat(form), dataset.path, dataset.frames, dataset.classes), text=True
    )


COCO_SHAPES = json.dumps(
    {
        "images": [{"id": 1, "file_name": "drive/1.png", "width": 8, "height": 6}],
        "categories": [{"id": 1, "name": "mug"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 4]]},
            {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [6, 8], "counts": "06"}},
            {"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 2]},
        ],
    }
).encode()
CVAT_SHAPES = b"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><image id="0" name="drive/1.png" width="8" height="6">
<polygon label="mug" occluded="0" points="1.0,1.0;5.5,1.0;5.0,4.0" z_order="1"></polygon>
<ellipse label="mug" cx="4.0" cy="3.0" rx="2.0" ry="1.0" rotation="30" z_order="0"></ellipse>
<box label="mug" xtl="1.0" ytl="1.0" xbr="5.0" ybr="4.0" rotation="12.5" z_order="-1"></box>
<mask label="mug" rle="2, 3, 1" left="1" top="1" width="3" height="2" z_order="0"></mask>
</image></annotations>"""
LABEL_STUDIO_SHAPES = json.dumps(
    [
        {
            "data": {"image": "/data/local-files/?d=drive/1.png"},
            "annotations": [
                {
                    "result": [
                        {"type": kind, "original_width": 8, "original_height": 6, "value": {**value, kind: ["mug"]}}
                        for kind, value in (
                            ("polygonlabels", {"points": [[10, 10], [60, 10], [60, 80.5]]}),
                            ("ellipselabels", {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 5}),
                            ("rectanglelabels", {"x": 10, "y": 10, "width": 30, "height": 40, "rotation": 0}),
                        )
                    ]
                }
            ],
        }
    ]
).encode()


def exported_masks(place: Place, form: Any) -> bytes:
    """The masks of four frames in the format of a tool, as the project itself writes them."""
    from deal_core.dataset.dataset import Dataset
    from deal_core.label_tools.exporting import export_masks

    folder = place.folder / "dataset"
    dataset = Dataset.open(folder if folder.exists() else old_dataset(place))
    out = place.folder / f"out_of_{form}"
    content = export_masks(
        OLD / "masks", dataset, form, out, [f.key for f in dataset.frames], images=False
    ).read_bytes()
    shutil.rmtree(out)
    return content


def foreign_masks(place: Place, form: Any, file: Path, seeds: list[bytes], **options: Any) -> Target:
    """Masks in the format of another tool, of which all are drawn as the first frame of a dataset."""
    from deal_core.dataset.dataset import Dataset
    from deal_core.label_tools.open import open_masks

    folder = place.folder / "dataset"
    dataset = Dataset.open(folder if folder.exists() else old_dataset(place))
    frame, path = dataset.frames[0], file
    if form in ("png", "yolo", "cvat-masks", "ade"):
        path = place.folder / "masks"

    def read() -> None:
        source = open_masks(path, form, dataset.classes, boxes="draw")
        failed = None
        for image in source.images:
            try:
                source.labels(image)
                source.layers(image, frame, (6, 8))
            except DealError as error:
                failed = error
        if failed:
            raise failed

    return Target(file, read, seeds, **options)


def npz_bombs() -> list[bytes]:
    """CAM files that unpack to much more than they hold."""
    found = []
    for shape, data in (((10**5, 10**5, 10), b""), ((1, 2 * 10**4, 10**5), bytes(10**6)), ((2**40,), b"")):
        array = io.BytesIO()
        np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("scores.npy", array.getvalue() + data)
            file.writestr("classes.npy", array.getvalue() + data)
        found.append(content.getvalue())
    return found


def png_with_checksums(content: bytes) -> bytes:
    """The PNG with the right checksum of each chunk."""
    if not content.startswith(b"\x89PNG"):
        return content
    made, at = [content[:8]], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        made.append(content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big"))
        at += 12 + length
    return b"".join(made)


def zip_with_checksums(content: bytes) -> bytes:
    """The archive with each member packed again."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            new.writestr(
                entry.filename, content[entry.header_offset + 30 + len(entry.filename) :][: entry.compress_size]
            )
    return made.getvalue()


def mcap_unchecked(content: bytes) -> bytes:
    """The file with the checksum 0, which means none, in the chunks and the footer."""
    data, at = bytearray(content), 8
    while at + 9 < len(data):
        kind, length = struct.unpack_from("<BQ", data, at)
        if kind == 6:
            struct.pack_into("<I", data, at + 9 + 24, 0)
        if kind == 2:
            struct.pack_into("<I", data, at + 9 + 16, 0)
            break
        at += 9 + length
    return bytes(data)


def safetensors_with_length(content: bytes) -> bytes:
    """The file with the right length of its header."""
    end = content.rfind(b"}", 0, 65536) + 1
    header = content[8:end]
    return len(header).to_bytes(8, "little") + header + content[end:]


def onnx_with_hash(content: bytes) -> bytes:
    """The file with the hash of its network as it now is."""
    import hashlib

    from deal_core.runtime.onnx_file import _GRAPH
    from deal_core.runtime.protobuf import messages

    graph = b"".join(messages(memoryview(content), _GRAPH))
    at = content.find(b'graph_sha256": "') + len(b'graph_sha256": "')
    return content[:at] + hashlib.sha256(graph).hexdigest().encode() + content[at + 64 :]
