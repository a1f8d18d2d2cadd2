"""Which frame of a dataset an image of another tool is: by its file name, and by the folders in front of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from deal_core.dataset.dataset import RECORDINGS, Dataset, FrameRecord
from deal_core.dataset.image_files import SUFFIXES
from deal_core.errors import DatasetError, short

_UPLOADED = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""


@dataclass(frozen=True)
class Matches:
    """The images of a source and the frames of a dataset.

    Args:
        images: Name of the image of each frame, by its key; frames without one are left out.
        strangers: Images that are no frame of the dataset.
    """

    images: Mapping[str, str]
    strangers: tuple[str, ...]


def match_frames(images: Sequence[str], dataset: Dataset, path: object) -> Matches:
    """Find the frame of each image.

    The names of both must be the same without a suffix. Where several frames have one name, the folders before it
    decide: `kitchen_1/17.png` is frame 17 of the recording kitchen_1. An image in the folder of another recording is
    none of the frames.

    Args:
        images: Names of the images, with or without folders, a suffix, or the prefix of a server.
        dataset: The frames.
        path: The source, for the message.

    Raises:
        DatasetError: an image can be several frames, two images can be one frame, or no image is a frame.
    """
    by_name: dict[str, list[FrameRecord]] = {}
    for frame in dataset.frames:
        for name in {_parts(frame.key)[-1], _parts(frame.color.name)[-1]}:
            by_name.setdefault(name, []).append(frame)
    recordings = set(dataset.recordings)
    claims: dict[str, dict[str, int]] = {}
    strangers = []
    for image in images:
        parts = _parts(image)
        fitting = _fitting(parts, by_name, recordings, dataset)
        if not fitting:
            strangers.append(image)
            continue
        best = max(fitting.values())
        chosen = [key for key, shared in fitting.items() if shared == best]
        if len(chosen) > 1:
            raise DatasetError(
                f"{path}: image {short(image)} can be {chosen[0]} or {chosen[1]}: put the folder of the recording "
                "before the name"
            )
        claims.setdefault(chosen[0], {})[image] = best
    if not claims:
        expected = dataset.frames[0].key if len(dataset) else "<recording>/<frame>"
        raise DatasetError(
            f"{path}: no image is a frame of {dataset.path}: expected names like {expected}, found "
            f"{', '.join(short(name) for name in images[:3]) or 'no image'}"
        )
    found = {key: _claimed(key, claim, path) for key, claim in claims.items()}
    strangers += [image for key, claim in claims.items() for image in claim if image != found[key]]
    return Matches(found, tuple(strangers))


def _fitting(
    parts: Sequence[str], by_name: Mapping[str, list[FrameRecord]], recordings: Set[str], dataset: Dataset
) -> dict[str, int]:
    """Return the frames that an image can be, by key, and how many parts of the path they have in common."""
    name = parts[-1]
    if name not in by_name and _UPLOADED.match(name):
        name = name[9:]
        parts = [*parts[:-1], name]
    found = {}
    for frame in by_name.get(name, ()):
        color = frame.color.relative_to(dataset.path) if frame.color.is_relative_to(dataset.path) else frame.color
        shared = max(_common_end(parts, _parts(path)) for path in (frame.key, color.as_posix()))
        folders = set(parts[:-1])
        if frame.recording not in folders and (folders & recordings or RECORDINGS in folders):
            continue  # a frame of the same name in another recording
        found[frame.key] = shared + (frame.recording in folders)
    return found


def _claimed(key: str, claim: Mapping[str, int], path: object) -> str:
    """Return the image that fits a frame best."""
    best = max(claim.values())
    chosen = [image for image, shared in claim.items() if shared == best]
    if len(chosen) > 1:
        raise DatasetError(f"{path}: two images are the frame {key}: {short(chosen[0])} and {short(chosen[1])}")
    return chosen[0]


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count


def _parts(name: str) -> list[str]:
    """Return the parts of a path or an address, the last without the suffix of an image."""
    path = PurePosixPath(unquote(name.rpartition("?d=")[2]).replace("\\", "/"))
    last = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    return [part for part in last.parts if part not in ("/", "..", ".")] or [name]
