#!/usr/bin/env bash
# Source ROS and the workspace, then run the command. No `set -u`: the setup files of ROS use unset variables.
set -eo pipefail
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /ws/install/setup.bash
exec "$@"
