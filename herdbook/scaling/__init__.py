"""Scaling laws and the planner (§3.2.1, §3.3): what to train, on how much, on what, how long, how good it gets."""
