"""The server of the tagging page: frames as one list, thumbnails, and edits that are on disk when they are answered."""

from __future__ import annotations

import secrets
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel

from deal_core.dataset.dataset import FolderLoader
from deal_core.errors import DatasetError
from deal_core.structures import classes_to_json
from deal_core.tagging.store import Change, TagStore
from deal_core.web.server import new_app
from deal_core.web.thumbnail import thumbnail_jpeg

THUMBNAIL_HEIGHT = 168
_KEPT_THUMBNAILS = 4096


class Edit(BaseModel):
    """What a page sends: changes as (frame, class, state), and what it knew when they were made."""

    session: str
    tagger: str
    seen: int
    changes: list[tuple[int, int, int]]


def create_app(store: TagStore, token: str | None = None) -> FastAPI:
    """Return the application that serves a dataset's tagging page.

    Args:
        store: the tags.
        token: see `new_app`.
    """
    app = new_app(Path(__file__).with_name("page.html"), token)
    session = secrets.token_hex(8)
    loader = FolderLoader(store.path)

    @app.get("/frames")
    def frames() -> dict[str, Any]:
        revision = store.revision  # before the states: a change between the two is sent again, not lost
        return {
            "session": session,
            "dataset": store.path.resolve().name,
            "classes": classes_to_json(store.classes),
            "revision": revision,
            "frames": [[f.recording, f.name, f.segment] for f in store.frames],
            "states": store.states().tolist(),
        }

    @app.get("/changes")
    def changes(since: int) -> dict[str, Any]:
        return {"session": session, **_changed(store, since)}

    @app.post("/edits")
    def edit(edit: Edit) -> dict[str, Any]:
        if edit.session != session:
            raise HTTPException(410, "`deal tag` was started again: the page loads the tags anew")
        done = store.edit((Change(*c) for c in edit.changes), seen=edit.seen, tagger=edit.tagger)
        return {**_changed(store, edit.seen), "refused": done.refused}

    @lru_cache(_KEPT_THUMBNAILS)
    def thumbnail(index: int) -> bytes:
        frame = store.frames[index]
        image = loader.image(frame)
        depth = loader.depth(frame, image.shape[:2])
        if depth is None:
            depth = np.zeros(image.shape[:2], np.float32)
        return thumbnail_jpeg(image, depth, THUMBNAIL_HEIGHT)

    @app.get("/thumbnails/{index}.jpg")
    def picture(index: int) -> Response:
        if not 0 <= index < len(store.frames):
            raise HTTPException(404, f"no frame {index}: there are {len(store.frames)}")
        try:
            data = thumbnail(index)
        except DatasetError as error:
            raise HTTPException(404, str(error)) from None
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    return app


def _changed(store: TagStore, since: int) -> dict[str, Any]:
    revision, rows = store.changed_since(since)
    states = store.states()
    return {"revision": revision, "changed": [[row, states[row].tolist()] for row in rows]}
