"""Let atheris choose the changes to a file by the branches of the project that they reach: `make fuzz COVERAGE=1`.

    python test/fuzz/by_coverage.py SECONDS [FORMAT ...]

Each format runs in a process of its own, which atheris ends. A fault stops its format, and is kept in fuzz_faults/.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TEST = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TEST), str(TEST.parent)]
FAULTS = Path("fuzz_faults")


def main(seconds: int, names: list[str]) -> int:
    """Fuzz the formats one after the other; return 1 if one has a fault."""
    from fuzz.formats import FORMATS

    failed = []
    for name in names or FORMATS:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            if subprocess.run([sys.executable, __file__, "--one", name, str(seconds), folder]).returncode:
                failed.append(name)
    print(f"faults in {', '.join(failed)}: see {FAULTS}/" if failed else "no faults")
    return bool(failed)


def fuzz_one(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one format in this process, which atheris ends."""
    import atheris

    with atheris.instrument_imports(include=["deal_core", "deal_ros"]):
        from fuzz.engine import Outcome, limited, try_one
        from fuzz.formats import FORMATS, Place

        with limited():
            target = FORMATS[name](Place(folder, _bags()))
            seeds = folder / "seeds_of_atheris"
            seeds.mkdir()
            for number, seed in enumerate(target.seeds or [target.file.read_bytes()]):
                (seeds / str(number)).write_bytes(seed)

            def try_content(content: bytes) -> None:
                outcome = Outcome()
                try_one(target, content, outcome)
                for where, (text, _) in outcome.faults.items():
                    FAULTS.mkdir(exist_ok=True)
                    (FAULTS / f"{name}-by-coverage").write_bytes(content)
                    raise AssertionError(f"{where}: {text}")

            options = [
                f"-max_total_time={seconds}",
                "-rss_limit_mb=0",
                "-timeout=120",
                "-verbosity=0",
                "-print_final_stats=1",
            ]
            atheris.Setup([sys.argv[0], *options, str(seeds)], try_content)
            atheris.Fuzz()


def _bags() -> Any:
    spec = importlib.util.spec_from_file_location("conftest_of_tests", TEST / "conftest.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.Bag


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        fuzz_one(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
