"""Convert objects to messages: vision_msgs/Detection3DArray if installed, and markers for RViz."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from deal_core.runtime.objects import OBJECTS_PER_CLASS, SceneObject, object_id
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
_ANY_ANGLE_VARIANCE = math.pi**2 / 3  # of an angle that is uniform over a full turn: orientation is not measured


def detections(objects: Iterable[SceneObject], classes: ClassList, header: Header, *, has_ids: bool = False) -> Any:
    """Return a vision_msgs/Detection3DArray; `class_id` is the class name, boxes are parallel to the frame's axes.

    The covariance is an estimate: of the position `SceneObject.center_variance`, of the orientation that of any angle.

    Args:
        objects: the objects, in the order of `find_objects`.
        classes: the classes of the objects.
        header: header of the message and of each detection.
        has_ids: whether `id` of a detection is the id of its object in an object mask; else it is empty.
    """
    message = vision.Detection3DArray(header=header)
    numbers: Counter[int] = Counter()
    for found in objects:
        numbers[found.label] += 1
        pose = _pose(found)
        hypothesis = vision.ObjectHypothesis(class_id=_name(found, classes), score=found.confidence)
        result = vision.ObjectHypothesisWithPose(hypothesis=hypothesis)
        result.pose.pose = pose
        result.pose.covariance = _covariance(found)
        box = vision.BoundingBox3D(center=pose, size=_vector(found.size))
        detection = vision.Detection3D(header=header, results=[result], bbox=box)
        if has_ids and numbers[found.label] <= OBJECTS_PER_CLASS:
            detection.id = str(object_id(found.label, numbers[found.label]))
        message.detections.append(detection)
    return message


def markers(objects: Iterable[SceneObject], classes: ClassList, header: Header, lifetime_s: float = 0.0) -> MarkerArray:
    """Return a box in the colour of the class and a label with name and confidence for each object.

    The first marker deletes all previous markers. After `lifetime_s`, RViz removes the others; 0 keeps them.
    """
    lifetime = Duration(sec=int(lifetime_s), nanosec=int(lifetime_s % 1 * 1e9))
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
        box.lifetime = name.lifetime = lifetime
        array.markers += [box, name]
    return array


def _name(found: SceneObject, classes: ClassList) -> str:
    return classes.names[found.label - 1]


def _pose(found: SceneObject) -> Pose:
    x, y, z = found.center
    return Pose(position=Point(x=x, y=y, z=z))


def _covariance(found: SceneObject) -> list[float]:
    """Return the 6 x 6 covariance of x, y, z and the rotations about them, row by row."""
    covariance = [0.0] * 36
    covariance[::7] = [*found.center_variance, *[_ANY_ANGLE_VARIANCE] * 3]
    return covariance


def _vector(lengths: Iterable[float]) -> Vector3:
    x, y, z = lengths
    return Vector3(x=x, y=y, z=z)
