"""`deal tag`: say by hand what is visible in the frames of a dataset."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deal_core.tagging.store import TagStore


class Format(str, Enum):
    """Files of tags that other tools read and write."""

    CSV = "csv"
    COCO = "coco"
    VOC = "voc"
    LABELSTUDIO = "labelstudio"


def tag(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, of deal extract.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets a phone in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8321,
    token: Annotated[
        str, typer.Option(help="Asked of everybody who opens the page; one is made unless --host is this machine.")
    ] = "",
    import_: Annotated[
        Path | None, typer.Option("--import", help="File of tags to take in place of the page (VOC: a folder).")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="File to write the tags to in place of the page.")] = None,
    form: Annotated[Format, typer.Option("--format", help="Of the file.")] = Format.CSV,
) -> None:
    """Show the frames on a local web page, to say with one key or tap which classes are visible.

    It prints the page's address. Every edit is on disk before the page says so. Ctrl-C ends it.

    Examples:
      deal tag kitchen
      deal tag kitchen --host 0.0.0.0                            # from a phone; the address has a token
      deal tag kitchen --export tags.csv
      deal tag kitchen --import project.json --format labelstudio
    """
    from deal_core.dataset.dataset import Dataset
    from deal_core.errors import UsageError
    from deal_core.tagging.interchange import TagFormat, export_tags, import_tags
    from deal_core.tagging.store import TagStore, states_of
    from training.support.console import console

    if import_ is not None and export is not None:
        raise UsageError("--import and --export: expected one of the two; run the command twice")
    kind = TagFormat(form.value)
    if export is not None:  # a dataset that is read only, or being tagged, can be exported
        opened = Dataset.open(dataset)
        states = states_of([frame.tags for frame in opened.frames], opened.classes)
        export_tags(export, kind, dataset, opened.frames, states, opened.classes)
        console().print(f"{export}: the tags of {len(opened)} frames", markup=False)
        return
    with TagStore(dataset) as store:
        if import_ is None:
            _serve(store, host, port, token)
            return
        read = import_tags(import_, kind, store.path, store.frames, store.classes)
        store.edit(read.changes)
        said = f"{import_}: the tags of {read.frames} frames are in {dataset}"
        if read.strangers:
            said += f"; {len(read.strangers)} frames are not in the dataset and were left out"
        console().print(said, markup=False)


def _serve(store: TagStore, host: str, port: int, token: str) -> None:
    from deal_core.web import check_installed
    from training.support.console import console

    check_installed()
    from deal_core.tagging.page import create_app
    from deal_core.web.server import Door, page_server

    with Door(host, port, token) as door:
        server = page_server(create_app(store, door.token))
        console().print(f"{len(store.frames)} frames of {store.path}: open {door.address} (Ctrl-C ends)", markup=False)
        try:
            server.run(sockets=[door.socket])
        except KeyboardInterrupt:
            console().print("ended; every tag is saved", markup=False)
