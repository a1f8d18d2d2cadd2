"""The pose of the camera at the time of an image, from TF or else from odometry."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from std_msgs.msg import Header

from deal_core.errors import UsageError
from deal_core.runtime.camera_rays import Float64Array
from deal_core.runtime.pose_track import PoseTrack
from deal_core.structures import pose_matrix
from deal_ros.input.conversions import stamp_to_ns

try:
    import tf2_ros
except ImportError:  # not among the wheels on PyPI
    tf2_ros = None
try:
    from nav_msgs.msg import Odometry
except ImportError:  # not among the wheels on PyPI
    Odometry = None

ODOMETRY_TOPIC = "odom"


class CameraMotion:
    """Reads TF, and the odometry topic `odom` where TF does not know the camera.

    `pose` may be called from any thread.

    Args:
        node: the node that subscribes.
        fixed_frame: frame of TF that does not move with the camera.

    Raises:
        UsageError: neither tf2_ros nor nav_msgs is installed.
    """

    def __init__(self, node: Node, fixed_frame: str) -> None:
        if tf2_ros is None and Odometry is None:
            raise UsageError(
                "parameter 'temporal_weight': expected tf2_ros or nav_msgs, which tell how the camera moves, found "
                "neither: install them (ros-<distribution>-tf2-ros-py, -nav-msgs), or set temporal_weight to 0"
            )
        self._node, self._fixed_frame = node, fixed_frame
        self._track, self._body = PoseTrack(), ""
        self._buffer: Any = tf2_ros.Buffer() if tf2_ros else None
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node) if tf2_ros else None
        self._subscription = (
            node.create_subscription(Odometry, ODOMETRY_TOPIC, self._take, qos_profile_sensor_data)
            if Odometry
            else None
        )

    def close(self) -> None:
        """Unsubscribe."""
        if self._listener is not None:
            self._listener.unregister()
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def pose(self, header: Header) -> Float64Array | None:
        """Return the (4, 4) pose of the image's frame in a frame that does not move; None if it is not known.

        Args:
            header: stamp and optical frame of the image.
        """
        found = self._transform(self._fixed_frame, header.frame_id, Time.from_msg(header.stamp))
        return self._pose_by_odometry(header) if found is None else found

    def _pose_by_odometry(self, header: Header) -> Float64Array | None:
        body = self._track.at(stamp_to_ns(header.stamp))
        if body is None or self._body == header.frame_id:
            return body
        mount = self._transform(self._body, header.frame_id, Time())
        return None if mount is None else body @ mount

    def _transform(self, target: str, source: str, time: Time) -> Float64Array | None:
        if self._buffer is None:
            return None
        try:
            found = self._buffer.lookup_transform(target, source, time).transform
        except tf2_ros.TransformException:
            return None
        move, turn = found.translation, found.rotation
        return pose_matrix((move.x, move.y, move.z), (turn.x, turn.y, turn.z, turn.w))

    def _take(self, message: Any) -> None:
        place, turn = message.pose.pose.position, message.pose.pose.orientation
        self._body = message.child_frame_id
        pose = pose_matrix((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))
        self._track.add(stamp_to_ns(message.header.stamp), pose)
