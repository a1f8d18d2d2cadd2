"""An audit as HTML: a page of its own, and a section of the report."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from deal_core.audit.result import Audit, NextFrame, PlaceShortcut, WrongTag
from deal_core.dataset.dataset import Dataset
from deal_core.errors import EvaluationError
from deal_core.files import os_errors_as, replacing
from deal_core.structures import UInt8Array

TEMPLATE = Path(__file__).with_name("audit.html")
MOST_PICTURES = 60
_HEIGHT = 132


@dataclass(frozen=True)
class _Shown:
    """A wrong tag with the pictures of its first and its last frame."""

    tag: WrongTag
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    shortcut: PlaceShortcut
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class _Next:
    frame: NextFrame
    picture: str


def render_audit(audit: Audit, dataset: Dataset | None) -> str:
    """Return the section about an audit as HTML, with its pictures in it.

    Args:
        audit: The audit.
        dataset: The dataset of which it is; frames that it lacks are shown without a picture, all of them if None.

    Raises:
        DatasetError: an image is missing or damaged.
    """
    import jinja2

    records = {frame.key: frame for frame in dataset.frames} if dataset else {}

    def pictures(keys: Sequence[str]) -> tuple[str, ...]:
        return tuple(_picture(dataset.load_image(records[key])) for key in keys if dataset and key in records)

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    listed = audit.wrong_tags.tags
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        audit=audit,
        wrong=[_Shown(tag, pictures(_ends(tag.frames))) for tag in listed[:MOST_PICTURES]],
        left_out=max(len(listed) - MOST_PICTURES, 0),
        places=[_Place(one, pictures(one.frames)) for one in audit.shortcuts],
        following=[_Next(one, "".join(pictures((one.key,)))) for one in audit.next_frames],
    )


def write_audit_page(audit: Audit, dataset: Dataset, path: Path) -> None:
    """Write a page about an audit that loads nothing; raise `EvaluationError` if it cannot be written."""
    import html

    title = html.escape(f"Audit of {Path(audit.dataset).name}")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        "<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 24px auto; padding: 0 20px; "
        "color-scheme: light dark; }</style></head>"
        f"<body><h1>{title}</h1>\n{render_audit(audit, dataset)}</body></html>\n"
    )
    with os_errors_as(EvaluationError, f"{path}: the page cannot be written"), replacing(path) as temporary:
        temporary.write_text(page, "utf-8")


def _ends(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((keys[0], keys[-1])))


def _picture(image: UInt8Array) -> str:
    size = (max(round(image.shape[1] * _HEIGHT / image.shape[0]), 1), _HEIGHT)
    small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    jpeg = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 80))[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
