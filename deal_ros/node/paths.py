"""Paths that parameters name: those given at the start are the operator's, those set later may be anybody's.

Whoever is in the ROS domain may set the parameters of a running node. Such a path must be below the folder `data_dir`,
which is fixed at the start, or beside what the operator gave.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from deal_core.errors import UsageError, short

DATA_DIR = "~/.ros/deal"
"""The usual folder of the nodes' files."""
PathKind = Literal["", "file", "folder"]
"""What a parameter of text names: no path; something in a folder; a folder whose content is the node's."""
_LONGEST_NAME, _LONGEST_PATH = 200, 1000
"""Bytes of a name and of a path, which leave room for what nodes append."""


def path_of(text: str) -> Path:
    """Return the path that a parameter names; `~` is the home of the user."""
    return Path(os.path.expanduser(text))


def check_path(name: str, text: str) -> None:
    """Check that a text can be a path.

    Args:
        name: name of the parameter, for the error.
        text: its value.

    Raises:
        UsageError: the text or a name in it is too long, has a character that cannot be printed, or is the root.
    """
    encoded = os.fsencode(text) if _can_encode(text) else b""
    longest = max(map(len, encoded.split(b"/")))
    if bool(encoded) != bool(text) or not text.isprintable():
        raise UsageError(f"parameter '{name}': expected a path of printable characters, found {short(text)}")
    if longest > _LONGEST_NAME or len(encoded) > _LONGEST_PATH:
        raise UsageError(
            f"parameter '{name}': expected a path of at most {_LONGEST_PATH} bytes with names of at most "
            f"{_LONGEST_NAME}, found {len(encoded)} bytes with a name of {longest}: {short(text)}"
        )
    if text and not text.strip("/"):
        raise UsageError(f"parameter '{name}': expected a path below a folder, found {short(text)}")


def check_reachable(name: str, kind: PathKind, text: str, given: str, data_dir: str) -> None:
    """Check that a path which somebody sets while the node runs is in one of the operator's folders.

    Args:
        name: name of the parameter, for the error.
        kind: what the parameter names. A file may be beside the one given at the start, a folder in the one given.
        text: the path.
        given: the path at the start.
        data_dir: folder below which any path is allowed.

    Raises:
        UsageError: it is in none of them, as links and `..` lead.
    """
    if text == given:
        return
    wanted, start = (Path(os.path.realpath(path_of(path))) for path in (text, given))
    root = Path(os.path.realpath(path_of(data_dir)))
    if root in wanted.parents or (kind == "folder" and wanted == root):
        return
    if given and (wanted.parent == start.parent if kind == "file" else start in (wanted, *wanted.parents)):
        return
    beside = f" or {'beside' if kind == 'file' else 'in'} {given}" if given else ""
    raise UsageError(
        f"parameter '{name}': while the node runs it takes a path below {data_dir}{beside}, found {short(text)}; "
        "others have to be given when the node starts, and data_dir there changes the folder"
    )


def _can_encode(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
