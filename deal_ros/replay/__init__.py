"""The replay node: a recording through the segmentation node, frame by frame."""
