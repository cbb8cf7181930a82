#!python
"""The command `camflow` of a wheel: runs the program with the library that was compiled for the torch of this environment.

Torch is not imported, which takes seconds, and the program takes the place of this process.
"""

from __future__ import annotations

import os
import re
import signal
import sys

PROGRAM = os.path.join("camflow", "_program", "camflow")
# Beside the program: `torch-2.15/libcamflow_torch.so`.
LIBRARIES = "torch-"


def find(name: str) -> str | None:
    """The path of the first file `name` in this Python's folders."""
    paths = (os.path.join(folder, name) for folder in sys.path)
    return next((path for path in paths if os.path.isfile(path)), None)


def fail(error: str, hint: str) -> None:
    """Ends as the program does where a job cannot start."""
    print(f"error: {error}\nhint: {hint}", file=sys.stderr)
    sys.exit(2)


def by_number(version: str) -> list[int]:
    """`2.9` comes before `2.10`."""
    return [int(part) for part in version.split(".")]


def choose() -> tuple[str, str, str]:
    """The program, the folder of the library for this torch, and that of its libtorch."""
    if not (program := find(PROGRAM)):
        fail(
            f"`{sys.executable}` has no `{PROGRAM}`",
            "install the wheel of camflow again: pip install --force-reinstall --no-deps",
        )
    folder = os.path.dirname(program)
    covered = [name.removeprefix(LIBRARIES) for name in os.listdir(folder) if name.startswith(LIBRARIES)]
    newest = max(covered, key=by_number)
    install = f"{sys.executable} -m pip install 'torch=={newest}.*'"
    if not (torch := find(os.path.join("torch", "version.py"))):
        fail(f"`{sys.executable}` has no torch, and camflow runs models with its libtorch", install)
    with open(torch, encoding="utf-8") as file:
        named = re.search(r"^__version__ = '((\d+\.\d+)[^']*)'", file.read(), re.MULTILINE)
    version, minor = named.groups() if named else ("of an unknown version", None)
    # Releases of bug fixes keep the interface.
    if minor not in covered:
        there = ", ".join(sorted(covered, key=by_number))
        fail(
            f"`{sys.executable}` has torch {version}, and this camflow was built for torch {there}",
            f"{install}, or build a wheel for yours in camflow's source: bash scripts/build_wheel.sh --torch {version.partition('+')[0]}",
        )
    return program, os.path.join(folder, LIBRARIES + minor), os.path.join(os.path.dirname(torch), "lib")


program, *libraries = choose()
environment = dict(os.environ)
# The program has a path to neither: which ones it is to use is known only now.
environment["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
# Where the program looks for a Python beside itself.
environment["CAMFLOW_LAUNCHER"] = os.path.realpath(sys.argv[0])
# Python ignores these, and what is ignored stays so.
for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(ignored, signal.SIG_DFL)
os.execve(program, [sys.argv[0], *sys.argv[1:]], environment)
