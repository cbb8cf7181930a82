"""Lets single file-system calls of a program fail: fault_syscalls.cpp, built when it is needed."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("fault_syscalls.cpp")
HEADER = SOURCE.with_name("fault_calls.hpp")
# Calls on an open file: its rights were looked at when it was opened.
ON_DESCRIPTORS = {"read", "pread64", "readv", "write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "sync_file_range"}
ON_DESCRIPTORS |= {"ftruncate", "fallocate", "copy_file_range", "sendfile", "fstat", "getdents64", "fstatfs", "flock", "fcntl"}


class CannotTrace(Exception):
    """The system does not let a program look at another's calls."""


@dataclass(frozen=True)
class Call:
    """A call of a traced program."""

    number: int
    name: str
    # `look`, `change`, `space` (it changes something and may need space for it) or `write`.
    effect: str
    # Whether it was meddled with.
    struck: bool
    path: str


@dataclass(frozen=True)
class Strike:
    """What is done to the N-th call."""

    what: str
    number: int
    error: int = 0

    def arguments(self) -> tuple:
        return (self.what, self.number, *([self.error] if self.error else ()))

    def __str__(self) -> str:
        return " ".join(filter(None, (self.what.removeprefix("--"), errno.errorcode.get(self.error))))


def errors(call: Call) -> list[int]:
    """What it can fail with."""
    found = [errno.EIO]
    if call.name not in ON_DESCRIPTORS:
        found.append(errno.EACCES)
    if call.effect in ("space", "write"):
        found.append(errno.ENOSPC)
    return found


def strikes(call: Call) -> list[Strike]:
    """Everything that can happen at a call."""
    found = [Strike("--fail", call.number, error) for error in errors(call)]
    found.append(Strike("--kill-before", call.number))
    if call.effect != "look":
        found.append(Strike("--kill-after", call.number))
    if call.effect == "write":
        found.append(Strike("--short", call.number))
    return found


def lasting_strikes(call: Call) -> list[Strike]:
    """What can begin at a call and last: the disk is gone, its rights are, or it is full."""
    return [Strike("--fail-from", call.number, error) for error in errors(call)]


def ran(command: list) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)


class Tracer:
    """The built program, and one log."""

    def __init__(self, log: Path):
        self.log = log
        cache = Path(os.environ.get("CAMFLOW_TEST_CACHE", SOURCE.parents[2] / "target" / "test-cache"))
        digest = hashlib.sha256(SOURCE.read_bytes() + HEADER.read_bytes()).hexdigest()[:12]
        self.program = cache / f"fault_syscalls-{digest}"
        if not self.program.exists():
            cache.mkdir(parents=True, exist_ok=True)
            # Tests in other processes and threads may build it, too.
            building = cache / f"fault_syscalls-{digest}.{os.getpid()}.{threading.get_ident()}"
            compiler = shlex.split(os.environ.get("CXX", "c++"))
            done = ran([*compiler, "-std=c++17", "-O1", "-o", building, SOURCE])
            if done.returncode != 0:
                raise CannotTrace(f"`{SOURCE.name}` does not compile here: {done.stderr.strip()[:300]}")
            building.rename(self.program)
        trial = ran([*self.before([log.parent]), "true"])
        if trial.returncode != 0:
            raise CannotTrace(trial.stderr.strip() or f"it ended with {trial.returncode}")

    def before(self, under: list[Path], strike: Strike | None = None, only: tuple[str, ...] = ()) -> tuple:
        """What starts a program whose calls below these folders are counted, all or those of these names."""
        # Not what the program before did.
        self.log.unlink(missing_ok=True)
        folders = [part for folder in under for part in ("--under", folder)]
        names = [part for name in only for part in ("--only", name)]
        return (self.program, "--log", self.log, *folders, *names, *(strike.arguments() if strike else ()), "--")

    def has_struck(self) -> bool:
        return self.log.exists() and "\t*\t" in self.log.read_text()

    def calls(self) -> list[Call]:
        """Of the program that was started last."""
        rows = (line.split("\t") for line in self.log.read_text().splitlines())
        return [Call(int(number), name, effect, struck == "*", path) for number, name, effect, struck, path in rows]
