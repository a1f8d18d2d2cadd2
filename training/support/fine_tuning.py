"""The report of a fine-tuning on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deal_core.models.domain_change import DomainChange, FineTuneReport


def print_report(report: FineTuneReport) -> None:
    """Print a row for each class, before and after, on the new and on the earlier data."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    domains = {"new": report.new, **({"old": report.old} if report.old else {})}
    table = Table(title=f"{report.figure}, %", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for name in domains:
        table.add_column(f"{name}, before", justify="right")
        table.add_column(f"{name}, after", justify="right")
    for name in (*report.classes.kept, *report.classes.new):
        cells = [_percent(of.get(name)) for domain in domains.values() for of in (domain.before, domain.after)]
        table.add_row(escape(name), *cells)
    table.add_section()
    means = [_percent(mean) for domain in domains.values() for mean in (domain.mean_before, domain.mean_after)]
    table.add_row("mean of kept classes", *means, style="bold")
    Console().print(table)
    for name, domain in domains.items():
        print(_frames(name, domain))
    if report.classes.dropped:
        print(f"dropped classes: {', '.join(report.classes.dropped)}")


def _frames(name: str, domain: DomainChange) -> str:
    kind = "held-out frames" if domain.held_out else "training frames (none is held out)"
    return f"{name}: {domain.frames} {kind} of {domain.dataset}"


def _percent(figure: float | None) -> str:
    return "-" if figure is None else f"{100 * figure:.1f}"
