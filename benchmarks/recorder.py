"""What the recorder loses, and what it costs, with a 640x480 camera at 30 Hz on this machine.

    python benchmarks/recorder.py --out bench_recorder
    python benchmarks/recorder.py --out bench_recorder --seconds 5    # to see that it runs

Camera (`synthetic_camera_node`) and recorder are processes of their own, as on a robot. Two cases: every pair, and
keyframes at 5 Hz. Prints a table; recorder.json in the output folder holds it too. The recordings are removed. About
three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _processes import cpu_seconds, resident_mib

from deal_ros.node.domains import unused_domains
from deal_ros.node.process import NodeProcess, node_process

CASES = {"every pair": 0.0, "keyframes": 5.0}
CAMERA = "/camera/camera"
TOPICS = {
    "color/image_raw": f"{CAMERA}/color/image_raw",
    "color/camera_info": f"{CAMERA}/color/camera_info",
    "depth/image_raw": f"{CAMERA}/aligned_depth_to_color/image_raw",
}
START_TIMEOUT_S = 120.0
_SAMPLE_S = 0.5


@dataclass(frozen=True)
class Measurement:
    """One recording in numbers.

    Attributes:
        case: which pairs were wanted.
        seconds: of recording.
        received: colour images that reached the recorder.
        written: pairs in the file.
        lost: pairs and images lost, by cause.
        loss: share of the wanted pairs that were lost.
        longest_gap_s: between two pairs in the file; images lost before the recorder show here.
        mb_per_s: written to the disk.
        cpu_cores: the recorder's processor time per second.
        memory_mib: the recorder's resident memory, at the end.
        growth_mib: how much of it came after the first quarter.
    """

    case: str
    seconds: float
    received: int
    written: int
    lost: dict[str, int]
    loss: float
    longest_gap_s: float
    mb_per_s: float
    cpu_cores: float
    memory_mib: float
    growth_mib: float


def main() -> None:
    """Measure all cases, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for recorder.json")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each case (default: %(default)s)")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    found = [measure(case, rate_hz, wanted.seconds, wanted.out) for case, rate_hz in CASES.items()]
    for line in table(found):
        print(line)
    machine = {"machine": platform.platform(), "cores": os.cpu_count()}
    content = {**machine, "cases": [asdict(measurement) for measurement in found]}
    (wanted.out / "recorder.json").write_text(json.dumps(content, indent=2) + "\n")


def measure(case: str, rate_hz: float, seconds: float, out: Path) -> Measurement:
    """Record for a while and return what became of the images."""
    recording = out / "recording"
    shutil.rmtree(recording, ignore_errors=True)
    domain = next(unused_domains(os.getpid()))
    environment = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    parameters: dict[str, str | int | float] = {
        "output": str(recording),
        "classes": "mug",
        "rate_hz": rate_hz,
        "planned_minutes": seconds / 60,
        "keyboard": False,
    }
    with (
        node_process("deal_ros.synthetic_camera.main", out / "camera.txt", environment=environment),
        node_process(
            "deal_ros.recorder.main",
            out / "recorder.txt",
            parameters=parameters,
            remappings=TOPICS,
            environment=environment,
        ) as recorder,
    ):
        _wait_for_recording(recorder, recording.with_name("recording.partial"))
        began_s, cpu_s = time.monotonic(), cpu_seconds(recorder.process.pid)
        memory = []
        while time.monotonic() - began_s < seconds:
            time.sleep(_SAMPLE_S)
            memory.append(resident_mib(recorder.process.pid))
        took_s, used_s = time.monotonic() - began_s, cpu_seconds(recorder.process.pid) - cpu_s
        code = recorder.stop()
    if code not in (0, 3):
        raise SystemExit(f"the recorder ended with exit code {code}: {recorder.text()}")
    summary: dict[str, Any] = json.loads((recording / "summary.json").read_text())
    size = sum(file.stat().st_size for file in recording.glob("*.mcap"))
    shutil.rmtree(recording)
    counts = summary["counts"]
    streams = {f"unpaired {name}": sum(counts[f"unpaired_{name}"].values()) for name in ("color", "depth")}
    return Measurement(
        case=case,
        seconds=took_s,
        received=counts["received_color"],
        written=counts["written"],
        lost={cause: n for cause, n in {**counts["lost"], **streams}.items() if n},
        loss=summary["loss"],
        longest_gap_s=summary["gaps"]["longest_s"],
        mb_per_s=size / 1e6 / took_s,
        cpu_cores=used_s / took_s,
        memory_mib=memory[-1],
        growth_mib=memory[-1] - memory[len(memory) // 4],
    )


def table(found: list[Measurement]) -> list[str]:
    """Return the results for people."""
    lines = ["case         received written   loss  longest gap    disk       CPU      memory (growth)  lost"]
    for m in found:
        causes = ", ".join(f"{n} {cause}" for cause, n in m.lost.items()) or "none"
        lines.append(
            f"{m.case:12} {m.received:8d} {m.written:7d} {m.loss:6.2%} {m.longest_gap_s:9.3f} s {m.mb_per_s:6.1f} MB/s "
            f"{m.cpu_cores:4.2f} cores {m.memory_mib:6.0f} MiB ({m.growth_mib:+.1f})  {causes}"
        )
    return lines


def _wait_for_recording(recorder: NodeProcess, folder: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not folder.exists():
        if not recorder.is_alive() or time.monotonic() > end:
            raise SystemExit(f"recording did not begin: {recorder.text()}")
        time.sleep(_SAMPLE_S)


if __name__ == "__main__":
    main()
