"""What taps and boxes are worth: for masks, for what a region model learns from them, and for the robot's network.

    python benchmarks/taps.py --out bench_taps --weights ../shared/weights/mobilenetv2_100.safetensors --seeds 41 42 43

For each seed, a camera goes through rooms with all difficulties, of the split for final figures. A tap lies in the
middle of the visible part of a thing, in the frame of its 6 s that shows it whole and largest; a box is tight. True
poses carry them; nobody looks at a mask and corrects it. Masks are scored on every second frame of these rooms, and
run-time networks, which learn from them after a frozen backbone, on other rooms. Prints a line for each figure;
results.jsonl holds them, and an interrupted benchmark goes on. About 20 minutes of a core a seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from deal_core.dataset.dataset import Dataset, evenly_spread, with_masks
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.dataset.poses import read_trajectory, write_poses
from deal_core.dataset.taps import Box, Mark, Tap, marks_to_json
from deal_core.evaluation.metrics import ConfusionMatrix
from deal_core.masks.decide import predict_mask
from deal_core.masks.mask_folder import read_mask, write_cams
from deal_core.masks.refine.refinement import refinement_settings
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.models.model_file import LoadedModel, load_model
from deal_core.regions.settings import RegionTrainSettings
from deal_core.regions.training import train_regions
from deal_core.settings_file import load_settings
from deal_core.structures import BoolArray
from deal_core.synthetic.recording import SyntheticFrame, render_scenes, write_recording
from deal_core.synthetic.room_style import Split
from deal_core.synthetic.rooms import RoomsConfig
from deal_core.taps.masks import TapMasks
from deal_core.trainer.cam_training import train
from deal_core.trainer.rounds import distill
from deal_core.trainer.settings import DistillSettings, TrainSettings

CONFIG = Path(__file__).resolve().parents[1] / "config"
SPAN_NS = 6_000_000_000
LEAST_PIXELS = 100
AT_THE_RIM = 0.2
"""How much less a view of a thing counts that the image cuts off."""
MARKS = ("tags", "tap", "box")
WITH_MARKS = ", with marks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_taps"))
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[41, 42, 43])
    parser.add_argument("--rooms", type=int, nargs=2, default=[8, 16], help="rooms for training and for the test")
    parser.add_argument("--frames", type=int, nargs=2, default=[30, 3], help="frames of a room, at 5 Hz")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--split", choices=("dev", "final"), default="final")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["seed"], row["name"]) for row in known}
    for seed in options.seeds:
        for name, figures in Seed(options, seed).rows({name for known_seed, name in done if known_seed == seed}):
            row = {"seed": seed, "name": name, **figures}
            with results.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


class Seed:
    """All figures of one seed."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.options, self.seed = options, seed
        self.folder = options.out / str(seed)
        self.data = {kind: self.folder / kind for kind in MARKS}
        self.test = self.folder / "test"

    def rows(self, done: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each figure that is missing, under its name."""
        self.make_worlds()
        for kind in MARKS:
            dataset = Dataset.open(self.data[kind])
            taps = None if kind == "tags" else TapMasks(dataset)
            for name, work in self.stages(kind, dataset, taps):
                if name not in done:
                    yield name, work()

    def stages(
        self, kind: str, dataset: Dataset, taps: TapMasks | None
    ) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """Yield the name of each figure of a kind of marks, and the function that makes it."""
        best = f"{kind}: regions"
        if taps is not None:
            best = f"{kind}: regions, which learn from them"
            yield f"{kind}: masks without a model", lambda: self.alone(dataset, taps)
            yield best, lambda: self.scored(best, self.regions(dataset, taps), dataset, taps)
        else:
            yield best, lambda: self.scored(best, self.regions(dataset, None), dataset, None)
        cam = f"{kind}: CAM"
        yield cam, lambda: self.scored(cam, self.cam(dataset), dataset, taps, refine="auto")
        masks = self.folder / "masks" / _file_name(best + WITH_MARKS if taps else best)
        yield f"{kind}: distilled", lambda: {"miou": self.distilled(dataset, kind, masks)}
        if taps is None:
            yield "drawn: distilled", lambda: {"miou": self.distilled(dataset, "drawn", None)}

    def alone(self, dataset: Dataset, taps: TapMasks) -> dict[str, Any]:
        """Score what the marks give without a model."""
        masks = {key: found.mask for key in half(dataset) if (found := taps.of(key))}
        marks = sum(len(frame.marks) for frame in dataset.frames)
        return {"miou": miou(dataset, masks, half(dataset)), "marks": marks}

    def scored(
        self, name: str, model: LoadedModel, dataset: Dataset, taps: TapMasks | None, refine: str = "none"
    ) -> dict[str, Any]:
        """Score the masks of a model alone and, if there are marks, with these on top."""
        settings = CamSettings(device="cpu", refine=refinement_settings(refine))
        figures = {"scores alone": miou(dataset, self.masks(model, dataset, None, name, settings), half(dataset))}
        if taps is not None:
            found = self.masks(model, dataset, taps, name + WITH_MARKS, settings)
            figures["miou"] = miou(dataset, found, half(dataset))
        return figures

    def cam(self, dataset: Dataset) -> LoadedModel:
        """Return a CAM network with the edge loss on a frozen backbone; it learns from the marks of the dataset."""
        settings = load_settings(
            TrainSettings,
            CONFIG / "frozen.yaml",
            [
                *(f"data.path={dataset.path}", f"output={self.folder / f'cam_{dataset.path.name}'}"),
                *(f"seed={self.seed}", "device=cpu", "data.image_size=[192, 256]"),
                *(f"data.features={self.folder / 'features'}", f"epochs={self.options.epochs}"),
                *("model.arguments.backbone=mobilenetv2_100", "model.arguments.backbone_arguments={pad_type: same}"),
                *(f"model.arguments.weights={self.options.weights}", "model.arguments.mean=[0.5,0.5,0.5]"),
                *("model.arguments.std=[0.5,0.5,0.5]",),
            ],
        )
        return load_model(train(settings).model)

    def make_worlds(self) -> None:
        """Render the rooms, and write a dataset for each kind of marks."""
        rooms, frames = self.options.rooms, self.options.frames
        if not self.test.exists():
            config = self.world(1000 + self.seed, rooms[1], frames[1])
            write_recording(self.folder / "test_recording", config, overwrite=True)
            extract_recording(self.folder / "test_recording", self.test, ExtractOptions())
        if all(path.exists() for path in self.data.values()):
            return
        config = self.world(self.seed, rooms[0], frames[0])
        rendered = list(render_scenes(config))
        recording = self.folder / "recording"
        write_recording(recording, config, rendered, overwrite=True)
        poses = read_trajectory(recording / "ground_truth" / "poses.json")
        for kind, path in self.data.items():
            extract_recording(recording, path, ExtractOptions())
            dataset = Dataset.open(path)
            write_poses(path, dataset.frames[0].recording, poses)
            if kind != "tags":
                add_marks(dataset, rendered, kind)

    def world(self, seed: int, rooms: int, frames: int) -> RoomsConfig:
        """Return rooms with all difficulties."""
        split = Split(self.options.split)
        return RoomsConfig(seed=seed, scenes=rooms, frames_per_scene=frames, width=240, height=180, split=split)

    def regions(self, dataset: Dataset, taps: TapMasks | None) -> LoadedModel:
        """Return a region model that learns from the tags, and from the taps unless they are None."""
        output = self.folder / f"regions_{'taps' if taps else 'tags'}_{dataset.path.name}"
        settings = load_settings(
            RegionTrainSettings,
            CONFIG / "regions.yaml",
            [
                *(f"data.path={dataset.path}", f"output={output}", f"seed={self.seed}", "device=cpu"),
                *("network.arguments.backbone=mobilenetv2_100", f"network.arguments.weights={self.options.weights}"),
                *("network.arguments.backbone_arguments={pad_type: same}", "network.arguments.mean=[0.5,0.5,0.5]"),
                *("network.arguments.std=[0.5,0.5,0.5]",),
            ],
        )
        return load_model(train_regions(settings, find_things=lambda _: taps.of if taps else None).model)

    def masks(
        self, model: LoadedModel, dataset: Dataset, taps: TapMasks | None, name: str, settings: CamSettings
    ) -> dict[str, Any]:
        """Write the masks of all frames, and return those that are scored."""
        folder = self.folder / "masks" / _file_name(name)
        for _ in write_cams(model, dataset, folder, settings, known=taps):
            pass
        return {key: read_mask(folder, key, (180, 240), len(dataset.classes)) for key in half(dataset)}

    def distilled(self, dataset: Dataset, name: str, masks: Path | None) -> float:
        """Train a run-time network and return its mIoU on the test rooms, as the robot runs it."""
        settings = load_settings(
            DistillSettings,
            CONFIG / "distill.yaml",
            [
                *(f"data.path={dataset.path}", f"output={self.folder / f'distilled_{name}'}", f"seed={self.seed}"),
                *(f"masks={masks or 'drawn'}", f"epochs={self.options.epochs}", "device=cpu"),
                *("data.image_size=[192, 256]", "data.crop=grid", "data.crop_scale=[1, 1]", "data.color_jitter=0"),
                *(f"data.features={self.folder / 'features'}", "optimizer.backbone_factor=0"),
                *("model.arguments.encoder=mobilenetv2_100", "model.arguments.encoder_arguments={pad_type: same}"),
                *(f"model.arguments.weights={self.options.weights}", "model.arguments.freeze_batch_norm=true"),
                *("model.arguments.mean=[0.5,0.5,0.5]", "model.arguments.std=[0.5,0.5,0.5]"),
            ],
        )
        model, test = load_model(distill(settings).model), with_masks(Dataset.open(self.test))
        how = CamSettings(tags="predicted", flip=False, device="cpu")
        found = {
            frame.sample.key: predict_mask(frame.scores, None, model.info.threshold.value)
            for frame in score_frames(model, test, how)
        }
        return miou(test, found, found)


def add_marks(dataset: Dataset, rendered: list[SyntheticFrame], kind: str) -> None:
    """Write the marks of a person who marks each thing once in each 6 s, as frames.jsonl keeps them."""
    index = {frame.pair.stamp_ns: place for place, frame in enumerate(rendered)}
    marks: dict[int, list[Mark]] = {}
    for start, stop in spans([frame.pair.stamp_ns for frame in rendered]):
        for thing in np.unique(np.stack([frame.instances for frame in rendered[start:stop]])):
            shown = rendered[best := best_view(rendered, start, stop, int(thing))]
            mask = shown.instances == thing
            label = int(np.bincount(shown.mask[mask], minlength=1).argmax())
            tags = dataset.frames[best].tags.vector(dataset.classes)
            if label == 0 or mask.sum() < LEAST_PIXELS or tags[label - 1] != 1:
                continue
            mark = tap_on(mask, dataset.classes.names[label - 1])
            marks.setdefault(best, []).append(mark if kind == "tap" else box_round(mask, mark.name))
    (file,) = dataset.path.glob("recordings/*/frames.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line.update(marks_to_json(tuple(marks.get(index[line["stamp_ns"]], ()))))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def spans(stamps: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the frames of each 6 s of a room."""
    start = 0
    for place in range(1, len(stamps) + 1):
        if place == len(stamps) or stamps[place] - stamps[start] >= SPAN_NS or stamps[place] - stamps[place - 1] > 2e9:
            yield start, place
            start = place


def best_view(rendered: list[SyntheticFrame], start: int, stop: int, thing: int) -> int:
    """Return the frame that shows a thing largest, and preferably whole."""

    def size(place: int) -> float:
        mask = rendered[place].instances == thing
        rim = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        return float(mask.sum()) * (AT_THE_RIM if rim else 1)

    return max(range(start, stop), key=size)


def tap_on(mask: BoolArray, name: str) -> Tap:
    """Return a tap in the middle of a mask."""
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return Tap(name, int(x), int(y))


def box_round(mask: BoolArray, name: str) -> Box:
    """Return the tight box of a mask."""
    pixels = np.argwhere(mask)
    (top, left), (bottom, right) = pixels.min(0), pixels.max(0) + 1
    return Box(name, int(left), int(top), int(right), int(bottom))


def half(dataset: Dataset) -> list[str]:
    """Return the keys of every second frame."""
    return [frame.key for frame in evenly_spread(dataset, len(dataset) // 2).frames]


def miou(dataset: Dataset, masks: dict[str, Any], keys: Iterable[str]) -> float:
    """Return the mIoU of the masks of some frames in percent; a frame without a mask is background."""
    wanted = set(keys)
    matrix = ConfusionMatrix(len(dataset.classes))
    for frame in dataset.frames:
        if frame.key in wanted:
            sample = dataset.load(frame)
            assert sample.mask is not None
            matrix.update(masks.get(frame.key, np.zeros_like(sample.mask)), sample.mask)
    return round(100 * matrix.miou(), 1)


def _file_name(name: str) -> str:
    return name.replace(" ", "_").replace(":", "").replace(",", "")


if __name__ == "__main__":
    main()
