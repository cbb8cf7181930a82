"""The array job of pipelines/slurm on a real Slurm: two nodes on this machine, a private MongoDB, and faults in the middle.

    bash scripts/lab/slurm.sh [--shards N] [--samples N]

One camflow annotates a dataset, then the array annotates its clone. Meanwhile

- the camflow of one task is killed, which the script answers by requeueing its task,
- one task is told that its time is up, as Slurm does it: camflow finishes what is in flight, the task is requeued,
- one node dies with all that runs on it, which Slurm answers by starting its task again on the other.

At the end every label of the clone must be that of the single run, apart from ids and paths, and every file the same byte for
byte. Then the array is submitted again as a whole, and must find nothing to do. The last line is

    shards N, requeued N, differences N

and the exit code is 0 if the faults requeued what they should and nothing differs, else 1.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import growth
import psutil
import pymongo
from private_mongod import PrivateMongod

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "pipelines" / "slurm" / "annotate.sbatch"
NODES = ("one", "two")
# Far beyond what anything here may take: whatever reaches it hangs.
PATIENCE = 300


def say(text: str) -> None:
    print(f"{time.strftime('%T')} {text}", flush=True)


def until(reached, what: str):
    """Waits until something is true; that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := reached()):
        if time.monotonic() > deadline:
            raise SystemExit(f"error: {what}: not within {PATIENCE} s")
        time.sleep(0.05)
    return found


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


# ------------------------------------------------------------------------------------------------------------- the cluster


class Cluster:
    """munged, slurmctld and a slurmd for each node, until the block is left. Nothing of the machine's own Slurm is touched."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self):
        self.folder.mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self.configure()
        try:
            # Root alone may enter the folder, which munged takes for a mistake.
            munge = [f"--{what}-file={self.folder / f'munge.{what}'}" for what in ("key", "log", "pid", "seed")]
            self.start("munged", "munged", "--foreground", "--force", f"--socket={self.folder / 'munge.socket'}", *munge)
            until(lambda: self.alive() and (self.folder / "munge.socket").exists(), "munged takes connections")
            self.start("slurmctld", "slurmctld", "-D", "-i")
            for node in NODES:
                self.start(node, "slurmd", "-D", "-N", node)
            until(lambda: self.ask("sinfo", "-h", "-t", "idle", "-N", "-o", "%N").split() == list(NODES), "all nodes are idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if "slurmctld" in self.daemons:
            subprocess.run(["scancel", "--user=root"], check=False, env=self.environment)
        for process in psutil.process_iter():
            if environment(process).get("SLURM_CONF") == self.environment["SLURM_CONF"] and process.pid != os.getpid():
                end_task(process)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        control, *ports = free_ports(1 + len(NODES))
        for name in ("state", *NODES):
            (self.folder / name).mkdir()
        lines = [
            "ClusterName=camflow",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={control}",
            "SlurmUser=root",
            "AuthType=auth/munge",
            # A requeued job waits for so long until it may start again; by default two minutes.
            f"AuthInfo=socket={self.folder}/munge.socket,cred_expire=5",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmctldLogFile={self.folder}/slurmctld.log",
            f"SlurmdSpoolDir={self.folder}/%n",
            f"SlurmdPidFile={self.folder}/%n.pid",
            f"SlurmdLogFile={self.folder}/%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SwitchType=switch/none",
            "MpiDefault=none",
            "MailProg=/bin/true",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2",
            "GresTypes=gpu",
            "SlurmdParameters=config_overrides",
            # How soon a dead node is missed.
            "SlurmdTimeout=10",
            "ReturnToService=2",
            "KillWait=10",
            *(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=16384 Gres=gpu:1"
                for node, port in zip(NODES, ports, strict=True)
            ),
            "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        ]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        # Slurm wants a device file and hands it out; the jobs here compute on the CPU.
        (self.folder / "gres.conf").write_text("".join(f"NodeName={node} Name=gpu File=/dev/null\n" for node in NODES))

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("a") as out:
            self.daemons[name] = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=self.environment)
        self.alive()
        return done.stdout

    def alive(self) -> bool:
        """Raises if a daemon ended by itself."""
        for name, daemon in self.daemons.items():
            if daemon.poll() not in (None, -signal.SIGKILL):
                raise SystemExit(f"error: {name} ended with {daemon.returncode}\n{self.tail()}")
        return True

    def tail(self) -> str:
        logs = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)

    def lose(self, node: str) -> None:
        """The node dies, with everything that runs on it."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        for process in psutil.process_iter():
            if environment(process).get("SLURMD_NODENAME") == node and ours(process, self):
                end_task(process)


def environment(process: psutil.Process) -> dict:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def ours(process: psutil.Process, cluster: Cluster) -> bool:
    return environment(process).get("SLURM_CONF") == cluster.environment["SLURM_CONF"]


def end_task(process: psutil.Process) -> None:
    """Kills a process of a task and, first, the slurmstepd that watches over it and would report its end."""
    try:
        parent = process.parent()
        if parent and parent.name() == "slurmstepd":
            parent.kill()
        process.kill()
    except psutil.NoSuchProcess:
        pass


class Array:
    """One submission of the script."""

    def __init__(self, cluster: Cluster, work: Path, shards: int, job_file: Path):
        self.cluster, self.work, self.shards = cluster, work, shards
        work.mkdir()
        # What a user would change in a copy of the script, flags say as well.
        command = ["sbatch", "--parsable", f"--chdir={work}", f"--array=0-{shards - 1}", "--cpus-per-task=2", "--mem=4G"]
        done = subprocess.run(
            [*command, SCRIPT, job_file, "--format", "json"], check=True, capture_output=True, text=True, env=cluster.environment
        )
        self.id = done.stdout.strip()

    def log(self, task: int) -> str:
        path = self.work / f"camflow-{self.id}_{task}.log"
        return path.read_text() if path.exists() else ""

    def committed(self, task: int) -> int:
        """How many samples the task committed, in all of its starts."""
        return self.log(task).count('"event":"sample_committed"')

    def process(self, task: int) -> psutil.Process | None:
        """The camflow of the task that is at work now."""
        for process in psutil.process_iter(["name"]):
            one = environment(process)
            is_it = (one.get("SLURM_ARRAY_JOB_ID"), one.get("SLURM_ARRAY_TASK_ID")) == (self.id, str(task))
            if is_it and process.info["name"] == Path(one["CAMFLOW_BIN"]).name and ours(process, self.cluster):
                return process
        return None

    def node(self, task: int) -> str:
        return environment(self.process(task))["SLURMD_NODENAME"]

    def in_the_middle(self, but: set[int]) -> int:
        """Waits for a task that has committed something and is still at it."""

        def found():
            running = (task for task in range(self.shards) if task not in but and self.process(task))
            return [task for task in running if self.committed(task) >= 3]

        return until(found, "a task is at work")[0]

    def tasks(self) -> dict[int, dict]:
        """State, number of restarts and exit code of each task."""
        told = self.cluster.ask("scontrol", "show", "job", "--oneliner", self.id)
        found = {}
        for line in told.splitlines():
            values = dict(re.findall(r"(\w+)=(\S*)", line))
            if values.get("ArrayTaskId", "").isdigit():
                found[int(values["ArrayTaskId"])] = values
        return found

    def wait(self) -> dict[int, dict]:
        """The tasks, when all have ended."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

        def finished():
            tasks = self.tasks()
            return tasks if len(tasks) == self.shards and all(task["JobState"] in ended for task in tasks.values()) else None

        return until(finished, "the array has ended")


# ------------------------------------------------------------------------------------------------------------ the datasets


def clone(name: str, to: str) -> None:
    import fiftyone as fo

    fo.load_dataset(name).clone(to, persistent=True)


def labels(database, name: str, out: Path) -> dict:
    """What each sample has that camflow made, without ids, and with paths below the output folder."""
    document = database.datasets.find_one({"name": name})
    found = {}
    for sample in database[document["sample_collection_name"]].find():
        for field, label in sample.items():
            if isinstance(label, dict) and label.get("_cls") == "Heatmap":
                paths = {key: str(Path(label[key]).relative_to(out)) for key in ("map_path", "npy_path")}
                found[str(sample["_id"]), field] = {key: value for key, value in label.items() if key != "_id"} | paths
    return found


def files(out: Path) -> dict[str, bytes]:
    paths = (path for path in out.rglob("*") if path.is_file() and ".camflow" not in path.relative_to(out).parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def differences(one: dict, other: dict) -> list:
    return [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]


def job_file(path: Path, dataset: str, model: Path) -> Path:
    """Slow on purpose, and one sample at a time: sums may differ in the last bit between a sample alone and in a batch."""
    path.write_text(f"""
version = 1
[[job]]
name = "light"
dataset = "{dataset}"
class = "light"
target = "labels:ground_truth"
model = "{model}"
layers = "1"
method = ["scorecam", "ablationcam"]
aug-smooth = true
size = "image"
batch-size = 1
workers = 1
device = "cpu"
out = "{path.with_suffix("")}"
""")
    return path


# ------------------------------------------------------------------------------------------------------------- the faults


def disturb(array: Array) -> dict[int, str]:
    """Makes the three faults; by task, what was done to it."""
    done: dict[int, str] = {}
    task = array.in_the_middle(set(done))
    array.process(task).kill()
    done[task] = "camflow killed"
    say(f"task {task}: {done[task]} after {array.committed(task)} samples")

    task = array.in_the_middle(set(done))
    # scancel delivers it, is told to try again later all the same, and does so for minutes.
    command = ["scancel", "--batch", "--signal=USR1", array.tasks()[task]["JobId"]]
    telling = subprocess.Popen(command, env=array.cluster.environment, stderr=subprocess.DEVNULL)
    until(lambda: "its time is up, requeued" in array.log(task), "the task is requeued")
    telling.terminate()
    telling.wait()
    done[task] = "told that its time is up"
    say(f"task {task}: {done[task]} after {array.committed(task)} samples")

    task = array.in_the_middle(set(done))
    node = array.node(task)
    array.cluster.lose(node)
    done[task] = f"node `{node}` lost"
    say(f"task {task}: {done[task]} after {array.committed(task)} samples")
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camflow", type=Path, required=True, metavar="BINARY")
    parser.add_argument("--shards", type=int, default=6, metavar="N", help="default: %(default)s, at least 4")
    parser.add_argument("--samples", type=int, default=900, metavar="N", help="default: %(default)s")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the logs here at the end")
    args = parser.parse_args()
    if args.shards < 4:
        parser.error("--shards: three tasks are disturbed, and one must not be")
    os.environ |= {
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "CAMFLOW_BIN": str(args.camflow.resolve()),
    }
    # What was started ends then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    with tempfile.TemporaryDirectory(prefix="camflow-slurm-") as name, PrivateMongod(Path(name) / "mongo") as mongod:
        work = Path(name)
        os.environ["FIFTYONE_DATABASE_URI"] = mongod.uri
        model = work / "tiny.pt2"
        export = [sys.executable, ROOT / "scripts" / "export_model.py", f"{growth.__file__}:tiny", "--out", model]
        subprocess.run([str(part) for part in export], check=True, stdout=subprocess.DEVNULL)
        (work / "images").mkdir()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as helper:
            helper.submit(growth.make_dataset, mongod.uri, "single", args.samples, str(work / "images")).result()
            helper.submit(clone, "single", "array").result()
        single = job_file(work / "single.toml", "single", model)
        start = time.monotonic()
        subprocess.run([args.camflow, "run", single, "--quiet"], check=True)
        say(f"a single run over {args.samples} samples took {time.monotonic() - start:.1f} s")
        with Cluster(work / "slurm") as cluster, pymongo.MongoClient(mongod.uri) as client:
            try:
                return compare(args, cluster, client["fiftyone"], work, model)
            finally:
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    for log in [*work.glob("*/*.log"), *work.glob("*/*.out")]:
                        shutil.copy(log, args.keep)


def compare(args, cluster: Cluster, database, work: Path, model: Path) -> int:
    file = job_file(work / "array.toml", "array", model)
    array = Array(cluster, work / "first", args.shards, file)
    say(f"array {array.id}: {args.shards} shards on {len(NODES)} nodes")
    faults = disturb(array)
    tasks = array.wait()
    restarts = {task: int(values["Restarts"]) for task, values in tasks.items()}
    for task, values in sorted(tasks.items()):
        say(
            f"task {task}: {values['JobState']}, exit code {values['ExitCode']}, restarts {restarts[task]}, {faults.get(task, 'undisturbed')}"
        )
    wrong = [task for task in tasks if tasks[task]["JobState"] != "COMPLETED" or restarts[task] != (task in faults)]
    for task in wrong:
        print(f"--- task {task}\n{array.log(task)[-3000:]}")
    say(f"{sum(array.committed(task) for task in tasks)} updates of {args.samples} samples")

    trees = [files(work / which) for which in ("single", "array")]
    found = [labels(database, which, work / which) for which in ("single", "array")]
    say(f"{len(found[0])} labels and {len(trees[0])} files of the single run, {len(found[1])} and {len(trees[1])} of the array")
    different = differences(*trees) + differences(*found)
    for one in different[:10]:
        say(f"differs: {one}")

    again = Array(cluster, work / "second", args.shards, file)
    ends = again.wait()
    idle = all(task["ExitCode"] == "0:0" and task["Restarts"] == "0" for task in ends.values())
    anew = sum(again.committed(task) for task in ends)
    say(f"array {again.id}, the same again: {'all done' if idle else 'not all done'}, {anew} samples committed")
    # Both trees must hold something, or comparing them says nothing.
    whole = len(found[0]) == 2 * args.samples and len(trees[0]) == 4 * args.samples
    print(f"shards {args.shards}, requeued {sum(restarts.values())}, differences {len(different)}")
    return 0 if whole and idle and not anew and not wrong and not different else 1


if __name__ == "__main__":
    sys.exit(main())
