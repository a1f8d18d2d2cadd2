"""Messages of TF and odometry in the bag of a test, and the poses that they mean."""

from __future__ import annotations

from typing import Any

import numpy as np

Quaternion = tuple[float, float, float, float]
STILL: Quaternion = (0.0, 0.0, 0.0, 1.0)


def transform(bag: Any, parent: str, child: str, stamp: int, place: Any, turn: Quaternion = STILL) -> Any:
    """Return a TransformStamped."""
    types = bag.types
    return types["geometry_msgs/msg/TransformStamped"](
        header=bag.header(stamp, parent),
        child_frame_id=child,
        transform=types["geometry_msgs/msg/Transform"](
            translation=types["geometry_msgs/msg/Vector3"](*map(float, place)),
            rotation=types["geometry_msgs/msg/Quaternion"](*turn),
        ),
    )


def add_tf(bag: Any, log_time: int, *transforms: Any, topic: str = "/tf") -> None:
    """Add a TFMessage."""
    bag.add(topic, "tf2_msgs/msg/TFMessage", log_time, transforms=list(transforms))


def add_odometry(bag: Any, stamp: int, child: str, place: Any, turn: Quaternion = STILL, topic: str = "/odom") -> None:
    """Add an Odometry message in the frame `odom`."""
    types = bag.types
    nothing = types["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    pose = types["geometry_msgs/msg/Pose"](
        position=types["geometry_msgs/msg/Point"](*map(float, place)),
        orientation=types["geometry_msgs/msg/Quaternion"](*turn),
    )
    bag.add(
        topic,
        "nav_msgs/msg/Odometry",
        stamp,
        header=bag.header(stamp, "odom"),
        child_frame_id=child,
        pose=types["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=np.zeros(36)),
        twist=types["geometry_msgs/msg/TwistWithCovariance"](
            twist=types["geometry_msgs/msg/Twist"](linear=nothing, angular=nothing), covariance=np.zeros(36)
        ),
    )
