"""`deal tag`: tag the frames of a dataset by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deal_core.tagging.choices import TagFormat
from training.support.options import PageOptions

if TYPE_CHECKING:
    from deal_core.tagging.interchange import Imported
    from deal_core.tagging.store import TagStore


def tag(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder written by deal extract.")],
    page: PageOptions,
    import_: Annotated[
        Path | None, typer.Option("--import", help="Read tags from this file (VOC: folder) instead of serving a page.")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Write the tags to this file instead of serving a page.")] = None,
    audit: Annotated[
        Path | None, typer.Option(help="Show first the tags that look wrong in this file of deal audit --out.")
    ] = None,
    form: Annotated[TagFormat, typer.Option("--format", help="Format of the file.")] = TagFormat.CSV,
) -> None:
    """Tag the frames on a local web page, with one key or tap for each visible class.

    The command prints the page's address. The page confirms an edit only when it is on disk. Ctrl-C ends the command.

    Examples:
      deal tag kitchen
      deal tag kitchen --host 0.0.0.0                            # for a phone; the address has a token
      deal tag kitchen --audit kitchen_audit.json                # only the frames whose tags look wrong
      deal tag kitchen --export tags.csv
      deal tag kitchen --import project.json --format labelstudio
    """
    from deal_core.dataset.dataset import DATASET_FILE, FRAMES_FILE, RECORDINGS, Dataset
    from deal_core.errors import UsageError
    from deal_core.files import refuse_output_on_input
    from deal_core.tagging.interchange import export_tags, import_tags
    from deal_core.tagging.store import TagStore, states_of
    from training.support.console import console

    if import_ is not None and export is not None:
        raise UsageError("--import and --export: use one of them; run the command twice for both")
    if audit is not None and (import_ is not None or export is not None):
        raise UsageError("--audit is for the page, which is not served with --import or --export")
    if export is not None:  # needs no lock: a dataset that is read-only, or being tagged, can be exported
        opened = Dataset.open(dataset)
        states = states_of([frame.tags for frame in opened.frames], opened.classes)
        own = (dataset / DATASET_FILE, *(dataset / RECORDINGS / name / FRAMES_FILE for name in opened.recordings))
        refuse_output_on_input([export], (*own, *opened.files()), UsageError)
        export_tags(export, form, dataset, opened.frames, states, opened.classes)
        console().print(f"{export}: the tags of {len(opened)} frames", markup=False)
        return
    with TagStore(dataset) as store:
        if import_ is None:
            _serve(store, page, _suspects(audit, store) if audit else {})
            return
        read = import_tags(import_, form, store.path, store.frames, store.classes)
        changed = read.changed(store.states())
        store.edit(read.changes, marks=read.marks)
        console().print(f"{import_}: {_imported(read, changed)} in {dataset}", markup=False)


def _imported(read: Imported, changed: int) -> str:
    """Return one line: the frames that were read, changed and kept, and what was not understood."""
    from deal_core.dataset.image_files import first_few

    said = f"read the tags of {read.frames} frames, changed {changed}, kept {read.frames - changed}"
    if read.marks:
        said += f", drew {len(read.marks)} taps and boxes"
    if read.silent:
        said += f" ({read.silent} of them not annotated)"
    if read.not_understood:
        said += f"; not understood: {', '.join(f'{count} {kind}' for kind, count in read.not_understood.items())}"
    if read.strangers:
        few = first_few(read.strangers)
        said += f"; {len(read.strangers)} frames are not in the dataset and were skipped: {few};"
    return said


def _suspects(path: Path, store: TagStore) -> dict[int, list[int]]:
    """Return the classes, from 0, whose tags an audit found suspicious, by frame.

    Raises:
        UsageError: the audit is of frames or classes that the dataset does not have.
    """
    from deal_core.audit.result import Audit
    from deal_core.errors import UsageError

    rows = {frame.key: row for row, frame in enumerate(store.frames)}
    found: dict[int, list[int]] = {}
    for tag in Audit.read(path).wrong_tags.tags:
        for key in tag.frames:
            if key not in rows or tag.name not in store.classes.names:
                raise UsageError(
                    f"{path} is an audit of another dataset: {store.path} has no frame {key} or no class {tag.name}"
                )
            found.setdefault(rows[key], []).append(store.classes.names.index(tag.name))
    return found


def _serve(store: TagStore, page: PageOptions, suspects: Mapping[int, Sequence[int]]) -> None:
    from deal_core.web import check_installed
    from training.support.console import console

    check_installed()
    from deal_core.tagging.page import create_app
    from deal_core.web.server import Door, page_server

    with Door(page.host, page.port, page.token) as door:
        server = page_server(create_app(store, door.token, suspects))
        console().print(f"{len(store.frames)} frames of {store.path}: open {door.address} (Ctrl-C stops)", markup=False)
        try:
            server.run(sockets=[door.socket])
        except KeyboardInterrupt:
            console().print("stopped; all tags are saved", markup=False)
