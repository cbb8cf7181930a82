"""A planted bias is found: scripts/lab/bias.py trains a model that leans on a backdrop and one that does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_planted_bias_is_found(binary):
    command = [
        sys.executable,
        ROOT / "scripts" / "lab" / "bias.py",
        "--camflow",
        binary,
        "--worlds",
        "leaning",
        "fair",
        "--samples",
        "80",
    ]
    environment = {**os.environ, "FIFTYONE_DATABASE_URI": ""}
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, env=environment, timeout=1800
    )
    # 0: the report accuses the model that leans, and not the other.
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(done.stdout.splitlines()[-1].removeprefix("AUC ")) >= 0.9, done.stdout
