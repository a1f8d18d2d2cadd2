"""Masks of a teacher with wrong names and merged blobs: what veto, snap and a few drawn masks gain.

    python benchmarks/teachers.py --out bench_teachers --seeds 11 42 55

Makes the scenes and the teacher, imports its masks in several ways, distils what is missing (an interrupted benchmark
goes on) and prints tables; tables.md and tables.json in the output folder hold them too. About a minute for each
training on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.evaluation.metrics import ConfusionMatrix
from deal_core.evaluation.seeds import summarise_seeds
from deal_core.experiments.definitions import make_scenes, synthetic_scenes
from deal_core.label_tools.importing import ImportSettings, import_masks
from deal_core.label_tools.open import open_masks
from deal_core.masks.decide import predict_mask
from deal_core.masks.mask_folder import new_mask_folder
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.models.model_file import load_model
from deal_core.quality.frame_scores import score_masks, worst_frames
from deal_core.settings_file import load_settings
from deal_core.structures import UInt8Array
from deal_core.trainer.rounds import distill
from deal_core.trainer.settings import DistillSettings

FALSE, MERGED = 0.2, 0.5
"""Share of the things with a wrong name, and of the pairs of near things that become one blob."""
LOOSE, NEAR = 2, 10
"""Pixels by which the outlines are too wide, and between the boxes of near things; the images are 160 pixels wide."""
WORST = 20
"""Number of frames that a person would correct."""
STEPS, BATCH, SIZE = 120, 8, (48, 64)

IMPORTS: Mapping[str, ImportSettings] = {
    "as it is": ImportSettings(veto=False),
    "veto": ImportSettings(),
    "veto to 255": ImportSettings(vetoed="unlabelled"),
    "snap": ImportSettings(veto=False, snap=True),
    "veto, snap": ImportSettings(snap=True),
}
TAUGHT = ("as it is", "veto", "veto, snap")
"""The imports from which networks are trained."""
TEACHER = "veto, snap"
"""The import that few drawn masks are mixed with."""
DRAWN = (10, 30)


@dataclass(frozen=True)
class Training:
    """One way to train: its name, its masks and how often to show frames of each."""

    name: str
    masks: tuple[Path, ...]
    weights: tuple[float, ...] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_teachers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 42, 55])
    parser.add_argument("--scenes", type=int, default=16, help="tabletops for training, with 6 views each")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = make_scenes(arguments.out, synthetic_scenes(arguments.scenes, arguments.scenes // 3))
    train = Dataset.open(path).subset(recordings=["train"])
    test = Dataset.open(path).subset(recordings=["test"])
    masks: dict[str, list[float]] = {}
    nets: dict[str, list[float]] = {}
    ranks: list[dict[str, float]] = []
    for seed in arguments.seeds:
        folder = arguments.out / str(seed)
        for name, found in imported(train, folder, seed).items():
            masks.setdefault(name, []).append(found)
            print(f"seed {seed}: masks {name}: {100 * found:.1f}", file=sys.stderr, flush=True)
        ranks.append(ranking(train, folder / _plain("veto, snap")))
        _write(arguments.out, masks, nets, ranks)
    for seed in arguments.seeds:
        folder = arguments.out / str(seed)
        for training in trainings(train, folder, seed):
            found = trained(training, path, train, test, folder, seed, arguments.steps)
            nets.setdefault(training.name, []).append(found)
            print(f"seed {seed}: {training.name}: {100 * found:.1f}", file=sys.stderr, flush=True)
            _write(arguments.out, masks, nets, ranks)
    print((arguments.out / "tables.md").read_text(encoding="utf-8"))


def teacher_mask(truth: UInt8Array, num_classes: int, rng: np.random.Generator) -> UInt8Array:
    """Return a mask with wide outlines, wrong names and near things in one blob, from a true mask."""
    things = []
    for number in np.unique(truth[truth > 0]).tolist():
        count, parts = cv2.connectedComponents((truth == number).astype(np.uint8))
        things += [(number, parts == part) for part in range(1, count)]
    grow = np.ones((2 * LOOSE + 1, 2 * LOOSE + 1), np.uint8)
    mask = np.zeros_like(truth)
    blobs: list[tuple[int, np.ndarray]] = []
    for number, covered in things:
        name = number
        if rng.random() < FALSE:
            name = int(rng.choice([other for other in range(1, num_classes + 1) if other != number]))
        wide = cv2.dilate(covered.astype(np.uint8), grow) > 0
        near = next((place for place, (_, other) in enumerate(blobs) if _near(wide, other)), None)
        if near is not None and rng.random() < MERGED:
            blobs[near] = (blobs[near][0], _hull(blobs[near][1] | wide))
        else:
            blobs.append((name, wide))
    for name, covered in blobs:
        mask[covered] = name
    return mask


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    grow = np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)
    return bool((cv2.dilate(one.astype(np.uint8), grow) > 0)[other].any())


def _hull(covered: np.ndarray) -> np.ndarray:
    points = np.argwhere(covered)[:, ::-1].astype(np.int32)
    filled = np.zeros(covered.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled > 0


def imported(train: Dataset, folder: Path, seed: int) -> dict[str, float]:
    """Write the masks of the teacher, import them in each way, and return their mIoU with the true masks."""
    rng = np.random.default_rng(seed)
    for key, truth in true_masks(train).items():
        file = folder / "teacher" / f"{key}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), teacher_mask(truth, len(train.classes), rng))
    source = open_masks(folder / "teacher", "png", train.classes)
    results = {}
    for name, settings in IMPORTS.items():
        out = folder / _plain(name)
        if not out.exists():
            import_masks(source, train, out, settings)
        results[name] = miou(train, {key: read(out, key) for key in true_masks(train)})
    return results


@cache
def true_masks(dataset: Dataset) -> dict[str, UInt8Array]:
    """Return the true mask of each frame."""
    found = {}
    for frame in dataset.frames:
        mask = dataset.load(frame).mask
        assert mask is not None  # synthetic frames have masks
        found[frame.key] = mask
    return found


def read(folder: Path, key: str) -> UInt8Array:
    """Return a mask of a folder."""
    return np.asarray(cv2.imread(str(folder / f"{key}.png"), cv2.IMREAD_UNCHANGED), np.uint8)


def miou(dataset: Dataset, masks: Mapping[str, UInt8Array]) -> float:
    """Return the mIoU of masks with the true ones, background included; 255 in a mask is wrong."""
    counts = ConfusionMatrix(len(dataset.classes))
    for key, mask in masks.items():
        counts.update(mask, true_masks(dataset)[key])
    return counts.miou()


def trainings(train: Dataset, folder: Path, seed: int) -> list[Training]:
    """Return all trainings; few drawn masks are those of frames drawn by lot."""
    found = [Training(f"teacher, {name}", (folder / _plain(name),)) for name in TAUGHT]
    teacher = folder / _plain(TEACHER)
    order = np.random.default_rng([seed, 1]).permutation(len(train))
    for count in DRAWN:
        drawn = _drawn(train, [train.frames[index] for index in order[:count]], folder / f"drawn {count}")
        # Together, the drawn frames are shown as often as a third of the others.
        weight = len(train) / count / 3
        found.append(Training(f"{count} drawn", (drawn,)))
        found.append(Training(f"{count} drawn and teacher", (drawn, teacher), (weight, 1.0)))
    return found


def _drawn(train: Dataset, frames: Sequence[FrameRecord], out: Path) -> Path:
    if not out.exists():
        with new_mask_folder(out, train.classes, {"drawn": len(frames)}) as write:
            for frame in frames:
                write(frame.key, true_masks(train)[frame.key])
    return out


def trained(
    training: Training, path: Path, train: Dataset, test: Dataset, folder: Path, seed: int, steps: int
) -> float:
    """Distil one network, unless it is there, and return its mIoU on the test scenes, as the robot runs it."""
    output = folder / "runs" / _plain(training.name)
    shown = len(train)
    if len(training.masks) == 1:  # frames without a mask are left out of a source of its own
        shown = len(list(training.masks[0].rglob("*.png")))
    overrides = [
        f"data.path={path}",
        "data.recordings=[train]",
        "data.validation_fraction=0",
        f"data.image_size={list(SIZE)}",
        "data.cache=true",
        f"masks=[{','.join(map(str, training.masks))}]",
        f"mask_weights={'null' if training.weights is None else list(training.weights)}",
        f"output={output}",
        f"seed={seed}",
        f"batch_size={BATCH}",
        f"epochs={max(round(steps / (shown // BATCH)), 1)}",
        "model.arguments.weights=none",
        "model.arguments.freeze_batch_norm=false",
        "device=cpu",
    ]
    if not (output / "model.safetensors").exists():
        config = Path(__file__).parent.parent / "config" / "distill.yaml"
        distill(load_settings(DistillSettings, config, overrides))
    as_on_the_robot = CamSettings(tags="predicted", flip=False, device="cpu")
    model = load_model(output / "model.safetensors")
    frames = score_frames(model, test, as_on_the_robot)
    found = {each.sample.key: predict_mask(each.scores, None, model.info.threshold.value) for each in frames}
    return miou(test, found)


def ranking(train: Dataset, masks: Path) -> dict[str, float]:
    """Return how well the figure without drawn masks finds the frames with the worst masks."""
    scores = score_masks(masks, train)
    true = {key: miou(train, {key: read(masks, key)}) for key in true_masks(train)}
    known = [score for score in scores if not np.isnan(score.score)]
    order, wanted = (np.argsort(np.argsort(v)) for v in ([s.score for s in known], [true[s.key] for s in known]))
    chosen = worst_frames(scores, WORST)
    return {
        "rank correlation": float(np.corrcoef(order, wanted)[0, 1]),
        f"mIoU of the {WORST} that look worst": float(np.mean([true[key] for key in chosen])),
        "mIoU of all": float(np.mean(list(true.values()))),
        f"mIoU of the {WORST} worst": float(np.mean(sorted(true.values())[:WORST])),
    }


def _write(
    out: Path, masks: Mapping[str, list[float]], nets: Mapping[str, list[float]], ranks: Sequence[Mapping[str, float]]
) -> None:
    lines = [f"mIoU in %, mean ± std over {len(ranks)} seeds (networks: number in brackets)", ""]
    lines += ["| masks and training | masks | network |", "|---|---|---|"]
    names = [f"teacher, {name}" for name in masks]
    for name in [*names, *(name for name in nets if name not in names)]:
        found = masks.get(name.removeprefix("teacher, ")), nets.get(name)
        told = [summarise_seeds(each).percent() if each else "–" for each in found]
        count = f" ({len(found[1])})" if found[1] else ""
        lines.append(f"| {name} | {told[0]} | {told[1]}{count} |")
    lines += ["", "| ranking of the frames | mean over the seeds |", "|---|---|"]
    lines += [f"| {key} | {np.mean([rank[key] for rank in ranks]):.3f} |" for key in ranks[0]]
    (out / "tables.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "masks": masks,
        "networks": nets,
        "ranking": ranks,
    }
    (out / "tables.json").write_text(json.dumps(record, indent=2), encoding="utf-8")


def _plain(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


if __name__ == "__main__":
    main()
