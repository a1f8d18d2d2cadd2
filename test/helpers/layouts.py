"""Miniature datasets in the official layouts, drawn with rectangles and triangles; 64x48 pixels an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
VOC_NAMES = {
    "train": ("2007_000001", "2007_000002", "2008_000003", "2009_000004"),
    "val": ("2007_000005", "2008_000006"),
}
SBD_NAMES = ("2010_000007", "2011_000008")
VOC_IDS = (5, 9, 15)  # bottle, chair, person
COCO_CATEGORIES = {1: "person", 3: "car", 13: "stop sign", 44: "bottle", 90: "toothbrush"}
CROWD = {"size": [HEIGHT, WIDTH], "counts": [5 * HEIGHT + 10, 20, 28, 20, HEIGHT * (WIDTH - 7) + 18]}
"""Run lengths, down the columns: rows 10 to 29 of columns 5 and 6."""


def make_voc(path: Path) -> Path:
    """VOCdevkit/VOC2012 with 4 training, 2 validation and 2 more images of SBD; returns `path`."""
    root = path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    lists = {**VOC_NAMES, "train_aug": VOC_NAMES["train"] + SBD_NAMES, "trainval": sum(VOC_NAMES.values(), ())}
    for split, names in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for place, name in enumerate((*lists["trainval"], *SBD_NAMES)):
        mask = voc_mask(place)
        _write_jpeg(root / "JPEGImages" / f"{name}.jpg", paint(mask, place))
        if name not in SBD_NAMES:
            save_palette(root / "SegmentationClass" / f"{name}.png", mask)
        Image.fromarray(mask).save(root / "SegmentationClassAug" / f"{name}.png")
        names_ = [_VOC_NAME[int(i)] for i in np.unique(mask) if i not in (0, 255)]
        things = "".join(f"<object><name>{n}</name><difficult>{k}</difficult></object>" for k, n in enumerate(names_))
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{things}</annotation>")
    return path


_VOC_NAME = {5: "bottle", 9: "chair", 15: "person"}


def voc_mask(place: int) -> np.ndarray:
    """(48, 64) ids of the image at a place: one or two boxes, with an unlabelled rim."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in range(1 + place % 2):
        left = 6 + 30 * number
        mask[9:35, left - 1 : left + 19] = 255
        mask[10:34, left : left + 18] = VOC_IDS[(place + number) % 3]
    return mask


def save_palette(file: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(file)


def make_coco(path: Path) -> Path:
    """5 training and 2 validation images, one of the training images without annotations; returns `path`."""
    (path / "annotations").mkdir(parents=True)
    number = 0
    for split, count in (("train2014", 5), ("val2014", 2)):
        images, annotations = [], []
        (path / split).mkdir()
        for place in range(count):
            number += 1
            name = f"COCO_{split}_{number:012d}.jpg"
            images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            for entry in _coco_objects(place):
                annotations.append({"id": len(annotations) + 1, "image_id": number, **entry})
                x, y = (5, 10) if entry["iscrowd"] else entry["segmentation"][0][:2]
                mask[int(y) : int(y) + 15, int(x) : int(x) + 15] = entry["category_id"]
            _write_jpeg(path / split / name, paint(mask, number))
        categories = [{"id": i, "name": n} for i, n in COCO_CATEGORIES.items()]
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        (path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return path


def _coco_objects(place: int) -> list[dict[str, Any]]:
    box = {"category_id": 1, "iscrowd": 0, "segmentation": [[10, 8, 50, 8, 50, 40, 10, 40]]}
    parts = [[20, 12, 30, 12, 30, 22, 20, 22], [34, 30, 44, 30, 44, 36, 34, 36]]
    inner = {"category_id": 44, "iscrowd": 0, "segmentation": parts}
    triangle = {"category_id": 90, "iscrowd": 0, "segmentation": [[5.5, 40.25, 60.5, 44.75, 31.5, 4.5]]}
    crowd = {"category_id": 3, "iscrowd": 1, "segmentation": CROWD}
    return [[inner, box], [triangle], [crowd, box], [], [inner, crowd]][place]


def make_hope(path: Path) -> Path:
    """`hope` with the onboarding of two objects, up and down, and a scene of `val`; returns its folder."""
    root = path / "hope"
    for thing in (1, 2):
        for side in ("up", "down"):
            _bop_sequence(root / "onboarding_static" / f"obj_{thing:06d}_{side}", [[thing]] * 3, seed=thing)
    _bop_sequence(root / "val" / "000001", [[1, 2], [2]], seed=9)
    return root


def _bop_sequence(folder: Path, objects: list[list[int]], seed: int) -> None:
    for name in ("rgb", "depth", "mask", "mask_visib"):
        (folder / name).mkdir(parents=True)
    truth, info, cameras = {}, {}, {}
    for number, things in enumerate(objects):
        total = np.zeros((HEIGHT, WIDTH), np.uint8)
        depth = np.full((HEIGHT, WIDTH), 8000, np.uint16)
        for place, thing in enumerate(things):
            shape = np.zeros((HEIGHT, WIDTH), np.uint8)
            cv2.circle(shape, (20 + 22 * place + number, 24), 12, 255, -1)
            total[shape > 0] = thing
            depth[shape > 0] = 5000 + 100 * place
            for kind in ("mask", "mask_visib"):
                cv2.imwrite(str(folder / kind / f"{number:06d}_{place:06d}.png"), shape)
        depth[:, :2] = 0
        cv2.imwrite(str(folder / "rgb" / f"{number:06d}.png"), paint(total, seed + number))
        cv2.imwrite(str(folder / "depth" / f"{number:06d}.png"), depth)
        truth[str(number)] = [{"obj_id": thing, "cam_R_m2c": [], "cam_t_m2c": []} for thing in things]
        info[str(number)] = [{"visib_fract": 1.0, "px_count_visib": 400} for _ in things]
        cameras[str(number)] = {"cam_K": [60, 0, 32, 0, 60, 24, 0, 0, 1], "depth_scale": 0.1}
    for name, content in (("scene_gt", truth), ("scene_gt_info", info), ("scene_camera", cameras)):
        (folder / f"{name}.json").write_text(json.dumps(content))


def paint(mask: np.ndarray, seed: int) -> np.ndarray:
    """A (48, 64, 3) picture whose colours follow from the ids, with noise."""
    noise = np.random.default_rng(seed).integers(0, 40, (*mask.shape, 3))
    colors = np.random.default_rng(7).integers(0, 215, (256, 3))
    return (colors[mask] + noise).astype(np.uint8)


def _write_jpeg(file: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(file), picture, (cv2.IMWRITE_JPEG_QUALITY, 95))
