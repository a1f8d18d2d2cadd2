# The nodes on ROS 2 Humble, with the RealSense driver. From the project's folder:
#   docker build -f docker/humble.Dockerfile -t deal:humble .
#   docker run --rm -it --network=host --ipc=host --shm-size=512m --gpus all -v "$PWD:/data" deal:humble \
#       ros2 launch deal_ros segmentation.launch.py model:=/data/model.safetensors
# --ipc=host: images go through shared memory, between containers too. A camera needs --device=/dev/bus/usb.
FROM ros:humble-ros-base

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions of apt packages are those of the ROS distribution's snapshot.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        build-essential git python3-pip python3-venv \
        ros-humble-cv-bridge ros-humble-message-filters ros-humble-vision-msgs ros-humble-realsense2-camera \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /ws/src/deal_ros
COPY . .
# The environment sees the ROS of apt, so the wheels of ROS stay out (see docs/how_to/install.md).
RUN source /opt/ros/humble/setup.bash && make setup

WORKDIR /ws
RUN source /opt/ros/humble/setup.bash \
    && src/deal_ros/.venv/bin/python -m colcon build --packages-select deal_ros

COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "deal_ros", "segmentation.launch.py", "--show-args"]
