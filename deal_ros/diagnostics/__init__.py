"""What a node tells about its health: snapshots of its state, and the levels they are judged to."""
