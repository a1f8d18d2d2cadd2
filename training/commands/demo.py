"""`deal demo`: all three jobs on a recording the project makes itself; no camera, GPU or download needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deal_core.errors import DealError
from training.support.config_folder import config_folder

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.evaluation.metrics import MaskScore
    from deal_core.evaluation.result import EvaluationResult
    from deal_core.masks.score_dataset import CamSettings

_MARKER = ".deal-demo"
_TRAIN, _HELD_OUT = "train", "held_out"
BASELINE, DEAL, PSEUDO, DISTILLED, FULL = "baseline", "DEAL", "pseudo masks", "distilled", "drawn masks"
_NEEDS = {BASELINE: "colour, tags", DEAL: "colour, tags", PSEUDO: "colour, depth, tags"}
"""What masks of a held-out frame are made from; the other networks see colour alone."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes; replaced if a demo made it.")] = Path(
        "demo_output"
    ),
    scenes: Annotated[int, typer.Option(min=4, help="Tabletops to train on; 6 views each.")] = 80,
    epochs: Annotated[int, typer.Option(min=1, help="Of each of the four trainings.")] = 10,
    seed: Annotated[int, typer.Option(min=0)] = 11,
    config: Annotated[Path | None, typer.Option(help="Settings of the CAM networks; config/demo.yaml if left out.")] = (
        None
    ),
    student: Annotated[
        Path | None, typer.Option(help="Settings of the run-time network; config/demo_distill.yaml if left out.")
    ] = None,
) -> None:
    """Record synthetic scenes, train from tags and depth, distil, and segment through a real ROS 2 node.

    Shows what each step brings, beside the same network trained on drawn masks.

    Example: deal demo --out demo_output
    """
    from training.support.console import console

    def say(step: str) -> None:
        console().print(step, style="bold", markup=False)

    started = time.monotonic()
    folder = fresh_folder(out)
    say("1/7 record: synthetic tabletops, tags and depth as a RealSense would give")
    recordings = _record(folder / "recordings", scenes, seed)
    say("2/7 extract: recordings into a dataset")
    dataset = _extract(recordings, folder / "dataset")
    made = _Making(dataset, folder / "runs", epochs, seed)
    say("3/7 train from tags and depth: the same schedule without and with the depth edge alignment loss")
    cams = config or config_folder() / "demo.yaml"
    deal = made.model(DEAL)
    with made.started({BASELINE: ["train", str(cams), "deal.weight=0"], DEAL: ["train", str(cams)]}) as networks:
        made.wait(networks)
    say("4/7 pseudo masks: the CAMs of DEAL, brought to what is connected in depth")
    masks = folder / "masks"
    small = str(student or config_folder() / "demo_distill.yaml")
    # The bound needs no pseudo masks: it is trained on the core that making them leaves idle.
    with made.started({FULL: ["distill", small, "masks=drawn"]}) as bound:
        _make_masks(deal, dataset, masks)
        say("5/7 distil: a network for the robot from pseudo masks, and the same one from drawn masks, as a bound")
        with made.started({DISTILLED: ["distill", small, f"masks={masks}"]}) as distilled:
            made.wait({**distilled, **bound})
    say("6/7 evaluate on scenes never seen")
    stages = _stages(made)
    results = _evaluate(stages, dataset)
    say("7/7 run: a ROS 2 node segments the held-out recording with the distilled network, pair by pair, over DDS")
    model = made.model(DISTILLED)
    node = _run_node(model, recordings[_HELD_OUT], dataset, folder / "node")
    report, picture = _show(stages, results, dataset, folder)
    _print_summary(results, node)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    found = f"  report:  {report}\n  picture: {picture}\n  model:   {model}"
    console().print(f"\ndone in {minutes} min {seconds} s\n{found}", markup=False)


@dataclass(frozen=True)
class Stage:
    """A step between tags and robot.

    Args:
        name: in tables and pictures.
        model: whose masks are measured.
        folder: where its evaluation lies.
        settings: how the masks are made.
    """

    name: str
    model: Path
    folder: Path
    settings: CamSettings


@dataclass(frozen=True)
class NodeResult:
    """What the node did with the held-out recording; `reason` says why it was not run, if so."""

    score: MaskScore | None = None
    sent: int = 0
    answered: int = 0
    latency_ms: float = 0.0
    reason: str = ""


def _record(folder: Path, scenes: int, seed: int) -> dict[str, Path]:
    from deal_core.synthetic.recording import SyntheticConfig, render_scenes, write_recording
    from training.support.console import track

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
    from deal_core.dataset.extract import ExtractOptions, extract_recording

    for path in recordings.values():
        extract_recording(path, out, ExtractOptions())
    return out


@dataclass(frozen=True)
class _Making:
    """Trainings on the demo's dataset."""

    dataset: Path
    runs: Path
    epochs: int
    seed: int

    def run_folder(self, name: str) -> Path:
        return self.runs / name.lower().replace(" ", "_")

    def model(self, name: str) -> Path:
        from deal_core.models.model_file import MODEL_FILE

        return self.run_folder(name) / MODEL_FILE

    def log(self, name: str) -> Path:
        return self.runs / f"{self.run_folder(name).name}.log"

    @contextmanager
    def started(self, commands: Mapping[str, Sequence[str]]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        """Train side by side, each a `deal` of its own; what still trains at the end of the block is stopped.

        Two at a time share the cores: small networks use one core well, two badly.
        """
        common = [f"data.path={self.dataset}", f"data.recordings=[{_TRAIN}]", f"epochs={self.epochs}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(_half_the_cores())}
        self.runs.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            training = {}
            for name, arguments in commands.items():
                log = stack.enter_context(self.log(name).open("wb"))
                overrides = [*common, f"seed={self.seed}", f"output={self.run_folder(name)}"]
                command = [sys.executable, "-m", "deal_ros", *arguments, *overrides, "--json"]
                training[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
                stack.callback(_end, training[name])
            yield training

    def wait(self, training: Mapping[str, subprocess.Popen[bytes]]) -> None:
        """Show how far the trainings are until all have ended.

        Raises:
            DealError: one failed.
        """
        from deal_core.experiments.run import epochs_done
        from training.support.console import progress

        with progress() as bar:
            tasks = {name: bar.add_task(name, total=self.epochs) for name in training}
            while any(process.poll() is None for process in training.values()):
                time.sleep(0.2)
                for name, task in tasks.items():
                    bar.update(task, completed=epochs_done(self.run_folder(name)))
        for name, process in training.items():
            if process.returncode:
                text = self.log(name).read_text(encoding="utf-8", errors="replace")
                raise DealError(f"training {name} failed with exit code {process.returncode}: {text[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait()


def _half_the_cores() -> int:
    return max((os.cpu_count() or 2) // 2, 1)


def _make_masks(model: Path, dataset: Path, out: Path) -> None:
    import torch

    from deal_core.dataset.dataset import Dataset
    from deal_core.masks.mask_folder import write_cams
    from deal_core.masks.refine.regions import RegionSettings
    from deal_core.masks.score_dataset import CamSettings
    from deal_core.models.model_file import load_model
    from training.support.console import track

    torch.set_num_threads(_half_the_cores())  # a training has the others: waiting for it costs six times as long
    frames = Dataset.open(dataset).subset(recordings=[_TRAIN])
    steps = write_cams(load_model(model), frames, out, CamSettings(refine=RegionSettings()))
    sum(track(steps, PSEUDO, total=len(frames)))


def _stages(made: _Making) -> list[Stage]:
    from deal_core.masks.refine.regions import RegionSettings
    from deal_core.masks.score_dataset import CamSettings

    given, alone = CamSettings(), CamSettings(tags="predicted", flip=False)

    def stage(name: str, run: str, settings: CamSettings) -> Stage:
        return Stage(name, made.model(run), made.run_folder(name), settings)

    return [
        stage(BASELINE, BASELINE, given),
        stage(DEAL, DEAL, given),
        stage(PSEUDO, DEAL, CamSettings(refine=RegionSettings())),
        stage(DISTILLED, DISTILLED, alone),
        stage(FULL, FULL, alone),
    ]


def _evaluate(stages: Sequence[Stage], dataset: Path) -> dict[str, EvaluationResult]:
    from deal_core.dataset.dataset import Dataset
    from training.commands.evaluate import Pictured, run_evaluation

    frames = Dataset.open(dataset).subset(recordings=[_HELD_OUT])
    results: dict[str, EvaluationResult] = {}
    for stage in stages:
        # All runs draw the frames on which the first one is worst, so that the report sets them side by side.
        pictured = Pictured(as_in=stages[0].folder if results else None)
        results[stage.name] = run_evaluation(
            stage.model, frames, stage.folder, stage.settings, name=stage.name, pictured=pictured
        )
    return results


def _run_node(model: Path, recording: Path, dataset: Path, folder: Path) -> NodeResult:
    """Start the node as a process of its own, replay to it, and score the masks it published."""
    import importlib.util

    if importlib.util.find_spec("rclpy") is None:
        return NodeResult(reason="rclpy is not installed here; `deal doctor` tells how to get it")
    from deal_core.dataset.dataset import Dataset
    from deal_ros.node.domains import unused_domains
    from deal_ros.node.process import segmentation_process
    from deal_ros.replay.main import replay_recording

    folder.mkdir(parents=True)
    # A domain of its own: the demo neither hears a robot on this network nor is heard by it.
    os.environ.setdefault("ROS_DOMAIN_ID", str(next(unused_domains(os.getpid()))))
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

    from deal_core.evaluation.metrics import MaskEvaluator

    evaluator = MaskEvaluator(len(frames.classes))
    for frame in frames.frames:
        file = masks / f"{frame.stamp_ns}.png"
        sample = frames.load(frame)
        truth = sample.mask
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) if file.exists() else None
        if mask is not None and truth is not None:
            evaluator.update(mask, truth, frame.key, sample.tags)
    return evaluator.score(frames.classes, rule="node")


def _show(
    stages: Sequence[Stage], results: Mapping[str, EvaluationResult], dataset: Path, folder: Path
) -> tuple[Path, Path]:
    from deal_core.dataset.dataset import Dataset
    from deal_core.masks.decide import predict_mask
    from deal_core.masks.score_dataset import score_frames
    from deal_core.models.model_file import load_model
    from deal_core.report.page import read_run, write_report
    from deal_core.report.summary_figure import SummaryFrame, SummaryRun, summary_figure

    report = write_report(
        [read_run(stage.folder) for stage in stages],
        folder / "report.html",
        title="DEAL demo: from tags and depth to a network for the robot",
    )
    shown = _frames_to_show(results[DEAL])
    frames = Dataset.open(dataset).subset(predicate=lambda frame: frame.key in shown)
    loaded = [load_model(stage.model) for stage in stages]
    rows = []
    scored = (score_frames(model, frames, stage.settings) for model, stage in zip(loaded, stages, strict=True))
    for per_stage in zip(*scored, strict=True):
        sample = per_stage[0].sample
        assert sample.mask is not None
        rows.append(
            SummaryFrame(
                image=sample.image,
                depth=sample.depth,
                depth_valid=sample.depth_valid,
                truth=sample.mask,
                predictions=[
                    predict_mask(frame.scores, frame.tags, model.info.threshold.value)
                    for frame, model in zip(per_stage, loaded, strict=True)
                ],
            )
        )
    runs = [SummaryRun(name, result.auto.miou if result.auto else 0.0) for name, result in results.items()]
    picture = summary_figure(folder / "summary.png", rows, runs, results[DEAL].classes)
    return report, picture


def _frames_to_show(result: EvaluationResult) -> set[str]:
    """Return up to four frames around the median: neither the best nor the worst of them."""
    ranked = sorted((f for f in result.per_frame if f.iou == f.iou), key=lambda frame: frame.iou)
    places = [round(len(ranked) * share) for share in (0.4, 0.5, 0.6, 0.7)]
    return {ranked[min(place, len(ranked) - 1)].key for place in places}


def _print_summary(results: Mapping[str, EvaluationResult], node: NodeResult) -> None:
    from rich.console import Console
    from rich.table import Table

    scores = {name: result.auto for name, result in results.items()}
    bound = scores[FULL]
    assert bound is not None
    if node.score is not None:
        scores = {**scores, f"{DISTILLED}, through the node": node.score}
    table = Table(title="mIoU on held-out scenes, %", caption="thresholds found without masks")
    table.add_column("")
    for column in ("needs", "mIoU", "of drawn masks", "boundary F"):
        table.add_column(column, justify="left" if column == "needs" else "right")
    for name, score in scores.items():
        assert score is not None
        share = f"{score.miou / bound.miou:.2f}" if bound.miou else ""
        table.add_row(
            name, _NEEDS.get(name, "colour"), f"{100 * score.miou:.1f}", share, f"{100 * score.boundary_f:.1f}"
        )
    Console().print(table)
    if node.reason:
        Console().print(f"node: not run, {node.reason}")
    else:
        Console().print(
            f"node: {node.sent} pairs sent, {node.answered} masks received with their stamps, "
            f"{node.latency_ms:.0f} ms from pair to mask (median)"
        )


def fresh_folder(out: Path) -> Path:
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
