"""The sandbox under attack: what must fail fails for its own reason, what must pass is proven, nothing is left over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from herdbook.evaluate import sandbox
from herdbook.evaluate.sandbox import Outcome, Program, SandboxSettings, run_programs

SECONDS = 1.5
TESTS = "assert f() == 1\n"
GOOD = "def f(): return 1\n"
KERNEL_LAYERS = ("namespaces", "mounts", "processes", "landlock", "seccomp")

ATTACKS = {
    # name: (program, reason, what the detail says)
    "wrong": ("def f(): return 2", "failed", "AssertionError"),
    "syntax": ("def f(:", "failed", "SyntaxError"),
    "null byte": ("\0", "failed", "SyntaxError"),
    "loop": ("while True: pass", "timeout", "1.5 seconds"),
    "sleep": ("import time\ntime.sleep(60)", "timeout", "1.5 seconds"),
    "loop that catches everything": (
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "timeout",
        "1.5 seconds",
    ),
    "memory at once": ("x = [0] * 10**10", "failed", "MemoryError"),
    "memory bit by bit": ("x = []\nwhile True: x.append(bytes(10**7))", "failed", "MemoryError"),
    "exit": ("import sys\nsys.exit(0)", "failed", "SystemExit: 0"),
    "exit in the function": ("def f(): raise SystemExit(0)", "failed", "SystemExit"),
    "hard exit": ("import os\nos._exit(0)", "ended", "status 0"),
    "keyboard": ("raise KeyboardInterrupt", "failed", "KeyboardInterrupt"),
    "write outside": ("open('/etc/herdbook-attack', 'w')", "failed", "Refused"),
    "create outside": ("import os\nos.open('/tmp/attack', os.O_CREAT | os.O_WRONLY)", "failed", "Refused"),
    "append to a file of ours": (f"open({__file__!r}, 'a')", "failed", "Refused"),
    "remove": (f"import os\nos.remove({__file__!r})", "failed", "Refused"),
    "read passwords": ("open('/etc/passwd').read()", "failed", "Refused"),
    "read a file of ours": (f"open({__file__!r}).read()", "failed", "Refused"),
    "list a folder": ("import os\nos.listdir('/')", "failed", "Refused"),
    "read own memory map": ("open('/proc/self/maps')", "failed", "Refused"),
    "link out": ("import os\nos.symlink('/etc/passwd', 'p')", "failed", "Refused"),
    "big file": ("open('x', 'wb').write(bytes(10**8))", "failed", "OSError"),
    "socket": ("import socket\nsocket.socket()", "failed", "Refused"),
    "bare socket": ("import _socket\n_socket.socket()", "failed", "Refused"),
    "fork bomb": ("import os\nwhile True: os.fork()", "failed", "Refused"),
    "fork bomb that catches": (
        "import os\nwhile True:\n  try: os.fork()\n  except BaseException: pass",
        "timeout",
        "1.5 seconds",
    ),
    "subprocess": ("import subprocess\nsubprocess.run(['true'])", "failed", "Refused"),
    "shell": ("import os\nos.system('true')", "failed", "Refused"),
    "thread": ("import threading\nthreading.Thread(target=print).start()", "failed", ""),
    "kill the parent": ("import os\nos.kill(os.getppid(), 9)", "failed", "Refused"),
    "kill the group": ("import os\nos.killpg(0, 9)", "failed", "Refused"),
    "ctypes": ("import ctypes", "failed", "ImportError"),
    "caller's frame": ("import sys\nsys._getframe(1)", "failed", "Refused"),
    "traceback's frame": ("try: 1 / 0\nexcept Exception as e: e.__traceback__.tb_frame", "failed", "Refused"),
    "generator's frame": ("def g(): yield\ng().gi_frame", "failed", "Refused"),
    "all objects": ("import gc\ngc.get_objects()", "failed", "Refused"),
    "trace": ("import sys\nsys.settrace(print)", "failed", "Refused"),
    "proof guessed": ("import os\nos.write(3, b'0' * 32)", "ended", "before the last test"),
    "proof guessed at length": ("import os\nos.write(3, b'0' * (1 << 20))\n" + GOOD, "ended", ""),
    "proof's pipe closed": ("import os\nos.close(3)\n" + GOOD, "ended", ""),
    "deep recursion": ("def f(): return f()", "failed", "RecursionError"),
    "unprintable error": (
        "class E(Exception):\n  def __str__(self): raise ValueError\ndef f(): raise E",
        "ended",
        "",
    ),
}

FINE = {
    "plain": GOOD,
    "own file": "open('x.txt', 'w').write('1')\ndef f(): return int(open('x.txt').read())",
    "own folder": "import os\nos.mkdir('d')\nos.rename('d', 'e')\ndef f(): return len(os.listdir('.'))",
    "huge output": "print('x' * 10**7)\n" + GOOD,
    "usual modules": (
        "import re, math, json, random, hashlib, datetime, logging, statistics, heapq\n"
        "from collections import namedtuple, Counter\nfrom dataclasses import dataclass\nfrom enum import Enum\n"
        "from typing import *\nT = TypeVar('T')\nclass C(Enum):\n  a = 1\n@dataclass\nclass D:\n  x: int\n"
        "P = namedtuple('P', 'a b')\nclass N(NamedTuple):\n  x: int\nlogging.warning('x')\n"
        "def f() -> Optional[int]: return P(D(1).x, N(2)).a * C.a.value"
    ),
    "main guard does not run": GOOD + "if __name__ == '__main__': raise SystemExit",
    "nested exec": "exec('def f(): return 1')",
    "monkeypatched exit": "import os, sys\nos._exit = sys.exit = print\n" + GOOD,
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    programs = {name: code for name, (code, _, _) in ATTACKS.items()} | FINE
    settings = SandboxSettings(seconds=SECONDS, output_bytes=1000)
    return dict(zip(programs, run_programs([Program(code, TESTS) for code in programs.values()], settings)))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails_for_its_own_reason(name: str, outcomes: dict[str, Outcome]) -> None:
    _, reason, detail = ATTACKS[name]
    assert not outcomes[name].passed
    assert outcomes[name].reason == reason and detail in outcomes[name].detail, outcomes[name]
    assert outcomes[name].seconds < SECONDS + 1


@pytest.mark.parametrize("name", FINE)
def test_a_right_program_passes(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].passed, outcomes[name]


def test_output_is_kept_up_to_its_limit(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["huge output"].output == "x" * 1000


def test_attacks_left_nothing_outside(outcomes: dict[str, Outcome]) -> None:
    assert not Path("/etc/herdbook-attack").exists() and not Path("/tmp/attack").exists()


def test_swallowed_failures_are_no_pass() -> None:
    """The tests themselves run in the program's namespace; catching everything they raise must not help."""
    program = (
        "def check(candidate): pass\nimport builtins\nbuiltins.AssertionError = ZeroDivisionError\ndef f(): return 2"
    )
    tests = "def check(candidate):\n    assert candidate() == 1\ncheck(f)"
    assert run_programs([Program(program, tests)])[0].reason == "failed"


def test_each_program_starts_clean() -> None:
    dirty = "import math, builtins\nmath.pi = 3\nbuiltins.left = 1\nopen('left', 'w')\n" + GOOD
    clean = "import math, os, builtins\nassert math.pi > 3 and not os.listdir('.') and not hasattr(builtins, 'left')\n"
    outcomes = run_programs([Program(dirty, TESTS), Program(clean + GOOD, TESTS)] * 2, SandboxSettings(workers=1))
    assert [o.passed for o in outcomes] == [True] * 4


def test_sixty_programs_at_once_are_each_judged_by_their_own_tests() -> None:
    wrong = "def f(): return 2\n"
    outcomes = run_programs([Program(GOOD if k % 3 else wrong, TESTS) for k in range(60)])
    assert [o.passed for o in outcomes] == [bool(k % 3) for k in range(60)]


def test_nothing_runs_on_after_the_batch(outcomes: dict[str, Outcome]) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc to see processes")
    own = str(os.getpid())
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        assert not (fields[1] == own and b"sandbox/worker.py" in command)


def test_a_lost_sandbox_is_an_outcome_not_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "worker.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(sandbox, "WORKER", broken)
    assert [o.reason for o in run_programs([Program(GOOD, TESTS)] * 3)] == ["lost"] * 3


def test_which_layers_hold_is_known() -> None:
    held = sandbox.layers()
    assert held["audit_hook"] and set(held) == {*KERNEL_LAYERS, "audit_hook"}


def alone(layer: str, code: str, folder: Path) -> str:
    """What `code` prints or raises in a fresh interpreter with only one layer of the kernel's in place."""
    if not sandbox.layers()[layer]:
        pytest.skip(f"this machine has no {layer}")
    start = f"import sys; sys.path.append({str(sandbox.WORKER.parent)!r})\nimport os, socket, layers\n"
    start += f"folder = {str(folder)!r}\n"
    command = [sys.executable, "-I", "-S", "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stderr.strip().split("\n")[-1]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("open('/etc/passwd')", "PermissionError"),
        ("open('/tmp/attack', 'w')", "PermissionError"),
        ("os.listdir('/')", "PermissionError"),
        ("open(folder + '/x', 'w').write('1'); os.mkdir(folder + '/d'); open(folder + '/x').read()", ""),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
    ],
)
def test_landlock_holds_alone(code: str, said: str, tmp_path: Path) -> None:
    limits = "layers.drop_capabilities(); assert layers.restrict_files([], folder)\n"
    assert said in alone("landlock", limits + code, tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.fork()", "PermissionError"),
        ("import _thread; _thread.start_new_thread(print, ())", "can't start new thread"),
        ("socket.socket()", "PermissionError"),
        ("socket.socketpair()", "PermissionError"),
        ("os.kill(os.getppid(), 9)", "PermissionError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("import signal; signal.signal(signal.SIGALRM, print)", "PermissionError"),
        ("import subprocess; subprocess.run(['/bin/true'])", "PermissionError"),
        ("print(len(open('/etc/passwd').read()))", ""),
    ],
)
def test_seccomp_holds_alone(code: str, said: str, tmp_path: Path) -> None:
    error = alone("seccomp", f"layers.drop_capabilities(); assert layers.filter_calls()\n{code}", tmp_path)
    assert said in error if said else error == ""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("socket.create_connection(('127.0.0.1', 22), 1)", "unreachable"),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))", "unreachable"),
        ("open('/var/tmp/attack', 'w')", "Read-only"),
        ("open(folder + '/big', 'wb').write(bytes(2 << 20))", "No space"),
        ("open(folder + '/small', 'wb').write(bytes(1 << 10))", ""),
    ],
)
def test_namespaces_hold_alone(code: str, said: str, tmp_path: Path) -> None:
    limits = "assert layers.new_namespaces() and layers.freeze_mounts(folder, 1 << 20)\n"
    error = alone("mounts", limits + code, tmp_path)
    assert said in error if said else error == ""
    assert not any(tmp_path.iterdir())
