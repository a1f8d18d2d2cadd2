"""Output of every command: progress and messages on stderr, results on stdout."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from deal_core.trainer.loop import Progress as Trained

T = TypeVar("T")


def console() -> Console:
    """Return the console for messages, on stderr: stdout is for results."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error on stderr."""
    console().print(f"[red]error:[/red] {escape(text)}")


def print_json(value: Any) -> None:
    """Print a result for scripts: one JSON document on stdout."""
    print(json.dumps(value, indent=2, default=str))


def undefined_as_null(value: Any) -> Any:
    """Return JSON-like data in which every float that is not finite is None: JSON has no nan."""
    if isinstance(value, dict):
        return {name: undefined_as_null(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [undefined_as_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def track(items: Iterable[T], description: str, total: int | None = None, *, quiet: bool = False) -> Iterator[T]:
    """Yield the items and show a progress bar with rate and time left, unless `quiet`."""
    with progress(quiet=quiet) as bar:
        yield from bar.track(items, total=total, description=description)


def progress(*, quiet: bool = False) -> Progress:
    """Return the progress display of all commands."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(),
        disable=quiet,
    )


@contextmanager
def training_progress(
    description: str, losses: Callable[[Mapping[str, float]], str], *, quiet: bool
) -> Iterator[Callable[[Trained], None]]:
    """Show a progress bar of a training; only the first of several processes does. Yields what takes each step."""
    with progress(quiet=quiet or not is_first_process()) as bar:
        task = bar.add_task(description, total=None)

        def report(now: Trained) -> None:
            text = f"{description} · {losses(now.losses)}"
            bar.update(task, completed=now.step, total=now.total_steps, description=text)

        yield report


@contextmanager
def counting(description: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar within the block; yield a function that takes the number of steps done so far."""
    with progress(quiet=quiet) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)


def is_first_process() -> bool:
    """Return whether this process reports to the user; of the processes that torchrun starts, only the first does."""
    return os.environ.get("RANK", "0") == "0"


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "–/s")
