"""What a Python package needs that another machine lacks.

need.py THERE.txt PACKAGE ...     lines NAME==VERSION, as installed here, of the packages and their needs without THERE.txt
need.py --copy FOLDER PACKAGE ... copies these installed packages to a folder
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

# fiftyone-db brings mongod alone, which travels otherwise.
ALWAYS_COPIED = {"grad-cam"}
LEFT_OUT = {"fiftyone-db"}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(there: set[str], roots: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}

    def visit(name: str) -> None:
        name = normalised(name)
        if name in found or name in there or name in LEFT_OUT:
            return
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            return
        found[name] = package.version
        for line in package.requires or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": "", "python_version": "3.12", "python_full_version": "3.12.3"}):
                visit(requirement.name)

    for root in roots:
        visit(root)
    return found


def copy(folder: Path, names: list[str]) -> None:
    for name in {*names, *ALWAYS_COPIED, *LEFT_OUT}:
        for file in metadata.distribution(name).files or []:
            source = Path(file.locate())
            if source.suffix in (".pyc",) or "bin" in file.parts or not source.is_file() or ".." in file.parts:
                continue
            if source.suffix == ".so":
                raise SystemExit(f"error: `{name}` has no wheel for Python 3.12, and is compiled: {file}")
            place = folder / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)


if sys.argv[1] == "--copy":
    copy(Path(sys.argv[2]), sys.argv[3:])
else:
    there = {normalised(name) for name in Path(sys.argv[1]).read_text().split()}
    for name, version in sorted(needs(there, sys.argv[2:]).items()):
        print(f"{name}=={version}")
