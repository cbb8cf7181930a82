"""Makes of the wheel that maturin built one with the libraries for several torch, and with the launcher as its command.

    python scripts/wheel/assemble.py WHEEL LIBRARIES OUT

LIBRARIES has a folder `torch-2.15` or the like for each torch, and OUT is where the wheel goes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.version import Version

LAUNCHER = Path(__file__).with_name("launcher.py")


def glibc(files: list[Path]) -> str:
    """The glibc that `files` need: the newest whose symbols one of them uses."""
    said = subprocess.run(["objdump", "-T", *files], check=True, capture_output=True, text=True).stdout
    return max(re.findall(r"\(GLIBC_(\d+\.\d+)", said), key=Version)


def assemble(wheel: Path, libraries: Path, out: Path) -> None:
    """Writes the wheel."""
    covered = sorted((folder.name.removeprefix("torch-") for folder in libraries.iterdir()), key=Version)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "wheel", "unpack", "--dest", scratch, wheel], check=True)
        [root] = Path(scratch).iterdir()
        [scripts] = root.glob("*.data/scripts")
        program = root / "camflow" / "_program"
        shutil.copytree(libraries, program)
        (scripts / "camflow").rename(program / "camflow")
        shutil.copy(LAUNCHER, scripts / "camflow")
        [metadata] = root.glob("*.dist-info/METADATA")
        text, changed = re.subn(
            r"(?m)^Requires-Dist: torch==.*$",
            f"Requires-Dist: torch>={covered[0]},<{next_minor(covered[-1])}",
            metadata.read_text(),
        )
        assert changed == 1, text
        metadata.write_text(text)
        [about] = root.glob("*.dist-info/WHEEL")
        needed = glibc([program / "camflow", *program.glob("*/*.so")])
        # So that pip refuses it where it would not start.
        about.write_text(re.sub(r"(?m)^(Tag: .*-)linux_", rf"\1manylinux_{needed.replace('.', '_')}_", about.read_text()))
        out.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "wheel", "pack", "--dest-dir", out, root], check=True)


def next_minor(version: str) -> str:
    """`2.16` of `2.15`."""
    major, minor = version.split(".")
    return f"{major}.{int(minor) + 1}"


if __name__ == "__main__":
    assemble(*map(Path, sys.argv[1:]))
