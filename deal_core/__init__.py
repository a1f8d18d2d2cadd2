"""Weakly supervised semantic segmentation from tags and depth. Never imports ROS."""
