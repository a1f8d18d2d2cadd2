"""`deal poses`: give the frames of a dataset the poses of the camera.

deal poses kitchen trajectory.txt
deal poses kitchen kitchen_1.json --recording kitchen_1
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def poses(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder written by deal extract.")],
    trajectory: Annotated[
        Path,
        typer.Argument(
            help="Poses from camera to world: .json as deal synth writes it, or lines `stamp tx ty tz qx qy qz qw` of "
            "the TUM benchmark, stamps in seconds."
        ),
    ],
    recording: Annotated[
        str | None, typer.Option(help="Recording that the poses belong to. Default: the only one.", show_default=False)
    ] = None,
    slop: Annotated[float, typer.Option(help="Largest difference between the stamps of a pose and a frame, s.")] = 0.02,
) -> None:
    """Give the frames of a recording the poses of the camera, with which masks of taps are carried to other frames.

    Each frame takes the pose with the nearest stamp. Poses are those of the colour camera's optical frame (x right, y
    down, z forward), in a world that stands still.

    Example: deal poses kitchen kitchen_1/ground_truth/poses.json
    """
    import numpy as np

    from deal_core.dataset.dataset import Dataset
    from deal_core.dataset.poses import read_trajectory, write_poses
    from deal_core.errors import DatasetError, UsageError
    from training.support.console import console

    opened = Dataset.open(dataset)
    if recording is None and len(opened.recordings) > 1:
        raise UsageError(f"{dataset} has the recordings {', '.join(opened.recordings)}: name one with --recording")
    name = recording or opened.recordings[0]
    if not 0 <= slop < 10:
        raise UsageError(f"--slop: expected seconds from 0 to below 10, found {slop}")
    frames = opened.subset([name]).frames
    found = read_trajectory(trajectory)
    stamps = np.array(sorted(found), np.int64)
    near = {}
    for frame in frames if len(stamps) else ():
        nearest = int(stamps[np.abs(stamps - frame.stamp_ns).argmin()])
        if abs(nearest - frame.stamp_ns) <= round(slop * 1e9):
            near[frame.stamp_ns] = found[nearest]
    if not near:
        raise DatasetError(
            f"{trajectory}: none of its {len(found)} poses is within {slop} s of a frame of {name}: expected stamps "
            f"like {frames[0].stamp_ns / 1e9:.9f} s"
        )
    write_poses(dataset, name, near)
    console().print(f"{dataset}: poses of {len(near)} of {len(frames)} frames of {name}", markup=False)
