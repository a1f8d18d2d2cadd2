# The names that users may rely on; each is imported when it is first used.
from .page import read_run, render_report, write_report

__all__ = [
    "read_run",
    "render_report",
    "write_report",
]
