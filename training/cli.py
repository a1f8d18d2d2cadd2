"""The `deal` command.

Command modules import nothing heavy at their top, so that `deal --help` answers at once; each pulls in torch,
OpenCV and the rest inside the function that needs them.
"""

from __future__ import annotations

import sys

import typer

from deal_core.errors import DealError, UsageError
from training.commands.cams import cams
from training.commands.check import check
from training.commands.collect import collect
from training.commands.demo import demo
from training.commands.depth import depth
from training.commands.distill import distill
from training.commands.doctor import doctor
from training.commands.evaluate import evaluate
from training.commands.experiments import experiments
from training.commands.export import export
from training.commands.extract import extract
from training.commands.report import report
from training.commands.segment import segment
from training.commands.synth import synth
from training.commands.tag import tag
from training.commands.train import train
from training.commands.view import view
from training.support.console import console

app = typer.Typer(
    name="deal",
    help="Semantic segmentation from image-level tags and depth: record, train, run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(cams)
app.command()(check)
app.command()(collect)
app.command()(demo)
app.command()(depth)
app.command()(distill)
app.command()(doctor)
app.command()(evaluate)
app.command()(experiments)
app.command()(export)
app.command()(extract)
app.command()(report)
app.command()(segment)
app.command()(synth)
app.command()(tag)
app.command()(train)
app.command()(view)

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; a person's error is one sentence and exit code 1, wrong use 2, Ctrl-C 130."""
    try:
        app(prog_name="deal")
    except UsageError as error:
        _fail(error, 2)
    except DealError as error:
        _fail(error, 1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer turns Ctrl-C into this
            console().print("interrupted: nothing half-written was kept", style="yellow")
        raise


def _fail(error: DealError, code: int) -> None:
    console().print(f"[red]error:[/red] {_escape(str(error))}")
    sys.exit(code)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


if __name__ == "__main__":
    main()
