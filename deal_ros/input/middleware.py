"""What a middleware (RMW) needs so that it finds cameras and loses no images."""

from __future__ import annotations

from collections.abc import Mapping

from deal_ros.node.transport import profile_variable

_CYCLONE = (
    "Cyclone DDS sends an image in many UDP packets and loses it when the buffer of the socket is full: raise "
    "net.core.rmem_max (sudo sysctl -w net.core.rmem_max=2147483647) and set SocketReceiveBufferSize (min 10MB) in the "
    "file of CYCLONEDDS_URI"
)
_ZENOH = (
    "Zenoh drops images while its link is congested: on one machine, set "
    "ZENOH_CONFIG_OVERRIDE='transport/shared_memory/enabled=true' for camera and node; between machines, send smaller "
    "or compressed images"
)


def loss_advice(rmw: str, environment: Mapping[str, str], *, is_lossy: bool) -> str:
    """Return what to do when a middleware loses images, in one sentence.

    Args:
        rmw: identifier of the RMW implementation, for example "rmw_fastrtps_cpp".
        environment: environment of this process.
        is_lossy: whether this process loses large best-effort images, see `loses_large_best_effort`.
    """
    if rmw.startswith("rmw_cyclonedds"):
        return _CYCLONE
    if rmw.startswith("rmw_zenoh"):
        return _ZENOH
    if not rmw.startswith("rmw_fastrtps"):
        return f"see the documentation of {rmw} for large messages, or send smaller or compressed images"
    variable = profile_variable(environment)
    if not is_lossy:
        return f"set {variable} for the camera's process, too, or send smaller or compressed images between machines"
    return (
        "best-effort images over 0.5 MB do not fit Fast DDS' default shared memory: set "
        f"{variable} to share/deal_ros/config/fastdds_shm.xml for camera and node"
    )


def discovery_advice(rmw: str) -> str:
    """Return what else to check when a middleware finds no publisher; empty if there is nothing else."""
    if rmw.startswith("rmw_zenoh"):
        return "Zenoh finds publishers through its router: ros2 run rmw_zenoh_cpp rmw_zenohd"
    return ""
