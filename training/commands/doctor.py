"""`deal doctor`: report what is installed, what is missing for each job, and the command that installs it.

deal doctor
deal doctor --json
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.support.machine import Machine


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Report what this machine has, what each job (record, train, run, ...) lacks, and the commands that install it.

    A machine without PyTorch is a robot, which records and runs exported models; with it, it is a desk, which does all.
    Exit code 0: the demo (on a robot: the node) can run. 1: something that it needs is missing.

    Example: deal doctor
    """
    from training.support.console import console, print_json
    from training.support.machine import JOBS, PROFILES, examine

    if as_json:
        machine = examine()
        lacks = {job: machine.lacks(job) for job in JOBS}
        profiles = {profile: machine.lacks(*jobs) for profile, jobs in PROFILES.items()}
        print_json({"lacks": lacks, "profiles_lack": profiles, **asdict(machine)})
    else:
        with console().status("testing PyTorch, ROS and the camera"):
            machine = examine()
        _print(machine)
    if machine.lacks("run" if machine.profile == "robot" else "demo"):
        raise typer.Exit(1)


def _print(machine: Machine) -> None:
    from rich.console import Console
    from rich.markup import escape

    from training.support.machine import JOBS, PROFILES

    colors = {"ok": "green", "note": "blue", "warning": "yellow", "missing": "red"}
    out = Console(highlight=False, soft_wrap=True)  # lines stay whole, so that commands can be copied
    width = max(len(finding.name) for finding in machine.findings)
    for finding in machine.findings:
        mark = f"[{colors[finding.state]}]{finding.state:8}[/]"
        out.print(f"{mark} {finding.name:{width}}  {escape(finding.found)}")
        if finding.fix:
            out.print(f"{'':8} {'':{width}}  [cyan]→ {escape(finding.fix)}[/]")
    out.print()
    for profile, jobs in PROFILES.items():
        is_this = " (this machine)" if profile == machine.profile else ""
        out.print(f"{profile:8} {_readiness(machine.lacks(*jobs))}{is_this}")
    out.print()
    for job in JOBS:
        out.print(f"{job:8} {_readiness(machine.lacks(job))}")


def _readiness(lacks: list[str]) -> str:
    return f"[red]lacks[/] {', '.join(lacks)}" if lacks else "[green]ready[/]"
