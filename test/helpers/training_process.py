"""What each process of `test_two_processes_take_the_steps_of_one` runs: three steps of each case, saved by the first.

python training_process.py CONFIG CASES OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.transforms import TensorSample
from deal_core.models.factory import create_model
from deal_core.settings_file import load_settings
from deal_core.trainer.cam_training import CamTraining
from deal_core.trainer.loop import batch_loader, create_fabric
from deal_core.trainer.run_folder import TrainState
from deal_core.trainer.schedule import create_optimizer
from deal_core.trainer.settings import TrainSettings
from deal_core.trainer.task import try_out
from deal_core.trainer.views import Views

STEPS = 3


def main(config: Path, cases: Path, out: Path) -> None:
    settings = load_settings(TrainSettings, config)
    task, fabric = CamTraining(settings), create_fabric(settings)
    frames = Dataset.open(settings.data.path)
    out.mkdir(exist_ok=True)
    for name, case in json.loads(cases.read_text()).items():
        torch.manual_seed(1)
        network = create_model(case["model"], len(frames.classes), **case["arguments"])
        try_out(network, task)
        before = {n: p.detach().clone() for n, p in network.named_parameters()}
        optimizer = create_optimizer(network, settings.optimizer)
        objective, optimizer = fabric.setup(task.objective(network, "metric"), optimizer)
        objective.eval()
        state = TrainState(total_steps=STEPS)
        batches = batch_loader(Views(frames, settings), settings, fabric, state)
        for batch in fabric.setup_dataloaders(batches, use_distributed_sampler=False):
            shown = forget_tags(batch, fabric.global_rank, fabric.world_size) if case["tags"] == "partial" else batch
            task.step(fabric, objective, optimizer, shown, state)
            state.step += 1
        if fabric.is_global_zero:
            moved = {f"moved.{n}": (p.detach() - before[n]) for n, p in network.named_parameters()}
            save_file({**network.state_dict(), **moved}, out / f"{name}.safetensors")
        fabric.barrier()


def forget_tags(batch: TensorSample, rank: int, world_size: int) -> TensorSample:
    """Make tags unknown by the image's place in the whole batch: more of them in one process than in the other."""
    tags = batch.tags.clone()
    for i in range(len(tags)):
        place = i * world_size + rank
        tags[i, (place % 3) :] = float("nan")
        if place % 2:
            tags[i] = float("nan")
    return TensorSample(batch.image, batch.depth, batch.valid, tags)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
