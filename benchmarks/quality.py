"""How well the verdict without masks ranks runs by their true mIoU.

    python benchmarks/quality.py RUNS [RUNS ...] --out quality.json

RUNS is a folder of runs. A run is a folder with `dataset.txt`, the path of a dataset with drawn masks (relative paths
start at the run), one or more folders of pseudo masks by `deal cams`, and, if it is there, the `model.safetensors`
behind them. For every folder of masks, the verdict is made from the tags, the depth, the colours and the training; the
drawn masks only score it. Prints a table and the rank correlation (Spearman) of verdict score and mIoU, for each
dataset and for all, and says which masks below "all background" have another verdict than bad.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deal_core.dataset.dataset import Dataset, evenly_spread
from deal_core.evaluation.metrics import ConfusionMatrix
from deal_core.masks.mask_folder import CAMS_FILE, cam_paths, read_mask
from deal_core.models.model_file import MODEL_FILE, read_info
from deal_core.quality.mask_figures import measure_masks
from deal_core.quality.training_facts import facts_of_training
from deal_core.quality.verdict import Verdict, judge

SCORED_FRAMES = 200


@dataclass(frozen=True)
class Row:
    """One folder of masks: its verdict without drawn masks, and its score with them."""

    run: str
    masks: str
    dataset: str
    grade: str
    score: float
    miou: float
    all_background: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="folders of runs")
    parser.add_argument("--out", type=Path, help="JSON file of all rows")
    arguments = parser.parse_args()
    if not arguments.runs:
        print(__doc__)
        return
    rows = []
    for row in measured(arguments.runs):
        rows.append(row)
        print(line(row), flush=True)
    if not rows:
        parser.error("found no run with dataset.txt and a folder of masks")
    print()
    for name in sorted({row.dataset for row in rows}):
        print(summary(name, [row for row in rows if row.dataset == name]))
    print(summary("all", rows))
    unflagged = [row for row in rows if row.miou < row.all_background and row.grade != "bad"]
    print(f"masks below all background that are not called bad: {len(unflagged)}")
    for row in unflagged:
        print(f"  {line(row)}")
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def measured(folders: Sequence[Path]) -> Iterator[Row]:
    """Yield a row for every folder of masks of every run."""
    for told in sorted(found for folder in folders for found in folder.rglob("dataset.txt")):
        run = told.parent
        dataset = Dataset.open((run / told.read_text(encoding="utf-8").strip()).resolve())
        for about in sorted(run.rglob(CAMS_FILE)):
            verdict = verdict_of(run, about.parent, dataset)
            miou, background = true_scores(about.parent, dataset)
            name = str(about.parent.relative_to(run))
            yield Row(run.name, name, dataset.path.name, verdict.grade, verdict.score, miou, background)


def verdict_of(run: Path, masks: Path, dataset: Dataset) -> Verdict:
    """Return the verdict on a folder of masks, with the training of the run's model, if it has one."""
    model = run / MODEL_FILE
    facts = facts_of_training(read_info(model), run) if model.is_file() else None
    return judge(measure_masks(masks, dataset), facts)


def true_scores(masks: Path, dataset: Dataset) -> tuple[float, float]:
    """Return the mIoU of the masks, and of masks that are background everywhere, on the frames with drawn masks."""
    drawn = dataset.subset(predicate=lambda f: f.mask is not None and cam_paths(masks, f.key)[1].is_file())
    count = len(dataset.classes)
    found, background = ConfusionMatrix(count), ConfusionMatrix(count)
    for frame in evenly_spread(drawn, SCORED_FRAMES).frames:
        truth = dataset.load(frame).mask
        assert truth is not None
        found.update(read_mask(masks, frame.key, truth.shape, count), truth)
        background.update(np.zeros_like(truth), truth)
    return found.miou(), background.miou()


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the rank correlation; equal values share their mean rank. nan for fewer than three pairs.

    >>> spearman([1, 2, 3, 4], [10, 20, 40, 30])
    0.8
    """
    if len(one) < 3:
        return math.nan
    ours, theirs = (_ranks(np.asarray(values, np.float64)) for values in (one, other))
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return math.nan
    return round(float(np.corrcoef(ours, theirs)[0, 1]), 12)


def line(row: Row) -> str:
    below = " below all background" if row.miou < row.all_background else ""
    return (
        f"{row.dataset:16} {row.run:24} {row.masks:24} {row.grade:8} {row.score:5.2f} "
        f"mIoU {100 * row.miou:5.1f} ({100 * row.all_background:4.1f}){below}"
    )


def summary(name: str, rows: Sequence[Row]) -> str:
    known = [row for row in rows if not math.isnan(row.score) and not math.isnan(row.miou)]
    rank = spearman([row.score for row in known], [row.miou for row in known])
    return f"{name}: {len(known)} folders of masks, Spearman {rank:.2f}"


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low, high = (np.searchsorted(np.sort(values), values, side=side) for side in ("left", "right"))
    return np.asarray((low + high) / 2.0)


if __name__ == "__main__":
    main()
