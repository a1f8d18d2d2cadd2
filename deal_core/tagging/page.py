"""The server of the tagging page: frames, their pictures and masks, and edits, which are saved before the answer."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cv2
import numpy as np
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

from deal_core.dataset.dataset import Dataset, FolderLoader
from deal_core.dataset.taps import Box, Mark, Tap
from deal_core.errors import DatasetError, UsageError
from deal_core.structures import UInt8Array, classes_to_json
from deal_core.tagging.store import Change, MarkChange, TagStore
from deal_core.web.server import new_app
from deal_core.web.thumbnail import thumbnail_jpeg

if TYPE_CHECKING:
    from deal_core.taps.masks import TapMasks

THUMBNAIL_HEIGHT = 168
_KEPT_THUMBNAILS = 4096
_OPACITY = 110
_LARGEST_BODY = 16 * 2**20  # a million changes
_Number = Annotated[int, Field(ge=-(2**53), le=2**53)]
_Numbers = Annotated[list[_Number], Field(min_length=3, max_length=4)]
_Name = Annotated[str, Field(max_length=64)]


class Edit(BaseModel):
    """A request of a page, and the revision that the page had seen.

    Changes are (frame, class, state); marks are (frame, whether it is drawn, class, numbers), where the numbers are
    (column, row, 1 or 0 for "not this") of a tap, or (left, top, right, bottom) of a box.
    """

    session: _Name
    tagger: _Name
    seen: _Number
    changes: list[tuple[_Number, _Number, _Number]]
    marks: list[tuple[_Number, bool, _Number, _Numbers]] = []


def create_app(
    store: TagStore, token: str | None = None, suspects: Mapping[int, Sequence[int]] | None = None
) -> FastAPI:
    """Return the application that serves a dataset's tagging page.

    Args:
        store: tags to edit.
        token: token that requests need, see `new_app`.
        suspects: tags that look wrong, as classes (from 0) by frame, which the page shows first.
    """
    app = new_app(Path(__file__).with_name("page.html"), token, largest_body=_LARGEST_BODY)
    session = secrets.token_hex(8)
    loader = FolderLoader(store.path)
    thumbnail = lru_cache(_KEPT_THUMBNAILS)(partial(_thumbnail, store, loader))
    masks = MaskPictures(store)

    def known(index: int) -> int:
        if not 0 <= index < len(store.frames):
            raise HTTPException(404, f"frame {index} does not exist: the dataset has {len(store.frames)}")
        return index

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
            "marks": {i: found for i in range(len(store.frames)) if (found := _marks(store, i))},
            "suspects": {frame: list(labels) for frame, labels in (suspects or {}).items()},
        }

    @app.get("/changes")
    def changes(since: _Number) -> dict[str, Any]:
        return {"session": session, **_changed(store, since)}

    @app.post("/edits")
    def edit(edit: Edit) -> dict[str, Any]:
        if edit.session != session:
            raise HTTPException(410, "`deal tag` was restarted: the page reloads the tags")
        marks = [MarkChange(frame, _mark(store, label, n), there) for frame, there, label, n in edit.marks]
        done = store.edit((Change(*c) for c in edit.changes), marks=marks, seen=edit.seen, tagger=edit.tagger)
        return {**_changed(store, edit.seen), "refused": done.refused}

    @app.get("/thumbnails/{index}.jpg")
    def picture(index: _Number) -> Response:
        return _sent(partial(thumbnail, known(index)), "jpeg")

    @app.get("/images/{index}.jpg")
    def image(index: _Number) -> Response:
        return _sent(lambda: _jpeg(loader.image(store.frames[known(index)])), "jpeg")

    @app.get("/masks/{index}.png")
    def mask(index: _Number) -> Response:
        return _sent(partial(masks.png, known(index)), "png")

    return app


class MaskPictures:
    """Pictures of the masks that the present marks give, with those carried from other frames.

    Args:
        store: tags and marks.
    """

    def __init__(self, store: TagStore) -> None:
        self._store = store
        self._mutex = threading.Lock()
        self._masks: TapMasks | None = None
        self._revision = -1

    def png(self, index: int) -> bytes:
        """Return the masks of a frame as a PNG of its size: the classes' colours, transparent elsewhere.

        Raises:
            DatasetError: a file of the dataset is missing or damaged, or PyTorch is not installed.
            CameraModelError: the lens of the camera cannot be inverted.
        """
        try:  # not before a frame is opened: tags alone need no PyTorch, which takes seconds to load
            from deal_core.taps.masks import TapMasks
        except ModuleNotFoundError as error:
            raise DatasetError(f"masks of taps need {error.name}: pip install 'deal_ros[torch]'") from None
        store = self._store
        with self._mutex:  # one at a time: each takes a processor for itself
            revision = store.revision
            if self._masks is None or revision != self._revision:
                dataset = Dataset(store.path, store.classes, [store.frame(i) for i in range(len(store.frames))])
                self._masks, self._revision = TapMasks(dataset, grown=self._masks), revision
            found = self._masks.of(store.frames[index].key)
        if found is None:
            return _png(np.zeros((1, 1, 4), np.uint8))
        mask = found.mask
        around = np.ones((3, 3), np.uint8)
        is_inside = cv2.erode(mask, around) == cv2.dilate(mask, around)
        opacity = np.where(mask > 0, np.where(is_inside, _OPACITY, 255), 0)
        return _png(np.dstack([store.classes.palette()[mask], opacity.astype(np.uint8)]))


def _png(picture: UInt8Array) -> bytes:
    """Return RGBA (H, W, 4) as PNG."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA))[1].tobytes()


def _jpeg(image: UInt8Array) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 92))[1].tobytes()


def _sent(make: Callable[[], bytes], kind: str) -> Response:
    try:
        data = make()
    except DatasetError as error:
        raise HTTPException(404, str(error)) from None
    return Response(data, media_type=f"image/{kind}", headers={"Cache-Control": "private, max-age=86400"})


def _mark(store: TagStore, label: int, numbers: list[int]) -> Mark:
    names = store.classes.names
    if not 0 <= label < len(names):
        raise UsageError(f"expected a class below {len(names)}, found {label}")
    if len(numbers) == 3:
        return Tap(names[label], numbers[0], numbers[1], bool(numbers[2]))
    left, top, right, bottom = numbers
    return Box(names[label], left, top, right, bottom)


def _marks(store: TagStore, index: int) -> list[tuple[int, list[int]]]:
    """Return the marks of a frame as (class, numbers), see `Edit`."""
    return [(store.classes.id_of(mark.name) - 1, [int(number) for number in mark[1:]]) for mark in store.marks(index)]


def _thumbnail(store: TagStore, loader: FolderLoader, index: int) -> bytes:
    frame = store.frames[index]
    image = loader.image(frame)
    depth = loader.depth(frame, image.shape[:2])
    return thumbnail_jpeg(image, np.zeros(image.shape[:2], np.float32) if depth is None else depth, THUMBNAIL_HEIGHT)


def _changed(store: TagStore, since: int) -> dict[str, Any]:
    revision, rows = store.changed_since(since)
    states = store.states()
    return {"revision": revision, "changed": [[row, states[row].tolist(), _marks(store, row)] for row in rows]}
