"""`deal masks`: masks of other tools and of any teacher, in and out.

deal masks import kitchen sam3_masks --out teacher_masks --snap
deal masks import kitchen annotations.xml --out drawn_masks --no-veto
deal masks export kitchen kitchen_masks --format cvat --worst 50 --out to_correct
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deal_core.label_tools.choices import BoxUse, ExportFormat, ImportFormat, MissingUse, OtherUse, VetoedUse
from training.support.options import DatasetArgument, SourceOptions

if TYPE_CHECKING:
    from deal_core.label_tools.importing import ImportSummary


def import_masks(
    dataset: DatasetArgument,
    masks: Annotated[Path, typer.Argument(metavar="SOURCE", help="Masks of another tool: a file or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder of masks to write, as `deal cams` does.")],
    source: SourceOptions,
    form: Annotated[ImportFormat, typer.Option("--format", help="Format of SOURCE; auto finds it out.")] = "auto",
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=CLASS",
            help="Class of a name in SOURCE, or NAME=background, NAME=unlabelled; may be repeated.",
        ),
    ] = None,
    others: Annotated[OtherUse, typer.Option(help="Pixels of a name that is no class of the dataset.")] = "refuse",
    boxes: Annotated[BoxUse, typer.Option(help="Boxes without an outline.")] = "refuse",
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Of Label Studio: what a model predicted, not what a person drew.")
    ] = False,
    veto: Annotated[bool, typer.Option(help="Remove a class from frames that are tagged to be without it.")] = True,
    vetoed: Annotated[VetoedUse, typer.Option(help="What the pixels that are removed become.")] = "background",
    missing: Annotated[
        MissingUse,
        typer.Option(
            help="A mask without a class that its frame is tagged with: keep it, make its background unlabelled (255), "
            "or skip it."
        ),
    ] = "keep",
    snap: Annotated[bool, typer.Option("--snap", help="Move outlines to regions of depth.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the masks in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Read masks of another tool: PNGs, COCO, CVAT, Label Studio, YOLO segments, ADE.

    Images are matched with frames by their file names. A table says for each class what came in, what the tags of the
    frames excluded, and in which frames a class is missing that the tags name.

    Examples:
      deal masks import kitchen sam3_masks --out teacher_masks --snap
      deal masks import kitchen instances.json --out teacher_masks --map cup=mug --others background
      deal masks import kitchen corrected.xml --format cvat --out corrected_masks --no-veto
    """
    from deal_core.label_tools.importing import ImportSettings, parse_names
    from deal_core.label_tools.importing import import_masks as write_masks
    from deal_core.label_tools.open import open_masks
    from training.support.console import counting, print_json

    frames = source.open(dataset)
    settings = ImportSettings(parse_names(map_ or [], frames.classes), others, veto, vetoed, missing, snap)
    opened = open_masks(masks, form, frames.classes, boxes=boxes, predictions=predictions)
    with counting("masks", len(frames), quiet=as_json) as advance:
        found = write_masks(opened, frames, out, settings, overwrite=overwrite, advance=advance)
    if as_json:
        print_json({"masks": str(out), **found.to_json()})
    else:
        _print_summary(out, found)


def export_masks(
    dataset: DatasetArgument,
    masks: Annotated[Path, typer.Argument(help="Folder of masks (deal cams, deal masks import).")],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    source: SourceOptions,
    form: Annotated[ExportFormat, typer.Option("--format", help="The tool in which the masks are corrected.")],
    worst: Annotated[
        int | None,
        typer.Option(min=1, help="Only this many frames, those whose masks look worst, without drawn masks."),
    ] = None,
    images: Annotated[bool, typer.Option(help="Copy the images into the folder.")] = True,
) -> None:
    """Write masks for correction in another tool, pixel by pixel as they are.

    With --worst, the frames are ranked by a figure that needs no drawn mask: the classes that a mask lacks, its pixels
    on tables and walls, and its agreement with masks of other segments. `deal masks import` reads what comes back.

    Examples:
      deal masks export kitchen kitchen_masks --format cvat --worst 50 --out to_correct
      deal masks export kitchen kitchen_masks --format label-studio --worst 50 --out to_correct
    """
    from deal_core.label_tools.exporting import export_masks as write_masks
    from deal_core.masks.mask_folder import cam_paths
    from deal_core.quality.frame_scores import score_masks, worst_frames
    from training.support.console import console, counting

    frames = source.open(dataset)
    keys = [frame.key for frame in frames.frames if cam_paths(masks, frame.key)[1].is_file()]
    if worst is not None:
        with counting("figures of masks", len(keys)) as advance:
            keys = worst_frames(score_masks(masks, frames, advance=advance), worst)
    with counting("masks", len(keys)) as advance:
        made = write_masks(masks, frames, form, out, keys, images=images, advance=advance)
    console().print(f"{made}: {len(keys)} masks for {form}", markup=False)


def _print_summary(out: Path, found: ImportSummary) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from deal_core.dataset.image_files import first_few
    from training.support.console import console

    table = Table(box=SIMPLE_HEAD)
    table.add_column("class")
    for column in ("frames", "pixels", "vetoed: frames", "vetoed: pixels", "missing: frames"):
        table.add_column(column, justify="right")
    for one in found.classes:
        numbers = (one.frames, one.pixels, one.vetoed, one.vetoed_pixels, one.missing)
        table.add_row(escape(one.name), *map(str, numbers))
    Console(highlight=False).print(table)
    said = [f"{out}: {found.frames} masks"]
    if found.without:
        said.append(f"{found.without} frames have none")
    if found.skipped:
        said.append(f"{found.skipped} were skipped, as a class is missing in them")
    if found.flagged:
        said.append(f"{len(found.flagged)} lack a class that is tagged: {first_few(found.flagged)}")
    if found.strangers:
        said.append(f"{len(found.strangers)} images are no frame of the dataset: {first_few(found.strangers)}")
    if found.others:
        told = first_few([f"{name[:60]} (in {count} masks)" for name, count in found.others.items()])
        said.append(f"no classes of the dataset: {told}")
    for line in (*said, *found.notes):
        console().print(line, markup=False)
