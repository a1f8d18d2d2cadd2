"""The page of a running recording: the camera's picture, a button for each class, and the counts so far.

Any number of pages may be open, and each may be slow. Pictures are made only on request, a few times per second for all
pages together, from the newest images, so that the recorder never waits for a page.
"""

from __future__ import annotations

import itertools
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

from deal_core.recorder.controls import RecorderControls
from deal_core.recorder.pair_recorder import LatestImages, PairRecorder
from deal_core.recording.image_encodings import ImageFormatError, any_to_rgb, to_depth_m
from deal_core.structures import TagMarker, classes_to_json
from deal_core.web.server import new_app
from deal_core.web.thumbnail import thumbnail_jpeg

PICTURE_HEIGHT = 240
PICTURE_PERIOD_S = 0.15
SOURCE = "page"
"""Source of the tags in the recording."""


class Act(BaseModel):
    """A request of a page: the name of a control, or a command of `parse_tags`."""

    session: str = Field(max_length=64)
    name: str = Field("", max_length=64)
    tags: str = Field("", max_length=10_000)


def create_live_app(
    controls: RecorderControls,
    title: str,
    token: str | None = None,
    *,
    call: Callable[[Callable[[], str]], str] = lambda act: act(),
) -> FastAPI:
    """Return the application of the page.

    Args:
        controls: commands of the recorder.
        title: title of the page, as in "deal collect".
        token: token that requests need, see `new_app`.
        call: runs a command in the thread that it needs, and returns its result.
    """
    app = new_app(Path(__file__).with_name("live_page.html"), token)
    recorder, session, picture = controls.recorder, secrets.token_hex(8), _Picture(controls.recorder)
    lock, numbers = threading.Lock(), itertools.count()

    @app.get("/state")
    def state() -> dict[str, Any]:
        with lock:  # a page uses the answer with the highest number
            return {"session": session, "number": next(numbers), **_state(recorder)}

    @app.get("/session")
    def begin() -> dict[str, Any]:
        return {
            "session": session,
            "title": title,
            "classes": classes_to_json(recorder.classes),
            "controls": [{"name": c.name, "key": c.key, "label": c.label, "ends": c.ends} for c in controls.offered],
        }

    @app.post("/act")
    def act(act: Act) -> dict[str, Any]:
        if act.session != session:
            raise HTTPException(410, f"`{title}` was restarted: give the command again")
        if act.name:
            said = call(lambda: controls.do(act.name, SOURCE))
        else:
            said = call(lambda: controls.set_tags(act.tags, SOURCE))
        return {**state(), "said": said}

    @app.get("/picture.jpg")
    def show() -> Response:
        try:
            return Response(picture.jpeg(), media_type="image/jpeg", headers={"Cache-Control": "no-store"})
        except ImageFormatError as error:
            raise HTTPException(404, f"the camera's image cannot be shown: {error}") from None

    return app


class _Picture:
    """The camera's picture as a JPEG, made on request if the last one is old."""

    def __init__(self, recorder: PairRecorder) -> None:
        self._recorder, self._lock = recorder, threading.Lock()
        self._made, self._made_s = b"", -PICTURE_PERIOD_S

    def jpeg(self) -> bytes:
        with self._lock:
            if not self._made or time.monotonic() - self._made_s >= PICTURE_PERIOD_S:
                self._made = _jpeg(self._recorder.latest)
                self._made_s = time.monotonic()
            return self._made


def _jpeg(images: LatestImages) -> bytes:
    if images.color is None:
        raise ImageFormatError("zero_size", "no image has arrived yet")
    color, depth = images.color.raw(), images.depth.raw() if images.depth else None
    rgb = any_to_rgb(color.pixels(), color.encoding)
    metres = to_depth_m(depth.pixels(), depth.encoding)[0] if depth else np.zeros(rgb.shape[:2], np.float32)
    return thumbnail_jpeg(rgb, metres, PICTURE_HEIGHT)


def _state(recorder: PairRecorder) -> dict[str, Any]:
    now, age_s = recorder.state, recorder.latest.age_s
    # While everything is ignored, the page shows the tags that follow.
    shown = replace(now.tags, marker=TagMarker.PARTIAL) if now.tags.marker is TagMarker.IGNORE else now.tags
    counts = now.counts
    return {
        "recording": now.path,
        "failure": now.failure,
        "marker": now.tags.marker.value,
        "states": np.nan_to_num(shown.vector(recorder.classes), nan=-1).astype(int).tolist(),
        "written": counts.written,
        "received": counts.received_color,
        "skipped": counts.skipped,
        "lost": counts.causes,
        "loss": counts.loss,
        "pending": counts.pending_pairs,
        "silent_s": age_s,
        "free_bytes": shutil.disk_usage(Path(now.path).parent).free if now.path else None,
    }
