"""Parameters that every node with colour and depth input has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from deal_ros.node.parameters import parameter


@dataclass(frozen=True)
class InputParameters:
    """How a node subscribes to colour and depth and pairs them; the base of its parameter dataclass."""

    color_qos: str = parameter(
        "auto",
        "Reliability that the subscription to colour images requests; auto requests what the publisher offers, and "
        "reliable while there is no publisher.",
        choices=("auto", "reliable", "best_effort"),
    )
    depth_qos: str = parameter(
        "auto", "The same for depth images; see color_qos.", choices=("auto", "reliable", "best_effort")
    )
    sync_policy: str = parameter(
        "exact",
        "exact pairs images with equal stamps (RealSense with aligned depth); approximate pairs images whose stamps "
        "differ by at most sync_slop_ms.",
        choices=("exact", "approximate"),
    )
    sync_queue: int = parameter(
        10, "Maximum number of images of each stream that wait for their partner.", minimum=1, maximum=1000
    )


# Each node decides whether these may change while it runs: `live`.
sync_slop_parameter = partial(
    parameter,
    15.0,
    "Maximum difference between the stamps of a pair, ms; only for sync_policy approximate. Keep it below half a frame "
    "period.",
    minimum=0.0,
    maximum=10_000.0,
)
input_timeout_parameter = partial(
    parameter, 2.0, "Time without images after which /diagnostics warns, s.", minimum=0.1, maximum=3600.0
)
diagnostics_period_parameter = partial(
    parameter, 1.0, "Period of the messages on /diagnostics, s.", minimum=0.05, maximum=60.0
)
