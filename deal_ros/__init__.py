"""The ROS 2 side: messages to arrays and back, one worker, nodes. Holds no mathematics."""
