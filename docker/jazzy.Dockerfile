# Image with the nodes on ROS 2 Jazzy and the RealSense driver. Run from the project's folder:
#   docker build -f docker/jazzy.Dockerfile -t deal:jazzy .     # --build-arg PROFILE=robot: without PyTorch
#   docker run --rm -it --network=host --ipc=host --shm-size=512m --gpus all -v "$PWD:/data" deal:jazzy \
#       ros2 launch deal_ros segmentation.launch.py model:=/data/model.safetensors
# --ipc=host lets images pass through shared memory, also between containers. A camera needs --device=/dev/bus/usb.
# rviz:=true needs -e DISPLAY -v /tmp/.X11-unix:/tmp/.X11-unix (and `xhost +local:docker` on the host).
FROM ros:jazzy-ros-base
# robot: without PyTorch, for the .onnx files of `deal export`.
ARG PROFILE=desk

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The snapshot of the ROS distribution determines the versions of apt packages.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        build-essential git python3-pip python3-venv \
        ros-jazzy-cv-bridge ros-jazzy-message-filters ros-jazzy-vision-msgs ros-jazzy-nav-msgs ros-jazzy-tf2-ros-py ros-jazzy-realsense2-camera \
        ros-jazzy-rviz2 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /ws/src/deal_ros
COPY . .
# The virtual environment uses the ROS packages from apt, not the ROS wheels (see docs/how_to/install.md).
RUN source /opt/ros/jazzy/setup.bash && PROFILE=$PROFILE make setup

WORKDIR /ws
RUN source /opt/ros/jazzy/setup.bash \
    && src/deal_ros/.venv/bin/python -m colcon build --packages-select deal_ros

COPY docker/entrypoint.sh /entrypoint.sh
# `ros2 launch` stops its nodes after SIGINT.
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "deal_ros", "segmentation.launch.py", "--show-args"]
