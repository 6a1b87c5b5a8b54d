"""Measuring a model (§5): tasks, scoring with 95 % intervals, sandboxed code, needles, bits per byte."""
