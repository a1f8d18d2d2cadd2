"""Limits on what a file may ask for: sizes are believed up to here, and each limit can be raised.

A file says how large its image is, how long its message, how deep its lists; a damaged or hostile one says anything.
The limits are far above what cameras and people make. `deal --limit image_pixels=200000000 check kitchen` raises one
for a command, and the environment variable does it for nodes and for other programs:

    DEAL_LIMITS="image_pixels=200000000 yaml_bytes=4000000" ros2 launch deal_ros segmentation.launch.py
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

from deal_core.errors import UsageError, nearest_hint

_PIECE = 2**20
VARIABLE = "DEAL_LIMITS"
"""Environment variable with raised limits, `name=number` with spaces between them."""

LIMITS: Mapping[str, int] = {
    "image_pixels": 2**26,  # pixels of an image, and of a tile or strip of a TIFF
    "jpeg_scans": 100,  # passes over the whole image of a progressive JPEG
    "rvl_pixels": 2**23,  # pixels of depth in RVL
    "message_bytes": 2**28,  # bytes of one message of a recording, unpacked
    "chunk_bytes": 2**28,  # bytes of one chunk of an MCAP file, unpacked
    "text_bytes": 2**26,  # bytes of JSON, CSV, XML and lists
    "annotation_bytes": 2**29,  # bytes of COCO's annotations, read entry by entry; those of train2017 have 470 million
    "description_bytes": 2**20,  # bytes of a small JSON or XML file, such as camera.json, and of a line of frames.jsonl
    "listed_images": 2**18,  # images in the lists of VOC and COCO, and frames of a file of tags that are not there
    "poses": 2**20,  # poses of a trajectory
    "yaml_bytes": 2**20,  # characters of YAML, with each alias written out
    "yaml_values": 50_000,  # keys and values of YAML, with each alias written out
    "json_memory": 2**29,  # bytes that the lists, objects and numbers of a JSON text take at most in memory
    "nesting": 100,  # lists and mappings inside one another, in YAML and JSON
    "outline_pixels": 2**22,  # length of the outlines of an object
    "object_pixels": 2**29,  # pixels of the boxes around all objects of an image
    "array_bytes": 2**28,  # bytes of the arrays of an .npz file, unpacked
    "archive_list_bytes": 2**21,  # bytes of the list of members of an .npz file, and of a file of PyTorch
    "header_bytes": 2**23,  # bytes of the header of a .safetensors file, and of the pickle in a file of PyTorch
    "input_pixels": 2**22,  # pixels of the input of a model
    "onnx_bytes": 2**29,  # bytes of an .onnx file, which is read as a whole
    "onnx_nodes": 10_000,  # operators of an .onnx network
    "onnx_memory": 3 * 2**28,  # bytes of memory for the weights and layers of a running .onnx network
    "outside_links": 0,  # 1: follow links that leave a dataset
}
"""The limits by name, with their defaults."""


def limit(name: str) -> int:
    """Return a limit: the default, or the value that `DEAL_LIMITS` gives it.

    Raises:
        UsageError: `DEAL_LIMITS` names an unknown limit, or has no whole number for one.
    """
    return _raised(os.environ.get(VARIABLE, "")).get(name, LIMITS[name])


def raise_limits(given: str) -> None:
    """Raise limits for this process and those that it starts.

    Args:
        given: `name=number`, several with spaces between them.

    Raises:
        UsageError: a name is unknown, or a value is no whole number.
    """
    _raised(given)
    os.environ[VARIABLE] = f"{os.environ.get(VARIABLE, '')} {given}".strip()


def over(name: str, found: float, what: str) -> str | None:
    """Return the sentence for what exceeds a limit; None if it does not.

    Args:
        name: name of the limit.
        found: what the file asks for.
        what: its unit, as in "pixels".

    >>> over("jpeg_scans", 3, "scans") is None
    True
    >>> over("jpeg_scans", 5000, "scans")
    '5000 scans are over the limit of 100; if the file is meant to be so, raise it: deal --limit jpeg_scans=5000 …'
    """
    most = limit(name)
    if found <= most:  # nan is over every limit
        return None
    number = f"{found:.0f}" if found < 10**18 else "far too many"
    value = number if found < 10**18 else "…"
    return (
        f"{number} {what} are over the limit of {most}; if the file is meant to be so, raise it: "
        f"deal --limit {name}={value} …"
    )


def refuse_over(name: str, found: float, what: str, kind: Callable[[str], Exception]) -> None:
    """Raise an error of `kind` with the sentence of `over` if a limit is exceeded."""
    if sentence := over(name, found, what):
        raise kind(sentence)


def read_bytes(path: Path, name: str = "text_bytes") -> bytes:
    """Return the content of a file.

    Args:
        path: the file.
        name: limit of its length.

    Raises:
        OSError: it cannot be read, is no regular file (a pipe or a device may never end), or exceeds the limit.
    """
    with open_file(path, name) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)
        if len(content) <= size:
            return content
        pieces = [content]  # it grows, or lies in a file system that does not know sizes
        while piece := file.read(_PIECE):
            pieces.append(piece)
            refuse_over(name, sum(map(len, pieces)), "bytes", OSError)
        return b"".join(pieces)


def open_file(path: Path, name: str) -> BufferedReader:
    """Return a file, opened to be read piece by piece.

    Args:
        path: the file.
        name: limit of its length.

    Raises:
        OSError: it cannot be read, is no regular file (a pipe or a device may never end), or exceeds the limit.
    """
    # A pipe without a writer would block here.
    file = open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK))  # noqa: SIM115 (returned)
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"expected a file, found {_kind(status.st_mode)}")
        refuse_over(name, status.st_size, "bytes", OSError)
    except OSError:
        file.close()
        raise
    return file


def require_file(path: Path) -> None:
    """Raise OSError if a path that exists is no regular file; a library may wait for a pipe or a device for ever."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(f"expected a file, found {_kind(mode)}")


def _kind(mode: int) -> str:
    names = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in names if is_kind(mode)), "a device")


@lru_cache
def _raised(text: str) -> dict[str, int]:
    found = {}
    for entry in text.split():
        name, _, value = entry.partition("=")
        if name not in LIMITS:
            raise UsageError(
                f"unknown limit '{name}': expected one of {', '.join(LIMITS)}.{nearest_hint(name, LIMITS)}"
            )
        if not value.isascii() or not value.isdigit() or len(value) > 18:
            raise UsageError(f"limit '{name}': expected a whole number, found '{value}'")
        found[name] = int(value)
    return found
