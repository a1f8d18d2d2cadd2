"""Files and folders that are written completely or not at all."""

from __future__ import annotations

import codecs
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from deal_core.limits import read_bytes
from deal_core.ownership import NEW, OLD, OWNER_FILE, Owner, made, work_folder

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would become larger than this user may write (ulimit -f)",
}
_NOT_SYNCED = (errno.EINVAL, errno.EOPNOTSUPP)  # of file systems that cannot wait for a disk
_SYNCS_AT_A_TIME = 8  # of 200 images of 50 kB: 0.2 ms each, and 4.6 ms one after the other


@contextmanager
def os_errors_as(kind: Callable[[str], Exception], problem: str) -> Iterator[None]:
    """Turn an OSError of the block into an error of `kind`: the problem, then the reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{problem}: {why_not(error)}") from error


def why_not(error: OSError) -> str:
    """Return the reason of an error: that the disk is full, or what the system says."""
    return _FULL.get(error.errno or 0) or error.strerror or str(error)


def is_full(error: OSError) -> bool:
    """Return whether there is no room for what was to be written."""
    return error.errno in _FULL


def read_text(path: Path, name: str = "text_bytes") -> str:
    """Return the text of a file from any editor, see `decoded`.

    Args:
        path: the file.
        name: limit of its length.

    Raises:
        OSError: the file cannot be read, is no regular file, or exceeds the limit.
        UnicodeDecodeError: it is in another encoding.
    """
    return decoded(read_bytes(path, name))


def decoded(data: bytes) -> str:
    """Return a text: UTF-8, or UTF-16 with a byte order mark; lines end with one newline.

    Raises:
        UnicodeDecodeError: it is in another encoding.
    """
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_wide else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[str]:
    """Read a text, see `read_text`, and return its lines one by one, without blank ones at its end."""
    return _lines(read_text(path).rstrip())


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
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a name to write to; the file becomes `path` if the block ends well, else it is removed.

    It lies in the work folder of `path`, see `deal_core.ownership`. It has the access rights that the block gives it.

    Args:
        path: the file to write; its folder is made if missing.
        synced: return when the file is on the disk, so that no loss of power can take it. False is for the many small
            files of a folder that can be made again.

    Raises:
        InUseError: another process writes the file.
        OSError: the folder cannot be made, or the file cannot be replaced; an existing file is kept.
    """
    with work_folder(path) as work:
        temporary = work / NEW
        yield temporary
        if synced:
            _sync(temporary)
        temporary.replace(path)
        if synced:
            _sync(path.parent)


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
    """Yield an empty folder to fill; it becomes `path` if the block ends well, else it is removed.

    It lies in the work folder of `path`, see `deal_core.ownership`. At the end it is on the disk with all its files.

    Args:
        path: the folder to make; parents are made if missing, and removed again if the block fails.
        overwrite: replace what is at `path`; it stays there until the new folder is complete.

    Raises:
        InUseError: another process makes the folder.
        OSError: the folder cannot be made, or cannot be put in place; what was at `path` before is kept.
    """
    with work_folder(path) as work:
        new, old = work / NEW, work / OLD
        new.mkdir()
        yield new
        _sync_all(new)
        if overwrite:
            with suppress(FileNotFoundError):
                path.rename(old)
        try:
            new.rename(path)
        except OSError:
            with suppress(OSError):
                old.rename(path)
            raise
        _sync(path.parent)


@contextmanager
def owning(folder: Path, kind: Callable[[str], Exception]) -> Iterator[None]:
    """Own a folder within the block, see `deal_core.ownership`.

    Args:
        folder: folder to fill; it is made if missing, and removed again if the block leaves it empty.
        kind: type of the error where the folder cannot be made or written.

    Raises:
        InUseError: another process owns the folder.
    """
    with ExitStack() as stack:
        with os_errors_as(kind, f"{folder} cannot be written (choose another output)"):
            stack.enter_context(made(folder))
            owner = Owner(folder / OWNER_FILE, folder)
        stack.callback(owner.release)
        yield


def _lines(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is the same for all paths of one file or folder; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise
    finally:
        os.close(handle)


def _sync_all(folder: Path) -> None:
    """Wait until a folder and everything in it is on the disk; several files at a time share the disk's work."""
    paths = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    with ThreadPoolExecutor(_SYNCS_AT_A_TIME) as pool:
        for _ in pool.map(_sync, paths):
            pass
