"""`deal poses`: give the frames of a dataset the poses of the camera.

deal poses kitchen trajectory.txt
deal poses kitchen kitchen_1.json --recording kitchen_1
deal poses kitchen --odometry
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset, FrameRecord
    from deal_core.structures import Float64Array


def poses(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder written by deal extract.")],
    trajectory: Annotated[
        Path | None,
        typer.Argument(
            help="Poses from camera to world: .json as deal synth writes it, or lines `stamp tx ty tz qx qy qz qw` of "
            "the TUM benchmark, stamps in seconds.",
            show_default=False,
        ),
    ] = None,
    recording: Annotated[
        str | None, typer.Option(help="Recording that the poses belong to. Default: the only one.", show_default=False)
    ] = None,
    slop: Annotated[float, typer.Option(help="Largest difference between the stamps of a pose and a frame, s.")] = 0.02,
    odometry: Annotated[
        bool, typer.Option("--odometry", help="Estimate the poses from the images, in chains that drift, instead.")
    ] = False,
) -> None:
    """Give the frames of a recording the poses of the camera, for masks of taps (deal tag) and deal cams --views.

    Where a recording has TF or odometry, deal extract writes the poses itself. With --odometry, they are estimated by
    colour and depth from frame to frame; frames that cannot be registered, and pauses, begin a chain in a world of its
    own. Otherwise, each frame takes the pose with the nearest stamp. Poses are those of the colour camera's optical
    frame (x right, y down, z forward), in a world that stands still.

    Example: deal poses kitchen kitchen_1/ground_truth/poses.json
    """
    from deal_core.dataset.dataset import Dataset
    from deal_core.dataset.poses import write_poses
    from deal_core.errors import UsageError
    from training.support.console import console

    if odometry == (trajectory is not None):
        raise UsageError("expected either a trajectory or --odometry")
    opened = Dataset.open(dataset)
    if recording is None and len(opened.recordings) > 1:
        raise UsageError(f"{dataset} has the recordings {', '.join(opened.recordings)}: name one with --recording")
    name = recording or opened.recordings[0]
    if not 0 <= slop < 10:
        raise UsageError(f"--slop: expected seconds from 0 to below 10, found {slop}")
    frames = opened.subset([name]).frames
    found = _nearest(trajectory, frames, slop) if trajectory else _estimated(opened, name)
    write_poses(dataset, name, found)
    console().print(f"{dataset}: poses of {len(found)} of {len(frames)} frames of {name}", markup=False)


def _nearest(trajectory: Path, frames: Sequence[FrameRecord], slop: float) -> dict[int, Float64Array]:
    """Return the pose with the nearest stamp for each frame that has one."""
    import numpy as np

    from deal_core.dataset.poses import read_trajectory
    from deal_core.errors import DatasetError

    found = read_trajectory(trajectory)
    stamps = np.array(sorted(found), np.int64)
    near = {}
    for frame in frames if len(stamps) else ():
        nearest = int(stamps[np.abs(stamps - frame.stamp_ns).argmin()])
        if abs(nearest - frame.stamp_ns) <= round(slop * 1e9):
            near[frame.stamp_ns] = found[nearest]
    if not near:
        raise DatasetError(
            f"{trajectory}: none of its {len(found)} poses is within {slop} s of a frame of {frames[0].recording}: "
            f"expected stamps like {frames[0].stamp_ns / 1e9:.9f} s"
        )
    return near


def _estimated(dataset: Dataset, name: str) -> dict[int, Float64Array]:
    """Return poses by visual odometry, and print how far they hold together."""
    from deal_core.views.odometry import estimate_poses
    from training.support.console import console, progress

    with progress() as bar:
        task = bar.add_task("odometry", total=len(dataset.subset([name])))
        found = estimate_poses(dataset, name, advance=lambda: bar.advance(task))
    console().print(
        f"{found.chains} chains of frames; {found.failed} pairs of neighbouring frames could not be registered",
        markup=False,
    )
    return found.poses
