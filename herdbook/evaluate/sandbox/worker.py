"""The fork server inside the sandbox: reads jobs, runs each in a fresh process, answers with what became of it.

Started as `python -I -S worker.py FOLDER`. The server enters fresh namespaces once; for every job it forks a keeper,
which opens a new process namespace, forks the runner into it, watches the clock and the output, and kills what is
left. The runner gives up every right, executes program and tests, and only then writes the job's proof to the keeper.
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import sys
import sysconfig
import time
import types
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
import guard
import layers

# Loaded before the fork, so that programs which use them start in a millisecond.
USUAL_MODULES = (
    *(
        "abc",
        "array",
        "base64",
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
    ),
    *(
        "cmath",
        "functools",
        "hashlib",
        "heapq",
        "io",
        "itertools",
        "math",
        "operator",
        "queue",
        "random",
        "re",
        "statistics",
    ),
    *("string", "struct", "textwrap", "time", "typing", "unicodedata", "contextlib", "numbers", "cmath", "calendar"),
)
FILE_BYTES = 16 << 20
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache")


def readable_folders() -> list[str]:
    """The interpreter's own library: what a program may read."""
    return sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})


def run_program(job: dict[str, Any], folder: str, proof: int) -> None:
    """Give up every right, run program and tests, and write the proof after the last test. Never returns."""
    token, tests, program = job["token"].encode(), job["tests"], job["code"]
    write, leave, stdout = os.write, os._exit, sys.stdout
    namespace = types.ModuleType("program").__dict__
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        readable = readable_folders()
        layers.limit_resources(math.ceil(job["seconds"]), job["memory_bytes"], FILE_BYTES)
        layers.drop_capabilities()
        layers.restrict_files([*readable, *LIBRARIES], folder)
        layers.filter_calls()
        for name in ("__main__", "layers", "guard", "ctypes", "_ctypes", "signal", "select"):
            sys.modules.pop(name, None)
        sys.argv, sys.path[:] = ["program"], [path for path in sys.path if path in readable or "dynload" in path]
        sys.modules["program"] = sys.modules["__main__"] = types.ModuleType("program")
        namespace = sys.modules["program"].__dict__
        job.clear()
        guard.install(readable, folder)
        exec(compile(program, "<program>", "exec"), namespace)
        exec(compile(tests, "<tests>", "exec"), namespace)
    except BaseException as error:
        try:
            message = f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:2000]
            write(proof, b"!" + message)
        finally:
            leave(1)
    write(proof, token)
    try:
        stdout.flush()
    finally:
        leave(0)


def watch(proof: int, output: int, deadline: float, cap: int) -> tuple[bytes, bytes, bool]:
    """Read both pipes until the runner closes the proof's, or the deadline; (proof, first `cap` of output, in time)."""
    said, shown = b"", b""
    poll = select.poll()
    poll.register(proof, select.POLLIN | select.POLLHUP)
    poll.register(output, select.POLLIN | select.POLLHUP)
    while (left := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(left * 1000):
            data = os.read(handle, 65536)
            if handle == output:
                shown = (shown + data)[:cap]
                if not data:
                    poll.unregister(output)
            elif not data:
                os.set_blocking(output, False)
                try:
                    shown = (shown + os.read(output, 65536))[:cap]
                except OSError:
                    pass
                return said, shown, True
            else:
                said = (said + data)[:4096]
    return said, shown, False


def keep(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run one job in a new process namespace, and say what became of it."""
    start = time.monotonic()
    own_processes = layers.unshare(layers.NEW_PIDS)
    proof_read, proof_write = os.pipe()
    output_read, output_write = os.pipe()
    token, wall, cap = job["token"], job["seconds"], job["output_bytes"]
    runner = os.fork()
    if runner == 0:
        layers.die_with_parent()
        os.dup2(output_write, 1)
        os.dup2(output_write, 2)
        moved = os.dup2(proof_write, 3) if proof_write != 3 else 3
        os.closerange(4, 256)
        run_program(job, folder, moved)
    os.close(proof_write)
    os.close(output_write)
    said, shown, in_time = watch(proof_read, output_read, start + wall, cap)
    for kill in (os.killpg, os.kill):  # the group first: without a process namespace it holds the children
        try:
            if not in_time or kill is os.killpg:
                kill(runner, signal.SIGKILL)
        except OSError:
            continue
    status = os.waitpid(runner, 0)[1]
    if said == token.encode():
        reason, detail = "passed", ""
    elif said.startswith(b"!"):
        reason, detail = "failed", said[1:].decode("utf-8", "replace")
    elif not in_time or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == getattr(signal, "SIGXCPU", 24)):
        reason, detail = "timeout", f"stopped after {wall:g} seconds"
    else:
        reason, detail = "ended", f"the process ended before the last test (status {status})"
    return {
        "reason": reason,
        "detail": detail,
        "output": shown.decode("utf-8", "replace"),
        "seconds": time.monotonic() - start,
        "processes": own_processes,
    }


def answer(job: dict[str, Any], folder: str, channel: int) -> None:
    """Fork the keeper of one job, have it answer on `channel`, and clear away what the program left."""
    os.mkdir(folder)  # noqa: PTH102
    keeper = os.fork()
    if keeper == 0:
        layers.die_with_parent()
        try:
            result = keep(job, folder)
            os.write(channel, json.dumps(result).encode() + b"\n")
        finally:
            os._exit(0)
    os.waitpid(keeper, 0)
    shutil.rmtree(folder, ignore_errors=True)


def probe(folder: str) -> dict[str, bool]:
    """Enter the namespaces, and try the other layers in a child: which hold on this machine."""
    namespaces = layers.new_namespaces()
    found = {"namespaces": namespaces, "mounts": namespaces and layers.freeze_mounts(folder, 4 * FILE_BYTES)}
    child = os.fork()
    if child == 0:
        layers.drop_capabilities()
        os._exit(int(layers.restrict_files(readable_folders(), folder)) + 2 * int(layers.filter_calls()))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    child = os.fork()
    if child == 0:
        os._exit(int(layers.unshare(layers.NEW_PIDS)))
    processes = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    return {**found, "processes": processes, "landlock": bool(code & 1), "seccomp": bool(code & 2), "audit_hook": True}


def serve(folder: str) -> None:
    """Answer jobs, one JSON line each, until the input ends. The first line sent says which layers hold."""
    layers.die_with_parent()
    for name in USUAL_MODULES:
        __import__(name)
    requests, channel = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1):
        os.dup2(null, handle)
    os.write(channel, json.dumps(probe(folder)).encode() + b"\n")
    for number, line in enumerate(requests):
        answer(json.loads(line), os.path.join(folder, f"program{number}"), channel)  # noqa: PTH118


if __name__ == "__main__":
    serve(sys.argv[1])
