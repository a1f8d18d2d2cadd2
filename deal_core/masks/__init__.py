"""From class scores to masks: scores of a dataset, ways to decide, threshold rules, refinement, mask folders."""
