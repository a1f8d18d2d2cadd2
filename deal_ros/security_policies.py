"""Generate SROS 2 policies: what each node may publish, subscribe to and answer, from its topics and parameters.

Example:
    python -m deal_ros.security_policies                                          # writes config/sros2/*.policy.xml
    python -m deal_ros.security_policies segmentation my.param.yaml >my.policy.xml
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from deal_core.errors import UsageError
from deal_core.files import replacing
from deal_ros.recorder.node import tag_services
from deal_ros.recorder.parameters import RecorderParameters
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.synthetic_camera.parameters import SyntheticCameraParameters

CAMERA = "/camera/camera"
"""Namespace of the camera's topics in the launch files."""

_PARAMETER_SERVICES = (
    "describe_parameters",
    "get_parameter_types",
    "get_parameters",
    "get_type_description",
    "list_parameters",
    "set_parameters",
    "set_parameters_atomically",
)
_LIFECYCLE_SERVICES = (
    "change_state",
    "get_available_states",
    "get_available_transitions",
    "get_state",
    "get_transition_graph",
)


@dataclass(frozen=True)
class Access:
    """What a node may do; full names, or names that begin with `~/`.

    Attributes:
        publish: topics that it publishes.
        subscribe: topics that it subscribes to.
        reply: services that it answers.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    reply: tuple[str, ...]


def segmentation_access(wanted: SegmentationParameters) -> Access:
    """Return what the segmentation node may do with these parameters, as the launch file starts it."""
    outputs = ("mask", "confidence", "camera_info", "overlay", "overlay/compressed", "points", "objects")
    more = ("object_markers", "label_info", "labels", "transition_event")
    moving = ("/tf", "/tf_static", "/odom") if wanted.temporal_weight > 0 else ()
    depth = () if wanted.depth_mode == "off" else _depth_topics(wanted)
    return Access(
        publish=(*(f"~/{name}" for name in (*outputs, *more)), "/diagnostics"),
        subscribe=(*_color_topics(wanted), *depth, *moving),
        reply=tuple(f"~/{name}" for name in (*_LIFECYCLE_SERVICES, "enable", "reload_model", "save_snapshot")),
    )


def recorder_access(wanted: RecorderParameters) -> Access:
    """Return what the recorder may do with these parameters, as the launch file starts it.

    Without classes, or with those of a dataset.yaml that is not there, the services of all classes are allowed.
    """
    try:
        tags = tag_services(wanted.class_list())
    except Exception:  # of a file that another machine has
        tags = ["*"]
    motion = (name if name.startswith(("/", "~")) else f"/{name}" for name in wanted.motion_topics)
    names = ("start", "stop", "clear_tags", "next_segment", "keep", "discard_last", "complete", "ignore")
    return Access(
        publish=("/diagnostics",),
        subscribe=(*_color_topics(wanted), *_depth_topics(wanted), *motion, "~/set_tags"),
        reply=(*(f"~/{name}" for name in names), *(f"~/tag/{name}" for name in tags)),
    )


def synthetic_camera_access(wanted: SyntheticCameraParameters) -> Access:
    """Return what the synthetic camera may do."""
    streams = ("color", "aligned_depth_to_color")
    topics = [f"~/{stream}/{topic}" for stream in streams for topic in ("image_raw", "camera_info")]
    return Access(publish=(*topics, "~/sent"), subscribe=(), reply=())


@dataclass(frozen=True)
class SecuredNode:
    """A node with a policy.

    Attributes:
        namespace, name: of the node.
        kind: dataclass of its parameters.
        access: returns what it may do with parameters.
    """

    namespace: str
    name: str
    kind: Callable[..., Any]
    access: Callable[[Any], Access]


SECURED = {
    "segmentation": SecuredNode("/", "deal_segmentation", SegmentationParameters, segmentation_access),
    "recorder": SecuredNode("/", "deal_recorder", RecorderParameters, recorder_access),
    "synthetic_camera": SecuredNode("/camera", "camera", SyntheticCameraParameters, synthetic_camera_access),
}


def policy_text(node: SecuredNode, parameters: Any) -> str:
    """Return the policy of a node as XML, for `ros2 security create_permission`; its enclave has the node's name."""
    access, full = node.access(parameters), f"{node.namespace.rstrip('/')}/{node.name}"
    policy = ElementTree.Element("policy", version="0.2.0")
    enclave = ElementTree.SubElement(ElementTree.SubElement(policy, "enclaves"), "enclave", path=full)
    profiles = ElementTree.SubElement(enclave, "profiles")
    profile = ElementTree.SubElement(profiles, "profile", ns=node.namespace, node=node.name)
    replies = (*access.reply, *(f"~/{name}" for name in _PARAMETER_SERVICES))
    lists = (
        ("topics", "publish", "topic", (*access.publish, "/parameter_events", "/rosout")),
        ("topics", "subscribe", "topic", (*access.subscribe, "/clock", "/parameter_events")),
        ("services", "reply", "service", replies),
    )
    for group, allowed, entry, names in lists:
        found = ElementTree.SubElement(profile, group, {allowed: "ALLOW"})
        for name in sorted({_full_name(name, full) for name in names}):
            ElementTree.SubElement(found, entry).text = name
    ElementTree.indent(policy)
    return ElementTree.tostring(policy, encoding="unicode", xml_declaration=True) + "\n"


def policy_of_file(room: str, file: Path) -> str:
    """Return the policy of a node with the parameters of a file.

    Args:
        room: "segmentation", "recorder" or "synthetic_camera".
        file: parameter file of one node.

    Raises:
        UsageError: there is no such node, or the file is no parameter file of it.
    """
    if room not in SECURED:
        raise UsageError(f"expected a node among {', '.join(SECURED)}, found '{room}'")
    node = SECURED[room]
    try:
        (section,) = yaml.safe_load(file.read_text(encoding="utf-8")).values()
        parameters = node.kind(**section["ros__parameters"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: expected a parameter file of the node {room}: {error}") from None
    return policy_text(node, parameters)


def policy_file(root: Path, room: str) -> Path:
    """Return the path of a node's policy in the project."""
    return root / "config" / "sros2" / f"{room}.policy.xml"


def main(arguments: list[str]) -> int:
    """Write the policies of the shipped parameter files, or print the policy of a node and a parameter file."""
    root = Path(__file__).resolve().parents[1]
    if arguments:
        if len(arguments) != 2:
            print(__doc__, file=sys.stderr)
            return 2
        try:
            print(policy_of_file(arguments[0], Path(arguments[1])), end="")
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    for room in SECURED:
        with replacing(policy_file(root, room)) as temporary:
            temporary.write_text(policy_of_file(room, root / "config" / f"{room}.param.yaml"), encoding="utf-8")
    return 0


def _color_topics(wanted: SegmentationParameters | RecorderParameters) -> Iterable[str]:
    return _transported(f"{CAMERA}/color/image_raw", wanted.color_transport), f"{CAMERA}/color/camera_info"


def _depth_topics(wanted: SegmentationParameters | RecorderParameters) -> Iterable[str]:
    if not wanted.align_depth:
        return (_transported(f"{CAMERA}/aligned_depth_to_color/image_raw", wanted.depth_transport),)
    raw = _transported(f"{CAMERA}/depth/image_rect_raw", wanted.depth_transport)
    return raw, f"{CAMERA}/depth/camera_info", f"{CAMERA}/extrinsics/depth_to_color", "/tf_static"


def _transported(topic: str, transport: str) -> str:
    return topic if transport == "raw" else f"{topic}/{transport}"


def _full_name(name: str, node: str) -> str:
    return f"{node}{name[1:]}" if name.startswith("~/") else name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
