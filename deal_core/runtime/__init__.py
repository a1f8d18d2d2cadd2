"""What runs on a robot: the segmenter, its back ends, export, and what is made of its masks."""
