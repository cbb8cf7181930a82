"""Memory does not grow with the dataset, measured by scripts/lab/growth.py at sizes that take seconds."""

from __future__ import annotations

import json
import subprocess
import sys

from conftest import LAB


def test_memory_does_not_grow_with_the_dataset(binary, tmp_path):
    out = tmp_path / "growth.json"
    command = [sys.executable, LAB / "growth.py", "--camflow", binary, "--sizes", 3000, "--repeat", 1, "--json", out]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=300)
    assert "| 3,000 | no-op |" in done.stdout and "times the bare cursor" in done.stdout
    small, large = json.loads(out.read_text())
    assert (small["size"], large["size"]) == (200, 3000)
    # The script itself makes sure that each run did what it is named after.
    for run in ("scan", "commit", "no-op"):
        # The bound is 10 %; the rest is for the allocator, whose threads share the memory out by chance.
        assert large[run]["peak_mb"] <= 1.2 * small[run]["peak_mb"], f"{run}: {small[run]} {large[run]}"
