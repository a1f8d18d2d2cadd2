"""Small trainings: how they are interrupted and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from deal_core.models.cam_net import CamNet
from deal_core.trainer.loop import Progress
from deal_core.trainer.settings import TrainSettings

STEPS = 9  # three epochs of three steps: nine of the twelve frames are trained on

MakeSettings = Callable[..., TrainSettings]


class StoppedError(Exception):
    pass


def stop_after(step: int) -> Callable[[Progress], None]:
    """An interruption between two steps, as Ctrl-C is."""

    def report(progress: Progress) -> None:
        if progress.step == step:
            raise StoppedError

    return report


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Model tensors bit for bit, and history line for line."""
    one, two = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert one.keys() == two.keys()
    assert [n for n in one if not torch.equal(one[n], two[n])] == []
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert history(ours) == history(theirs)


def tiny_net(**arguments: Any) -> CamNet:
    torch.manual_seed(0)
    return CamNet(3, **{"backbone": "test_resnet", "width": 8, **arguments})
