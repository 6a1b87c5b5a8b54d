"""The portable layer: a Python audit hook that refuses files outside, sockets, processes, frames and ctypes.

It is what holds on systems without the kernel's layers, and a second wall where they are. An audit hook is not a
security boundary by itself: code that knows CPython's insides can get round it. It also keeps the proof of a pass
out of reach of ordinary tricks, by refusing the ways to a caller's frame and to the list of all objects.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

REFUSED_EVENTS = frozenset(
    {
        *("gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys.settrace", "sys.setprofile"),
        *("sys._current_frames", "sys._current_exceptions", "sys._getframe", "sys.addaudithook", "code.__new__"),
        *("os.system", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.exec", "os.posix_spawn", "os.spawn"),
        *(
            "os.startfile",
            "pty.spawn",
            "signal.pthread_kill",
            "_thread.start_new_thread",
            "_thread.start_joinable_thread",
        ),
        *("resource.setrlimit", "resource.prlimit", "sqlite3.connect", "sqlite3.connect/handle", "os.setxattr"),
        *("syslog.openlog", "syslog.syslog", "fcntl.ioctl", "sys.remote_exec"),
    }
)
REFUSED_FAMILIES = (
    "socket.",
    "subprocess.",
    "ctypes.",
    "ftplib.",
    "smtplib.",
    "urllib.",
    "http.",
    "winreg.",
    "_winapi.",
)
REFUSED_MODULES = frozenset(
    ("ctypes", "_ctypes", "_testcapi", "_testinternalcapi", "_xxsubinterpreters", "_interpreters", "faulthandler")
)
FRAME_ATTRIBUTES = frozenset(("tb_frame", "gi_frame", "cr_frame", "ag_frame", "f_back"))
PATH_EVENTS = frozenset(
    {
        *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime"),
        *("os.chmod", "os.chown", "os.chflags", "os.lockf", "os.mkfifo", "os.mknod", "os.listdir", "os.scandir"),
    }
)
LOOKING_EVENTS = frozenset(("os.listdir", "os.scandir"))


class Refused(ValueError, PermissionError):
    """What refused code sees: a PermissionError, and a ValueError because that is what `sys._getframe` may raise."""


def make_hook(readable: list[str], writable: str) -> Callable[[str, tuple[Any, ...]], None]:
    """A hook that lets code read below `readable` and do as it likes below `writable`, nothing else with files."""
    realpath, fspath, fsdecode, separator = os.path.realpath, os.fspath, os.fsdecode, os.sep
    read_roots = tuple(realpath(path) for path in [*readable, writable])
    write_roots = (realpath(writable),)
    events, families, modules, frames = REFUSED_EVENTS, REFUSED_FAMILIES, REFUSED_MODULES, FRAME_ATTRIBUTES
    paths, looking, refusal = PATH_EVENTS, LOOKING_EVENTS, Refused
    writing_flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    devices = {"/dev/null", "/dev/urandom", "/dev/random"}

    def inside(path: Any, roots: tuple[str, ...]) -> bool:
        if path is None or isinstance(path, int):
            return True  # an open descriptor: it was checked when it was opened
        real = realpath(fsdecode(fspath(path)))
        return real in devices or any(real == root or real.startswith(root + separator) for root in roots)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & writing_flags) if isinstance(flags, int) else any(c in (mode or "") for c in "wax+")
            if not inside(path, write_roots if writes else read_roots):
                raise refusal(f"the sandbox lets no program {'write' if writes else 'read'} {path!r}")
        elif event in events or event.startswith(families):
            raise refusal(f"the sandbox refuses {event}")
        elif event == "object.__getattr__":
            if arguments[1] in frames:
                raise refusal(f"the sandbox refuses {arguments[1]}")
        elif event == "import":
            if arguments[0] in modules:
                raise ImportError(f"the sandbox has no module {arguments[0]}")
        elif event in paths:
            roots = read_roots if event in looking else write_roots
            names = [part for part in arguments if isinstance(part, str | bytes) or hasattr(part, "__fspath__")]
            if not all(inside(name, roots) for name in names):
                raise refusal(f"the sandbox refuses {event} outside its folder")

    return hook


def install(readable: list[str], writable: str) -> None:
    """Put the hook in place for the rest of this process; it cannot be taken out again."""
    sys.addaudithook(make_hook(readable, writable))
