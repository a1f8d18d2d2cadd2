"""The synthetic camera node, which behaves as a RealSense does, faults included."""
