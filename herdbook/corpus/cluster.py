"""Curation on a Ray cluster: shards are measured as tasks, questions about all documents run as Daft plans on Ray.

A task whose worker dies is given to another one; what it published is never measured again. Every node must see the
input and the folder of the book, under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from herdbook import console
from herdbook.corpus.daft_engine import Dataframes
from herdbook.settings import UserError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
RETRIES = 3
"""How often a task is given to another worker after one died with it."""
AHEAD = 2
"""Tasks per core that are handed to the cluster at a time."""


def connect() -> Any:
    """Ray, connected to the cluster of RAY_ADDRESS, or to one on this machine where that is not set."""
    try:
        import ray
    except ImportError:
        raise UserError(
            "engine: ray is not installed; pip install 'herdbook[ray]', or take the native engine"
        ) from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        given: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"engine: no Ray cluster at {address or 'this machine'}: {error}") from error
    return ray


def cores() -> int:
    """Processor cores of the cluster."""
    return max(1, int(connect().cluster_resources().get("CPU", 1)))


def dataframes(folder: Path) -> Dataframes:
    """The engine that runs on the cluster."""
    import daft

    connect()
    daft.set_runner_ray(noop_if_initialized=True)
    return Dataframes(folder, 2 * cores(), each)


def each(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """What a function gives for each tuple of arguments, in their order; raises as `spread` does."""
    ended: dict[int, Any] = {}
    turn = 0
    for number, _, result in spread(function, calls):
        ended[number] = result
        while turn in ended:
            yield ended.pop(turn)
            turn += 1


def spread(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[int, tuple[Any, ...], Any]]:
    """Call a function with each tuple of arguments as tasks of the cluster; number, arguments and result as they end.

    Raises UserError when a task's workers died RETRIES + 1 times, and the function's own error as it was.
    """
    ray = connect()
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(function)
    waiting: dict[Any, tuple[int, tuple[Any, ...]]] = {}
    left = enumerate(calls)
    room = AHEAD * cores()
    more = True
    try:
        while more or waiting:
            while more and len(waiting) < room:
                call = next(left, None)
                more = call is not None
                if call is not None:
                    waiting[task.remote(*call[1])] = call
            for reference in ray.wait(list(waiting))[0] if waiting else []:
                result = _result(ray, reference)
                yield *waiting.pop(reference), result
    except BaseException:
        for reference in waiting:
            ray.cancel(reference, force=True)
        raise


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayError as error:
        said = str(error).strip().split("\n")[0]
        console.log("task_lost", error=type(error).__name__)
        raise UserError(f"workers of the cluster died {RETRIES + 1} times on one task ({said})") from error
