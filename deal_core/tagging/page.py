"""The server of the tagging page: the list of frames, thumbnails, and edits, which are saved before the answer."""

from __future__ import annotations

import secrets
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

from deal_core.dataset.dataset import FolderLoader
from deal_core.errors import DatasetError
from deal_core.structures import classes_to_json
from deal_core.tagging.store import Change, TagStore
from deal_core.web.server import new_app
from deal_core.web.thumbnail import thumbnail_jpeg

THUMBNAIL_HEIGHT = 168
_KEPT_THUMBNAILS = 4096
_LARGEST_BODY = 16 * 2**20  # a million changes
_Number = Annotated[int, Field(ge=-(2**53), le=2**53)]
_Name = Annotated[str, Field(max_length=64)]


class Edit(BaseModel):
    """A request of a page: changes as (frame, class, state), and the revision that the page had seen."""

    session: _Name
    tagger: _Name
    seen: _Number
    changes: list[tuple[_Number, _Number, _Number]]


def create_app(store: TagStore, token: str | None = None) -> FastAPI:
    """Return the application that serves a dataset's tagging page.

    Args:
        store: tags to edit.
        token: token that requests need, see `new_app`.
    """
    app = new_app(Path(__file__).with_name("page.html"), token, largest_body=_LARGEST_BODY)
    session = secrets.token_hex(8)
    thumbnail = lru_cache(_KEPT_THUMBNAILS)(partial(_thumbnail, store, FolderLoader(store.path)))

    @app.get("/frames")
    def frames() -> dict[str, Any]:
        revision = store.revision  # before the states, so that a change in between is sent again
        return {
            "session": session,
            "dataset": store.path.resolve().name,
            "classes": classes_to_json(store.classes),
            "revision": revision,
            "frames": [[f.recording, f.name, f.segment] for f in store.frames],
            "states": store.states().tolist(),
        }

    @app.get("/changes")
    def changes(since: _Number) -> dict[str, Any]:
        return {"session": session, **_changed(store, since)}

    @app.post("/edits")
    def edit(edit: Edit) -> dict[str, Any]:
        if edit.session != session:
            raise HTTPException(410, "`deal tag` was restarted: the page reloads the tags")
        done = store.edit((Change(*c) for c in edit.changes), seen=edit.seen, tagger=edit.tagger)
        return {**_changed(store, edit.seen), "refused": done.refused}

    @app.get("/thumbnails/{index}.jpg")
    def picture(index: _Number) -> Response:
        if not 0 <= index < len(store.frames):
            raise HTTPException(404, f"frame {index} does not exist: the dataset has {len(store.frames)}")
        try:
            data = thumbnail(index)
        except DatasetError as error:
            raise HTTPException(404, str(error)) from None
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    return app


def _thumbnail(store: TagStore, loader: FolderLoader, index: int) -> bytes:
    frame = store.frames[index]
    image = loader.image(frame)
    depth = loader.depth(frame, image.shape[:2])
    return thumbnail_jpeg(image, np.zeros(image.shape[:2], np.float32) if depth is None else depth, THUMBNAIL_HEIGHT)


def _changed(store: TagStore, since: int) -> dict[str, Any]:
    revision, rows = store.changed_since(since)
    states = store.states()
    return {"revision": revision, "changed": [[row, states[row].tolist()] for row in rows]}
