"""Parameters that every node with a camera's two streams as its input has, each described once."""

from __future__ import annotations

from typing import Any

from deal_ros.node.parameters import parameter


def sync_policy() -> Any:
    """Return the parameter that tells which stamps make a pair."""
    return parameter(
        "exact",
        "exact pairs equal stamps (RealSense with aligned depth), approximate pairs stamps within sync_slop_ms.",
        choices=("exact", "approximate"),
    )


def sync_slop_ms(*, live: bool) -> Any:
    """Return the parameter for the slop of a pair; see `deal_ros.input.synchronizer.slop_ns`."""
    return parameter(
        15.0,
        "Largest difference of stamps of a pair, ms; policy approximate only. Below half a frame.",
        minimum=0.0,
        maximum=10_000.0,
        live=live,
    )


def sync_queue() -> Any:
    """Return the parameter for the images of a stream that wait."""
    return parameter(10, "Images of each stream that may wait for a partner.", minimum=1, maximum=1000)


def stream_qos(stream: str) -> Any:
    """Return the parameter for the reliability of a stream, "colour" or "depth"; see `deal_ros.input.qos`."""
    return parameter(
        "auto",
        f"Reliability asked of the {stream} publisher; auto takes what it offers, reliable while unknown.",
        choices=("auto", "reliable", "best_effort"),
    )


def input_timeout_s(*, live: bool) -> Any:
    """Return the parameter for the silence of an input that is worth a warning."""
    return parameter(
        2.0, "Silence on an input after which /diagnostics warns, s.", minimum=0.1, maximum=3600.0, live=live
    )


def diagnostics_period_s(*, live: bool) -> Any:
    """Return the parameter for the time between reports."""
    return parameter(1.0, "Time between /diagnostics messages, s.", minimum=0.05, maximum=60.0, live=live)
