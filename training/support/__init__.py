"""What several commands share: console, progress, dataset options, the machine."""
