"""The segmentation node's parameters: name, default, meaning and limits of each in one place."""

from __future__ import annotations

from dataclasses import dataclass

from deal_core.errors import UsageError
from deal_ros.parameters import check_values, parameter


@dataclass(frozen=True)
class SegmentationParameters:
    """Values as read and checked at start; the fields are the parameters."""

    model: str = parameter("", "Path of the model file (.safetensors). Must be set.")
    device: str = parameter("auto", "Where the network runs: auto (the GPU where there is one), cpu, cuda or cuda:N.")
    precision: str = parameter(
        "auto",
        "Arithmetic of the network; auto is float16 on a GPU and float32 on the CPU.",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    warmup_iterations: int = parameter(
        3, "Images segmented before the first real one, so that it is not slowed.", minimum=0, maximum=1000
    )
    depth_mode: str = parameter(
        "optional",
        "off: depth is not subscribed. optional: depth is used if the model does, and colour goes on alone "
        "when its depth is late. required: only pairs are segmented.",
        choices=("off", "optional", "required"),
    )
    sync_policy: str = parameter(
        "exact",
        "exact pairs equal stamps (RealSense with aligned depth), approximate pairs stamps within sync_slop_ms.",
        choices=("exact", "approximate"),
    )
    sync_slop_ms: float = parameter(
        15.0,
        "Largest difference of stamps of a pair, ms; policy approximate only. Below half a frame.",
        minimum=0.0,
        maximum=10_000.0,
    )
    sync_queue: int = parameter(10, "Images of each stream that may wait for a partner.", minimum=1, maximum=1000)
    sync_timeout_ms: float = parameter(
        100.0,
        "How long colour waits for its depth before it goes on alone, ms; depth_mode optional only.",
        minimum=0.0,
        maximum=60_000.0,
    )
    max_age_ms: float = parameter(
        250.0,
        "Frames older than this when their turn comes are dropped and counted, ms; 0 is no limit.",
        minimum=0.0,
    )
    color_qos: str = parameter(
        "auto",
        "Reliability asked of the colour publisher; auto takes what it offers, reliable while unknown.",
        choices=("auto", "reliable", "best_effort"),
    )
    depth_qos: str = parameter(
        "auto",
        "Reliability asked of the depth publisher; auto takes what it offers, reliable while unknown.",
        choices=("auto", "reliable", "best_effort"),
    )
    input_timeout_s: float = parameter(
        2.0, "Silence on an input after which /diagnostics warns, s.", minimum=0.1, maximum=3600.0
    )
    diagnostics_period_s: float = parameter(1.0, "Time between /diagnostics messages, s.", minimum=0.05, maximum=60.0)

    def __post_init__(self) -> None:
        check_values(self)

    def check_complete(self) -> None:
        """Check that nothing is left out that has no default.

        Raises:
            UsageError: no model is named.
        """
        if not self.model:
            raise UsageError(
                "parameter 'model': expected the path of a model file (.safetensors), found nothing; "
                "set it with model:=FILE in the launch command, or --ros-args -p model:=FILE"
            )
