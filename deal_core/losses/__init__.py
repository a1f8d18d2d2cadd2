"""Losses as pure functions on tensors; one published loss a file."""
