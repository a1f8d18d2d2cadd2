"""What depth makes of weak scores on ten real frames of a depth camera.

    python benchmarks/real_refinement.py --frames ../shared/data/ycb_video

The frames are of YCB-Video: three things on a desk that is not cleared, drawn masks beside them. No CAM network can be
trained on one scene whose tags never change, so the scores are made: a soft blob around a random pixel of each thing,
as where a network found a telling part. Its width says how well the scores fit: the standard deviation as a share of
the square root of the thing's area. Prints a table. About 5 minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deal_core.dataset.image_files import read_color, read_image
from deal_core.evaluation.metrics import MaskEvaluator
from deal_core.evaluation.seeds import summarise_seeds
from deal_core.masks.decide import predict_mask
from deal_core.masks.refine.background import ARGMAX_THRESHOLD
from deal_core.masks.refine.refinement import (
    RefineSettings,
    lets_background_compete,
    refine_scores,
    refinement_settings,
)
from deal_core.structures import UNLABELLED, Float32Array, UInt8Array
from deal_core.surfaces.planes import find_planes

LABELS = {"gelatin_box": 8, "mug": 14, "foam_brick": 21}
DEPTH_UNITS = 10_000  # in a metre
THRESHOLD = 0.3
WIDTHS = (0.35, 0.5, 0.7)
METHODS: dict[str, tuple[str, list[str]]] = {
    "none": ("none", []),
    "par": ("par", []),
    "walk, plane kept": ("walk", ["plane=keep"]),
    "walk": ("walk", []),
    "regions": ("regions", []),
}


@dataclass(frozen=True, eq=False)
class RealFrame:
    """Colour (H, W, 3), depth (H, W) in metres, 0 where unknown, and drawn ids (H, W), 255 of other things."""

    image: UInt8Array
    depth: Float32Array
    truth: UInt8Array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, required=True, help="folder with *-color, *-depth and *-label images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 42, 55])
    arguments = parser.parse_args()
    frames = list(read_frames(arguments.frames))
    if not frames:
        raise SystemExit(f"{arguments.frames}: no *-color images")
    print(f"{len(frames)} frames, seeds {', '.join(map(str, arguments.seeds))}: mIoU in %, threshold {THRESHOLD}\n")
    print(f"| refinement | {' | '.join(f'blobs {width:g} wide' for width in WIDTHS)} |")
    print("|---|" + "---:|" * len(WIDTHS))
    for name, (method, options) in METHODS.items():
        settings = refinement_settings(method, options)
        cells = [
            summarise_seeds([miou(frames, settings, width, seed) for seed in arguments.seeds]).percent()
            for width in WIDTHS
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n" + plane_line(frames))


def read_frames(folder: Path) -> Iterator[RealFrame]:
    """Yield the frames of a folder of YCB-Video."""
    for color in sorted(folder.rglob("*-color.*")):
        stem, hint = color.name.split("-")[0], "expected a frame of YCB-Video"
        depth = read_image(color.with_name(f"{stem}-depth.png"), "depth image", hint)
        label = read_image(color.with_name(f"{stem}-label.png"), "mask", hint)
        truth = np.where(label > 0, UNLABELLED, 0).astype(np.uint8)
        for index, value in enumerate(LABELS.values()):
            truth[label == value] = index + 1
        yield RealFrame(read_color(color, "image", hint), (depth / DEPTH_UNITS).astype(np.float32), truth)


def miou(frames: list[RealFrame], settings: RefineSettings | None, width: float, seed: int) -> float:
    """Return the mIoU of scores that are blobs, refined."""
    rng = np.random.default_rng(seed)
    masks = MaskEvaluator(len(LABELS))
    for number, frame in enumerate(frames):
        scores = torch.from_numpy(blobs(frame.truth, width, rng))
        refined = refine_scores(
            frame.image, scores, settings, threshold=THRESHOLD, depth=frame.depth, depth_valid=frame.depth > 0
        )
        threshold = ARGMAX_THRESHOLD if lets_background_compete(settings) else THRESHOLD
        masks.update(predict_mask(refined, None, threshold), frame.truth, str(number))
    return masks.confusion.miou()


def blobs(truth: UInt8Array, width: float, rng: np.random.Generator) -> Float32Array:
    """Return (K, H, W) scores in [0, 1]: of each thing in the mask, a blob around one of its pixels."""
    rows, columns = np.mgrid[: truth.shape[0], : truth.shape[1]]
    scores = np.zeros((len(LABELS), *truth.shape), np.float32)
    for index in range(len(LABELS)):
        places = np.argwhere(truth == index + 1)
        if len(places):
            row, column = places[rng.integers(len(places))]
            variance = width**2 * len(places)
            scores[index] = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * variance))
    return scores


def plane_line(frames: list[RealFrame]) -> str:
    """Return how much of image and things the supporting planes take."""
    supports = [find_planes(frame.depth).on_support() for frame in frames]
    found = [(mask, frame.truth) for mask, frame in zip(supports, frames, strict=True) if mask.any()]
    of_image = np.mean([mask.mean() for mask, _ in found]) if found else 0.0
    of_things = np.mean([mask[(truth > 0) & (truth != UNLABELLED)].mean() for mask, truth in found]) if found else 0.0
    return (
        f"Supporting planes: found in {len(found)} of {len(frames)} frames; they cover {of_image:.0%} of the "
        f"image and {of_things:.1%} of the things."
    )


if __name__ == "__main__":
    main()
