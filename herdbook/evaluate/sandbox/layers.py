"""What the kernel gives an ordinary user to shut a process in: limits, namespaces, landlock, seccomp.

Runs inside the sandbox's own interpreter (`python -I -S`), so it uses the standard library alone. Every function
says by its result whether the layer holds; none of them may stop the sandbox from starting, because a layer that
this machine lacks is reported (`herdbook.evaluate.sandbox.layers`) and the others still hold.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from pathlib import Path

NEW_MOUNTS, NEW_NAMES, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USER, NEW_PIDS, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_SECCOMP, SET_NO_NEW_PRIVILEGES = 1, 4, 22, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT, MOUNT_SETATTR = 444, 445, 446, 442

# System calls that start processes, reach the network or other processes, change mounts or privileges, or install
# signal handlers (a handler is given the runner's frame, and with it the proof). The numbers from 424 on are the
# same on every architecture.
NEWER_CALLS = (424, 425, 426, 427, 428, 429, 430, 434, 438, 442)
FORBIDDEN = {
    "x86_64": (
        *(
            13,
            41,
            42,
            43,
            44,
            46,
            49,
            50,
            53,
            56,
            57,
            58,
            59,
            62,
            101,
            109,
            112,
            129,
            135,
            155,
            165,
            166,
            200,
            234,
            248,
        ),
        *(249, 250, 272, 288, 297, 298, 307, 308, 310, 311, 319, 321, 322, 323, *NEWER_CALLS),
    ),
    "aarch64": (
        *(39, 40, 41, 92, 97, 117, 129, 130, 131, 134, 138, 154, 157, 198, 199, 200, 201, 202, 203, 206, 211, 217, 218),
        *(219, 220, 221, 240, 241, 242, 268, 269, 270, 271, 279, 280, 281, 282, *NEWER_CALLS),
    ),
}
AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE3 = 435
LINUX = sys.platform == "linux"
libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def call(number: int, *arguments: object) -> int:
    """One raw system call; -1 when it fails."""
    assert libc is not None
    return int(libc.syscall(ctypes.c_long(number), *arguments))


def die_with_parent() -> None:
    """Have the kernel kill this process as soon as its parent ends, and hide its memory from other processes."""
    if libc is not None:
        libc.prctl(SET_DEATH_SIGNAL, 9, 0, 0, 0)


def limit_resources(cpu_seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Limit processor time, address space, file size, open files, processes and core dumps of this process."""
    wanted = {
        "RLIMIT_CPU": cpu_seconds,
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_FSIZE": file_bytes,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
    }
    for name, value in wanted.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):  # macOS refuses some address-space limits
            continue


def unshare(flags: int) -> bool:
    """Leave the given namespaces for fresh ones."""
    return libc is not None and libc.unshare(flags) == 0


def new_namespaces() -> bool:
    """Fresh user, mount, network, IPC and host-name namespaces: no network device is up, no mount is shared."""
    if libc is None:
        return False
    user, group = os.getuid(), os.getgid()
    others = NEW_MOUNTS | NEW_NETWORK | NEW_IPC | NEW_NAMES
    if not unshare(NEW_USER | others):
        return unshare(others)  # root in a container may have these without a user namespace
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        pass
    return True


def freeze_mounts(folder: str, size_bytes: int) -> bool:
    """Make every mount read-only, and put a fresh memory file system of `size_bytes` over `folder`."""
    if libc is None:
        return False
    recursive, private = 0x4000, 1 << 18
    if libc.mount(None, b"/", None, ctypes.c_ulong(recursive | private), None) != 0:
        return False
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", 1, 0, 0, 0))
    if call(MOUNT_SETATTR, ctypes.c_int(-100), b"/", ctypes.c_uint(0x8000), attributes, ctypes.c_size_t(32)) != 0:
        return False
    options = f"size={size_bytes},mode=700".encode()
    no_setuid_no_devices = 2 | 4
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(no_setuid_no_devices), options) == 0


def drop_capabilities() -> None:
    """Give up every capability, also those held within the fresh user namespace, for good."""
    if libc is not None:
        header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
        libc.capset(header, ctypes.create_string_buffer(24))
        libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)


def landlock_version() -> int:
    """The version of landlock this kernel has; 0 for none."""
    return max(0, call(LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))) if LINUX else 0


def restrict_files(readable: list[str], writable: str) -> bool:
    """Landlock: reading only below `readable`, anything below `writable`, nothing elsewhere; TCP is refused too."""
    version = landlock_version()
    if version == 0:
        return False
    files = (1 << 13) - 1 if version == 1 else (1 << 14) - 1 if version == 2 else (1 << 15) - 1
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0  # no abstract sockets, no signals to processes outside
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", files, network, scoped))
    rules = call(LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    if rules < 0:
        return False
    execute, read_file, read_folder, truncate = 1, 1 << 2, 1 << 3, 1 << 14
    granted = [(path, execute | read_file | read_folder) for path in readable]
    granted += [(writable, files & ~execute), ("/dev/null", read_file | 2 | (truncate & files)), ("/dev/urandom", 4)]
    for path, rights in granted:
        try:
            handle = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):  # noqa: PTH112 - pathlib would be one more thing to load per program
            rights &= execute | read_file | 2 | truncate
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights & files, handle))
        call(LANDLOCK_ADD, ctypes.c_int(rules), ctypes.c_int(1), rule, ctypes.c_uint(0))
        os.close(handle)
    held = call(LANDLOCK_RESTRICT, ctypes.c_int(rules), ctypes.c_uint(0)) == 0
    os.close(rules)
    return held


def filter_calls() -> bool:
    """Seccomp: refuse the forbidden system calls; calls of another architecture end the process."""
    machine = platform.machine()
    if libc is None or machine not in FORBIDDEN:
        return False
    load, equal, greater, answer = 0x20, 0x15, 0x25, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000
    program = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCHITECTURE[machine]), (answer, 0, 0, kill), (load, 0, 0, 0)]
    if machine == "x86_64":
        program += [(greater, 0, 1, 0x3FFFFFFF), (answer, 0, 0, kill)]  # the x32 numbers of the same calls
    program += [(equal, 0, 1, CLONE3), (answer, 0, 0, refuse | errno.ENOSYS)]
    for number in FORBIDDEN[machine]:
        program += [(equal, 0, 1, number), (answer, 0, 0, refuse | errno.EPERM)]
    program.append((answer, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    return libc.prctl(SET_SECCOMP, 2, header, 0, 0) == 0
