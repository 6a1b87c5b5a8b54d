"""What a rank imports, imported once before ranks are forked: three seconds of processor time for each of them.

It must start no thread and touch no device, for neither outlives a fork.
"""

from importlib import import_module

for _name in (
    "torch.distributed.checkpoint",
    "torch.distributed.device_mesh",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "herdbook.model.huggingface",
    "herdbook.tokens.shards",
    "herdbook.train.loop",
    "herdbook.train.objective",
    "herdbook.train.phased",
    "herdbook.train.start",
    "herdbook.train.worker",
):
    import_module(_name)
