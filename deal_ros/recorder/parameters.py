"""The recorder's parameters: name, default, meaning and limits of each in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from deal_core.dataset.dataset import DATASET_FILE, read_classes
from deal_core.errors import DatasetError, UsageError
from deal_core.recorder.pair_recorder import RecorderSettings
from deal_core.recorder.tag_commands import CLEAR
from deal_core.structures import ClassList
from deal_ros.input import parameters
from deal_ros.input.synchronizer import slop_ns
from deal_ros.node.parameters import check_values, parameter


@dataclass(frozen=True)
class RecorderParameters:
    """Values as read and checked; the fields are the parameters."""

    output: str = parameter(
        "",
        "Folder of the recording; it must not exist. Must be set. Further recordings of one run get _2, _3, ... behind "
        "it; changed live, it holds for the next.",
        live=True,
    )
    classes: tuple[str, ...] = parameter(
        (), "All classes that tags may name, with commas; or the path of a dataset.yaml. Must be set."
    )
    tags: tuple[str, ...] = parameter(
        (), "The classes that are visible, with commas; it follows whatever sets them.", live=True
    )
    marker: str = parameter(
        "partial",
        "What the tags say of the other classes. complete: they are absent. partial: nothing. ignore: pairs are not "
        "labelled at all.",
        choices=("complete", "partial", "ignore"),
        live=True,
    )
    autostart: bool = parameter(
        True, "Record as soon as images arrive; the node ends when that is refused. Otherwise wait for ~/start."
    )
    rate_hz: float = parameter(5.0, "Pairs to keep a second; 0 keeps all.", minimum=0.0, maximum=1000.0)
    only_if_changed: bool = parameter(False, "Keep a pair only if the view differs from the last one kept.")
    change_threshold: float = parameter(
        3.0,
        "Mean difference of the view from which it has changed, in grey levels; only_if_changed only.",
        minimum=0.0,
        maximum=255.0,
    )
    tag_guard_s: float = parameter(
        0.5,
        "Time before and after a change of tags in which pairs are not labelled, because nobody reacts at once, s.",
        minimum=0.0,
        maximum=60.0,
    )
    sync_policy: str = parameters.sync_policy()
    sync_slop_ms: float = parameters.sync_slop_ms(live=False)
    sync_queue: int = parameters.sync_queue()
    planned_minutes: float = parameter(
        10.0, "Time for which the disk must have room at the start, minutes; 0 does not ask.", minimum=0.0
    )
    max_loss: float = parameter(
        0.01, "Share of wanted pairs lost above which the node ends with exit code 3.", minimum=0.0, maximum=1.0
    )
    queue_pairs: int = parameter(90, "Pairs that may wait for the disk.", minimum=1, maximum=100_000)
    queue_mib: int = parameter(256, "Memory that they may take, MiB.", minimum=1, maximum=100_000)
    keyboard: bool = parameter(True, "Listen to keys where the node runs in a terminal.")
    page: bool = parameter(
        False, "Show what the camera sees on a web page, with a button for each class; its address is in the log."
    )
    page_host: str = parameter("127.0.0.1", "Address of the page; 0.0.0.0 lets a phone in, which needs a token then.")
    page_port: int = parameter(8321, "Of the page; 0 takes any that is free.", minimum=0, maximum=65535)
    note: str = parameter("", "Free text for the recording's session: who, where, with what.")
    color_qos: str = parameters.stream_qos("colour")
    depth_qos: str = parameters.stream_qos("depth")
    input_timeout_s: float = parameters.input_timeout_s(live=False)
    diagnostics_period_s: float = parameters.diagnostics_period_s(live=False)

    def __post_init__(self) -> None:
        check_values(self)

    @property
    def tag_command(self) -> str:
        """What sets the tags to these, see `deal_core.recorder.tag_commands.parse_tags`."""
        return ",".join([*(self.tags or (CLEAR,)), self.marker])

    def class_list(self) -> ClassList:
        """Return the classes.

        Raises:
            UsageError: none are named, or the names cannot be used.
            DatasetError: the dataset.yaml cannot be read.
        """
        if not self.classes:
            raise UsageError(
                "parameter 'classes': expected all classes that tags may name, found nothing; set it with "
                "classes:=mug,drill or classes:=kitchen/dataset.yaml"
            )
        if len(self.classes) == 1 and Path(self.classes[0]).name == DATASET_FILE:
            return read_classes(Path(self.classes[0]).parent)
        try:
            return ClassList(self.classes)
        except DatasetError as error:
            raise UsageError(f"parameter 'classes': {error}") from None

    def settings(self, session: dict[str, object]) -> RecorderSettings:
        """Return how to record.

        Args:
            session: facts to write along; the parameters are added.

        Raises:
            UsageError: no output or no classes are named, or a class that tags cannot name.
            DatasetError: the dataset.yaml cannot be read.
        """
        if not self.output:
            raise UsageError(
                "parameter 'output': expected the folder of the recording, found nothing; set it with "
                "output:=recordings/kitchen_1"
            )
        return RecorderSettings(
            classes=self.class_list(),
            rate_hz=self.rate_hz,
            only_if_changed=self.only_if_changed,
            change_threshold=self.change_threshold,
            slop_ns=slop_ns(self.sync_policy, self.sync_slop_ms),
            sync_queue=self.sync_queue,
            tag_guard_s=self.tag_guard_s,
            planned_minutes=self.planned_minutes,
            queue_pairs=self.queue_pairs,
            queue_mib=self.queue_mib,
            session={**session, "parameters": asdict(self)},
        )
