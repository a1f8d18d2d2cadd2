"""Parameters of the segmentation node: name, default, description and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from deal_core.errors import UsageError
from deal_core.runtime.backends.choice import BackendName, Precision
from deal_ros.input.parameters import (
    InputParameters,
    diagnostics_period_parameter,
    input_timeout_parameter,
    sync_slop_parameter,
)
from deal_ros.node.parameters import check_values, data_dir_parameter, live_parameter, parameter


@dataclass(frozen=True)
class OutputOptions:
    """Settings of the outputs other than the mask.

    Raises:
        UsageError: a value has the wrong type or is outside its limits, or the depth range is empty.
    """

    overlay_alpha: float = live_parameter(
        0.5, "Opacity of the class colours in the overlay; 0 shows the image alone.", minimum=0.0, maximum=1.0
    )
    overlay_max_hz: float = live_parameter(
        10.0, "Maximum rate of overlays, raw and compressed, Hz; 0 is no limit.", minimum=0.0, maximum=1000.0
    )
    depth_min_m: float = live_parameter(0.1, "Minimum depth of points and objects, m.", minimum=0.0, maximum=100.0)
    depth_max_m: float = live_parameter(5.0, "Maximum depth of points and objects, m.", minimum=0.0, maximum=100.0)
    output_scale: float = live_parameter(
        1.0,
        "Size of mask, confidence, ~/camera_info and points as a fraction of the colour image; each pixel is that of "
        "the nearest one, so ids stay ids. Overlays and objects keep the full size.",
        minimum=0.05,
        maximum=1.0,
    )
    points_layout: str = live_parameter(
        "unorganized",
        "unorganized: one row of the points that have depth. organized: the rows and columns of the mask, with nan "
        "where there is no depth.",
        choices=("unorganized", "organized"),
    )
    points_stride: int = live_parameter(
        2,
        "Stride of an unorganized point cloud: it contains every n-th pixel of every n-th row of the mask. An "
        "organized cloud has the size of the mask.",
        minimum=1,
        maximum=64,
    )
    points_classes: tuple[str, ...] = live_parameter(
        (),
        "Classes whose pixels become points; background and unlabelled are names, too. Empty is all pixels.",
    )
    object_classes: tuple[str, ...] = live_parameter(
        (), "Classes whose pieces become objects and markers. Empty is all classes."
    )
    object_min_points: int = live_parameter(
        50, "Minimum number of pixels with valid depth in an object.", minimum=10, maximum=1_000_000
    )
    marker_lifetime_s: float = live_parameter(
        2.0,
        "Time after which RViz removes markers that are not replaced, s; 0 keeps them.",
        minimum=0.0,
        maximum=3600.0,
    )
    jpeg_quality: int = live_parameter(80, "JPEG quality of the compressed overlay.", minimum=1, maximum=100)

    def __post_init__(self) -> None:
        check_values(self)
        if self.depth_min_m >= self.depth_max_m:
            raise UsageError(
                "parameters 'depth_min_m', 'depth_max_m': expected depth_min_m below depth_max_m, found "
                f"{self.depth_min_m:g} m and {self.depth_max_m:g} m"
            )


@dataclass(frozen=True)
class SegmentationParameters(OutputOptions, InputParameters):
    """Validated parameter values; the fields are the parameters, including those of the base classes.

    Raises:
        UsageError: a value has the wrong type, is outside its limits or is not among its choices.
    """

    model: str = live_parameter(
        "",
        "Path of the model file (.safetensors). Required. After a change, ~/reload_model loads the new file.",
        path="file",
    )
    backend: str = parameter(
        "auto",
        "Library that runs the network; auto selects the fastest one that works here.",
        choices=get_args(BackendName),
    )
    device: str = parameter(
        "auto", "Device that runs the network: auto (the GPU if there is one), cpu, cuda or cuda:N."
    )
    precision: str = parameter(
        "auto",
        "Floating-point precision of the network; auto is float16 on a GPU and float32 on the CPU.",
        choices=get_args(Precision),
    )
    engine_cache_dir: str = parameter(
        "",
        "Folder in which a back end caches what it builds from the model file; empty uses the user's cache folder.",
        path="folder",
    )
    input_size: int = parameter(
        0,
        "Shorter side of the images that the network processes, pixels; 0 uses the size in the model file.",
        minimum=0,
        maximum=8192,
    )
    warmup_iterations: int = parameter(
        3,
        "Number of images segmented while the node is configured, so that the first frame is not slower.",
        minimum=0,
        maximum=1000,
    )
    autostart: bool = parameter(
        True, "Whether the process configures and activates its node; false leaves this to a lifecycle manager."
    )
    classes: tuple[str, ...] = live_parameter(
        (), "Classes that masks contain; all other classes become background. Empty is all classes of the model."
    )
    mask_encoding: str = parameter(
        "mono8",
        "mono8: masks contain class ids, 255 is unlabelled. 16SC1: masks contain an id for each object, 0 is none; the "
        "labels name the class of each id.",
        choices=("mono8", "16SC1"),
    )
    min_confidence: float = live_parameter(
        0.0, "Pixels with a confidence below this value become unlabelled (255).", minimum=0.0, maximum=1.0
    )
    temporal_weight: float = parameter(
        0.0,
        "Weight of the last class scores, moved with the camera through depth, in those of an image: 0.85 halves the "
        "flicker of masks. Needs depth, camera_info and TF or odometry. 0 turns the filter off.",
        minimum=0.0,
        maximum=0.95,
    )
    temporal_frame: str = parameter(
        "odom",
        "Frame of TF that does not move with the camera, for temporal_weight; else the topic odom is read.",
    )
    depth_mode: str = parameter(
        "optional",
        "off: the node does not subscribe to depth. optional: the node uses depth if the model, points or objects need "
        "it, and segments colour without depth if depth is late. required: the node segments only pairs.",
        choices=("off", "optional", "required"),
    )
    sync_slop_ms: float = sync_slop_parameter(live=True)
    sync_timeout_ms: float = live_parameter(
        100.0,
        "How long a colour image waits for its depth image before it is segmented without depth, ms; only for "
        "depth_mode optional.",
        minimum=0.0,
        maximum=60_000.0,
    )
    max_rate_hz: float = live_parameter(
        0.0,
        "Maximum rate of segmented frames, Hz; frames above it are dropped and counted. 0 is no limit.",
        minimum=0.0,
    )
    max_age_ms: float = live_parameter(
        250.0,
        "Maximum age of a frame when its segmentation starts, ms; older frames are dropped and counted. 0 is no limit.",
        minimum=0.0,
    )
    input_timeout_s: float = input_timeout_parameter(live=True)
    input_error_s: float = live_parameter(
        10.0, "Time without images after which /diagnostics reports an error, s.", minimum=0.1, maximum=36_000.0
    )
    warn_busy_share: float = live_parameter(
        0.5,
        "Fraction of frames dropped because the network is busy above which /diagnostics warns; 1 never warns.",
        minimum=0.0,
        maximum=1.0,
    )
    warn_valid_depth: float = live_parameter(
        0.0, "Fraction of pixels with valid depth at or below which /diagnostics warns.", minimum=0.0, maximum=1.0
    )
    diagnostics_period_s: float = diagnostics_period_parameter(live=True)
    snapshot_dir: str = live_parameter(
        "~/.ros/deal_snapshots", "Folder for the snapshots of ~/save_snapshot.", path="folder"
    )
    snapshot_limit: int = parameter(
        100, "Number of snapshots in snapshot_dir at which ~/save_snapshot refuses more.", minimum=0, maximum=1_000_000
    )
    snapshot_limit_mib: int = parameter(
        1024,
        "Size of the snapshots in snapshot_dir at which ~/save_snapshot refuses more, MiB.",
        minimum=0,
        maximum=1_000_000,
    )
    data_dir: str = data_dir_parameter()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depth()
        if self.temporal_weight > 0 and self.depth_mode == "off":
            raise UsageError(
                f"parameters 'temporal_weight', 'depth_mode': the temporal filter needs depth, but temporal_weight is "
                f"{self.temporal_weight:g} and depth_mode off"
            )

    def check_complete(self) -> None:
        """Check that the parameters without a default are set.

        Raises:
            UsageError: no model is named.
        """
        if not self.model:
            raise UsageError(
                "parameter 'model': expected the path of a model file (.safetensors), found nothing; "
                "set it with model:=FILE in the launch command, or --ros-args -p model:=FILE"
            )
