"""Parameters of the outputs beside the mask: overlay, points and objects."""

from __future__ import annotations

from dataclasses import dataclass

from deal_core.errors import UsageError
from deal_ros.node.parameters import check_values, parameter


@dataclass(frozen=True)
class OutputOptions:
    """How the outputs beside the mask are made.

    Raises:
        UsageError: a value of the wrong type or outside its limits, or a depth range that is empty.
    """

    overlay_alpha: float = parameter(
        0.5, "Opacity of the colours of the overlay; 0 is the image alone.", minimum=0.0, maximum=1.0, live=True
    )
    overlay_max_hz: float = parameter(
        10.0, "Overlays a second at most, raw and compressed; 0 is no limit.", minimum=0.0, maximum=1000.0, live=True
    )
    depth_min_m: float = parameter(
        0.1, "Nearest depth of points and objects, m.", minimum=0.0, maximum=100.0, live=True
    )
    depth_max_m: float = parameter(
        5.0, "Farthest depth of points and objects, m.", minimum=0.0, maximum=100.0, live=True
    )
    points_stride: int = parameter(
        2, "Every how manieth row and column gives points.", minimum=1, maximum=64, live=True
    )
    object_min_points: int = parameter(
        50, "Pixels with depth that make an object.", minimum=10, maximum=1_000_000, live=True
    )
    jpeg_quality: int = parameter(80, "Quality of the compressed overlay.", minimum=1, maximum=100, live=True)

    def __post_init__(self) -> None:
        check_values(self)
        if self.depth_min_m >= self.depth_max_m:
            raise UsageError(
                f"parameters 'depth_min_m', 'depth_max_m': expected a range, found {self.depth_min_m:g} m "
                f"to {self.depth_max_m:g} m"
            )
