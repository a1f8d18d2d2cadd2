"""The table of what the harnesses tried, at the end of a run."""

from __future__ import annotations

import sys
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    formats = next((module for name, module in sys.modules.items() if name.endswith("fuzz.test_formats")), None)
    if formats is None or not formats.REPORT:
        return
    write = terminalreporter.write_line
    write(
        "| format | inputs | read | refused | foreign exceptions | over memory | over time | most MB | most s | all s |"
    )
    write("|---|---|---|---|---|---|---|---|---|---|")
    for name, o in sorted(formats.REPORT.items()):
        cells = (name, o.tried, o.read, o.refused, len(o.foreign), len(o.large), len(o.slow))
        write(
            "| "
            + " | ".join(map(str, cells))
            + f" | {o.most_bytes / 1e6:.0f} | {o.most_seconds:.2f} | {o.seconds:.1f} |"
        )
