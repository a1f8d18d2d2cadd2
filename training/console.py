"""How every command talks to a person: one console on stderr, errors as a sentence, results on stdout."""

from __future__ import annotations

import json
from typing import Any


def print_json(value: Any) -> None:
    """Print a result for scripts: one JSON document on stdout and nothing else."""
    print(json.dumps(value, indent=2, default=str))
