"""What a person runs: one short module a command, gathered in `cli`."""
