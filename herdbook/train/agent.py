"""What stays with the ranks of one machine while they train: torchrun's agent, and ranks forked from a warm process.

Run by `launch` as `-m herdbook.train.agent FOLDER`. The agent starts all ranks again when one is lost. Ranks come from
a fork server that has imported what they need, so starting again costs no imports. Where they meet is a store of the
first machine's agent, which lives as long as the run and no rank can take down.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from herdbook.console import log
from herdbook.files import read_json
from herdbook.train.machines import AGENT, MEETING

PRELOADED = ("__main__", "herdbook.train.warm")
RESTARTS = 1_000_000  # whether starting again is of use is judged by checkpoints (see `worker`), not counted
WATCH_SECONDS = 0.5
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(folder: Path) -> None:
    """Run the ranks of this machine to their end; raises what torchrun's agent raises."""
    os.environ[AGENT] = str(os.getpid())
    # Each start of the ranks has a store of its own: keys of a rank that died would mislead those that come after.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    job = read_json(folder / "job.json")
    machines = job["machines"]
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    meeting = f"localhost:{_free_port()}" if machines["count"] == 1 else machines["endpoint"]
    os.environ[MEETING] = meeting
    forkserver.ensure_running()  # it imports while this process does
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from herdbook.train.worker import rank

    _tell_of_lost_ranks()
    for number in SIGNALS:
        signal.signal(number, _stop)
    store = _store(meeting, machines["number"] == 0)
    config = LaunchConfig(
        min_nodes=machines["count"],
        max_nodes=machines["count"],
        nproc_per_node=job["ranks"],
        run_id=machines["run"],
        rdzv_backend="c10d",
        rdzv_endpoint=meeting,
        rdzv_configs={"is_host": "false"},
        local_addr="localhost" if machines["count"] == 1 else None,
        max_restarts=RESTARTS,
        start_method="forkserver",
        signals_to_handle="SIGQUIT",  # the others are ours, see `_stop`
    )
    try:
        elastic_launch(config, rank)(str(folder))
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    finally:
        del store


def _stop(number: int, frame: Any) -> None:
    """End as torchrun does, handing the signal to the ranks; more of them, as schedulers send, change nothing."""
    from torch.distributed.elastic.multiprocessing import SignalException

    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise SignalException(f"got signal {number}", sigval=signal.Signals(number))


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def _store(meeting: str, first: bool) -> Any:
    """The store where agents and ranks meet; the first machine's agent holds it."""
    import datetime

    from torch.distributed import TCPStore

    host, _, port = meeting.rpartition(":")
    wait = datetime.timedelta(minutes=15)  # for the first machine to come up
    return TCPStore(host, int(port), is_master=first, wait_for_workers=False, timeout=wait)


def _follow(parent: int) -> None:
    """Ask the ranks to stop when the command that started all this is gone: a second one may begin at any time."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _tell_of_lost_ranks() -> None:
    """torchrun tells of a rank that ended in pages; one line of ours says as much."""

    class Line(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            args = record.args
            if isinstance(args, tuple) and len(args) > 2 and str(record.msg).startswith("failed"):
                log("rank_lost", local_rank=args[1], exit_code=args[0], next="all ranks start again")

    logger = logging.getLogger("torch.distributed.elastic.multiprocessing.api")
    logger.handlers, logger.propagate = [Line()], False
    for usual in ("torch.multiprocessing.spawn", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(usual).setLevel(logging.ERROR)  # they warn that ranks are ended, as they should be


if __name__ == "__main__":
    run(Path(sys.argv[1]))
