"""Files and folders that are written completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def os_errors_as(kind: Callable[[str], Exception], problem: str) -> Iterator[None]:
    """Turn an OSError of the block into an error of `kind`: the problem, then the system's reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{problem}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path, *, per_process: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it becomes `path` if the block ends well, else it is removed.

    Args:
        path: the file to write; its folder is made if missing.
        per_process: use a temporary name for each process. False uses one name, so that the next process overwrites
            the file that a killed one leaves; then only one process may write at a time.

    Raises:
        OSError: the folder cannot be made, or the file cannot be replaced; an existing file is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"{os.getpid()}." if per_process else ""
    temporary = path.with_name(f".{path.name}.{owner}tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; it becomes `path` if the block ends well, else it is removed.

    Its hidden name, `.<name>.<random>.tmp`, is unique, so any number of processes may write at a time; the last one to
    finish wins.

    Args:
        path: the folder to make; parents are made if missing, and removed again if the block fails.
        overwrite: replace what is at `path`; it stays there until the new folder is complete.

    Raises:
        OSError: the folder cannot be made, or cannot be put in place; what was at `path` before is kept.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    hidden = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    temporary, old = (hidden.with_name(f"{hidden.name}.{end}") for end in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if overwrite:
            with suppress(FileNotFoundError):
                path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            with suppress(OSError):
                old.rename(path)
            raise
        _remove(old)
    finally:
        _remove(temporary)
        with suppress(OSError):  # a folder that is not empty stays, and so do its parents
            for folder in made:
                folder.rmdir()


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
