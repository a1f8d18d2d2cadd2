"""Every stage from tags to the robot, on worlds that no default was chosen on.

    python benchmarks/worlds.py --out bench_worlds --weights ../shared/weights/mobilenetv2_100.safetensors --jobs 2

A row is a world: the tabletops of the demo, the rooms, each difficulty of the rooms alone, faulty tags, and real hands
(`--hands DIR`, see real_hands.py). Per row and seed one process trains CAM networks without and with the depth edge
loss and a region model, makes masks in each way, distils run-time networks from them, and trains the same networks on
drawn masks. Results are kept per row and seed, so an interrupted run continues. `--split final` draws the worlds with
the parameters that are for the final table alone: look at it once.

CAMs and masks are scored on the training frames, for which they are made, with the tags of these frames. Distilled
networks are scored on other scenes, one image at a time and without tags. Hours on two cores; minutes on a GPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
CONFIG = FOLDER.parent / "config"
VARIANTS: Mapping[str, tuple[str, ...]] = {"baseline": ("deal.weight=0",), "DEAL": ()}
OTHERS = ("par", "walk")
"""Refinements beside the default, "auto", which makes the masks for distillation."""
HARD = 0.75
AIM = 0.85
"""Aims for the share of full supervision that the distilled network reaches."""


@dataclass(frozen=True)
class Row:
    """One world.

    Args:
        name: Name in the table.
        world: "tabletops", "rooms" or "hands".
        difficulty: Difficulties of the rooms, as for `deal synth --difficulty`.
        tag_faults: Faults of the training tags, as for `deal synth --tag-faults`.
        aim: Share of full supervision that the distilled network should reach; None where it is not measured.
    """

    name: str
    world: str = "rooms"
    difficulty: str = "none"
    tag_faults: str = ""
    aim: float | None = AIM


ALONE = ("touching", "stacked", "clutter", "look-alikes", "no-plane", "holes", "small", "flat")
ROWS = (
    Row("tabletops", "tabletops"),
    Row("rooms, plain"),
    *(Row(f"rooms, {name}", difficulty=name, aim=HARD if name == "no-plane" else AIM) for name in ALONE),
    Row("rooms, 5 % wrong tags", tag_faults="wrong=0.05"),
    Row("rooms, 15 % wrong tags", tag_faults="wrong=0.15", aim=HARD),
    Row("rooms, one tag a frame", tag_faults="one"),
    Row("rooms, all", difficulty="all"),
    Row("real hands", "hands", aim=None),
)


@dataclass(frozen=True)
class Bench:
    """What every unit of work needs to know.

    Args:
        out: Folder for everything.
        weights: ImageNet weights of MobileNetV2, as in ../shared.
        split: "dev" or "final": the parameters from which worlds are drawn.
        scenes: Number of scenes for training and for the test, with `frames` views each.
        frames: Views of each scene.
        epochs: Epochs of a CAM network and of a run-time network.
        image_size: (height, width) of the networks' input.
        device: Device of the networks.
        hands: Checkout of the real hands, or None.
    """

    out: Path
    weights: Path
    split: str
    scenes: tuple[int, int]
    frames: int
    epochs: tuple[int, int]
    image_size: tuple[int, int]
    device: str
    hands: Path | None

    def dataset(self, row: Row) -> Path:
        """Return the dataset folder of a row."""
        return self.out / "worlds" / _file_name(row.name) / "dataset"

    def train_recordings(self, row: Row) -> list[str]:
        """Return the recordings for training."""
        return ["train"] if row.world != "hands" else ["clip01", "clip02", "clip03"]

    def test_recordings(self, row: Row) -> list[str]:
        """Return the recordings for the test of run-time networks."""
        return ["test"] if row.world != "hands" else ["clip04", "clip05"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_worlds"))
    parser.add_argument(
        "--weights", type=Path, default=FOLDER.parent.parent / "shared/weights/mobilenetv2_100.safetensors"
    )
    parser.add_argument("--hands", type=Path, help="checkout of the repository that real_hands.py names")
    parser.add_argument("--split", choices=("dev", "final"), default="dev")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 42, 55])
    parser.add_argument("--only", nargs="+", default=[], help="names of rows, or parts of them")
    parser.add_argument("--scenes", type=int, nargs=2, default=(50, 16), metavar=("TRAIN", "TEST"))
    parser.add_argument("--frames", type=int, default=4, help="views of each scene")
    parser.add_argument("--epochs", type=int, nargs=2, default=(24, 24), metavar=("CAM", "DISTIL"))
    parser.add_argument("--image-size", type=int, nargs=2, default=(192, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no unit of work after this time")
    arguments = parser.parse_args()
    bench = Bench(
        arguments.out.resolve(),
        arguments.weights.resolve(),
        arguments.split,
        tuple(arguments.scenes),
        arguments.frames,
        tuple(arguments.epochs),
        tuple(arguments.image_size),
        arguments.device,
        arguments.hands,
    )
    chosen = [
        row
        for row in ROWS
        if (row.world != "hands" or arguments.hands)
        and (not arguments.only or any(part in row.name for part in arguments.only))
    ]
    started = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that start now
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        _wait([pool.submit(make_world, bench, row) for row in chosen])
        units = [(row, seed) for seed in arguments.seeds for row in chosen]
        until = started + 60 * arguments.minutes - time.monotonic() + time.time()
        _wait([pool.submit(run_unit, bench, row, seed, until) for row, seed in units])
    text = tables(bench, chosen, arguments.seeds)
    (bench.out / "tables.md").write_text(text, encoding="utf-8")
    print(text)


def _wait(steps: Sequence[Any]) -> None:
    """Wait for steps and tell of failures; one that fails does not stop the others."""
    for step in as_completed(steps):
        try:
            print(step.result(), file=sys.stderr, flush=True)
        except Exception:  # a table with a gap is worth more than none
            traceback.print_exc()


def make_world(bench: Bench, row: Row) -> str:
    """Render and extract the recordings of a row, unless they are there."""
    from deal_core.experiments.definitions import make_scenes
    from deal_core.synthetic.recording import SyntheticConfig
    from deal_core.synthetic.room_style import Split
    from deal_core.synthetic.rooms import RoomsConfig, parse_difficulties
    from deal_core.synthetic.tag_faults import parse_tag_faults
    from deal_core.synthetic.world import World

    folder = bench.dataset(row)
    if folder.exists():
        return f"{row.name}: world exists"
    if row.world == "hands":
        sys.path.insert(0, str(FOLDER))
        from real_hands import write_dataset

        assert bench.hands is not None
        write_dataset(bench.hands, folder, (320, 240))
        return f"{row.name}: dataset written"

    def config(number: int, faults: str) -> World:
        seed = (7_000 if bench.split == "final" else 100) + number
        views: dict[str, Any] = {"seed": seed, "scenes": bench.scenes[number], "frames_per_scene": bench.frames}
        if row.world == "tabletops":
            return SyntheticConfig(**views)
        hard, tags = parse_difficulties(row.difficulty), parse_tag_faults(faults)
        return RoomsConfig(**views, difficulties=hard, tag_faults=tags, split=Split(bench.split))

    make_scenes(folder.parent, {"train": config(0, row.tag_faults), "test": config(1, "")})
    return f"{row.name}: world made"


def run_unit(bench: Bench, row: Row, seed: int, until: float) -> str:
    """Run every stage of one row and seed, and keep its figures."""
    file = _result_file(bench, row, seed)
    if file.exists():
        return f"{row.name}, seed {seed}: exists"
    if time.time() > until:
        return f"{row.name}, seed {seed}: out of time"
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    started = time.monotonic()
    unit = Unit(bench, row, seed)
    figures = unit.run()
    figures["seconds"] = time.monotonic() - started
    figures["cpu"] = time.process_time()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return f"{row.name}, seed {seed}: {figures['seconds']:.0f} s"


class Unit:
    """All stages of one row and seed.

    Args:
        bench: What every unit needs to know.
        row: World.
        seed: Seed of the trainings.
    """

    def __init__(self, bench: Bench, row: Row, seed: int) -> None:
        from deal_core.dataset.dataset import Dataset

        self.bench, self.row, self.seed = bench, row, seed
        self.folder = bench.out / "runs" / f"{_file_name(row.name)}-{seed}"
        self.path = bench.dataset(row)
        dataset = Dataset.open(self.path)
        self.train_frames = dataset.subset(recordings=bench.train_recordings(row))
        self.test_frames = dataset.subset(recordings=bench.test_recordings(row))
        self.figures: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Return the figures of every stage by name; each is mIoU and IoU of "any class", on its frames."""
        import numpy as np

        from deal_core.quality import choose_source

        self.add("all background", lambda sample: np.zeros(sample.image.shape[:2], np.uint8), self.train_frames)
        self.add("all background, test", lambda sample: np.zeros(sample.image.shape[:2], np.uint8), self.test_frames)
        verdicts: dict[str, Any] = {}
        for variant, overrides in VARIANTS.items():
            model = self.train_cams(variant, overrides)
            self.cam_figures(variant, model)
            verdicts[f"{variant}, auto"] = self.masks(f"{variant}, auto", model, "auto")
        for refine in OTHERS:
            self.refine(f"{variant}, {refine}", model, refine)
        verdicts["regions-MIL"] = self.masks("regions-MIL", self.train_regions(), "none")
        chosen = choose_source({name: verdicts[name] for name in ("DEAL, auto", "regions-MIL")})
        self.figures["choice"] = {"name": chosen, **self.figures[chosen]}
        for masks in dict.fromkeys(("baseline, auto", "DEAL, auto", chosen)):
            self.distil(f"distilled RGB, {masks}", self.folder / "masks" / _file_name(masks))
        self.figures["distilled RGB, choice"] = self.figures[f"distilled RGB, {chosen}"]
        self.distil(
            "distilled RGB-D, choice", self.folder / "masks" / _file_name(chosen), "model.arguments.inputs=rgbd"
        )
        self.distil("drawn RGB", None)
        self.distil("drawn RGB-D", None, "model.arguments.inputs=rgbd")
        return self.figures

    def add(self, name: str, predict: Callable[[Any], Any], frames: Any) -> None:
        """Score masks of frames and keep the figures under a name."""
        from deal_core.dataset.dataset import with_masks
        from deal_core.evaluation.metrics import ConfusionMatrix

        labelled = with_masks(frames)
        matrix = ConfusionMatrix(len(labelled.classes))
        for record in labelled.frames:
            sample = labelled.load(record)
            assert sample.mask is not None  # `with_masks` keeps only frames with a mask
            matrix.update(predict(sample), sample.mask)
        things = matrix.counts[1:, 1:-1].sum()
        either = matrix.counts[1:].sum() + matrix.counts[0, 1:-1].sum()
        self.figures[name] = {"miou": matrix.miou(), "any": float(things / max(either, 1))}

    def source(self) -> list[str]:
        """Return the settings of the training frames, seed and device."""
        recordings = ",".join(self.bench.train_recordings(self.row))
        where = [f"data.path={self.path}", f"data.recordings=[{recordings}]"]
        return [*where, f"seed={self.seed}", f"device={self.bench.device}"]

    def start(self) -> list[str]:
        """Return the arguments of a network that starts from the weights of ImageNet, which expect -1..1."""
        return [f"weights={self.bench.weights}", "mean=[0.5,0.5,0.5]", "std=[0.5,0.5,0.5]"]

    def common(self, config: str, output: Path, *overrides: str) -> Any:
        """Return settings of a training on the training frames of the row."""
        from deal_core.settings_file import load_settings
        from deal_core.trainer.settings import DistillSettings, TrainSettings

        size = f"data.image_size=[{self.bench.image_size[0]},{self.bench.image_size[1]}]"
        given = [
            *(*self.source(), size, "data.cache=true", f"output={output}"),
            *(f"model.arguments.{option}" for option in self.start()),
        ]
        kind: Any = DistillSettings if config == "distill" else TrainSettings
        return load_settings(kind, CONFIG / f"{config}.yaml", [*given, *overrides])

    def train_cams(self, variant: str, overrides: Sequence[str]) -> Any:
        """Return a trained CAM network."""
        from deal_core.models.model_file import load_model
        from deal_core.trainer.cam_training import train

        settings = self.common(
            "train",
            self.folder / variant,
            f"epochs={self.bench.epochs[0]}",
            "model.arguments.backbone=mobilenetv2_100",
            "model.arguments.backbone_arguments={pad_type: same}",
            *overrides,
        )
        return load_model(train(settings).model)

    def cam_figures(self, variant: str, model: Any) -> None:
        """Score the CAMs at the automatic threshold and at the best one."""
        from deal_core.evaluation.evaluate import evaluate_model
        from deal_core.masks.score_dataset import CamSettings

        result = evaluate_model(model, self.train_frames, CamSettings(device=self.bench.device), name=variant)
        assert result.auto is not None and result.oracle is not None
        self.figures[f"{variant}, CAM auto"] = {"miou": result.auto.miou, "threshold": result.auto.threshold}
        self.figures[f"{variant}, CAM oracle"] = {"miou": result.oracle.miou, "threshold": result.oracle.threshold}

    def train_regions(self) -> Any:
        """Return a trained region model."""
        from deal_core.models.model_file import load_model
        from deal_core.regions.settings import RegionTrainSettings
        from deal_core.regions.training import train_regions
        from deal_core.settings_file import load_settings

        settings = load_settings(
            RegionTrainSettings,
            CONFIG / "regions.yaml",
            [
                *self.source(),
                f"output={self.folder / 'regions'}",
                "network.arguments.backbone=mobilenetv2_100",
                "network.arguments.backbone_arguments={pad_type: same}",
                *(f"network.arguments.{option}" for option in self.start()),
            ],
        )
        return load_model(train_regions(settings).model)

    def refine(self, name: str, model: Any, refine: str) -> None:
        """Score the masks of a refinement on every fourth training frame."""
        from deal_core.dataset.dataset import evenly_spread, with_masks
        from deal_core.masks.decide import predict_mask
        from deal_core.masks.refine.refinement import refinement_settings
        from deal_core.masks.score_dataset import CamSettings, decision_threshold, score_frames

        labelled = with_masks(self.train_frames)
        few = evenly_spread(labelled, max(len(labelled) // 4, 20))
        settings = CamSettings(device=self.bench.device, refine=refinement_settings(refine))
        threshold = decision_threshold(model, settings).value
        found = {
            frame.sample.key: predict_mask(frame.scores, frame.tags, threshold)
            for frame in score_frames(model, few, settings)
        }
        self.add(name, lambda sample: found[sample.key], few)

    def masks(self, name: str, model: Any, refine: str) -> Any:
        """Write and score the masks of the training frames, and return their verdict."""
        from deal_core.masks.mask_folder import read_mask, write_cams
        from deal_core.masks.refine.refinement import refinement_settings
        from deal_core.masks.score_dataset import CamSettings
        from deal_core.quality import facts_of_training, judge, measure_masks

        folder, classes = self.folder / "masks" / _file_name(name), len(self.train_frames.classes)
        settings = CamSettings(device=self.bench.device, refine=refinement_settings(refine))
        for _ in write_cams(model, self.train_frames, folder, settings):
            pass
        self.add(name, lambda s: read_mask(folder, s.key, s.image.shape[:2], classes), self.train_frames)
        verdict = judge(measure_masks(folder, self.train_frames), facts_of_training(model.info))
        self.figures[name] |= {"score": verdict.score, "verdict": verdict.grade}
        return verdict

    def distil(self, name: str, masks: Path | None, *overrides: str) -> None:
        """Train a run-time network and score it on the test frames, as the robot runs it."""
        from deal_core.masks.decide import predict_mask
        from deal_core.masks.score_dataset import CamSettings, score_frames
        from deal_core.models.model_file import load_model
        from deal_core.trainer.rounds import distill

        settings = self.common(
            "distill",
            self.folder / _file_name(name),
            f"epochs={self.bench.epochs[1]}",
            f"masks={masks or 'drawn'}",
            "model.arguments.encoder=mobilenetv2_100",
            "model.arguments.encoder_arguments={pad_type: same}",
            *overrides,
        )
        model = load_model(distill(settings).model)
        how = CamSettings(tags="predicted", flip=False, device=self.bench.device)
        found = {
            frame.sample.key: predict_mask(frame.scores, None, model.info.threshold.value)
            for frame in score_frames(model, self.test_frames, how)
        }
        self.add(name, lambda sample: found[sample.key], self.test_frames)


def tables(bench: Bench, chosen: Sequence[Row], seeds: Sequence[int]) -> str:
    """Return the tables of all units that have figures."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in chosen:
        files = [_result_file(bench, row, seed) for seed in seeds]
        units = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
        if units:
            found[row.name] = units
    if not found:
        return "no unit of work was complete\n"
    return "\n".join([_mask_table(found, chosen), _robot_table(found, chosen)])


def _mask_table(found: Mapping[str, list[dict[str, Any]]], chosen: Sequence[Row]) -> str:
    made = [f"{v}, {column}" for v in VARIANTS for column in ("CAM auto", "CAM oracle", "auto")]
    names = ["all background", *made, *(f"DEAL, {refine}" for refine in OTHERS), "regions-MIL", "choice"]
    lines = ["Masks of the training frames: mIoU in % (real hands: IoU of any class), mean over the seeds", ""]
    lines += ["| world | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for row in chosen:
        if row.name in found:
            cells = [
                _cell(found[row.name], name, "miou" if row.world != "hands" or "CAM" in name else "any")
                for name in names
            ]
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _robot_table(found: Mapping[str, list[dict[str, Any]]], chosen: Sequence[Row]) -> str:
    stages = ["distilled RGB, baseline, auto", "distilled RGB, DEAL, auto", "distilled RGB, choice", "drawn RGB"]
    stages += ["distilled RGB-D, choice", "drawn RGB-D"]
    lines = ["Run-time networks on other scenes: mIoU in % (real hands: IoU of any class), mean ± std", ""]
    head = [*stages, "weak / full RGB, seed by seed", "RGB-D", "aim", "chosen", "verdict of the choice"]
    lines += ["| world | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for row in chosen:
        if row.name not in found:
            continue
        units, figure = found[row.name], "miou" if row.world != "hands" else "any"
        cells = [_cell(units, stage, figure) for stage in stages]
        for inputs in ("RGB", "RGB-D"):
            shares = [u[f"distilled {inputs}, choice"][figure] / u[f"drawn {inputs}"][figure] for u in units]
            cells.append(", ".join(f"{share:.2f}" for share in shares))
        cells += [f"{row.aim:g}" if row.aim else "", ", ".join(unit["choice"]["name"] for unit in units)]
        cells.append(", ".join(f"{unit['choice']['verdict']} {unit['choice']['score']:.2f}" for unit in units))
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(units: Sequence[Mapping[str, Any]], name: str, figure: str) -> str:
    from deal_core.evaluation.seeds import summarise_seeds

    values = [unit[name][figure] for unit in units if name in unit]
    return summarise_seeds(values).percent() if values else ""


def _result_file(bench: Bench, row: Row, seed: int) -> Path:
    return bench.out / "results" / f"{_file_name(row.name)}-{seed}.json"


def _file_name(name: str) -> str:
    return "".join(character if character.isalnum() or character in ".-" else "_" for character in name)


if __name__ == "__main__":
    main()
