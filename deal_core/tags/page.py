"""The server of the tagging page: frames as one list, thumbnails, and edits that are on disk when they are answered."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware

from deal_core.data.class_json import classes_to_json
from deal_core.data.dataset import FolderLoader
from deal_core.errors import DatasetError, DealError
from deal_core.pictures import depth_picture
from deal_core.tags.store import Change, TagStore

LOCAL_HOSTS = ("127.0.0.1", "localhost")
THUMBNAIL_HEIGHT = 168
_KEPT_THUMBNAILS = 4096
_COOKIE = "deal_token"
_PAGE = Path(__file__).with_name("page.html")


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
        token: asked of everybody; without one, only addresses of this machine are answered, so that no page of
            the web can reach the tags through a name that it points here.
    """
    app = FastAPI(openapi_url=None)
    session = secrets.token_hex(8)
    loader = FolderLoader(store.path)

    if token is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL_HOSTS))
    else:
        app.middleware("http")(_asks_for(token))

    @app.exception_handler(DealError)
    def tell(request: Request, error: DealError) -> Response:
        return JSONResponse({"detail": str(error)}, status_code=409)

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers={"Cache-Control": "no-cache"})

    @app.get("/frames")
    def frames() -> dict[str, Any]:
        revision = store.revision  # before the states: a change between the two is told again, not lost
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
        size = (max(round(image.shape[1] * THUMBNAIL_HEIGHT / image.shape[0]), 1), THUMBNAIL_HEIGHT)
        color = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        # Depth is not averaged: between an object and what is behind it, there is nothing.
        colored = depth_picture(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST).astype(np.float32))
        both = cv2.cvtColor(np.hstack([color, colored]), cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", both, (cv2.IMWRITE_JPEG_QUALITY, 85))[1].tobytes()

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


def _asks_for(token: str) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Let in who brings the token in the address, and from then on his cookie."""

    def is_right(found: str | None) -> bool:
        return found is not None and hmac.compare_digest(found.encode(), token.encode())

    async def check(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        brought = is_right(request.query_params.get("token"))
        if not brought and not is_right(request.cookies.get(_COOKIE)):
            return PlainTextResponse("Open the whole address that `deal tag` printed, with its token.", 401)
        response = await answer(request)
        if brought:
            response.set_cookie(_COOKIE, token, httponly=True, samesite="strict")
        return response

    return check
