"""Training: settings, loop, schedule, run folder, CAM training and distillation."""
