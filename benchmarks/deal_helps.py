"""Does DEAL help? Synthetic scenes, several seeds, one schedule: mIoU with and without, and what the loss ranks.

    python benchmarks/deal_helps.py --out bench_deal --seeds 11 42 55 --jobs 2

Makes the scenes, trains what is missing (an interrupted benchmark goes on), evaluates on scenes of another seed and
prints two tables; tables.md and tables.json in the output folder hold them too. About 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.transforms import to_tensors
from deal_core.evaluation.evaluate import evaluate_model
from deal_core.evaluation.result import EvaluationResult
from deal_core.evaluation.seeds import summarise_seeds
from deal_core.experiments.definitions import make_scenes, synthetic_scenes
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.masks.threshold_rules import create_rule
from deal_core.models.model_file import load_model
from deal_core.trainer.objective import alignment_loss
from deal_core.trainer.settings import DealSettings

RULES = ("otsu", "depth_edges", "depth_relief")


@dataclass(frozen=True)
class Variant:
    """One way to train: its name in the table, and what it changes in config/demo.yaml."""

    name: str
    overrides: tuple[str, ...]


VARIANTS = (
    Variant("baseline", ("deal.weight=0",)),
    Variant(
        "DEAL, raw slope, w 0.3",
        (
            "deal.weight=0.3",
            "deal.size=[60,80]",
            "deal.depth_value=min_max",
            "deal.depth_slope=keep",
            "deal.depth_gain=1",
        ),
    ),
    Variant("DEAL, slope removed, w 0.3", ("deal.weight=0.3",)),
    Variant("DEAL, slope removed, w 1", ()),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_deal"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 42, 55])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one thread each")
    arguments = parser.parse_args()
    dataset = make_scenes(arguments.out, synthetic_scenes())
    runs = [(variant, seed) for seed in arguments.seeds for variant in VARIANTS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        models = list(pool.map(lambda run: train(dataset, arguments.out, run[0], run[1], arguments.epochs), runs))
    results = {run: evaluate(model, dataset) for run, model in zip(runs, models, strict=True)}
    first = {v.name: m for (v, s), m in zip(runs, models, strict=True) if s == arguments.seeds[0]}
    tables = [
        accuracy_table(results, arguments.seeds),
        rules_table(dataset, dict(zip(runs, models, strict=True)), results, arguments.seeds),
        ranking_table(dataset, first),
    ]
    text = "\n".join(tables)
    (arguments.out / "tables.md").write_text(text, encoding="utf-8")
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "runs": [
            {"variant": v.name, "seed": s, "oracle": r.oracle.miou, "auto": r.auto.miou, "threshold": r.auto.threshold}
            for (v, s), r in results.items()
            if r.oracle and r.auto
        ],
    }
    (arguments.out / "tables.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    print(text)


def train(dataset: Path, out: Path, variant: Variant, seed: int, epochs: int) -> Path:
    """Train in a process of its own, with one thread; return the model file."""
    folder = out / "runs" / f"{variant.name.replace(', ', '-').replace(' ', '-')}-{seed}"
    common = [f"data.path={dataset}", "data.recordings=[train]", f"output={folder}", f"seed={seed}", f"epochs={epochs}"]
    config = Path(__file__).parent.parent / "config" / "demo.yaml"
    if not (folder / "model.safetensors").exists():
        command = [sys.executable, "-m", "deal_ros", "train", str(config), *common, *variant.overrides, "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        print(f"trained {folder.name}", file=sys.stderr)
    return folder / "model.safetensors"


def evaluate(model: Path, dataset: Path) -> EvaluationResult:
    """Return the figures on the test scenes, with given tags."""
    frames = Dataset.open(dataset).subset(recordings=["test"])
    return evaluate_model(load_model(model), frames, CamSettings(), name=model.parent.name)


def accuracy_table(results: dict[tuple[Variant, int], EvaluationResult], seeds: Sequence[int]) -> str:
    """Return mean and standard deviation over the seeds, and the difference to the baseline seed by seed."""
    lines = [
        f"mIoU in %, mean ± std over seeds {', '.join(map(str, seeds))}",
        "",
        "| variant | oracle | auto | boundary F (auto) | oracle, gain seed by seed | auto threshold |",
        "|---|---|---|---|---|---|",
    ]
    baseline = [results[(VARIANTS[0], seed)] for seed in seeds]
    for variant in VARIANTS:
        ours = [results[(variant, seed)] for seed in seeds]
        gains = [f"{100 * (_oracle(o) - _oracle(b)):+.1f}" for o, b in zip(ours, baseline, strict=True)]
        columns = [
            variant.name,
            summarise_seeds([_oracle(r) for r in ours]).percent(),
            summarise_seeds([r.auto.miou for r in ours if r.auto]).percent(),
            summarise_seeds([r.auto.boundary_f for r in ours if r.auto]).percent(),
            ", ".join(gains),
            ", ".join(f"{r.auto.threshold:.2f}" for r in ours if r.auto),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def rules_table(
    dataset: Path,
    models: dict[tuple[Variant, int], Path],
    results: dict[tuple[Variant, int], EvaluationResult],
    seeds: Sequence[int],
) -> str:
    """Return the mIoU on the test scenes at the threshold that each rule takes from the training images."""
    frames = Dataset.open(dataset).subset(recordings=["train"])
    frames = frames.subset(predicate=lambda frame: frame.stamp_ns % 3 == 0)
    gained: dict[tuple[str, str], list[float]] = {}
    for (variant, seed), path in models.items():
        rules = {name: create_rule(name) for name in RULES}
        for frame in score_frames(load_model(path), frames):
            for rule in rules.values():
                rule.update(frame.scores, frame.sample.depth, frame.sample.depth_valid, frame.tags)
        curve = results[(variant, seed)].curve
        assert curve is not None
        for name, rule in rules.items():
            place = int(np.abs(curve.thresholds - rule.threshold()).argmin())
            gained.setdefault((variant.name, name), []).append(float(curve.miou[place]))
    lines = ["mIoU in % at the threshold of each rule", "", f"| variant | oracle | {' | '.join(RULES)} |"]
    lines.append("|" + "---|" * (len(RULES) + 2))
    for variant in VARIANTS:
        oracle = summarise_seeds([_oracle(results[(variant, seed)]) for seed in seeds]).percent()
        cells = [summarise_seeds(gained[(variant.name, name)]).percent() for name in RULES]
        lines.append(f"| {variant.name} | {oracle} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ranking_table(dataset: Path, models: dict[str, Path]) -> str:
    """Return the loss of fixed maps and of trained CAMs on the test scenes, for several ways to take depth edges."""
    frames = Dataset.open(dataset).subset(recordings=["test"])
    scored = {name: list(score_frames(load_model(path), frames)) for name, path in models.items()}
    samples = [frame.sample for frame in next(iter(scored.values()))]
    tensors = [to_tensors(sample) for sample in samples]
    depth, valid, tags = (torch.stack([getattr(t, name) for t in tensors]) for name in ("depth", "valid", "tags"))
    height, width = samples[0].image.shape[:2]
    masks = np.stack([s.mask for s in samples if s.mask is not None])
    truth = torch.from_numpy(np.stack([masks == k + 1 for k in range(len(frames.classes))], 1)).float()
    maps = {"true mask": truth}
    maps |= {f"CAM of {name}": torch.from_numpy(np.stack([f.scores for f in fs])) for name, fs in scored.items()}
    baseline = maps[f"CAM of {VARIANTS[0].name}"]
    maps["peak of the baseline's CAM"] = (baseline - 0.85).relu()
    options = {
        "min-max depth": DealSettings(depth_value="min_max", depth_slope="keep", depth_gain=1),
        "min-max inverse depth": DealSettings(depth_value="inverse_min_max", depth_slope="keep", depth_gain=1),
        "the same, slope removed": DealSettings(depth_value="inverse_min_max", depth_slope="remove", depth_gain=1),
        "the same, gain 3": DealSettings(depth_value="inverse_min_max", depth_slope="remove", depth_gain=3),
    }
    lines = [f"| H' | depth edges | {' | '.join(maps)} | flat map |", "|" + "---|" * (len(maps) + 3)]
    for divisor in (2, 4, 8):
        size = (height // divisor, width // divisor)
        for name, settings in options.items():
            criterion = alignment_loss(settings.model_copy(update={"size": size}), (height, width))
            terms = [criterion.terms(cam, depth, tags, valid) for cam in maps.values()]
            figures = [f"{float(t.loss):+.2f}" for t in terms] + [f"{float(terms[0].flat):+.2f}"]
            lines.append(f"| {size[0]} | {name} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def _oracle(result: EvaluationResult) -> float:
    assert result.oracle is not None
    return result.oracle.miou


if __name__ == "__main__":
    main()
