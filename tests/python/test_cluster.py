"""A job on a Ray cluster that loses a node and gains one: the same as a single run, and nothing is stored twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import LAB, ROOT

sys.path.insert(0, str(ROOT / "pipelines" / "ray"))

from shards import ABORTED, DONE, LOCKED, SOME_FAILED, USAGE, Shards
from workers import Demand


@pytest.mark.long
@pytest.mark.begins
def test_a_node_is_lost_and_one_comes(binary):
    environment = {**os.environ, "CAMFLOW": str(binary)}
    environment.pop("FIFTYONE_DATABASE_URI", None)
    done = subprocess.run(["bash", LAB / "cluster.sh"], check=False, capture_output=True, text=True, env=environment, timeout=900)
    report = f"{done.stdout}\n{done.stderr}"
    last = re.fullmatch(r"shards (\d+), retried (\d+), differences (\d+)", done.stdout.splitlines()[-1])
    assert last and done.returncode == 0, report
    num_shards, num_retried, num_differences = map(int, last.groups())
    assert num_shards == 16 and num_retried >= 1 and num_differences == 0, report
    assert done.stdout.count("as it should be: ") == 9 and "WRONG" not in done.stdout, report


@pytest.mark.parametrize(
    ("num_gpus", "num_cpus", "resources", "slots", "cpus"),
    [
        (1, None, {"CPU": 16, "GPU": 4}, 4, 4),
        (0.1, None, {"CPU": 16, "GPU": 0.3}, 3, 5),
        (1, 6, {"CPU": 16, "GPU": 4}, 2, 6),
        (1, None, {"CPU": 16}, 0, None),
        (0, None, {"CPU": 16}, 1, 16),
        (0, 2, {"CPU": 5}, 2, 2),
        (0, None, {"GPU": 1}, 0, None),
    ],
)
def test_workers_that_fit_on_a_node(num_gpus, num_cpus, resources, slots, cpus):
    demand = Demand(num_gpus, num_cpus)
    assert demand.slots(resources) == slots
    if slots:
        assert demand.cpus(resources) == cpus


def answer(code: int = DONE, **counts) -> dict:
    return {"exit_code": code, "counts": {"num_failed": 0, "skipped": {}, **counts}, "failures": []}


def test_a_shard_is_tried_elsewhere_and_then_given_up():
    shards = Shards(2, num_retries=2)
    first, second = shards.next_for("a", {"a", "b"}), shards.next_for("b", {"a", "b"})
    assert [first.name, second.name] == ["1/2", "2/2"] and shards.next_for("a", {"a", "b"}) is None
    assert shards.failed(first, "a", ABORTED, "one")
    assert shards.next_for("a", {"a", "b"}) is None, "not where it failed"
    assert shards.next_for("b", {"a", "b"}) is first
    assert shards.failed(first, "b", ABORTED, "two")
    assert shards.next_for("a", {"a", "b"}) is first, "it failed everywhere"
    assert not shards.failed(first, "a", ABORTED, "three")
    shards.finished(answer(SOME_FAILED, num_committed=3, num_failed=1, skipped={"up to date": 2}))
    summary = shards.summary()
    assert (summary["num_shards_done"], summary["num_retried"], shards.exit_code) == (1, 2, ABORTED)
    assert summary["lost"] == [{"shard": "1/2", "exit_code": ABORTED, "error": "three"}]
    assert summary["counts"] == {"num_committed": 3, "num_failed": 1, "skipped": {"up to date": 2}}


def test_a_lock_is_waited_for_and_a_mistake_is_not_repeated():
    shards = Shards(1, num_retries=0)
    shard = shards.next_for("a", {"a"})
    assert shards.failed(shard, "a", LOCKED, "held"), "another run will be over"
    assert shards.next_for("a", {"a"}) is None, "not at once"
    shard.earliest = 0.0
    assert shards.next_for("a", {"a"}) is shard
    assert not shards.failed(shard, "a", USAGE, "no such class")
    assert shards.exit_code == USAGE
