"""The ROS 2 nodes: parameters, subscriptions, message conversion, publishers. The mathematics is in `deal_core`."""
