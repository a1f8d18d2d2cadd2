"""The `deal` command line.

Command modules import nothing heavy at their top, so that `deal --help` answers at once: each imports torch, OpenCV
and the rest inside the function that needs them.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
import typer.core

from deal_core.errors import DealError, UsageError
from deal_core.limits import raise_limits
from training.commands.audit import audit
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
from training.commands.features import features
from training.commands.fine_tune import fine_tune
from training.commands.import_weights import import_weights
from training.commands.masks import export_masks, import_masks
from training.commands.poses import poses
from training.commands.regions import regions
from training.commands.report import report
from training.commands.segment import segment
from training.commands.synth import synth
from training.commands.tag import tag
from training.commands.train import train
from training.commands.view import view
from training.support.options import spread_options

_COMMANDS = (
    *(audit, cams, check, collect, demo, depth, distill, doctor, evaluate, experiments, export, extract, features),
    *(fine_tune, import_weights, poses, regions, report, segment, synth, tag, train, view),
)
_GROUPS = {
    "masks": (
        "Masks of other tools: from any teacher, and to a person who corrects them.",
        (export_masks, import_masks),
    ),
}
"""Commands of two words, by the first word: `deal masks import`."""
_INTERRUPTED = 130


class _Sorted(typer.core.TyperGroup):
    """Lists commands of one word and of two in the order of their names."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands)


app = typer.Typer(
    name="deal",
    cls=_Sorted,
    help="Semantic segmentation from image-level tags and depth: record, train, run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for _command in _COMMANDS:
    app.command()(spread_options(_command))
for _name, (_help, _commands) in _GROUPS.items():
    _group = typer.Typer(help=_help, no_args_is_help=True)
    for _second in _commands:
        _group.command(_second.__name__.partition("_")[0])(spread_options(_second))
    app.add_typer(_group, name=_name)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"deal {_version()}")
        raise typer.Exit


@app.callback()
def _deal(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER", help="Raise a limit on what a file may ask for, as in image_pixels=200000000."
        ),
    ] = None,
) -> None:
    if limit:
        raise_limits(" ".join(limit))


def main() -> None:
    """Run the command line. Exit code of an error that the user can correct: 1; of wrong use: 2; of Ctrl-C: 130."""
    try:
        app(prog_name="deal")
    except UsageError as error:
        _fail(error, 2)
    except DealError as error:
        _fail(error, 1)
    except OSError as error:
        from deal_core.files import is_full, why_not

        if not is_full(error):
            raise
        _fail(DealError(f"{error.filename or 'a file'} cannot be written: {why_not(error)}"), 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "deal_core", "deal_ros", "training"):
            raise
        reason = f"this command needs the package {package}, which is not installed"
        _fail(DealError(f"{reason}: `deal doctor` says what each job lacks, and the command that installs it"), 1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer turns Ctrl-C into this
            from training.support.console import console

            console().print("interrupted: no half-written files are left", style="yellow")
        raise


def _version() -> str:
    """Return the version of the installed distribution, or of the checkout that holds this file."""
    import re
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    try:
        return version("deal_ros")
    except PackageNotFoundError:
        description = Path(__file__).resolve().parents[1] / "package.xml"
        found = re.search("<version>(.*)</version>", description.read_text(encoding="utf-8"))
        return found[1] if found else "unknown"


def _fail(error: DealError, code: int) -> None:
    from training.support.console import print_error

    print_error(str(error))
    sys.exit(code)


if __name__ == "__main__":
    main()
