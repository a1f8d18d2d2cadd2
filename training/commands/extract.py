"""`deal extract`: recordings into a dataset folder.

deal extract kitchen_1 kitchen_2 --out kitchen
deal extract plain_bag --out kitchen --classes mug,drill --tags mug
"""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deal_core.dataset.extract import Extraction, ExtractOptions
    from deal_core.structures import ClassList, TagState


class Marker(str, Enum):
    """What `--tags` says about the classes it does not name."""

    PARTIAL = "partial"
    COMPLETE = "complete"


class ColorFormat(str, Enum):
    """How colour images are stored."""

    PNG = "png"
    JPEG = "jpeg"


def extract(
    recordings: Annotated[list[Path], typer.Argument(help="rosbag2 folders, .mcap or .db3 files")],
    out: Annotated[Path, typer.Option(help="Dataset folder; made if it does not exist.")],
    classes: Annotated[str, typer.Option(help="Class names, where a recording does not hold them.")] = "",
    tags: Annotated[
        str | None, typer.Option(help="What is visible throughout a recording without tags; '' for unknown.")
    ] = None,
    marker: Annotated[
        Marker, typer.Option(help="Are classes that --tags does not name unknown, or absent (complete)?")
    ] = Marker.PARTIAL,
    color_topic: Annotated[str | None, typer.Option(help="Where there are several colour topics.")] = None,
    depth_topic: Annotated[str | None, typer.Option(help="Where there are several depth topics.")] = None,
    slop_ms: Annotated[float, typer.Option(min=0, help="Largest offset of colour and depth; 0: equal stamps.")] = 0,
    color_format: Annotated[ColorFormat, typer.Option(help="png is exact, jpeg small.")] = ColorFormat.PNG,
    jpeg_quality: Annotated[int, typer.Option(help="Of JPEG images; higher is better.", min=1, max=100)] = 95,
    name: Annotated[str | None, typer.Option(help="Another name in the dataset, for one recording.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace recordings that are in the dataset.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
) -> None:
    """Turn recordings into a dataset: colour, depth in millimetres, tags, segments.

    Each recording becomes one folder of the dataset, complete or not at all; what was extracted before from the
    same files with the same options is not repeated. Everything left out is counted by cause.

    Exit code 1 says that a recording failed, is damaged or held unreadable messages, even though what could be
    saved is in the dataset; unpaired images and frames marked to be ignored are normal.

    Example: deal extract kitchen_1 kitchen_2 --out kitchen
    """
    from deal_core.dataset.extract import ExtractOptions
    from deal_core.errors import DealError, UsageError
    from training.support.console import console, print_json
    from training.support.recording_tables import escaped, summary_line

    _check_names(recordings, name)
    options = ExtractOptions(
        classes=parse_classes(classes),
        tags=_parse_tags(tags, marker),
        color_topic=color_topic,
        depth_topic=depth_topic,
        slop_ns=round(slop_ms * 1e6),
        color_format=color_format.value,
        jpeg_quality=jpeg_quality,
        overwrite=overwrite,
    )
    if options.tags is not None and options.classes is not None:
        options.tags.vector(options.classes)
    results, failed = [], []
    for path in recordings:
        try:
            extraction = _extract_one(path, out, options, name, quiet=as_json)
        except UsageError:
            raise
        except DealError as error:
            failed.append({"path": str(path), "error": str(error)})
            console().print(f"[red]error:[/red] {escaped(str(error))}")
            continue
        results.append(extraction)
        if not as_json:
            state = "in the dataset already" if extraction.was_there else f"-> {out / 'recordings' / extraction.name}"
            console().print(escaped(f"{path}: {summary_line(extraction.report)} {state}"))
            for problem in extraction.report.errors:
                console().print(f"  [red]{escaped(problem)}[/red]")
            for note in extraction.report.notes:
                console().print(f"  [yellow]{escaped(note)}[/yellow]")
    if as_json:
        print_json({"dataset": str(out), "recordings": [asdict(r) for r in results], "failed": failed})
    if failed or any(r.report.errors for r in results):
        raise typer.Exit(1)


def parse_classes(text: str) -> ClassList | None:
    """Return the classes of a comma list; None if it is empty.

    Raises:
        UsageError: names that `ClassList` refuses.
    """
    from deal_core.errors import DatasetError, UsageError
    from deal_core.structures import ClassList

    names = _names(text)
    try:
        return ClassList(names) if names else None
    except DatasetError as error:
        raise UsageError(f"--classes: {error}") from None


def _extract_one(path: Path, out: Path, options: ExtractOptions, name: str | None, *, quiet: bool) -> Extraction:
    from deal_core.dataset.extract import extract_recording
    from training.support.console import progress

    with progress(quiet=quiet) as bar:
        return extract_recording(
            path,
            out,
            options,
            name=name,
            on_start=lambda total: bar.update(bar.add_task(path.name), total=total),
            on_pair=lambda: bar.advance(bar.task_ids[0]),
        )


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


def _parse_tags(text: str | None, marker: Marker) -> TagState | None:
    from deal_core.structures import TagMarker, TagState

    return None if text is None else TagState(_names(text), marker=TagMarker(marker.value))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
