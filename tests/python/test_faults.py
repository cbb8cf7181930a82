"""The short form of the fault suite: everything it does to camflow is survived, and nothing is referred to that is not right."""

from __future__ import annotations

import os
import re
import subprocess

from conftest import SCRIPTS


def test_every_fault_is_survived_without_a_violation(binary):
    environment = {**os.environ, "CAMFLOW": str(binary)}
    # Its databases are its own, and so is the FiftyOne that works on them.
    environment.pop("FIFTYONE_DATABASE_URI", None)
    done = subprocess.run(["bash", SCRIPTS / "faults.sh"], check=False, capture_output=True, text=True, env=environment, timeout=900)
    report = f"{done.stdout}\n{done.stderr}"
    last = re.fullmatch(r"faults (\d+), survived (\d+), violations (\d+)", done.stdout.splitlines()[-1])
    assert last, report
    num_faults, num_survived, num_violations = map(int, last.groups())
    # Ten kills, and each other kind of fault once or twice; two of them need a place to mount a disk.
    num_tried = 29 - 2 * ("not tried: " in done.stdout)
    assert (num_faults, num_survived, num_violations) == (num_tried, num_tried, 0), report
    assert done.returncode == 0, report
    assert "SIGKILL at random" in done.stdout and "ways in which a dataset was broken on purpose" in done.stdout, report
