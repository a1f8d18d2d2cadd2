"""Files that are there whole, or as they were before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, per_process: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it becomes `path` if the block ends well, else it is removed.

    Args:
        path: the file to write; its folder is made if missing.
        per_process: give each process a temporary name of its own. Without it there is one name, so that what a
            killed process leaves is overwritten by the next; then only one process may write at a time.

    Raises:
        OSError: the folder cannot be made, or the file not be replaced; one that was there before is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"{os.getpid()}." if per_process else ""
    temporary = path.with_name(f".{path.name}.{owner}tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
