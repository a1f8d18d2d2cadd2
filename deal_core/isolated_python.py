"""Look for libraries without importing them here, and try those that may print a lot or crash the interpreter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass

_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Trial:
    """The outcome of a piece of Python.

    Args:
        output: the last line it printed.
        error: why it failed, in one line; empty if it succeeded.
    """

    output: str
    error: str


def is_installed(module: str) -> bool:
    """Return whether Python finds a module, without importing it; its import may still fail."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # of a parent package, or of a finder that refuses it
        return False


def try_python(code: str) -> Trial:
    """Run code with this Python in a separate process."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Trial("", f"no answer after {_TIMEOUT_S:.0f} s")
    output = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode == 0:
        return Trial(output, "")
    said = done.stderr.strip().splitlines()[-1:]
    if done.returncode < 0:
        return Trial(output, ": ".join([f"the process was ended by signal {-done.returncode}", *said]))
    return Trial(output, said[0] if said else f"exit code {done.returncode}")
