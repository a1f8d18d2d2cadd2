"""Files of numpy arrays (`.npz`) from others, which may say that they hold more than fits in memory."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from deal_core.errors import ConfigError
from deal_core.files import os_errors_as, replacing
from deal_core.limits import read_bytes, refuse_over

_LONGEST_END = 2**16 + 200  # a comment of any length, and the two records before it


def read_arrays(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Return arrays of an `.npz` file by their names; pickled ones are refused.

    Raises:
        OSError: the file cannot be read, or is no regular file.
        ValueError: it is damaged, lacks an array, or the arrays exceed the limit.
    """
    data = read_bytes(path, "array_bytes")
    try:
        refuse_many_members(io.BytesIO(data))
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return [_array(file, f"{name}.npy") for name in names]
    except Exception as error:  # zipfile, zlib, lzma and numpy raise different errors, even RuntimeError
        raise ValueError(str(error)[:200] or type(error).__name__) from None


def read_kept_arrays(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]] | None:
    """Return arrays that `keep_arrays` wrote; None if the file is missing or damaged, so they are to be made again."""
    try:
        return read_arrays(path, names)
    except (OSError, ValueError):
        return None


def keep_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays that can be made again to an `.npz` file; raise `ConfigError` if it cannot be written."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    with os_errors_as(ConfigError, f"{path} cannot be written"), replacing(path, synced=False) as temporary:
        temporary.write_bytes(content.getvalue())


def refuse_many_members(file: IO[bytes]) -> None:
    """Raise ValueError if the list of members of a zip archive is longer than its limit; it may fill the memory."""
    file.seek(0, io.SEEK_END)
    file.seek(max(file.tell() - _LONGEST_END, 0))
    tail = file.read()
    file.seek(0)
    for mark, form, place in ((b"PK\x05\x06", "<I", 12), (b"PK\x06\x06", "<Q", 40)):
        at = tail.rfind(mark)
        if 0 <= at <= len(tail) - place - struct.calcsize(form):
            (size,) = struct.unpack_from(form, tail, at + place)
            refuse_over("archive_list_bytes", size, "bytes of the list of members", ValueError)


def _array(file: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    refuse_over("array_bytes", file.getinfo(name).file_size, f"bytes of {name}", ValueError)
    with file.open(name) as content:
        major, _ = np.lib.format.read_magic(content)
        if major not in (1, 2):
            raise ValueError(f"{name} has the version {major} of the format, expected 1 or 2")
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(content)
        if dtype.hasobject or not dtype.itemsize:
            raise ValueError(f"{name} has values of {dtype}, expected numbers")
        size = dtype.itemsize
        for length in shape:
            size *= max(length, 1)
            refuse_over("array_bytes", size, f"bytes of {name}", ValueError)
    with file.open(name) as content:
        return np.lib.format.read_array(content, allow_pickle=False)
