"""The kinds of stages there are, a module for each part of the recipe; importing this registers them all."""

from importlib import import_module

for part in ("corpus", "pretrain", "posttrain", "evaluate", "scaling"):
    import_module(f"herdbook.kinds.{part}")
