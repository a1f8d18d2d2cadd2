"""The errors a person can cause.

Every message names the file, topic or option, what was expected, what was found, and what to do. The command
line prints the message alone and exits with 1 (2 for `UsageError`); anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class DealError(Exception):
    """Base of all errors a person can cause."""


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


def explain_invalid(error: ValidationError, whole: str = "a JSON object") -> str:
    """Return the first error in a file's content: the key, what was expected and what was found.

    Args:
        error: validation error of the pydantic model that describes the content.
        whole: type of the whole content, for the message.
    """
    problem = error.errors()[0]
    key, found = ".".join(str(part) for part in problem["loc"]), repr(problem["input"])
    found = found if len(found) <= 80 else f"{found[:80]}…"
    if not key:
        return f"expected {whole}, found {found} ({problem['msg']})"
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key '{key}', found {found}"
    return f"'{key}': {problem['msg'].replace('Input should be', 'expected')}, found {found}"
