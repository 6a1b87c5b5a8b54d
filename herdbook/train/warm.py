"""What a rank imports, imported once before ranks are forked: three seconds of processor time for each of them.

It must start no thread and touch no device, for neither outlives a fork.
"""

__all__: list[str] = []
