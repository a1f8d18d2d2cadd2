"""The errors a person can cause.

Every message names the file, topic or option, what was expected, what was found, and what to do. The command
line prints the message alone and exits with 1 (2 for `UsageError`); anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


_LONGEST = 3000
_SMALL = 1000  # values and characters up to which a value is written out before it is cut


class DealError(Exception):
    """Base of all errors a person can cause.

    Args:
        message: the message; what a terminal cannot show, or would obey, is escaped, and the middle of one that is
            longer than 3,000 characters is left out.
    """

    def __init__(self, message: object = "") -> None:
        text = _without_middle(str(message))
        escaped = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
        super().__init__(_without_middle(escaped))


class UsageError(DealError):
    """Options that contradict each other or name something that does not exist."""


class ConfigError(UsageError):
    """A configuration with an unknown, misspelt or out-of-range key."""


class InUseError(DealError):
    """An output that another process is writing."""


class RecordingError(DealError):
    """A bag that cannot be read, or does not contain what is needed."""


class DatasetError(DealError):
    """A dataset folder that is missing files or contradicts itself."""


class ModelFileError(DealError):
    """A model file that is truncated, of another format, or for other classes."""


class BackendError(DealError):
    """A back end that cannot run a model here."""


class EvaluationError(DealError):
    """A run's folder that was not evaluated, or an evaluation that cannot be read."""


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def short(value: Any, longest: int = 80) -> str:
    """Return `repr(value)`, at most `longest` characters of it; a large value is never written out first.

    >>> short("mug"), short([0] * 10**6, 12)
    ("'mug'", '[0, 0, 0, 0,…')
    """
    try:
        text = repr(value) if _is_small(value) else _REPR.repr(value)
    except (ValueError, RecursionError):  # more digits, or lists in one another, than Python shows
        text = f"<{type(value).__name__}>"
    return text if len(text) <= longest else f"{text[:longest]}…"


def explain_invalid(error: ValidationError, whole: str = "a JSON object") -> str:
    """Return the first error in a file's content: the key, what was expected and what was found.

    Args:
        error: validation error of the pydantic model that describes the content.
        whole: type of the whole content, for the message.
    """
    problem = error.errors()[0]
    key, found = short_key(problem["loc"]), short(problem["input"])
    if not key:
        return f"expected {whole}, found {found} ({problem['msg']})"
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key '{key}', found {found}"
    return f"'{key}': {problem['msg'].replace('Input should be', 'expected')}, found {found}"


def short_key(parts: Iterable[str | int]) -> str:
    """Return the dotted name of a key, at most 100 characters of each part.

    >>> short_key(("classes", 3, "name"))
    'classes.3.name'
    """
    return ".".join(str(part)[:100] for part in parts)


def _without_middle(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST * 2 // 3]} … {text[-_LONGEST // 3 :]}"


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 4, 200, 200, 200
_REPR.maxdict = _REPR.maxlist = _REPR.maxtuple = _REPR.maxset = 50


def _is_small(value: Any) -> bool:
    """Return whether a value of lists, mappings, texts and numbers is quickly written out."""
    waiting, seen = [value], 0
    while waiting:
        each = waiting.pop()
        seen += 1
        if isinstance(each, (str, bytes)):
            seen += len(each)
        elif isinstance(each, int):
            seen += each.bit_length() // 8
        elif isinstance(each, dict):
            seen += len(each)
            waiting.extend([] if seen > _SMALL else [*each, *each.values()])
        elif isinstance(each, (list, tuple, set, frozenset)):
            seen += len(each)
            waiting.extend([] if seen > _SMALL else each)
        if seen > _SMALL:
            return False
    return True
