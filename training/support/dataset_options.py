"""The options by which commands are told where their frames lie, and in which layout."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset


class Layout(str, Enum):
    """Layouts of datasets: the project's own and official ones."""

    DEAL = "deal"
    VOC = "voc"
    COCO = "coco"
    BOP = "bop"


class ClassIds(str, Enum):
    """Conventions for COCO's class ids."""

    CONTIGUOUS = "contiguous"
    CATEGORY = "category"


DatasetArgument = Annotated[Path, typer.Argument(help="Dataset folder.")]
LayoutOption = Annotated[Layout, typer.Option("--as", help="The dataset's layout.")]
SplitOption = Annotated[str, typer.Option(help="With --as: which list; the training list when left out.")]
DepthOption = Annotated[
    Path | None, typer.Option(help="Folder of estimated depth maps, in place of the sensor's depth.")
]
ClassIdsOption = Annotated[ClassIds, typer.Option(help="With --as coco: how its classes are numbered.")]
RecordingsOption = Annotated[list[str] | None, typer.Option("--recording", help="Only this one; may be repeated.")]
FramesOption = Annotated[int | None, typer.Option(min=1, help="No more than so many frames, evenly spread.")]


def open_frames(
    path: Path,
    layout: Layout,
    split: str,
    depth: Path | None,
    class_ids: ClassIds,
    recordings: list[str] | None,
    frames: int | None = None,
) -> Dataset:
    """Open the dataset that the options name.

    Raises:
        DatasetError: files are missing or contradict each other.
        UsageError: a split or recording that does not exist, or an option that means nothing for the layout.
    """
    from deal_core.dataset.dataset import evenly_spread
    from deal_core.dataset.open import open_dataset
    from deal_core.dataset.settings import SourceSettings

    opened = open_dataset(
        SourceSettings(
            path=path,
            format=layout.value,
            split=split,
            recordings=tuple(recordings or ()),
            depth=depth,
            class_ids=class_ids.value,
        )
    )
    return evenly_spread(opened, frames) if frames else opened
