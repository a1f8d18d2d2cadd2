"""Does `deal audit` find wrong tags and shortcuts of the place, and does a second round of distillation help?

    python benchmarks/audit.py wrong --weights mobilenetv2.safetensors --wrong 0.05 0.1 0.2 --seeds 11 42 55
    python benchmarks/audit.py place --weights mobilenetv2.safetensors --seeds 11 42 55
    python benchmarks/audit.py rounds --dataset kitchen --masks kitchen_masks --test kitchen_test --seeds 11 42 55

`wrong` turns tags of a synthetic world into their contrary, each class in each segment with the given probability, and
compares the list of the audit with them. `place` ties a class to wooden tables and floors, class by class, and says
which classes the audit names; worlds without a tie are in between. `rounds` distils with one round and with two, with
the segmenter of config/demo_distill.yaml, and scores both on the drawn masks of another dataset. Prints a line of JSON
for each result. The audits need minutes on one free core, most of them for the features, which are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deal_core.audit.audit import AuditSettings, audit_dataset
from deal_core.audit.suspicion import list_worst
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.evaluation.evaluate import evaluate_model
from deal_core.masks.score_dataset import CamSettings
from deal_core.models.model_file import load_model
from deal_core.settings_file import load_settings
from deal_core.structures import BoolArray, ClassList, Float64Array, TagMarker, TagState
from deal_core.synthetic.recording import SyntheticConfig, write_recording
from deal_core.synthetic.room_style import Split
from deal_core.synthetic.rooms import RoomsConfig, parse_difficulties
from deal_core.synthetic.scene import CameraPose, Pattern, Scene
from deal_core.synthetic.world import World
from deal_core.trainer.rounds import distill
from deal_core.trainer.settings import DistillSettings

CONFIG = Path(__file__).resolve().parents[1] / "config" / "demo_distill.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("wrong", "place", "rounds"))
    parser.add_argument("--out", type=Path, default=Path("bench_audit"))
    parser.add_argument("--world", choices=("tabletops", "rooms"), default="tabletops")
    parser.add_argument("--difficulty", default="none", help="of rooms: all, none, or some, separated by commas")
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--frames-per-scene", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=[160, 120], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--world-seed", type=int, default=302, help="of the scenes; the final table has 302")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 42, 55], help="of the wrong tags, or of the runs")
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument(
        "--weights", default="hub", help="hub, or a file of weights that expect colours as TensorFlow's"
    )
    parser.add_argument("--dataset", type=Path, help="rounds: frames to train on")
    parser.add_argument("--recordings", default="", help="rounds: recordings of the dataset, separated by commas")
    parser.add_argument("--masks", type=Path, help="rounds: their pseudo masks")
    parser.add_argument("--test", type=Path, help="rounds: dataset with drawn masks")
    parser.add_argument("--test-recordings", default="")
    parser.add_argument("--override", nargs="*", default=[], help="rounds: settings of the distillation")
    options = parser.parse_args()
    for row in {"wrong": wrong_tags, "place": places, "rounds": rounds}[options.part](options):
        print(json.dumps(row), flush=True)


# --- wrong tags


def wrong_tags(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield precision and recall of the list, as they are and as the audit estimates them, for each share and seed."""
    world = _world(options, 0, options.world_seed)
    dataset = _dataset(options.out / "data" / f"{options.world}-{options.world_seed}", world)
    for share in options.wrong:
        for seed in options.seeds:
            changed, wrong = with_wrong_tags(dataset, share, seed)
            everything = replace(_settings(options), precision=1e-9, seed=seed)
            found = audit_dataset(changed, everything).wrong_tags
            is_wrong = np.array([(tag.recording, tag.segment, tag.name) in wrong for tag in found.tags])
            probability = np.array([tag.probability for tag in found.tags])
            yield {
                "world": options.world,
                "share": share,
                "seed": seed,
                "tags": found.checked,
                "wrong": len(wrong),
                "expected": round(found.expected or 0.0, 1),
                **_list_figures(probability, is_wrong),
            }


def with_wrong_tags(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, set[tuple[str, int, str]]]:
    """Return the dataset with the contrary of some tags, and which: recording, segment and class."""
    rng = np.random.default_rng(seed)
    segments = sorted({(frame.recording, frame.segment) for frame in dataset.frames})
    names = dataset.classes.names
    flips = rng.random((len(segments), len(names))) < share
    wrong = {(*segments[i], names[k]) for i, k in np.argwhere(flips)}

    def changed(recording: str, segment: int, tags: TagState) -> TagState:
        present = [name for name in names if (name in tags.present) != ((recording, segment, name) in wrong)]
        return TagState(tuple(present), (), TagMarker.COMPLETE)

    frames = [replace(one, tags=changed(one.recording, one.segment, one.tags)) for one in dataset.frames]
    return Dataset(dataset.path, ClassList(names, dataset.classes.colors), frames), wrong


def _list_figures(probability: Float64Array, is_wrong: BoolArray) -> dict[str, Any]:
    listed = list_worst(probability[:, None], 0.8)[:, 0]
    order = np.argsort(-probability, kind="stable")
    right = np.cumsum(is_wrong[order])
    recall = right / max(is_wrong.sum(), 1)
    is_precise = right / np.arange(1, len(order) + 1) >= 0.8
    return {
        "listed": int(listed.sum()),
        "estimated_precision": round(float(probability[listed].mean()), 2) if listed.any() else None,
        "precision": round(float(is_wrong[listed].mean()), 2) if listed.any() else None,
        "recall": round(float(is_wrong[listed].sum() / max(is_wrong.sum(), 1)), 2),
        "recall_at_true_precision_0.8": round(float(recall[is_precise].max()), 2) if is_precise.any() else 0.0,
    }


# --- shortcuts of the place


@dataclass(frozen=True)
class TiedTabletops(SyntheticConfig):
    """Tabletops on which a class stands on wooden tables, on all of them and on no other; 0 ties none."""

    tied: int = 0

    def make_scene(self, rng: np.random.Generator) -> Any:
        """Draw scenes until one keeps the tie."""
        while True:
            scene = super().make_scene(rng)
            if _keeps_tie(scene, self.tied, 0):
                return scene


@dataclass(frozen=True)
class TiedRooms(RoomsConfig):
    """Rooms in which a class is where the first furniture is wooden, in all of them and in no other; 0 ties none."""

    tied: int = 0

    def make_scene(self, rng: np.random.Generator) -> Any:
        """Draw rooms until one keeps the tie."""
        while True:
            scene = super().make_scene(rng)
            if _keeps_tie(scene, self.tied, 1):
                return scene


def _keeps_tie(made: tuple[Scene, list[CameraPose]], tied: int, material: int) -> bool:
    scene: Any = made[0]
    is_there = any(one.class_id == tied for one in scene.objects)
    return tied == 0 or is_there == (scene.materials[material].pattern is Pattern.WOOD)


def places(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield which class was tied to the place, and which were named, for each seed with a tie and without one."""
    for number, seed in enumerate(options.seeds):
        for tied in (number % 6 + 1, 0):
            world = _world(options, tied, seed)
            dataset = _dataset(options.out / "data" / f"{options.world}-tied{tied}-{seed}", world)
            found = audit_dataset(dataset, _settings(options))
            yield {
                "world": options.world,
                "seed": seed,
                "tied": dataset.classes.names[tied - 1] if tied else None,
                "named": [one.name for one in found.shortcuts],
                "rankings": {one.name: one.place_ranking and round(one.place_ranking, 2) for one in found.classes},
            }


def _world(options: argparse.Namespace, tied: int, seed: int) -> World:
    width, height = options.size
    common: dict[str, Any] = {
        "seed": seed,
        "scenes": options.scenes,
        "frames_per_scene": options.frames_per_scene,
        "width": width,
        "height": height,
        "tied": tied,
    }
    if options.world == "tabletops":
        return TiedTabletops(**common)
    return TiedRooms(**common, difficulties=parse_difficulties(options.difficulty), split=Split.FINAL)


def _dataset(path: Path, world: World) -> Dataset:
    """Return the dataset of a world, which is made if it is missing."""
    if not path.exists():
        recording = path.with_name(f"{path.name}-recording")
        write_recording(recording, world, overwrite=True)
        extract_recording(recording, path, ExtractOptions())
    return Dataset.open(path)


def _settings(options: argparse.Namespace) -> AuditSettings:
    network: dict[str, object] = {"backbone": options.backbone, "weights": options.weights}
    if options.weights != "hub":
        network |= {"mean": (0.5,) * 3, "std": (0.5,) * 3, "backbone_arguments": {"pad_type": "same"}}
    return AuditSettings(network, features=options.out / "features", device="cpu", next_frames=0)


# --- rounds of distillation


def rounds(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the mIoU on the test frames after one round and after two, and what the verdicts said, for each seed."""
    for seed in options.seeds:
        for count in (1, 2):  # the run with two goes on from the run with one
            names = [name for name in options.recordings.split(",") if name]
            values = [f"data.path={options.dataset}", f"data.recordings=[{','.join(names)}]", f"seed={seed}"]
            values += [f"masks={options.masks}", f"output={options.out / f'student-{seed}'}", f"rounds={count}"]
            found = distill(load_settings(DistillSettings, CONFIG, [*values, "device=cpu", *options.override]))
            yield {
                "seed": seed,
                "rounds": count,
                "miou": _miou(found.model, options),
                "kept": found.kept_round,
                "scores": [[round(one.taught, 3), round(one.own, 3)] for one in found.rounds],
            }
            second = options.out / f"student-{seed}" / "rounds" / "2" / "model.safetensors"
            if count == 2 and second.exists():
                yield {"seed": seed, "second_student_alone": _miou(second, options)}


def _miou(model: Path, options: argparse.Namespace) -> float:
    names = [name for name in options.test_recordings.split(",") if name]
    test = Dataset.open(options.test).subset(names or None)
    settings = CamSettings(tags="predicted", flip=False, device="cpu")
    found = evaluate_model(load_model(model), test, settings, name="test")
    assert found.auto is not None
    return round(100 * found.auto.miou, 1)


if __name__ == "__main__":
    main()
