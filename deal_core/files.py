"""Files and folders that are written completely or not at all."""

from __future__ import annotations

import codecs
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
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


def read_text(path: Path) -> str:
    """Return the text of a file from any editor: UTF-8, or UTF-16 with a byte order mark; lines end with one newline.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is in another encoding.
    """
    data = path.read_bytes()
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_wide else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text, see `read_text`, without blank ones at its end."""
    text = read_text(path).rstrip()
    return text.split("\n") if text else []


def refuse_output_on_input(outputs: Iterable[Path], inputs: Iterable[Path], kind: Callable[[str], Exception]) -> None:
    """Raise an error of `kind` if one of the outputs is an input, also by another path or a link.

    Args:
        outputs: files or folders that will be written; those that do not exist yet are no inputs.
        inputs: files or folders that are read.
        kind: type of the error.
    """
    found = [(path, identity) for path in outputs if (identity := _identity(path))]
    if not found:
        return
    read = {_identity(path): path for path in inputs}
    for path, identity in found:
        if identity in read:
            raise kind(f"{path} would replace what is read, {read[identity]}: choose another place")


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


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; see `replacing`.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)


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


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is the same for all paths of one file or folder; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
