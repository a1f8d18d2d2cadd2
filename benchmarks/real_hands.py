"""Real frames of a hand-held task: a folder of RealSense clips becomes a dataset, and hand IoU is measured on it.

    git clone https://github.com/Baochen1012/COMP0248-Coursework1 hands
    python benchmarks/real_hands.py hands --out hands_dataset
    deal train config/train.yaml data.path=hands_dataset output=runs/hands
    deal cams runs/hands/model.safetensors hands_dataset --out hands_masks
    python benchmarks/real_hands.py hands --out hands_dataset --masks hands_masks

The repository holds 750 frames of a RealSense camera, 640x480, of one person who shows ten gestures in five clips each,
and drawn masks of the hand in 100 of them. It has no licence: use it on your own machine, and do not pass it on. Each
frame has one tag of ten. The mask of a hand says nothing about its gesture, so the score is the IoU of "any class"
with the hand. The table also has two rows without any network: everything that is nearest, and all background.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.image_files import read_color, read_image
from deal_core.dataset.writer import DatasetWriter
from deal_core.masks.mask_folder import read_mask
from deal_core.structures import (
    UNLABELLED,
    BoolArray,
    ClassList,
    Float32Array,
    RgbdPair,
    Sample,
    TagMarker,
    TagState,
    UInt8Array,
    UInt16Array,
    valid_depth,
)

FRAMES_PER_SECOND = 5
HINT = "check out the repository again"
_CLIP = re.compile(r"G\d+_(?P<gesture>\w+)")


@dataclass(frozen=True)
class Clip:
    """One clip: its folder, the gesture that it shows, and its number."""

    folder: Path
    gesture: str
    number: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkout of the repository")
    parser.add_argument("--out", type=Path, default=Path("hands_dataset"), help="dataset to write, or to score")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--every", type=int, default=1, help="keep every n-th frame, beside those with a drawn hand")
    parser.add_argument("--masks", type=Path, nargs="*", default=[], help="folders of `deal cams` to score")
    arguments = parser.parse_args()
    if not arguments.out.exists():
        write_dataset(arguments.folder, arguments.out, (arguments.size[0], arguments.size[1]), arguments.every)
    dataset = Dataset.open(arguments.out)
    rows: dict[str, Callable[[Sample], BoolArray]] = {
        "all background": lambda sample: np.zeros(sample.image.shape[:2], bool),
        "nearest blob in depth": lambda sample: nearest_blob(sample.depth, sample.depth_valid),
    }
    for folder in arguments.masks:
        rows[str(folder)] = partial(_foreground, folder, len(dataset.classes))
    print("| masks | hand IoU |\n|---|---:|")
    for name, predict in rows.items():
        print(f"| {name} | {100 * hand_iou(dataset, predict):.1f} |", flush=True)


def write_dataset(folder: Path, out: Path, size: tuple[int, int] = (640, 480), every: int = 1) -> None:
    """Write the clips as a dataset: a recording for each clip number, with a segment for each gesture.

    Args:
        folder: Checkout of the repository.
        out: Dataset to write.
        size: (width, height) of its images; depth and masks are sampled, not averaged.
        every: Keep every n-th frame, beside those with a drawn hand.
    """
    clips = sorted(_clips(folder), key=lambda clip: (clip.number, clip.gesture))
    if not clips:
        raise SystemExit(f"{folder}: no folder like dataset/PERSON/G01_call/clip01 with rgb and depth_raw inside")
    gestures = sorted({clip.gesture for clip in clips})
    writer = DatasetWriter(out, ClassList(tuple(gestures)))
    for number in sorted({clip.number for clip in clips}):
        with writer.recording(number, color_format="jpeg") as recording:
            for segment, clip in enumerate(clip for clip in clips if clip.number == number):
                absent = tuple(name for name in gestures if name != clip.gesture)
                tags = TagState((clip.gesture,), absent, TagMarker.COMPLETE)
                start = 10**18 + segment * 100 * 10**9
                for place, (pair, mask) in enumerate(_frames(clip, size)):
                    if place % every and mask is None:
                        continue
                    stamp = start + place * 10**9 // FRAMES_PER_SECOND
                    ids = None if mask is None else np.where(mask, gestures.index(clip.gesture) + 1, 0).astype(np.uint8)
                    recording.write(RgbdPair(stamp, *pair), tags, segment, ids)


def hand_iou(dataset: Dataset, predict: Callable[[Sample], BoolArray]) -> float:
    """Return the IoU of predicted and drawn hands, (H, W) each, over all frames with a drawn mask."""
    both, either = 0, 0
    for index in range(len(dataset)):
        sample = dataset.load(index)
        if sample.mask is None:
            continue
        truth, found = sample.mask > 0, predict(sample)
        both += int((truth & found).sum())
        either += int((truth | found).sum())
    return both / max(either, 1)


def nearest_blob(depth: Float32Array | None, valid: BoolArray | None, reach: float = 0.15) -> BoolArray:
    """Return the mask (H, W) of the largest connected part within `reach` metres of the nearest surface.

    The nearest surface is the depth that one percent of the known pixels do not exceed.
    """
    assert depth is not None  # the dataset has depth
    known = valid_depth(depth, valid)
    if not known.any():
        return np.zeros(depth.shape, bool)
    near = known & (depth <= np.quantile(depth[known], 0.01) + reach)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(near.astype(np.uint8))
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return np.asarray(labels == largest)


def _clips(folder: Path) -> Iterator[Clip]:
    for clip in folder.glob("dataset/*/G*/clip*"):
        found = _CLIP.fullmatch(clip.parent.name)
        if found:
            yield Clip(clip, found["gesture"], clip.name)


def _frames(clip: Clip, size: tuple[int, int]) -> Iterator[tuple[tuple[UInt8Array, UInt16Array], BoolArray | None]]:
    """Yield colour, depth in millimetres and, where it is drawn, the mask of the hand of each frame."""
    for color in sorted(clip.folder.glob("rgb/*.png")):
        image = cv2.resize(read_color(color, "image", HINT), size, interpolation=cv2.INTER_AREA)
        depth = np.load(clip.folder / "depth_raw" / f"{color.stem}.npy", allow_pickle=False)
        depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT)
        drawn = clip.folder / "annotation" / color.name
        mask = None
        if drawn.is_file():
            # The masks have soft borders.
            mask = cv2.resize(read_image(drawn, "mask", HINT), size, interpolation=cv2.INTER_NEAREST_EXACT) > 127
        yield (image, depth), mask


def _foreground(folder: Path, num_classes: int, sample: Sample) -> BoolArray:
    mask = read_mask(folder, sample.key, sample.image.shape[:2], num_classes)
    return np.asarray((mask > 0) & (mask != UNLABELLED))


if __name__ == "__main__":
    main()
