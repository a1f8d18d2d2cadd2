"""How many frames of a new place does a model need, from scratch and fine-tuned, and what is lost on the old place?

    python benchmarks/fine_tune.py --out bench_fine_tune --seeds 11 42 55

The old place are tabletops with 2 to 4 things; the new one are tabletops with 5 to 7 things and 4 to 6 prints. Both
networks are the segmenter of config/demo_distill.yaml and learn from drawn masks. Prints a line for each training, with
the mIoU on test scenes of both places; results.jsonl in the output folder holds them, and an interrupted benchmark goes
on. About an hour on one free core with the defaults.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.evaluation.evaluate import evaluate_model
from deal_core.masks.score_dataset import CamSettings
from deal_core.models.model_file import load_model
from deal_core.settings_file import load_settings
from deal_core.synthetic.recording import SyntheticConfig, write_recording
from deal_core.trainer.fine_tune_request import FineTuneRequest, fine_tune_settings
from deal_core.trainer.rounds import distill
from deal_core.trainer.settings import DistillSettings

CONFIG = Path(__file__).resolve().parents[1] / "config" / "demo_distill.yaml"
CROWDED = {"objects_per_scene": (5, 7), "prints_per_scene": (4, 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_fine_tune"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 42, 55])
    parser.add_argument("--frames", type=int, nargs="+", default=[40, 80, 160], help="from scratch; fine-tuned: halves")
    parser.add_argument("--steps", type=int, default=400, help="from scratch; fine-tuned: halves")
    parser.add_argument("--size", type=int, nargs=2, default=[160, 120], metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args()
    for row in rows(options):
        print(json.dumps(row), flush=True)


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each training; rows of an earlier run are read from results.jsonl."""
    out, (width, height) = options.out, options.size
    results = out / "results.jsonl"
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    old = place(out, "old", 1, 6, 60, width, height)
    old_test = place(out, "old_test", 2, 5, 12, width, height)
    most = max(options.frames)
    new = place(out, "new", 700, 2, -(-most * 5 // 8), width, height, **CROWDED)
    new_test = place(out, "new_test", 800, 2, 30, width, height, **CROWDED)
    size = f"data.image_size=[{height}, {width}]"
    common = [f"data.path={old}", "masks=drawn", f"output={out / 'old'}", size, "device=cpu", "epochs=20", "seed=11"]
    earlier = distill(load_settings(DistillSettings, CONFIG, common)).model
    for seed in options.seeds:
        for count in options.frames:
            for way, frames, steps in (("scratch", count, options.steps), ("tuned", count // 2, options.steps // 2)):
                about = {"seed": seed, "way": way, "frames": frames, "steps": steps}
                row = next((row for row in known if {key: row[key] for key in about} == about), None)
                if row is None:
                    data = some_scenes(new, frames, seed)
                    scratch = way == "scratch"
                    settings = (
                        of_scratch(data, out, about, size) if scratch else of_tuned(data, out, about, earlier, old)
                    )
                    model = distill(settings).model
                    row = {**about, "new": miou(model, new_test), "old": miou(model, old_test)}
                    with results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                yield row


def place(out: Path, name: str, seed: int, views: int, scenes: int, width: int, height: int, **changed: Any) -> Path:
    """Return a dataset of tabletops, which is made if it is missing."""
    data = out / "data" / name
    if not data.exists():
        config = SyntheticConfig(
            seed=seed, scenes=scenes, frames_per_scene=views, width=width, height=height, **changed
        )
        write_recording(out / "recordings" / name, config)
        extract_recording(out / "recordings" / name, data, ExtractOptions())
    return data


def some_scenes(data: Path, count: int, seed: int) -> Path:
    """Return a copy of a dataset with `count` frames of whole scenes, chosen by the seed."""
    copy = data.with_name(f"{data.name}_{seed}_{count}")
    if not copy.exists():
        shutil.copytree(data, copy)
        file = next((copy / "recordings").iterdir()) / "frames.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines()
        scenes: dict[int, list[str]] = {}
        for line in lines:
            scenes.setdefault(json.loads(line)["segment"], []).append(line)
        order = random.Random(seed).sample(sorted(scenes), len(scenes))
        chosen = [line for scene in order for line in scenes[scene]][:count]
        file.write_text("".join(line + "\n" for line in lines if line in chosen), encoding="utf-8")
    return copy


def of_scratch(data: Path, out: Path, about: dict[str, Any], size: str) -> DistillSettings:
    """Return the settings of a training from random weights."""
    training = round(0.9 * about["frames"])
    batch = min(16, training)
    lengths = [f"batch_size={batch}", f"epochs={max(about['steps'] // (training // batch), 1)}"]
    values = [f"data.path={data}", "masks=drawn", f"output={run_of(out, about)}", f"seed={about['seed']}", size]
    return load_settings(DistillSettings, CONFIG, [*values, "device=cpu", *lengths])


def of_tuned(data: Path, out: Path, about: dict[str, Any], earlier: Path, old: Path) -> DistillSettings:
    """Return the settings of a training from the earlier model, which rehearses the old place."""
    overrides = ("device=cpu", "rehearse_masks=drawn", f"seed={about['seed']}")
    request = FineTuneRequest(data, earlier, run_of(out, about), rehearse=old, masks="drawn", overrides=overrides)
    settings = fine_tune_settings(replace(request, steps=about["steps"]))
    assert isinstance(settings, DistillSettings)
    return settings


def run_of(out: Path, about: dict[str, Any]) -> Path:
    return out / "runs" / "_".join(map(str, about.values()))


def miou(model: Path, data: Path) -> float:
    """Return the mIoU in %, for predictions as the robot makes them."""
    settings = CamSettings(tags="predicted", flip=False, device="cpu")
    found = evaluate_model(load_model(model), Dataset.open(data), settings, name=data.name)
    assert found.auto is not None
    return round(100 * found.auto.miou, 1)


if __name__ == "__main__":
    main()
