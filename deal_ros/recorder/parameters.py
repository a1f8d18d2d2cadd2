"""Parameters of the recorder node: name, default, description and limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from deal_core.dataset.dataset import DATASET_FILE, read_classes
from deal_core.errors import DatasetError, UsageError
from deal_core.recorder.pair_recorder import RecorderSettings
from deal_core.recorder.tag_commands import CLEAR
from deal_core.recording.depth_values import DepthValues
from deal_core.structures import ClassList
from deal_ros.input.parameters import (
    InputParameters,
    diagnostics_period_parameter,
    input_timeout_parameter,
    sync_slop_parameter,
)
from deal_ros.input.synchronizer import slop_ns
from deal_ros.node.parameters import check_values, data_dir_parameter, live_parameter, parameter
from deal_ros.node.paths import path_of
from deal_ros.recorder.motion_topics import MOTION_TOPICS


@dataclass(frozen=True)
class RecorderParameters(InputParameters):
    """Validated parameter values; the fields are the parameters, including those of `InputParameters`."""

    output: str = live_parameter(
        "",
        "Folder of the recording; it must not exist. Required. Further recordings of the same run append _2, _3, ... "
        "to the name; a change applies to the next recording.",
        path="file",
    )
    classes: tuple[str, ...] = parameter(
        (), "All classes that tags may name, separated by commas, or the path of a dataset.yaml. Required."
    )
    tags: tuple[str, ...] = live_parameter(
        (), "Visible classes, separated by commas. The parameter also shows tags set by topic, service, key or page."
    )
    marker: str = live_parameter(
        "partial",
        "What the tags say about all other classes. complete: they are absent. partial: they are unknown. ignore: "
        "pairs get no labels.",
        choices=("complete", "partial", "ignore"),
    )
    autostart: bool = parameter(
        True,
        "Start recording when images arrive, and exit if recording is refused; false waits for the service ~/start.",
    )
    rate_hz: float = parameter(
        5.0, "Maximum rate of recorded pairs, Hz; 0 records all pairs.", minimum=0.0, maximum=1000.0
    )
    only_if_changed: bool = parameter(
        False, "Whether to record a pair only if the view differs from the last recorded pair."
    )
    change_threshold: float = parameter(
        3.0,
        "Mean difference at which a view counts as changed, grey levels of 255; only for only_if_changed.",
        minimum=0.0,
        maximum=255.0,
    )
    tag_guard_s: float = parameter(
        0.5,
        "Time before and after a change of tags in which pairs get no labels, to allow for the operator's reaction "
        "time, s.",
        minimum=0.0,
        maximum=60.0,
    )
    sync_slop_ms: float = sync_slop_parameter(live=False)
    compress: str = parameter(
        "none",
        "depth compresses depth images with zstd at level 1, to about a fifth; none compresses nothing.",
        choices=("none", "depth"),
    )
    motion_topics: tuple[str, ...] = parameter(
        MOTION_TOPICS,
        "Topics to record beside the images that tell how the camera moves, separated by commas: those that end in tf "
        "or tf_static have tf2_msgs/TFMessage, all others nav_msgs/Odometry. deal extract makes poses of them; empty "
        "records none.",
    )
    planned_minutes: float = parameter(
        10.0,
        "Recording time for which the disk must have free space at the start, minutes; 0 skips the check.",
        minimum=0.0,
    )
    max_loss: float = parameter(
        0.01, "Fraction of lost pairs above which the node exits with code 3.", minimum=0.0, maximum=1.0
    )
    queue_pairs: int = parameter(
        90, "Maximum number of pairs that wait to be written to disk.", minimum=1, maximum=100_000
    )
    queue_mib: int = parameter(
        256, "Maximum memory of the pairs that wait to be written, MiB.", minimum=1, maximum=100_000
    )
    keyboard: bool = parameter(True, "Whether to read keys if the node runs in a terminal.")
    page: bool = parameter(
        False,
        "Whether to serve a web page with the camera image and a button for each class; the log shows its address.",
    )
    page_host: str = parameter(
        "127.0.0.1", "Host address of the page; 0.0.0.0 admits other devices such as a phone, which then need a token."
    )
    page_port: int = parameter(8321, "Port of the page; 0 selects a free port.", minimum=0, maximum=65535)
    note: str = parameter("", "Free text stored in the recording's session: who recorded, where, with what.")
    input_timeout_s: float = input_timeout_parameter(live=False)
    diagnostics_period_s: float = diagnostics_period_parameter(live=False)
    data_dir: str = data_dir_parameter()

    def __post_init__(self) -> None:
        check_values(self)
        self.check_depth()

    @property
    def tag_command(self) -> str:
        """The command that sets these tags; see `deal_core.recorder.tag_commands.parse_tags`."""
        return ",".join([*(self.tags or (CLEAR,)), self.marker])

    @property
    def path(self) -> Path:
        """Path of the first recording.

        Raises:
            UsageError: no output is named.
        """
        if not self.output:
            raise UsageError(
                "parameter 'output': expected the folder of the recording, found nothing; set it with "
                "output:=recordings/kitchen_1"
            )
        return path_of(self.output)

    def class_list(self) -> ClassList:
        """Return the classes that tags may name.

        Raises:
            UsageError: no classes are named, or a name is invalid.
            DatasetError: the dataset.yaml cannot be read.
        """
        if not self.classes:
            raise UsageError(
                "parameter 'classes': expected all classes that tags may name, found nothing; set them with "
                "classes:=mug,drill or classes:=kitchen/dataset.yaml"
            )
        if len(self.classes) == 1 and Path(self.classes[0]).name == DATASET_FILE:
            return read_classes(Path(self.classes[0]).parent)
        try:
            return ClassList(self.classes)
        except DatasetError as error:
            raise UsageError(f"parameter 'classes': {error}") from None

    def settings(self, session: dict[str, object]) -> RecorderSettings:
        """Return the settings of the recorder.

        Args:
            session: facts to store in the recording; the parameters are added to them.

        Raises:
            UsageError: no output or no classes are named, or tags cannot name one of the classes.
            DatasetError: the dataset.yaml cannot be read.
        """
        _ = self.path
        return RecorderSettings(
            classes=self.class_list(),
            rate_hz=self.rate_hz,
            only_if_changed=self.only_if_changed,
            change_threshold=self.change_threshold,
            slop_ns=slop_ns(self.sync_policy, self.sync_slop_ms),
            sync_queue=self.sync_queue,
            aligned=self.aligned,
            compress=cast(Literal["none", "depth"], self.compress),
            depth=DepthValues() if self.align_depth else self.depth_values,  # aligned depth is in millimetres
            tag_guard_s=self.tag_guard_s,
            planned_minutes=self.planned_minutes,
            queue_pairs=self.queue_pairs,
            queue_mib=self.queue_mib,
            session={**session, "parameters": asdict(self)},
        )
