"""Diagnostics of a node: snapshots of its state, judged as diagnostic statuses with a level."""
