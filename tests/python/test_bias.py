"""A planted bias is found, and a fair model is not accused: scripts/lab/bias_benchmark.py at its smallest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_a_planted_bias_is_found(binary, tmp_path):
    command = [
        *(sys.executable, ROOT / "scripts" / "lab" / "bias_benchmark.py", "--camflow", binary, "--out", tmp_path, "--keep"),
        *("--worlds", "people", "--seeds", "1", "--correlations", "50", "100", "--samples", "120", "--share", "0.4"),
    ]
    environment = {**os.environ, "FIFTYONE_DATABASE_URI": ""}
    # It compares every score of the report with the definition, written down a second time.
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, env=environment, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    biased = next(line for line in lines if (line["part"], line["model"]) == ("balanced", "biased_100"))
    # By intervention: before other backdrops it answers otherwise.
    assert biased["decided"] > 0.8, biased
    assert biased["joint: by model"] > 0.9 and biased["joint: precision"] >= 0.8, biased
    assert biased["joint: by model"] > biased["energy: by model"], biased
    report = json.loads(next(tmp_path.glob("kept/*/balanced.json")).read_text())
    accused = [finding["text"] for finding in report["findings"] if finding["kind"] == "shortcut"]
    assert len(accused) == 1 and "`biased_100` is told the class by what is around the object" in accused[0], accused
    fair = next(one for one in report["slices"] if one["model"] == "fair")
    assert fair["on"] is None and len(fair["contexts"]) > 1 and fair["num_unreadable"] == 0
    assert biased["first_slices_decided"] > 0.8, biased
    assert all("`fair`" not in finding["text"] for finding in report["findings"] if finding["kind"] == "slice")
