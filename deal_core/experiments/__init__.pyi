# The names that users may rely on; each is imported when it is first used.
from .plan import ExperimentOptions, make_plan
from .run import run_plan
from .table import collect_rows, write_table

__all__ = [
    "ExperimentOptions",
    "collect_rows",
    "make_plan",
    "run_plan",
    "write_table",
]
