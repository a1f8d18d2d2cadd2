"""`deal extract`: turn recordings into a dataset folder.

deal extract kitchen_1 kitchen_2 --out kitchen
deal extract plain_bag --out kitchen --classes mug,drill --tags mug
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deal_core.dataset.choices import ColorFormat
from training.support.options import (
    AlignedOption,
    ColorTopicOption,
    DepthTopicOption,
    DepthUnitOption,
    MarkerOption,
    MaxDepthOption,
    SlopOption,
    parse_classes,
    split_list,
)

if TYPE_CHECKING:
    from deal_core.dataset.extract import Extraction, ExtractOptions
    from deal_core.structures import ClassList, TagState


def extract(
    recordings: Annotated[list[Path], typer.Argument(help="Recordings: rosbag2 folders, .mcap or .db3 files.")],
    out: Annotated[Path, typer.Option(help="Dataset folder; created if it does not exist.")],
    classes: Annotated[
        str, typer.Option(help="Class names, separated by commas, for recordings that do not contain them.")
    ] = "",
    tags: Annotated[
        str | None,
        typer.Option(help="Classes visible throughout the recordings that have no tags; '' if that is unknown."),
    ] = None,
    marker: MarkerOption = "partial",
    color_topic: ColorTopicOption = None,
    depth_topic: DepthTopicOption = None,
    slop_ms: SlopOption = 0,
    aligned: AlignedOption = False,
    depth_unit: DepthUnitOption = None,
    max_depth: MaxDepthOption = None,
    color_format: Annotated[
        ColorFormat, typer.Option(help="Format of colour images: png is lossless, jpeg is smaller.")
    ] = "png",
    jpeg_quality: Annotated[int, typer.Option(help="Quality of JPEG images.", min=1, max=100)] = 95,
    fixed_frame: Annotated[
        str | None,
        typer.Option(
            help="Frame of TF that stands still, for the poses of the camera. Default: map, odom, or the highest.",
            show_default=False,
        ),
    ] = None,
    odometry_topic: Annotated[
        str | None,
        typer.Option(
            help="Topic of nav_msgs/Odometry that gives the poses of the camera. Default: TF, or else the one that "
            "gives the most.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in the dataset, if there is one recording.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace recordings that are in the dataset already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
) -> None:
    """Turn recordings into a dataset: colour, depth in millimetres, tags, segments, and poses where they were recorded.

    Each recording becomes one folder of the dataset, which is written completely or not at all. A recording that was
    extracted from the same files with the same options is not extracted again; after a kill or a full disk, the same
    command goes on. Everything left out is counted by cause.

    Exit code 1: a recording failed, is damaged, has pairs that do not fit, or lost more than half of its images; what
    could be saved is in the dataset. Fewer unpaired images, and frames marked to be ignored, are not errors.

    Example: deal extract kitchen_1 kitchen_2 --out kitchen
    """
    from deal_core.dataset.extract import ExtractOptions
    from deal_core.errors import DatasetError
    from deal_core.files import owning
    from training.support.console import print_json

    _check_names(recordings, name)
    known = parse_classes(classes)
    options = ExtractOptions(
        classes=known,
        tags=_parse_tags(tags, marker, known),
        color_topic=color_topic,
        depth_topic=depth_topic,
        slop_ns=round(slop_ms * 1e6),
        aligned=aligned,
        depth_unit=depth_unit,
        max_depth_m=max_depth,
        color_format=color_format,
        jpeg_quality=jpeg_quality,
        overwrite=overwrite,
        fixed_frame=fixed_frame,
        odometry_topic=odometry_topic,
    )
    with owning(out, DatasetError):
        results, failed = _extract_all(recordings, out, options, name, quiet=as_json)
    if as_json:
        print_json({"dataset": str(out), "recordings": [asdict(r) for r in results], "failed": failed})
    if failed or any(r.report.errors for r in results):
        raise typer.Exit(1)


def _extract_all(
    recordings: list[Path], out: Path, options: ExtractOptions, name: str | None, *, quiet: bool
) -> tuple[list[Extraction], list[dict[str, str]]]:
    """Extract one recording after the other; return the results, and the path and error of each that failed."""
    from deal_core.errors import DealError, UsageError
    from training.support.console import print_error

    results, failed = [], []
    for path in recordings:
        try:
            extraction = _extract_one(path, out, options, name, quiet=quiet)
        except UsageError:
            raise
        except DealError as error:
            failed.append({"path": str(path), "error": str(error)})
            print_error(str(error))
            continue
        results.append(extraction)
        if not quiet:
            _print(path, out, extraction)
    return results, failed


def _extract_one(path: Path, out: Path, options: ExtractOptions, name: str | None, *, quiet: bool) -> Extraction:
    from deal_core.dataset.extract import extract_recording
    from training.support.console import progress

    with progress(quiet=quiet) as bar:
        return extract_recording(
            path,
            out,
            options,
            name=name,
            is_owned=True,
            on_start=lambda total: bar.update(bar.add_task(path.name), total=total),
            on_pair=lambda: bar.advance(bar.task_ids[0]),
        )


def _print(path: Path, out: Path, extraction: Extraction) -> None:
    from training.support.console import console
    from training.support.tables import summary_line

    said = console()
    state = "in the dataset already" if extraction.was_there else f"-> {out / 'recordings' / extraction.name}"
    said.print(f"{path}: {summary_line(extraction.report)} {state}", markup=False)
    for problem in extraction.report.errors:
        said.print(f"  {problem}", style="red", markup=False)
    for note in extraction.report.notes:
        said.print(f"  {note}", style="yellow", markup=False)


def _check_names(recordings: list[Path], name: str | None) -> None:
    """Refuse recordings that would become the same folder."""
    from deal_core.errors import UsageError

    if name is not None and len(recordings) > 1:
        raise UsageError(f"--name is for one recording, found {len(recordings)}: extract them one by one")
    names = [path.resolve().name if path.is_dir() else path.stem for path in recordings]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise UsageError(
            f"several recordings are named {', '.join(repeated)}: extract them one by one with different --name"
        )


def _parse_tags(text: str | None, marker: str, classes: ClassList | None) -> TagState | None:
    """Return the tags; None if there are none.

    Raises:
        UsageError: they name a class that is not in `classes`.
    """
    from deal_core.structures import TagMarker, TagState

    if text is None:
        return None
    tags = TagState(split_list(text), marker=TagMarker(marker))
    if classes is not None:
        tags.vector(classes)
    return tags
