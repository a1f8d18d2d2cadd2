"""`deal tag`: tag the frames of a dataset by hand."""

from __future__ import annotations

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
    form: Annotated[TagFormat, typer.Option("--format", help="Format of the file.")] = TagFormat.CSV,
) -> None:
    """Tag the frames on a local web page, with one key or tap for each visible class.

    The command prints the page's address. The page confirms an edit only when it is on disk. Ctrl-C ends the command.

    Examples:
      deal tag kitchen
      deal tag kitchen --host 0.0.0.0                            # for a phone; the address has a token
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
            _serve(store, page)
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


def _serve(store: TagStore, page: PageOptions) -> None:
    from deal_core.web import check_installed
    from training.support.console import console

    check_installed()
    from deal_core.tagging.page import create_app
    from deal_core.web.server import Door, page_server

    with Door(page.host, page.port, page.token) as door:
        server = page_server(create_app(store, door.token))
        console().print(f"{len(store.frames)} frames of {store.path}: open {door.address} (Ctrl-C stops)", markup=False)
        try:
            server.run(sockets=[door.socket])
        except KeyboardInterrupt:
            console().print("stopped; all tags are saved", markup=False)
