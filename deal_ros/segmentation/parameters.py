"""The segmentation node's parameters: name, default, meaning and limits of each in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from deal_core.errors import UsageError
from deal_core.runtime.backends.choice import BackendName, Precision
from deal_ros.input import parameters
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


@dataclass(frozen=True)
class SegmentationParameters(OutputOptions):
    """Values as read and checked; the fields are the parameters, those of `OutputOptions` among them.

    Raises:
        UsageError: a value of the wrong type, outside its limits or not among its choices.
    """

    model: str = parameter(
        "", "Path of the model file (.safetensors). Must be set. A change is read by ~/reload_model.", live=True
    )
    backend: str = parameter(
        "auto", "What runs the network; auto is the fastest that can be used here.", choices=get_args(BackendName)
    )
    device: str = parameter("auto", "Where the network runs: auto (the GPU where there is one), cpu, cuda or cuda:N.")
    precision: str = parameter(
        "auto",
        "Arithmetic of the network; auto is float16 on a GPU and float32 on the CPU.",
        choices=get_args(Precision),
    )
    engine_cache_dir: str = parameter(
        "", "Folder that keeps what a back end makes of the model file; empty: in the user's cache folder."
    )
    input_size: int = parameter(
        0, "Shorter side of the images that the network sees, pixels; 0 is the model's own.", minimum=0, maximum=8192
    )
    warmup_iterations: int = parameter(
        3, "Images segmented before the first real one, so that it is not slowed.", minimum=0, maximum=1000
    )
    autostart: bool = parameter(
        True, "Whether the process configures and activates its node; false: a lifecycle manager does."
    )
    classes: tuple[str, ...] = parameter(
        (), "Classes that masks show, the others become background; empty is all that the model has.", live=True
    )
    min_confidence: float = parameter(
        0.0, "Pixels below this confidence become unlabelled (255).", minimum=0.0, maximum=1.0, live=True
    )
    color_transport: str = parameter(
        "raw",
        "raw subscribes color/image_raw, compressed color/image_raw/compressed.",
        choices=("raw", "compressed"),
    )
    depth_mode: str = parameter(
        "optional",
        "off: depth is not subscribed. optional: depth is used where the model, points or objects need it, and colour "
        "goes on alone when its depth is late. required: only pairs are segmented.",
        choices=("off", "optional", "required"),
    )
    sync_policy: str = parameters.sync_policy()
    sync_slop_ms: float = parameters.sync_slop_ms(live=True)
    sync_queue: int = parameters.sync_queue()
    sync_timeout_ms: float = parameter(
        100.0,
        "How long colour waits for its depth before it goes on alone, ms; depth_mode optional only.",
        minimum=0.0,
        maximum=60_000.0,
        live=True,
    )
    max_rate_hz: float = parameter(
        0.0, "Frames beyond this rate are dropped and counted, Hz; 0 is no limit.", minimum=0.0, live=True
    )
    max_age_ms: float = parameter(
        250.0,
        "Frames older than this when their turn comes are dropped and counted, ms; 0 is no limit.",
        minimum=0.0,
        live=True,
    )
    color_qos: str = parameters.stream_qos("colour")
    depth_qos: str = parameters.stream_qos("depth")
    input_timeout_s: float = parameters.input_timeout_s(live=True)
    input_error_s: float = parameter(
        10.0,
        "Silence on an input after which /diagnostics calls it an error, s.",
        minimum=0.1,
        maximum=36_000.0,
        live=True,
    )
    warn_busy_share: float = parameter(
        0.5,
        "Share of frames dropped because the network was busy above which /diagnostics warns; 1 never.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    warn_valid_depth: float = parameter(
        0.0,
        "Share of pixels with a depth measurement at or below which /diagnostics warns.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    diagnostics_period_s: float = parameters.diagnostics_period_s(live=True)
    snapshot_dir: str = parameter("~/.ros/deal_snapshots", "Folder that ~/save_snapshot writes to.", live=True)

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
