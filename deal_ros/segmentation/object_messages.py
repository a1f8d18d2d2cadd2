"""Convert objects to messages: vision_msgs/Detection3DArray if installed, and markers for RViz."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from deal_core.runtime.objects import SceneObject
from deal_core.structures import ClassList

try:
    from vision_msgs import msg as vision
except ImportError:  # not among the wheels on PyPI
    vision = None

DETECTIONS = vision.Detection3DArray if vision else None
"""Message type of `detections`; None if vision_msgs is not installed."""

BOX_NAMESPACE, NAME_NAMESPACE = "deal_boxes", "deal_names"
_BOX_OPACITY = 0.4
_NAME_HEIGHT_M = 0.04
_THINNEST_M = 0.001  # RViz warns about boxes with a side of 0


def detections(objects: Iterable[SceneObject], classes: ClassList, header: Header) -> Any:
    """Return a vision_msgs/Detection3DArray; `class_id` is the class name, boxes are parallel to the frame's axes."""
    message = vision.Detection3DArray(header=header)
    for found in objects:
        pose = _pose(found)
        hypothesis = vision.ObjectHypothesis(class_id=_name(found, classes), score=found.confidence)
        result = vision.ObjectHypothesisWithPose(hypothesis=hypothesis)
        result.pose.pose = pose
        box = vision.BoundingBox3D(center=pose, size=_vector(found.size))
        message.detections.append(vision.Detection3D(header=header, results=[result], bbox=box))
    return message


def markers(objects: Iterable[SceneObject], classes: ClassList, header: Header) -> MarkerArray:
    """Return a box in the colour of the class and a label with name and confidence for each object.

    The first marker deletes all previous markers.
    """
    array = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    for index, found in enumerate(objects):
        red, green, blue = (component / 255 for component in classes.colors[found.label - 1])
        box = Marker(header=header, ns=BOX_NAMESPACE, id=index, type=Marker.CUBE, action=Marker.ADD)
        box.pose = _pose(found)
        box.scale = _vector([max(length, _THINNEST_M) for length in found.size])
        box.color = ColorRGBA(r=red, g=green, b=blue, a=_BOX_OPACITY)
        name = Marker(header=header, ns=NAME_NAMESPACE, id=index, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
        name.pose = _pose(found)
        name.pose.position.y -= found.size[1] / 2 + _NAME_HEIGHT_M  # above the box: y points down in an optical frame
        name.scale.z = _NAME_HEIGHT_M
        name.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
        name.text = f"{_name(found, classes)} {found.confidence:.2f}"
        array.markers += [box, name]
    return array


def _name(found: SceneObject, classes: ClassList) -> str:
    return classes.names[found.label - 1]


def _pose(found: SceneObject) -> Pose:
    x, y, z = found.center
    return Pose(position=Point(x=x, y=y, z=z))


def _vector(lengths: Iterable[float]) -> Vector3:
    x, y, z = lengths
    return Vector3(x=x, y=y, z=z)
