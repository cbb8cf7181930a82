"""Where the torch of a Python is, whose libtorch camflow is built with.

pip builds in an environment of its own, which has no torch. The Python it runs there is still the one that it installs
for; asked without what pip puts around it, that one says where its torch is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Finding torch does not import it, which takes seconds.
ASK = """
import importlib.metadata, importlib.util, json
found = importlib.util.find_spec("torch")
print(json.dumps(found and [found.submodule_search_locations[0], importlib.metadata.version("torch")]))
"""


def wanted() -> str:
    """The version that camflow needs."""
    return re.search(r'"torch==([^"]+)"', (ROOT / "pyproject.toml").read_text())[1]


def find(python: str = sys.executable) -> str:
    """The folder of this Python's torch.

    Raises:
        SystemExit: it has none, or another version than camflow needs.
    """
    # What pip hides the environment with.
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    answer = subprocess.run([python, "-c", ASK], env=outside, check=True, capture_output=True, text=True)
    found = json.loads(answer.stdout)
    if found is None:
        sys.exit(
            f"error: {python} has no torch, and camflow is built with its libtorch\n"
            f"hint: {python} -m pip install torch=={wanted()}; where the installer builds with another Python (uv does), "
            "set LIBTORCH to the folder of the environment's torch"
        )
    folder, version = found
    # `2.11.0+cu128` is 2.11.0.
    if version.partition("+")[0] != wanted():
        sys.exit(
            f"error: {python} has torch {version}, and camflow needs {wanted()}\nhint: {python} -m pip install torch=={wanted()}"
        )
    # The program keeps the path, and links may lead elsewhere tomorrow.
    return os.path.realpath(folder)
