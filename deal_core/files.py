"""Files and folders that are there whole, or as they were before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path, *, per_process: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it becomes `path` if the block ends well, else it is removed.

    Args:
        path: the file to write; its folder is made if missing.
        per_process: give each process a temporary name of its own. Without it there is one name, so that the next
            process overwrites what a killed one leaves; then only one process may write at a time.

    Raises:
        OSError: the folder cannot be made, or the file cannot be replaced; a file that was there before is kept.
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

    Its hidden name, `.<name>.<random>.tmp`, is its own, so any number of processes may write at a time; the last one
    to finish wins.

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
        with suppress(OSError):  # the first that holds something, and all above it
            for folder in made:
                folder.rmdir()


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
