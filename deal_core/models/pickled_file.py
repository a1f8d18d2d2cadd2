"""Files that `torch.save` wrote, read as tensors, numbers and text; they never run code.

PyTorch believes the sizes in such a file. So the pickle is looked through first, and so is the list of an archive.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from deal_core.array_files import refuse_many_members
from deal_core.limits import refuse_over, require_file

_OLD_PICKLES = 5  # before the tensors of a file that is no archive: a number, a version, sizes, the content, a list
_MAKES_ANY_SIZE = ("bytearray", "Tensor")  # in pickles, they stand before a size; PyTorch writes none of them


def read_pickled(path: Path, known: Sequence[Any] = ()) -> Any:
    """Return what `torch.save` wrote.

    Args:
        path: the file.
        known: further types that may occur, as in `torch.serialization.safe_globals`.

    Raises:
        UnpicklingError: it holds more than tensors, numbers and text.
        OSError: it cannot be read, or is no regular file.
        ValueError: it is damaged, or would take more memory than its tensors.
    """
    require_file(path)
    try:
        _refuse_bomb(path)
        with torch.serialization.safe_globals(list(known)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, OSError):
        raise
    except Exception as error:  # PyTorch, pickle, struct and zipfile raise different errors on damaged bytes
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0][:200]) from None


def _refuse_bomb(path: Path) -> None:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            for _ in range(_OLD_PICKLES):
                _look_through(file, file.tell())
            return
        refuse_many_members(file)
        with zipfile.ZipFile(file) as archive:
            _refuse_packed(archive, path.stat().st_size)
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    with archive.open(name) as content:
                        _look_through(content, 0)


def _refuse_packed(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError if an archive unpacks to more than it holds; PyTorch packs none of its tensors."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("its tensors are compressed, which no version of PyTorch does")
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise ValueError("its tensors are larger than the file")


def _look_through(file: IO[bytes], start: int) -> None:
    """Step over a pickle; raise ValueError if it is too long, or names what takes memory of any size."""
    for opcode, argument, place in pickletools.genops(file):
        refuse_over("header_bytes", (place or 0) - start, "bytes of names and numbers", ValueError)
        if opcode.name == "GLOBAL" and str(argument).split()[-1] in _MAKES_ANY_SIZE:
            raise UnpicklingError(f"it names {argument}")
