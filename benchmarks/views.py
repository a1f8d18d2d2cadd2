"""How much better are pseudo masks whose class scores are fused over many views, with true and with estimated poses?

    python benchmarks/views.py --out bench_views --weights ../shared/weights/mobilenetv2_100.safetensors
    python benchmarks/views.py --out bench_views_final --split final --seeds 7001 7002 7003

Each world is a recording of rooms, with true masks that only the score sees. `rooms` is that of `deal synth`: the
camera looks at whole pieces of furniture. In `along`, it passes them so near that it sees a part at a time, so that
tags vary from frame to frame; two more worlds are the same with faulty tags. One CAM network with a frozen backbone is
trained for each world and seed, on the same frames. Its scores make masks alone, with near views and with the whole
recording; with true poses, with a chain of visual odometry (OpenCV), and with true poses of which a share is wrong.
Results are kept in results.jsonl, and an interrupted run goes on. About five minutes for each world and seed on one
free core.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cv2
import numpy as np
import torch

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.dataset.poses import read_poses, read_trajectory, write_poses
from deal_core.evaluation.sweep import ThresholdSweep
from deal_core.masks.refine.refinement import refinement_settings
from deal_core.masks.score_dataset import CamSettings, decision_threshold, score_frames
from deal_core.models.model_file import LoadedModel, load_model
from deal_core.settings_file import load_settings
from deal_core.structures import Float64Array
from deal_core.synthetic.path import look_at, wander
from deal_core.synthetic.recording import write_recording
from deal_core.synthetic.room import Room
from deal_core.synthetic.room_style import Split
from deal_core.synthetic.rooms import RoomsConfig, parse_difficulties
from deal_core.synthetic.scene import CameraPose
from deal_core.synthetic.tag_faults import parse_tag_faults
from deal_core.taps.masks import recording_parts
from deal_core.trainer.cam_training import train
from deal_core.trainer.settings import TrainSettings
from deal_core.views.fusion import FusedScores

CONFIG = Path(__file__).resolve().parents[1] / "config" / "frozen.yaml"
WEIGHTS = Path(__file__).resolve().parents[2] / "shared" / "weights" / "mobilenetv2_100.safetensors"
NAME = "room"
WRONG_POSES = 0.1
SCORED = 3
"""Every third frame is scored; all of them are fused."""


@dataclass(frozen=True)
class AlongRooms(RoomsConfig):
    """Rooms that a camera passes from one end of the furniture to the other, half a metre away."""

    def make_scene(self, rng: np.random.Generator) -> tuple[Room, list[CameraPose]]:
        """Return a random room and a camera pose for each of its frames."""
        room, _ = super().make_scene(rng)
        stations = sorted(room.stations, key=lambda station: float(station.focus[0]))
        focus = np.array([station.focus for station in stations])
        number = self.frames_per_scene
        time_, x = np.linspace(0, 1, number), np.linspace(focus[0, 0] - 0.45, focus[-1, 0] + 0.45, number)
        heights = [float(rng.uniform(*station.elevation)) for station in stations]
        elevation = np.interp(x, focus[:, 0], heights) + math.radians(5) * wander(time_, rng)
        distance = float(rng.uniform(0.5, 0.65)) * (1 + 0.15 * wander(time_, rng))
        azimuth, roll = math.radians(30) * wander(time_, rng), math.radians(5) * wander(time_, rng)
        y, z = (np.interp(x, focus[:, 0], focus[:, axis]) for axis in (1, 2))
        targets = np.stack([x, y + 0.08 * wander(time_, rng), z], axis=1)
        angles = zip(targets, azimuth, elevation, distance, roll, strict=True)
        return room, [look_at(at, float(a), float(e), float(d), float(r)) for at, a, e, d, r in angles]


@dataclass(frozen=True)
class WorldKind:
    """A world: the camera's way, its angle of view, what makes the rooms hard, and the faults of the tags."""

    name: str
    kind: type[RoomsConfig]
    fov_deg: float
    difficulty: str
    tag_faults: str = ""


TOGETHER = "touching,clutter,look-alikes,stacked"
WORLDS = (
    WorldKind("along", AlongRooms, 45.0, TOGETHER),
    WorldKind("rooms", RoomsConfig, 58.0, TOGETHER),
    WorldKind("along, 10 % wrong", AlongRooms, 45.0, TOGETHER, "wrong=0.1"),
    WorldKind("along, 30 % unknown", AlongRooms, 45.0, TOGETHER, "partial=0.3"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_views"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--split", choices=("dev", "final"), default="dev")
    parser.add_argument("--seeds", type=int, nargs="+", default=[200])
    parser.add_argument("--worlds", nargs="+", default=[world.name for world in WORLDS], help="names of worlds")
    parser.add_argument("--rooms", type=int, default=4)
    parser.add_argument("--frames", type=int, default=36, help="of each room")
    parser.add_argument("--size", type=int, nargs=2, default=(160, 120), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--epochs", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    chosen = [world for world in WORLDS if world.name in options.worlds]
    for seed in options.seeds:
        for world in chosen:
            for row in rows(world, seed, options):
                print(json.dumps(row), flush=True)
    print(table(read_rows(options.out), chosen, options.seeds))


def rows(world: WorldKind, seed: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the figures of each way to make masks; those of an earlier run are read."""
    rows_of = (row for row in read_rows(options.out) if (row["world"], row["seed"]) == (world.name, seed))
    known = {(row["way"], row["refine"]): row for row in rows_of}
    folder = options.out / f"{world.name.replace(' ', '_').replace(',', '').replace('%', 'percent')}-{seed}"
    wanted = [(way, refine) for refine in ("none", "auto") for way in WAYS if (way, refine) not in LEFT_OUT]
    if known.keys() >= set(wanted):
        yield from (known[one] for one in wanted)
        return
    data = make_data(folder, world, seed, options)
    model = make_model(folder, data, seed, options)
    errors = pose_errors(folder)
    for way, refine in wanted:
        row = known.get((way, refine))
        if row is None:
            begun = time.monotonic()
            row = {"world": world.name, "seed": seed, "way": way, "refine": refine}
            row |= score(model, folder, way, refine)
            row |= {"odometry": errors, "seconds": round(time.monotonic() - begun, 1)}
            with (options.out / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        yield row


WAYS: Mapping[str, tuple[str, str]] = {
    "one view": ("none", "true"),
    "near views, true poses": ("near", "true"),
    "near views, odometry": ("near", "odometry"),
    "recording, true poses": ("recording", "true"),
    "recording, odometry": ("recording", "odometry"),
    "recording, 10 % of the poses wrong": ("recording", "wrong"),
}
LEFT_OUT = {("near views, odometry", "auto"), ("recording, 10 % of the poses wrong", "auto")}


def make_data(folder: Path, world: WorldKind, seed: int, options: argparse.Namespace) -> Path:
    """Return a dataset with true poses, which is made if it is missing, and write others beside it."""
    data = folder / "true"
    if (folder / "wrong").exists():
        return data
    for name in ("true", "odometry"):
        shutil.rmtree(folder / name, ignore_errors=True)
    width, height = options.size
    config = world.kind(
        seed=seed,
        scenes=options.rooms,
        frames_per_scene=options.frames,
        width=width,
        height=height,
        horizontal_fov_deg=world.fov_deg,
        difficulties=parse_difficulties(world.difficulty),
        tag_faults=parse_tag_faults(world.tag_faults),
        split=Split(options.split),
    )
    if not (folder / NAME).exists():
        write_recording(folder / NAME, config)
    extract_recording(folder / NAME, data, ExtractOptions())
    truth = read_trajectory(folder / NAME / "ground_truth" / "poses.json")
    write_poses(data, NAME, truth)
    for name, poses in (("odometry", odometry(data)), ("wrong", with_wrong(truth, seed))):
        shutil.copytree(data, folder / name)
        write_poses(folder / name, NAME, poses)
    return data


def odometry(data: Path) -> dict[int, Float64Array]:
    """Return poses by a chain of OpenCV's RGB-D odometry, which begins anew after each pause."""
    dataset = Dataset.open(data)
    camera = dataset.camera(NAME)
    assert camera is not None
    settings = cv2.OdometrySettings()
    settings.setCameraMatrix(np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]], np.float32))
    tracker = cv2.Odometry(cv2.OdometryType_RGB_DEPTH, settings, cv2.OdometryAlgoType_COMMON)
    parts, poses = recording_parts(dataset.frames), {}
    pose, last = np.eye(4), None
    for frame in dataset.frames:
        sample = dataset.load(frame)
        depth = np.where(sample.depth_valid, sample.depth, np.nan).astype(np.float32)
        seen = cv2.OdometryFrame(depth, cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY))
        tracker.prepareFrame(seen)
        if last is None or parts[last[0].key] != parts[frame.key]:
            pose = np.eye(4)
        else:
            found, motion = tracker.compute(last[1], seen)
            # `motion` takes points of the last frame to this one.
            pose = pose @ np.linalg.inv(motion) if found else pose
        poses[frame.stamp_ns], last = pose, (frame, seen)
    return poses


def with_wrong(truth: Mapping[int, Float64Array], seed: int) -> dict[int, Float64Array]:
    """Return poses of which a share has jumped by half a metre, as after a wrong localisation."""
    rng, poses = np.random.default_rng(seed), {}
    for stamp, pose in truth.items():
        poses[stamp] = moved = pose.copy()
        if rng.random() < WRONG_POSES:
            direction = rng.normal(size=3)
            moved[:3, 3] += 0.5 * direction / np.linalg.norm(direction)
    return poses


def pose_errors(folder: Path) -> float:
    """Return the median error of the odometry over 1 s, metres."""
    truth, found = (read_poses(folder / name, NAME) for name in ("true", "odometry"))
    errors = []
    for frame in Dataset.open(folder / "true").frames:
        later = frame.stamp_ns + 1_000_000_000
        if later in truth:
            moved = [np.linalg.inv(poses[frame.stamp_ns]) @ poses[later] for poses in (truth, found)]
            errors.append(float(np.linalg.norm(moved[0][:3, 3] - moved[1][:3, 3])))
    return round(float(np.median(errors)), 3)


def make_model(folder: Path, data: Path, seed: int, options: argparse.Namespace) -> LoadedModel:
    """Return the CAM network of a world, which is trained if it is missing."""
    width, height = options.size
    given = [
        *(f"data.path={data}", f"data.features={folder / 'features'}", f"data.image_size=[{height},{width}]"),
        *(f"output={folder / 'cam'}", f"seed={seed}", f"epochs={options.epochs}", "device=cpu"),
        *(f"model.arguments.weights={options.weights.resolve()}", "model.arguments.backbone=mobilenetv2_100"),
        "model.arguments.backbone_arguments={pad_type: same}",
        *("model.arguments.mean=[0.5,0.5,0.5]", "model.arguments.std=[0.5,0.5,0.5]"),
    ]
    return load_model(train(load_settings(TrainSettings, CONFIG, given)).model)


def score(model: LoadedModel, folder: Path, way: str, refine: str) -> dict[str, float]:
    """Return the mIoU of the masks in %, at the usual threshold and at the best one, and the share of fused frames."""
    views, poses = WAYS[way]
    dataset = Dataset.open(folder / poses)
    settings = CamSettings(refine=refinement_settings(refine), device="cpu")
    fused = None if views == "none" else FusedScores(model, dataset, settings, views)  # type: ignore[arg-type]
    sweep = ThresholdSweep(len(dataset.classes))
    keys = {frame.key for frame in dataset.frames[::SCORED]}
    scored = dataset.subset(predicate=lambda frame: frame.key in keys)
    for frame in score_frames(model, scored, settings, fused):
        assert frame.sample.mask is not None  # of a synthetic recording
        sweep.update(frame.scores, frame.tags, frame.sample.mask)
    best, curve = sweep.best(), sweep.curve()
    usual = int(np.abs(np.asarray(curve.thresholds) - decision_threshold(model, settings).value).argmin())
    share = fused.counts.fused / len(scored) if fused else 0.0
    return {"usual": 100 * float(curve.miou[usual]), "best": 100 * best.miou, "fused": share}


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of an earlier run."""
    file = out / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(found: Sequence[Mapping[str, Any]], worlds: Sequence[WorldKind], seeds: Sequence[int]) -> str:
    """Return the table of all worlds, mIoU in %, mean and standard deviation over the seeds."""
    lines = ["| world | views | CAM, best threshold | CAM | refined, best threshold | refined | fused frames |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for world in worlds:
        for way in WAYS:
            mine = [r for r in found if r["world"] == world.name and r["way"] == way and r["seed"] in seeds]
            cells = [
                spread([row[figure] for row in mine if row["refine"] == refine])
                for refine in ("none", "auto")
                for figure in ("best", "usual")
            ]
            share = mean([row["fused"] for row in mine]) if mine else math.nan
            lines.append(f"| {world.name} | {way} | {' | '.join(cells)} | {share:.0%} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation."""
    if not values:
        return ""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
