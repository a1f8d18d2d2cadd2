"""Parameters that every node with colour and depth input has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from deal_core.errors import UsageError
from deal_core.recording.depth_values import DepthValues
from deal_ros.node.parameters import parameter


@dataclass(frozen=True)
class InputParameters:
    """How a node subscribes to colour and depth and pairs them; the base of its parameter dataclass."""

    color_transport: str = parameter(
        "raw",
        "raw subscribes to color/image_raw, compressed to color/image_raw/compressed.",
        choices=("raw", "compressed"),
    )
    depth_transport: str = parameter(
        "raw",
        "raw subscribes to depth/image_raw, compressedDepth to depth/image_raw/compressedDepth (PNG or RVL), "
        "compressed to depth/image_raw/compressed (16-bit PNG or TIFF).",
        choices=("raw", "compressedDepth", "compressed"),
    )
    depth_unit: str = parameter(
        "auto",
        "Unit of depth images: auto (16-bit numbers are millimetres, 32-bit numbers metres), m, mm, 0.1mm or another.",
    )
    max_depth_m: float = parameter(
        0.0, "Greatest depth that is a measurement, m; 0 is no limit.", minimum=0.0, maximum=1000.0
    )
    aligned: bool = parameter(
        False, "Whether depth is aligned to colour although its frame_id has another name; the sizes must be equal."
    )
    align_depth: bool = parameter(
        False,
        "Whether to align depth to colour here, for a camera whose driver does not; it needs color/camera_info, "
        "depth/camera_info, and the transform on /tf_static or extrinsics/depth_to_color.",
    )
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

    def check_depth(self) -> None:
        """Check the parameters of depth.

        Raises:
            UsageError: `depth_unit` is not a unit, or depth is said to be aligned and to be in need of it.
        """
        _ = self.depth_values
        if self.aligned and self.align_depth:
            raise UsageError(
                "parameters 'aligned', 'align_depth': expected at most one of them, found both; depth that is aligned "
                "must not be aligned again"
            )

    @property
    def depth_values(self) -> DepthValues:
        """How to read the numbers of depth images.

        Raises:
            UsageError: `depth_unit` is not a unit.
        """
        try:
            return DepthValues(self.depth_unit, self.max_depth_m)
        except UsageError as error:
            raise UsageError(f"parameter 'depth_unit': {error}") from None


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
