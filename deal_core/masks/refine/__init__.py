"""From class scores to pseudo masks: scores are moved to where the colours, or the depth, of the image change."""
