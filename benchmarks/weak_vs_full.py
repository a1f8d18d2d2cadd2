"""From tags to a robot-ready network, stage by stage, against full supervision; and what each choice contributes.

    python benchmarks/weak_vs_full.py --out bench_weak --seeds 11 42 55 --jobs 2

Makes the scenes; for each seed trains CAM networks, makes pseudo masks, distils run-time networks from them, and trains
the same networks on drawn masks. Every step is a process of one thread and is made only if it is missing. Prints three
tables; tables.md and tables.json in the output folder hold them too. Hours on two cores; `--skip-ablation` leaves out
two thirds of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from deal_core.evaluation.result import EvaluationResult
from deal_core.evaluation.seeds import summarise_seeds
from deal_core.experiments.definitions import make_scenes, synthetic_scenes

CONFIG = Path(__file__).parent.parent / "config"
REFINEMENTS = ("none", "par", "crf", "walk", "regions")
TEST = ("--recording", "test", "--pictures", "0")

BASELINE, DEAL = "baseline", "DEAL"
CAM_RUNS: Mapping[str, tuple[str, ...]] = {
    BASELINE: ("deal.weight=0",),
    DEAL: (),
    "w 0.1": ("deal.weight=0.1",),
    "w 0.3": ("deal.weight=0.3",),
    "depth: min-max, slope kept, gain 1": (
        "deal.depth_value=min_max",
        "deal.depth_slope=keep",
        "deal.depth_gain=1",
    ),
    "depth: min-max": ("deal.depth_value=min_max",),
    "depth: metres as they are": ("deal.depth_value=none",),
    "depth: slope kept": ("deal.depth_slope=keep",),
    "depth edges: by their maximum": ("deal.depth_edge=max", "deal.depth_gain=1"),
    "CAM: min-max": ("deal.cam_value=min_max",),
    "CAM: sigmoid": ("deal.cam_value=sigmoid",),
    "CAM edges: by their bound": ("deal.cam_edge=bound",),
}
"""What each run changes in config/demo.yaml: w 1, CAM relu and maximum, its edges by their maximum, depth inverse and
min-max, its edges by their bound, slope removed, gain 3."""

ON_ROBOT = ("--tags", "predicted", "--no-flip")
"""How run-time networks are evaluated: each image once, without tags."""

DRAWN = ("clip.below=0",)  # no drawn mask is wrong, so no loss is cut: the better bound

STUDENTS: Mapping[str, tuple[str, ...]] = {"RGB": (), "RGB-D": ("model.arguments.inputs=rgbd",)}
"""What each run-time network changes in config/demo_distill.yaml."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_weak"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 42, 55])
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--scenes", type=int, nargs=2, default=(150, 40), metavar=("TRAIN", "TEST"))
    parser.add_argument("--cam-epochs", type=int, default=12)
    parser.add_argument("--student-epochs", type=int, default=20)
    parser.add_argument("--skip-ablation", action="store_true")
    arguments = parser.parse_args()
    dataset = make_scenes(arguments.out, synthetic_scenes(*arguments.scenes))
    bench = Bench(arguments.out, dataset, arguments.jobs, arguments.cam_epochs, arguments.student_epochs)
    seeds = arguments.seeds
    with ThreadPoolExecutor(512) as pool:  # steps wait for each other in threads; `bench` limits the processes
        bench.pool = pool
        stages = {seed: bench.stages(seed) for seed in seeds}
        ablation = {} if arguments.skip_ablation else {seed: bench.ablation(seed) for seed in seeds}
        tables = [stage_table([collect(stages[seed]) for seed in seeds], seeds)]
        if ablation:
            ablations = [collect(ablation[seed]) for seed in seeds]
            tables += [refinement_table(ablations), loss_table(ablations)]
    text = "\n".join(tables)
    (arguments.out / "tables.md").write_text(text, encoding="utf-8")
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    figures = {
        str(seed): {
            name: {"auto": r.auto and r.auto.miou, "oracle": r.oracle and r.oracle.miou}
            for name, r in {**collect(stages[seed]), **collect(ablation.get(seed, {}))}.items()
        }
        for seed in seeds
    }
    record = {"machine": f"{platform.machine()}, {machine}, torch {torch.__version__}", "runs": figures}
    (arguments.out / "tables.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    print(text)


@dataclass
class Bench:
    """The steps, each made in a process of its own when it is missing and what it needs is there.

    Args:
        out: folder for everything.
        dataset: with the recordings train and test.
        jobs: processes at once.
        cam_epochs: of each CAM network.
        student_epochs: of each run-time network.
    """

    out: Path
    dataset: Path
    jobs: int
    cam_epochs: int
    student_epochs: int
    pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._slots = threading.Semaphore(self.jobs)
        self._trained: dict[tuple[str, int], Future[Path]] = {}
        self._evaluated: dict[tuple[Future[Path], str], Future[EvaluationResult]] = {}

    def stages(self, seed: int) -> dict[str, Future[EvaluationResult]]:
        """Return the figures of every stage between tags and robot, and of drawn masks."""
        deal, baseline = self.cam_network(DEAL, seed), self.cam_network(BASELINE, seed)
        masks = self.pool.submit(self._make_masks, deal, self.out / "masks" / str(seed))
        found = {
            "CAM baseline": self.evaluate(baseline, "none"),
            "CAM + DEAL": self.evaluate(deal, "none"),
            "CAM + DEAL, classes found": self.evaluate(deal, "found", "--tags", "predicted"),
            "pseudo masks": self.evaluate(deal, "regions", "--refine", "regions"),
            "pseudo masks, training images": self.evaluate(masks, "train", options=("--recording", "train")),
        }
        for student, overrides in STUDENTS.items():
            weak = self.pool.submit(self._distil, masks, f"weak-{student}", seed, overrides)
            full = self.pool.submit(self._distil, None, f"full-{student}", seed, (*overrides, *DRAWN))
            for name, network in ((f"distilled {student}", weak), (f"fully supervised {student}", full)):
                found[name] = self.evaluate(network, "robot", *ON_ROBOT)
                if student != "RGB":
                    found[f"{name}, depth failed"] = self.evaluate(
                        network, "robot-depth-fails", *ON_ROBOT, "--depth-fails"
                    )
        return found

    def ablation(self, seed: int) -> dict[str, Future[EvaluationResult]]:
        """Return the figures of each refinement, and of each way to compute the loss."""
        found = {}
        for name in (BASELINE, DEAL):
            for refine in REFINEMENTS:
                found[f"{name}|{refine}"] = self.evaluate(self.cam_network(name, seed), refine, "--refine", refine)
        for name in CAM_RUNS:
            network = self.cam_network(name, seed)
            found[f"{name}|none"] = self.evaluate(network, "none")
            found[f"{name}|regions"] = self.evaluate(network, "regions", "--refine", "regions")
        return found

    def cam_network(self, name: str, seed: int) -> Future[Path]:
        """Return the model file of a run of `CAM_RUNS`."""
        if (name, seed) not in self._trained:
            self._trained[name, seed] = self.pool.submit(self._train, name, seed)
        return self._trained[name, seed]

    def evaluate(
        self,
        made: Future[Path],
        name: str,
        *arguments: str,
        options: Sequence[str] = TEST,
    ) -> Future[EvaluationResult]:
        """Return the figures of a model file, or of a folder of pseudo masks; `name` stands for all arguments."""

        def run() -> EvaluationResult:
            model = made.result()
            folder = (model if model.is_dir() else model.parent) / f"evaluation-{name}"
            if not (folder / "evaluation.json").exists():
                self._deal("evaluate", str(model), str(self.dataset), *options, *arguments, f"--out={folder}")
            return EvaluationResult.read(folder)

        if (made, name) not in self._evaluated:
            self._evaluated[made, name] = self.pool.submit(run)
        return self._evaluated[made, name]

    def _train(self, name: str, seed: int) -> Path:
        folder = self.out / "cams" / f"{_file_name(name)}-{seed}"
        settings = [*self._common(seed, folder, self.cam_epochs), *CAM_RUNS[name]]
        return self._trained_by("train", CONFIG / "demo.yaml", folder, settings)

    def _distil(self, masks: Future[Path] | None, name: str, seed: int, overrides: Sequence[str]) -> Path:
        folder = self.out / "students" / f"{name}-{seed}"
        where = masks.result() if masks else "drawn"
        settings = [*self._common(seed, folder, self.student_epochs), f"masks={where}", *overrides]
        return self._trained_by("distill", CONFIG / "demo_distill.yaml", folder, settings)

    def _common(self, seed: int, folder: Path, epochs: int) -> list[str]:
        data = [f"data.path={self.dataset}", "data.recordings=[train]"]
        return [*data, f"output={folder}", f"seed={seed}", f"epochs={epochs}"]

    def _trained_by(self, command: str, config: Path, folder: Path, settings: Sequence[str]) -> Path:
        model = folder / "model.safetensors"
        if not model.exists():
            self._deal(command, str(config), *settings, "--json")
        return model

    def _make_masks(self, network: Future[Path], folder: Path) -> Path:
        model, done = network.result(), folder / "done"
        if not done.exists():
            self._deal(
                "cams", str(model), str(self.dataset), f"--out={folder}", "--recording", "train", "--refine", "regions"
            )
            done.touch()
        return folder

    def _deal(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "deal_ros", *arguments]
        with self._slots:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        print(" ".join(arguments[:2] + arguments[-2:]), file=sys.stderr, flush=True)


def collect(steps: Mapping[str, Future[EvaluationResult]]) -> dict[str, EvaluationResult]:
    """Wait for the figures of one seed."""
    return {name: step.result() for name, step in steps.items()}


def stage_table(per_seed: Sequence[Mapping[str, EvaluationResult]], seeds: Sequence[int]) -> str:
    """Return mean and standard deviation of each stage, and its share of full supervision seed by seed."""
    lines = [
        f"Test mIoU in % with automatic thresholds, mean ± std over seeds {', '.join(map(str, seeds))}",
        "",
        "| stage | mIoU | boundary F | of fully supervised, seed by seed |",
        "|---|---:|---:|---|",
    ]
    for name in per_seed[0]:
        full = f"fully supervised {'RGB-D' if 'RGB-D' in name else 'RGB'}"
        shares = [f"{_auto(found[name]) / _auto(found[full]):.3f}" for found in per_seed]
        boundary = summarise_seeds([r.auto.boundary_f for r in (found[name] for found in per_seed) if r.auto])
        lines.append(f"| {name} | {_mean(per_seed, name)} | {boundary.percent()} | {', '.join(shares)} |")
    return "\n".join(lines) + "\n"


def refinement_table(per_seed: Sequence[Mapping[str, EvaluationResult]]) -> str:
    """Return what each refinement makes of the CAMs of both networks."""
    lines = ["Depth at label time: test mIoU in %", "", "| refinement | " + " | ".join(_headings()) + " |"]
    lines.append("|---|" + "---:|" * len(_headings()))
    for refine in REFINEMENTS:
        cells = [
            f"{_mean(per_seed, f'{name}|{refine}')} | {_mean(per_seed, f'{name}|{refine}', _oracle)}"
            for name in (BASELINE, DEAL)
        ]
        lines.append(f"| {refine} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def loss_table(per_seed: Sequence[Mapping[str, EvaluationResult]]) -> str:
    """Return what the weight of the loss, and what it compares, does to CAMs and pseudo masks."""
    lines = [
        "The loss: test mIoU in %",
        "",
        "| run | CAM, auto | CAM, oracle | pseudo masks (regions), auto | pseudo masks, oracle |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in CAM_RUNS:
        cells = [_mean(per_seed, f"{name}|{at}", figure) for at in ("none", "regions") for figure in (_auto, _oracle)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _headings() -> list[str]:
    return [f"{name}, {threshold}" for name in (BASELINE, DEAL) for threshold in ("auto", "oracle")]


def _auto(result: EvaluationResult) -> float:
    assert result.auto is not None
    return result.auto.miou


def _oracle(result: EvaluationResult) -> float:
    assert result.oracle is not None
    return result.oracle.miou


def _mean(
    per_seed: Sequence[Mapping[str, EvaluationResult]],
    name: str,
    figure: Callable[[EvaluationResult], float] = _auto,
) -> str:
    return summarise_seeds([figure(found[name]) for found in per_seed]).percent()


def _file_name(name: str) -> str:
    return "".join(character if character.isalnum() or character == "." else "-" for character in name)


if __name__ == "__main__":
    main()
