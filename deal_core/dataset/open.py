"""Open a dataset of any layout by its settings."""

from __future__ import annotations

from deal_core.dataset.bop import open_bop
from deal_core.dataset.coco import open_coco
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.depth_maps import DepthMaps
from deal_core.dataset.settings import SourceSettings
from deal_core.dataset.voc import open_voc
from deal_core.errors import UsageError


def open_dataset(source: SourceSettings) -> Dataset:
    """Read the lists of a dataset; `Dataset.load` reads the images.

    Args:
        source: path, layout and split.

    Raises:
        DatasetError: files are missing or contradict each other; the message names and counts them.
        UsageError: a split or recording does not exist, or a setting does not apply to the layout.
    """
    dataset = _open_layout(source)
    if source.recordings:
        dataset = dataset.subset(recordings=source.recordings)
    return dataset.with_depth(DepthMaps.open(source.depth)) if source.depth else dataset


def _open_layout(source: SourceSettings) -> Dataset:
    if source.class_ids != "contiguous" and source.format != "coco":
        raise UsageError(f"class_ids: {source.class_ids} applies only to format coco, found format {source.format}")
    if source.format == "voc":
        return open_voc(source.path, source.split)
    if source.format == "coco":
        return open_coco(source.path, source.split, source.class_ids)
    if source.format == "bop":
        return open_bop(source.path, source.split)
    if source.split:
        raise UsageError(
            f"a deal dataset has no splits, found split: {source.split}; choose among its recordings instead"
        )
    return Dataset.open(source.path)
