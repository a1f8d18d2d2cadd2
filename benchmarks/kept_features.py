"""How much faster is a training step after a frozen backbone with kept feature maps than through the images?

    python benchmarks/kept_features.py --backbone vit_small_patch16_224 --levels -1 --threads 2

Both ways train the same layers of a cam_net, with the edge loss, on the same views of synthetic tabletops of 320x240.
Weights are random, which changes no time. Prints CPU seconds a step, which other processes on the machine hardly
change, their ratio, and the time and disk space of the maps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.models.factory import create_model
from deal_core.settings_file import load_settings
from deal_core.synthetic.recording import SyntheticConfig, write_recording
from deal_core.trainer.frozen_views import freeze
from deal_core.trainer.objective import LossWeights, Objective
from deal_core.trainer.schedule import create_optimizer
from deal_core.trainer.settings import TrainSettings
from deal_core.trainer.views import Views, collate_or_error

FROZEN = (
    *("data.crop=grid", "data.crop_scale=[1, 1]", "data.color_jitter=0", "data.cache=true", "device=cpu"),
    *("optimizer.backbone_factor=0", "model.arguments.freeze_batch_norm=true", "output=unused"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--levels", default="-3,-2")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5, help="steps of each way; the first is not counted")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--deal-weight", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Return the seconds of a step of both ways, and what the maps cost."""
    write_recording(folder / "scenes", SyntheticConfig(seed=1, scenes=options.frames // 4, frames_per_scene=4))
    extract_recording(folder / "scenes", folder / "data", ExtractOptions())
    features = folder / "features"
    images = Training(options, folder / "data", None)
    begun = time.process_time()
    maps = Training(options, folder / "data", features)
    made = time.process_time() - begun
    seconds: dict[str, list[float]] = {"images": [], "maps": []}
    for step in range(options.steps):
        for name, training in (("images", images), ("maps", maps)):
            begun = time.process_time()
            training.step(step, options.batch, options.deal_weight)
            seconds[name].append(time.process_time() - begun)
    found = {name: median(values[1:]) for name, values in seconds.items()}
    files = list(features.rglob("*.safetensors"))
    return {
        "backbone": options.backbone,
        "cpu_seconds_a_step": {name: round(value, 3) for name, value in found.items()},
        "ratio": round(found["images"] / found["maps"], 1),
        "cpu_seconds_for_the_maps_of_a_frame": round(made / options.frames, 3),
        "megabytes_a_frame": round(sum(file.stat().st_size for file in files) / 1e6 / options.frames, 2),
    }


class Training:
    """A training after a frozen backbone, through the images or on kept maps."""

    def __init__(self, options: argparse.Namespace, data: Path, features: Path | None) -> None:
        network = f"model.arguments={{backbone: {options.backbone}, levels: [{options.levels}]}}"
        kept = [] if features is None else [f"data.features={features}"]
        settings = load_settings(TrainSettings, None, [f"data.path={data}", network, *FROZEN, *kept])
        torch.manual_seed(1)
        frames = Dataset.open(data)
        network_ = create_model("cam_net", len(frames.classes), **settings.model.arguments)
        network_.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        none = frames.subset(predicate=lambda frame: False)
        frozen = freeze(network_, frames, none, settings, torch.device("cpu"))
        self.views = Views(frames, settings, frozen=frozen)
        self.objective = Objective(network_, settings)
        self.optimizer = create_optimizer(network_, settings.optimizer)
        self.objective.train()
        for frame in range(len(frames)):
            self.views[frame, 0]  # decoded images are kept in memory

    def step(self, seed: int, size: int, deal_weight: float) -> None:
        """Make one optimiser step."""
        rng = np.random.default_rng(seed)
        batch = collate_or_error([self.views[int(rng.integers(len(self.views))), seed + i] for i in range(size)])
        loss = self.objective(batch, LossWeights(deal=deal_weight))["loss"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


if __name__ == "__main__":
    main()
