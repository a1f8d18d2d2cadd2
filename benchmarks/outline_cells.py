"""How much of the true outlines the edge loss sees, with holes ignored and with holes filled.

    python benchmarks/outline_cells.py --frames ../shared/data/ycb_video
    python benchmarks/outline_cells.py --dataset DIR --recordings clip01 clip02

At the size at which the loss compares edges, an outline cell is beside a cell of another class in the drawn mask.
The loss sees it as far as its weight goes, and only if the depth has an edge there (a positive g). Edges elsewhere are
what the loss takes for outlines by mistake: the outlines of things without a class, and errors of the depth. Prints a
table; nothing is trained. Below a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from real_refinement import read_frames

from deal_core.dataset.dataset import Dataset
from deal_core.losses.depth_edge import Holes, depth_edges, edge_sign
from deal_core.structures import BACKGROUND, UNLABELLED, BoolArray, DepthKind, Float32Array, UInt8Array
from deal_core.trainer.settings import DealSettings


@dataclass(frozen=True, eq=False)
class DrawnFrame:
    """Depth (H, W), 0 where unknown, and drawn class ids (H, W)."""

    depth: Float32Array
    mask: UInt8Array
    kind: DepthKind = "metric"


@dataclass
class Seen:
    """Sums over cells: of outlines, of their weight, and of the weight of those with an edge; the same elsewhere."""

    outline: float = 0.0
    blind: float = 0.0
    weight: float = 0.0
    edge: float = 0.0
    elsewhere: float = 0.0
    edge_elsewhere: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--frames", type=Path, help="folder of YCB-Video with *-color, *-depth and *-label images")
    source.add_argument("--dataset", type=Path, help="dataset folder with drawn masks")
    parser.add_argument("--recordings", nargs="*", default=[], help="recordings of the dataset; all if left out")
    parser.add_argument("--height", type=int, default=240, help="height of the network's input (default: 240)")
    arguments = parser.parse_args()
    if arguments.frames is not None:
        frames = [DrawnFrame(frame.depth, frame.truth) for frame in read_frames(arguments.frames)]
    else:
        frames = list(read_dataset(arguments.dataset, arguments.recordings))
    if not frames:
        raise SystemExit(f"{arguments.frames or arguments.dataset}: no frames with a drawn mask")
    print(f"{len(frames)} frames, edges compared at height {arguments.height // 4}: % of the cells\n")
    print("| holes | outline cells without weight | mean weight | seen: weight and edge | edges elsewhere |")
    print("|---|---:|---:|---:|---:|")
    for holes in get_args(Holes):
        print(f"| {holes} | {' | '.join(f'{100 * share:.1f}' for share in shares(frames, holes, arguments.height))} |")


def read_dataset(folder: Path, recordings: list[str]) -> Iterator[DrawnFrame]:
    """Yield the frames of a dataset that have a drawn mask."""
    dataset = Dataset.open(folder)
    dataset = dataset.subset(recordings=recordings) if recordings else dataset
    for frame in range(len(dataset)):
        sample = dataset.load(frame)
        if sample.mask is not None:
            yield DrawnFrame(np.where(sample.depth_valid, sample.depth, 0), sample.mask, dataset.depth_kind)


def shares(frames: Iterable[DrawnFrame], holes: Holes, height: int) -> list[float]:
    """Return the shares of the table's columns."""
    seen = Seen()
    for frame in frames:
        count(seen, frame, holes, height)
    outline = max(seen.outline, 1.0)
    return [
        seen.blind / outline,
        seen.weight / outline,
        seen.edge / outline,
        seen.edge_elsewhere / max(seen.elsewhere, 1.0),
    ]


def count(seen: Seen, frame: DrawnFrame, holes: Holes, height: int) -> None:
    """Add one frame, at the size of the network's input as in training."""
    options = DealSettings()
    width = round(height * frame.mask.shape[1] / frame.mask.shape[0])
    depth = torch.from_numpy(frame.depth)[None, None]
    if depth.shape[-2:] != (height, width):
        depth = torch.nn.functional.interpolate(depth, (height, width), mode="nearest-exact")
    size = (height // 4, width // 4)
    edges = depth_edges(
        depth,
        size=size,
        value=options.depth_value,
        edge=options.depth_edge,
        slope=options.depth_slope,
        gain=options.depth_gain,
        kind=frame.kind,
        holes=holes,
    )
    weight = edges.weight[0, 0].numpy()
    has_edge = edge_sign(edges.strength, options.mu)[0, 0].numpy() > 0
    outline = outline_cells(frame.mask, size)
    seen.outline += outline.sum()
    seen.blind += (outline & (weight == 0)).sum()
    seen.weight += weight[outline].sum()
    seen.edge += (weight * has_edge)[outline].sum()
    seen.elsewhere += (~outline).sum()
    seen.edge_elsewhere += (weight * has_edge)[~outline].sum()


def outline_cells(mask: UInt8Array, size: tuple[int, int]) -> BoolArray:
    """Return the cells (h, w) beside a cell of another class; unlabelled pixels are background."""
    labelled = np.where(mask == UNLABELLED, BACKGROUND, mask)
    rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in zip(size, mask.shape, strict=True))
    cells = labelled[np.ix_(rows.astype(int), columns.astype(int))]
    outline = np.zeros(size, np.bool_)
    across, down = cells[:, 1:] != cells[:, :-1], cells[1:] != cells[:-1]
    outline[:, 1:] |= across
    outline[:, :-1] |= across
    outline[1:] |= down
    outline[:-1] |= down
    return outline


if __name__ == "__main__":
    main()
