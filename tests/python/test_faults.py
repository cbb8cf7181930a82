"""The short form of the fault suite: everything it does to camflow is survived, and nothing is referred to that is not right."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from conftest import SCRIPTS

# It takes minutes.
pytestmark = pytest.mark.begins
# One of each kind.
TRIED = (
    *("SIGKILL at random", "labels edited by FiftyOne", "two runs at once", "connections: refuse", "SIGTERM while"),
    *("sleeps past its lease", "a holder that lives", "beside a run of another database", "is not the one that it was"),
    *("deleted by hand", "somebody's own files", "a label field is copied", "grace period", "the model is overwritten"),
    *("an image is replaced", "flipped in one bit", "swept     first annotate: kill-after", "swept     annotate: short"),
    *("swept     clean: fail EIO", "swept     remove: fail-from EACCES", "ways in which a dataset was broken on purpose"),
    *("SIGKILL, heatmaps of detections, first run", "SIGKILL, heatmaps of detections, replacing run"),
    "connections: reset for a while, heatmaps of detections",
)
# What the system may not allow; everything else is tried everywhere.
MAY_LACK = ("disk", "output folder becomes read-only", "sweep", "a holder", "holders", "a folder that", "a run beside")
MAY_LACK += ("a model that", "an image that")


def test_every_fault_is_survived_without_a_violation(binary):
    environment = {**os.environ, "CAMFLOW": str(binary)}
    # Its databases are its own, and so is the FiftyOne that works on them.
    environment.pop("FIFTYONE_DATABASE_URI", None)
    command = ["bash", SCRIPTS / "faults.sh"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=1500)
    report = f"{done.stdout}\n{done.stderr}"
    last = re.fullmatch(r"faults (\d+), survived (\d+), violations (\d+)", done.stdout.splitlines()[-1])
    assert last, report
    num_faults, num_survived, num_violations = map(int, last.groups())
    assert (num_survived, num_violations) == (num_faults, 0), report
    assert done.returncode == 0, report
    lacking = re.findall(r"^not tried: (.*)", done.stdout, re.MULTILINE)
    assert all(one.startswith(MAY_LACK) for one in lacking), report
    if not lacking:
        assert not (missing := [one for one in TRIED if one not in done.stdout]), f"{missing}\n{report}"
        # How many calls there are to strike is camflow's affair.
        assert num_faults > 120, report
