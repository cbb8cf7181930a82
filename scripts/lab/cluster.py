"""A job on a Ray cluster that loses a node in the middle and gains one, compared with a single run.

    bash scripts/lab/cluster.sh [--samples N] [--shards N] [--nodes N]

The nodes are processes of one machine (`ray.cluster_utils.Cluster`), each with a raylet, actors and workers of its own; a node
is lost by SIGKILL to all of them. Samples take a good part of a second each (`--faithfulness`), so that a node is lost in the
middle of something. The last line is

    shards N, retried N, differences N

A *difference* is a file or a label that is not byte for byte that of the single run, or a sample that was stored twice. The
exit code is 0 if there is none and a shard was tried again, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import growth
import psutil
import pymongo
from private_mongod import PrivateMongod

ROOT = Path(__file__).resolve().parents[2]
ANNOTATE = ROOT / "pipelines" / "ray" / "annotate.py"
DATASET = "cluster"
FIELDS = ("light_grad_layer_1", "middle_grad_layer_1")
# The shared memory that Ray asks for at least.
STORE_BYTES = 80 << 20
# Far beyond what anything here takes.
PATIENCE = 600


class World:
    """A database with a dataset, a job file, and a folder for heatmaps."""

    def __init__(self, folder: Path, camflow: str, uri: str, num_samples: int):
        self.folder, self.camflow = folder, camflow
        self.out, self.file = folder / "maps", folder / "job.toml"
        self.environment = {**os.environ, "FIFTYONE_DATABASE_URI": uri, "RAY_USAGE_STATS_ENABLED": "0", "CAMFLOW_BIN": camflow}
        model = folder / "tiny.pt2"
        export = [sys.executable, ROOT / "scripts" / "export_model.py", "scripts/lab/growth.py:tiny", "--out", model]
        subprocess.run(list(map(str, export)), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        (folder / "images").mkdir()
        growth.make_dataset(uri, DATASET, num_samples, str(folder / "images"))
        # Sums of a convolution may differ in the last bit between a sample alone and the same in a batch.
        self.file.write_text(
            f'version = 1\n[[job]]\nname = "light"\ndataset = "{DATASET}"\nclass = ["light", "middle"]\ntarget = "labels"\n'
            f'model = "{model}"\nlayers = "1"\nout = "{self.out}"\ndevice = "cpu"\nbatch-size = "1"\nfaithfulness = true\n'
        )
        self.database = pymongo.MongoClient(uri)["fiftyone"]

    def single(self) -> dict:
        """The job in one process; the end of its report."""
        done = subprocess.run(
            [self.camflow, "run", self.file, "--format", "json"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            # As many as a worker has.
            env={**self.environment, "OMP_NUM_THREADS": "1"},
        )
        return next(event for event in map(json.loads, done.stdout.splitlines()) if event["event"] == "run_finished")

    def forget(self) -> None:
        """Takes all heatmaps away."""
        command = [self.camflow, "remove", "--dataset", DATASET, "camflow_light", "--apply", "--grace", "0"]
        subprocess.run(command, check=True, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def state(self) -> dict:
        """By name, what the job stored: files and labels; ids of labels are drawn."""
        paths = (path for path in self.out.rglob("*") if path.is_file() and ".camflow" not in path.parts)
        found: dict = {str(path.relative_to(self.out)): path.read_bytes() for path in paths}
        stored = self.database.datasets.find_one({"name": DATASET})
        for sample in self.database[stored["sample_collection_name"]].find():
            for field in FIELDS:
                label = sample.get(field)
                found[f"{sample['_id']} {field}"] = label and {name: value for name, value in label.items() if name != "_id"}
        return found


class Job:
    """`annotate.py` at work, with what it says."""

    def __init__(self, world: World, address: str, *flags):
        command = [sys.executable, ANNOTATE, "--address", address, world.file, "--format", "json", "--num-cpus", 1, *flags]
        self.process = subprocess.Popen(
            list(map(str, command)), env=world.environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.events: list[dict] = []

    def until(self, wanted) -> dict:
        """Follows it up to an event that is `wanted`."""
        for line in self.process.stdout:
            if not line.startswith("{"):
                continue
            self.events.append(json.loads(line))
            if wanted(self.events[-1]):
                return self.events[-1]
        raise RuntimeError(f"it ended with {self.process.wait()} before that; it said {self.events[-5:]}")

    def end(self) -> tuple[int, dict]:
        """Its exit code and summary."""
        summary = self.until(lambda event: event["event"] == "job_finished")
        return self.process.wait(PATIENCE), summary


@contextmanager
def cluster(num_nodes: int):
    """A head without work and nodes with one core each."""
    from ray.cluster_utils import Cluster

    # A lost node is noticed within seconds.
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    config = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 4}
    made = Cluster(initialize_head=True, head_node_args={**head, "_system_config": config})
    made.workers = [made.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(num_nodes)]
    try:
        yield made
    finally:
        made.shutdown()


def lose(made, node) -> None:
    """All processes of a node are gone at once, as when its power fails; of those that camflow started, too."""
    raylets = [one.process for ones in node.all_processes.values() for one in ones]
    processes = [
        process for one in raylets for process in [psutil.Process(one.pid), *psutil.Process(one.pid).children(recursive=True)]
    ]
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
    made.remove_node(node, allow_graceful=False)


def stored_by(logs: Path) -> Counter:
    """How often workers stored each sample."""
    lines = (line for log in logs.glob("*.log") for line in log.read_text().splitlines() if line.startswith("{"))
    events = (json.loads(line) for line in lines if line.endswith("}"))
    return Counter(event["sample"] for event in events if event["event"] == "sample_committed")


def check(what: str, holds: bool) -> bool:
    print(f"{'as it should be' if holds else 'WRONG'}: {what}", flush=True)
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--camflow", required=True)
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--nodes", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="camflow-cluster-") as work, PrivateMongod(Path(work) / "mongo") as mongod:
        world = World(Path(work), str(Path(args.camflow).resolve()), mongod.uri, args.samples)
        whole = world.single()
        expected = world.state()
        print(
            f"single run: {whole['num_committed']} samples, {whole['num_heatmaps']} heatmaps in {whole['elapsed_s']:.0f} s",
            flush=True,
        )
        world.forget()
        assert not any(label for name, label in world.state().items() if " " in name), "nothing is left"
        with cluster(args.nodes) as made:
            retried, differences = lost_and_gained(args, world, made, expected)
            is_well = asked_again(args, world, made.address)
    is_well &= check("a shard was tried again", retried > 0)
    print(f"shards {args.shards}, retried {retried}, differences {differences}")
    return 0 if is_well and not differences else 1


def lost_and_gained(args, world: World, made, expected: dict) -> tuple[int, int]:
    """The job, with a node that is lost and one that comes; how many shards were tried again, and how much differs."""
    logs = world.folder / "logs"
    job = Job(world, made.address, "--shards", args.shards, "--logs", logs)
    job.until(lambda event: event["event"] == "shard_finished")
    begun = job.until(lambda event: event["event"] == "shard_started")
    [victim] = [node for node in made.workers if node.node_id == begun["node"]]
    lose(made, victim)
    made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    code, summary = job.end()
    print(f"lost a node at shard {begun['shard']}, gained one; {json.dumps(summary)}", flush=True)
    hosts = {event["node"] for event in job.events if event["event"] == "shard_finished"}
    news = hosts - {node.node_id for node in made.workers}
    stored = stored_by(logs)
    twice = {sample: times for sample, times in stored.items() if times > 1}
    found = world.state()
    different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    wrong = [
        not check(
            f"exit code 0, all shards done ({code}, {summary['num_shards_done']})",
            (code, summary["num_shards_done"]) == (0, args.shards),
        ),
        not check(f"the new node took part ({len(news)})", len(news) == 1),
        not check(f"{len(stored)} samples were stored, {len(twice)} of them twice", len(stored) == args.samples),
    ]
    for name in different[:5]:
        print(f"  differs: {name}")
    return summary["num_retried"], len(different) + len(twice) + sum(wrong)


def asked_again(args, world: World, address: str) -> bool:
    """What else users do: the job again, a program that is not there, and a job that is stopped."""
    code, summary = Job(world, address, "--shards", 4).end()
    skipped = summary["counts"]["skipped"]
    held = check(f"the second run finds all up to date ({skipped})", code == 0 and skipped == {"up to date": args.samples})
    for flags, reason in (
        (("--program", "/nowhere/camflow"), "there is no program `/nowhere/camflow` on this node"),
        (("--set", "out=/dev/null/maps"), "cannot make the folder `/dev/null/maps`"),
    ):
        code, summary = Job(world, address, *flags).end()
        said = {lost["error"] for lost in summary["lost"]}
        held &= check(f"nodes say what they lack ({code}, {said})", code == 2 and len(said) == 1 and reason in min(said))
    job = Job(world, address, "--shards", 2, "--set", "overwrite=true")
    job.until(lambda event: event["event"] == "shard_started")
    job.process.send_signal(signal.SIGTERM)
    code, summary = job.end()
    held &= check(
        f"a signal ends it, and what was in flight is stored ({code}, {summary['counts']})",
        code == 130 and summary["num_shards_done"] < 2,
    )
    stored = world.database.datasets.find_one({"name": DATASET})
    labels = world.database[stored["sample_collection_name"]].count_documents({f"{FIELDS[0]}.fingerprint": {"$type": "string"}})
    return held & check(f"no heatmap is gone ({labels})", labels == args.samples)


if __name__ == "__main__":
    sys.exit(main())
