"""`deal demo`: all three jobs on a recording the project makes itself; no camera, GPU or download needed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deal_core.errors import DealError
from training.settings import config_folder

if TYPE_CHECKING:
    from deal_core.data.dataset import Dataset
    from deal_core.evaluation import EvaluationResult, MaskScore

_MARKER = ".deal-demo"
_TRAIN, _HELD_OUT = "train", "held_out"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes; replaced if a demo made it.")] = Path(
        "demo_output"
    ),
    scenes: Annotated[int, typer.Option(min=4, help="Tabletops to train on; 6 views each.")] = 150,
    epochs: Annotated[int, typer.Option(min=1, help="Of each of the two trainings.")] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 11,
    config: Annotated[Path | None, typer.Option(help="Training settings; config/demo.yaml if left out.")] = None,
) -> None:
    """Record synthetic scenes, train with and without DEAL, compare, and segment through a real ROS 2 node.

    Example: deal demo --out demo_output
    """
    from training.console import console

    def say(step: str) -> None:
        console().print(step, style="bold", markup=False)

    started = time.monotonic()
    folder = _fresh_folder(out)
    say("1/5 record: synthetic tabletops, tags and depth as a RealSense would give")
    recordings = _record(folder / "recordings", scenes, seed)
    say("2/5 extract: recordings into a dataset")
    dataset = _extract(recordings, folder / "dataset")
    say("3/5 train from tags and depth: the same schedule without and with the depth edge alignment loss")
    models = _train(dataset, folder / "runs", config or config_folder() / "demo.yaml", epochs, seed)
    say("4/5 evaluate on scenes never seen")
    results = _evaluate(models, dataset)
    say("5/5 run: a ROS 2 node segments the held-out recording, pair by pair, over DDS")
    node = _run_node(models["DEAL"], recordings[_HELD_OUT], dataset, folder / "node")
    report, picture = _show(results, models, dataset, folder)
    _print_summary(results, node)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    found = f"  report:  {report}\n  picture: {picture}\n  model:   {models['DEAL']}"
    console().print(f"\ndone in {minutes} min {seconds} s\n{found}", markup=False)


@dataclass(frozen=True)
class NodeResult:
    """What the node did with the held-out recording; `reason` says why it was not run, if so."""

    score: MaskScore | None = None
    sent: int = 0
    answered: int = 0
    latency_ms: float = 0.0
    reason: str = ""


def _record(folder: Path, scenes: int, seed: int) -> dict[str, Path]:
    from deal_core.data.synthetic import SyntheticConfig, render_scenes, write_recording
    from training.console import track

    held_out_scenes = max(scenes // 5, 2)
    configs = {
        _TRAIN: SyntheticConfig(seed=seed, scenes=scenes, frames_per_scene=6, width=160, height=120),
        _HELD_OUT: SyntheticConfig(
            seed=seed + 1_000_000, scenes=held_out_scenes, frames_per_scene=5, width=160, height=120
        ),
    }
    paths = {}
    for name, config in configs.items():
        paths[name] = folder / name
        write_recording(paths[name], config, track(render_scenes(config), name, config.frames))
    return paths


def _extract(recordings: dict[str, Path], out: Path) -> Path:
    from deal_core.data.extract import ExtractOptions, extract_recording

    for path in recordings.values():
        extract_recording(path, out, ExtractOptions())
    return out


def _train(dataset: Path, runs: Path, config: Path, epochs: int, seed: int) -> dict[str, Path]:
    """Train both networks side by side, each a `deal train` of its own: small networks use one core well, two badly."""
    import os

    from training.console import progress

    common = [f"data.path={dataset}", f"data.recordings=[{_TRAIN}]", f"epochs={epochs}", f"seed={seed}"]
    variants = {"baseline": ["deal.weight=0"], "DEAL": []}
    folders = {name: runs / name.lower() for name in variants}
    environment = {**os.environ, "OMP_NUM_THREADS": str(max((os.cpu_count() or 2) // len(variants), 1))}
    runs.mkdir(parents=True)
    with ExitStack() as stack:
        bar = stack.enter_context(progress())
        training = {}
        for name, extra in variants.items():
            log = stack.enter_context((runs / f"{name.lower()}.log").open("wb"))
            overrides = [*common, f"output={folders[name]}", *extra]
            command = [sys.executable, "-m", "training.cli", "train", str(config), *overrides, "--json"]
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            stack.callback(_end, process)
            training[bar.add_task(name, total=epochs)] = (name, process)
        while any(process.poll() is None for _, process in training.values()):
            time.sleep(0.5)
            for task, (name, _) in training.items():
                bar.update(task, completed=_epochs_done(folders[name]))
    for name, process in training.values():
        if process.returncode:
            text = (runs / f"{name.lower()}.log").read_text(encoding="utf-8", errors="replace")
            raise DealError(f"training {name} failed with exit code {process.returncode}: {text[-2000:]}")
    return {name: folder / "model.safetensors" for name, folder in folders.items()}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait()


def _epochs_done(run: Path) -> int:
    history = run / "history.jsonl"
    text = history.read_text(encoding="utf-8") if history.exists() else ""
    lines = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]  # the last one may be half-written
    return int(json.loads(lines[-1])["epoch"]) if lines else 0


def _evaluate(models: dict[str, Path], dataset: Path) -> dict[str, EvaluationResult]:
    from deal_core.data.dataset import Dataset
    from deal_core.inference import CamSettings
    from training.evaluate import run_evaluation

    frames = Dataset.open(dataset).subset(recordings=[_HELD_OUT])
    results: dict[str, EvaluationResult] = {}
    for name, model in models.items():
        # All runs draw the frames on which the first one is worst, so that the report sets them side by side.
        first = next(iter(models.values())).parent if results else None
        results[name] = run_evaluation(model, frames, model.parent, CamSettings(), name=name, frames_of=first)
    return results


def _run_node(model: Path, recording: Path, dataset: Path, folder: Path) -> NodeResult:
    """Start the node as a process of its own, replay to it, and score the masks it published."""
    import importlib.util
    import os

    if importlib.util.find_spec("rclpy") is None:
        return NodeResult(reason="rclpy is not installed here; `deal doctor` tells how to get it")
    from deal_core.data.dataset import Dataset
    from deal_ros.process import segmentation_process
    from deal_ros.replay_node import replay_recording

    folder.mkdir(parents=True)
    # A domain of its own: the demo neither hears a robot on this network nor is heard by it. From 102 on, domains use
    # ports that Linux hands out to others.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    remappings = {
        "color/image_raw": "/camera/camera/color/image_raw",
        "depth/image_raw": "/camera/camera/aligned_depth_to_color/image_raw",
    }
    parameters: dict[str, str | int | float] = {"depth_mode": "required", "max_age_ms": 0}
    with segmentation_process(model, folder / "node.log", parameters=parameters, remappings=remappings) as node:
        result = replay_recording(recording, folder / "masks", is_alive=node.is_alive)
    score = _score_masks(folder / "masks", Dataset.open(dataset).subset(recordings=[_HELD_OUT]))
    latency = sorted(result.latency_ms)[len(result.latency_ms) // 2] if result.latency_ms else 0.0
    return NodeResult(score, len(result.sent), len(result.answered), latency)


def _score_masks(masks: Path, frames: Dataset) -> MaskScore:
    import cv2

    from deal_core.evaluation import MaskEvaluator

    evaluator = MaskEvaluator(len(frames.classes))
    for frame in frames.frames:
        file = masks / f"{frame.stamp_ns}.png"
        truth = frames.load(frame).mask
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) if file.exists() else None
        if mask is not None and truth is not None:
            evaluator.update(mask, truth, frame.key)
    return evaluator.score(frames.classes, rule="node")


def _show(
    results: dict[str, EvaluationResult], models: dict[str, Path], dataset: Path, folder: Path
) -> tuple[Path, Path]:
    from deal_core.data.dataset import Dataset
    from deal_core.evaluation import predict_mask, winning_class
    from deal_core.inference import score_frames
    from deal_core.modelfile import load_model
    from deal_core.pictures import SummaryFrame, SummaryRun, summary_figure
    from deal_core.report import read_run, write_report

    report = write_report(
        [read_run(model.parent) for model in models.values()],
        folder / "report.html",
        title="DEAL demo: what depth adds to tags",
    )
    shown = _frames_to_show(results["DEAL"])
    frames = Dataset.open(dataset).subset(predicate=lambda frame: frame.key in shown)
    loaded = [load_model(path) for path in models.values()]
    rows = []
    for per_model in zip(*(score_frames(model, frames) for model in loaded), strict=True):
        sample = per_model[0].sample
        assert sample.mask is not None
        rows.append(
            SummaryFrame(
                image=sample.image,
                depth=sample.depth,
                depth_valid=sample.depth_valid,
                truth=sample.mask,
                predictions=[
                    predict_mask(frame.scores, frame.tags, model.info.threshold.value)
                    for frame, model in zip(per_model, loaded, strict=True)
                ],
                heats=[winning_class(frame.scores, frame.tags)[0] for frame in per_model],
            )
        )
    runs = [SummaryRun(name, result.auto.miou if result.auto else 0.0) for name, result in results.items()]
    picture = summary_figure(folder / "summary.png", rows, runs, results["DEAL"].classes)
    return report, picture


def _frames_to_show(result: EvaluationResult) -> set[str]:
    """Return up to four frames around the median: neither the best nor the worst of them."""
    ranked = sorted((f for f in result.per_frame if f.iou == f.iou), key=lambda frame: frame.iou)
    places = [round(len(ranked) * share) for share in (0.4, 0.5, 0.6, 0.7)]
    return {ranked[min(place, len(ranked) - 1)].key for place in places}


def _print_summary(results: dict[str, EvaluationResult], node: NodeResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="mIoU on held-out scenes, %")
    for column in ("", "auto threshold", "oracle threshold", "boundary F (auto)"):
        table.add_column(column, justify="left" if not column else "right")
    for name, result in results.items():
        auto, oracle = result.auto, result.oracle
        assert auto is not None and oracle is not None
        table.add_row(name, f"{100 * auto.miou:.1f}", f"{100 * oracle.miou:.1f}", f"{100 * auto.boundary_f:.1f}")
    if node.score is not None:
        table.add_row(
            "DEAL, through the node", f"{100 * node.score.miou:.1f}", "", f"{100 * node.score.boundary_f:.1f}"
        )
    Console().print(table)
    if node.reason:
        Console().print(f"node: not run, {node.reason}")
    else:
        Console().print(
            f"node: {node.sent} pairs sent, {node.answered} masks received with their stamps, "
            f"{node.latency_ms:.0f} ms from pair to mask (median)"
        )


def _fresh_folder(out: Path) -> Path:
    """Make the folder; replace the one of an earlier demo, and nothing else."""
    import shutil

    from deal_core.errors import UsageError

    if out.exists():
        if not (out / _MARKER).exists() and any(out.iterdir()):
            raise UsageError(f"{out} exists and was not made by the demo: choose another --out, or remove it")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).touch()
    return out
