"""The small local web server that the tagging page and the live page share."""

from __future__ import annotations

from deal_core.errors import UsageError


def check_installed() -> None:
    """Raise `UsageError` if the extra `tag` is not installed."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"the page needs {error.name}: pip install 'deal_ros[tag]'") from None
