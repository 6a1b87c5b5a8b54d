"""One loop for every objective (§3.3): schedules, optimizers, checkpoints, metrics."""
