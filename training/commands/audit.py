"""`deal audit`: what is wrong with the tags of a dataset, and what to record or tag next.

deal audit kitchen
deal audit kitchen --out kitchen_audit.json --page kitchen_audit.html
deal tag kitchen --audit kitchen_audit.json
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.options import DatasetArgument, DeviceOption, SourceOptions, parse_pair

if TYPE_CHECKING:
    from deal_core.audit.audit import AuditProgress
    from deal_core.audit.result import Audit, WrongTags
    from deal_core.dataset.dataset import Dataset


def audit(
    dataset: DatasetArgument,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Write the result to this JSON file, which deal tag and deal report read.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write an HTML page with a picture of each tag that looks wrong.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="Name of a timm model, also a vision transformer.")] = "resnet18",
    weights: Annotated[
        str, typer.Option(help="auto or hub (pretrained weights of timm), or a file of weights.")
    ] = "auto",
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="Further argument of the network as key=value, as in config/regions.yaml: mean=[0.5,0.5,0.5]; may be "
            "repeated."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Width x height of the images. Default: their own.", show_default=False)
    ] = None,
    precision: Annotated[
        float, typer.Option(help="Least estimated share of wrong tags in the list of those that look wrong.")
    ] = 0.8,
    next_frames: Annotated[int, typer.Option("--next", min=0, help="Number of frames to name as the next ones.")] = 10,
    features: Annotated[
        Path | None, typer.Option(help="Folder in which features are kept: the next audit then takes seconds.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the division into folds.")] = 0,
    source: SourceOptions,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find tags that look wrong, classes that the place gives away, and the frames to tag next; reads no masks.

    Each tag is compared with what heads on a frozen backbone say that did not see the scene. The list of tags that
    look wrong is as long as its estimated precision allows, and may be empty. A place gives a class away if the
    background alone, with all things cut out by depth, tells where the class is tagged.

    Examples:
      deal audit kitchen
      deal audit kitchen --out kitchen_audit.json --page kitchen_audit.html
      deal tag kitchen --audit kitchen_audit.json
    """
    from deal_core.audit.audit import AuditSettings, audit_dataset
    from deal_core.report.audit_page import write_audit_page
    from training.support.console import console, print_json

    given = parse_pair(size, "x", "--size", "320x240") if size else None
    frames = source.open(dataset)
    frames.refuse_output(dataset, [path for path in (out, page) if path])
    settings = AuditSettings(
        network={**_arguments(network or []), "backbone": backbone, "weights": weights},
        image_size=(given[1], given[0]) if given else None,
        precision=precision,
        next_frames=next_frames,
        features=features,
        device=device,
        seed=seed,
    )
    with _progress(frames, quiet=as_json) as progress:
        found = audit_dataset(frames, settings, progress)
    if out:
        found.write(out)
    if page:
        write_audit_page(found, frames, page)
    if as_json:
        print_json(found.to_json())
        return
    _print(found)
    for path in (out, page):
        if path:
            console().print(f"{path}: written", markup=False)


def _arguments(given: list[str]) -> dict[str, object]:
    """Read arguments of the network from items like `scale=1.5`."""
    from deal_core.errors import UsageError
    from deal_core.text_formats import FormatError, parse_yaml

    found: dict[str, object] = {}
    for item in given:
        name, separator, value = item.partition("=")
        if name not in ("mean", "std", "scale", "backbone_arguments") or not separator:
            raise UsageError(f"--network: expected mean=, std=, scale= or backbone_arguments=, found '{item}'")
        try:
            found[name] = parse_yaml(value)
        except FormatError as error:
            raise UsageError(f"--network: {item} cannot be read ({error})") from None
    return found


@contextmanager
def _progress(frames: Dataset, *, quiet: bool) -> Iterator[AuditProgress]:
    from deal_core.audit.audit import AuditProgress
    from training.support.console import progress

    with progress(quiet=quiet) as bar:
        looking = bar.add_task("features", total=len(frames))
        learning = bar.add_task("heads", total=None, visible=False)
        yield AuditProgress(
            frame=lambda done: bar.update(looking, completed=done),
            training=lambda done, total: bar.update(learning, completed=done, total=total, visible=True),
        )


def _print(found: Audit) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)
    table = Table(title=f"{found.frames} frames, {found.visits} visits")
    for column in ("class", "visits with", "visits without", "told by regions", "told by the place"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for one in found.classes:
        shares = ("-" if value is None else f"{value:.2f}" for value in (one.ranking, one.place_ranking))
        table.add_row(one.name, str(one.with_it), str(one.without), *shares)
    out.print(table)
    for text in (*(str(one) for one in found.shortcuts), *found.notes):
        out.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)
    _print_wrong(found.wrong_tags)
    for text in found.record_next:
        out.print(f"record next: {text}", markup=False, soft_wrap=True)
    for frame in found.next_frames:
        verb = "look at" if frame.is_tagged else "tag"
        out.print(f"{verb} next: {frame.key}, for {', '.join(frame.names)}", markup=False, soft_wrap=True)


def _print_wrong(found: WrongTags) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)
    if found.expected is None:
        out.print("wrong tags: not looked for: there are too few scenes, or no class is both present and absent")
        return
    if not found.tags:
        out.print(
            f"wrong tags: none listed; about {found.expected:.0f} of {found.checked} tags may be wrong, and no list of "
            "them reaches the precision"
        )
        return
    table = Table(
        title=f"{len(found.tags)} of {found.checked} tags look wrong (a tag: one class in frames in a row); estimated "
        f"precision {found.precision:.0%}, estimated recall {found.recall:.0%}"
    )
    for column in ("recording", "segment", "first frame", "frames", "class", "tagged", "probably wrong"):
        table.add_column(column, overflow="fold")
    for tag in found.tags:
        first = tag.frames[0].removeprefix(f"{tag.recording}/")
        place = (tag.recording, str(tag.segment), first, str(len(tag.frames)))
        table.add_row(*place, tag.name, tag.tagged, f"{tag.probability:.0%}")
    out.print(table)
