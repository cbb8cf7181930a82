"""What `scale.py` knows of a machine: a real dataset in a private MongoDB, and real runs of camflow over it.

The network is a few strided convolutions with the sizes of a DeepLab: its image files, inputs, heatmaps and documents are those of
a real job, so that reading, decoding, encoding and committing cost what they cost there. What a network costs is not measured.

Costs are seconds of processors, by the name of the thread, rather than of the clock: those are the same when others use the
machine, too. What the clock says is camflow's own account (`stages` of its report).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import growth
import psutil
from private_mongod import PrivateMongod

SCRIPTS = Path(__file__).resolve().parents[1]
DATASET = "scale"
LAYERS = 4
# By name: how much is written.
JOBS = {
    "default": [],
    "full": ["--npy", "f32"],
    "pictures": ["--npy", "none"],
    "small pictures": ["--npy", "none", "--size", "layer"],
}
# In all processes of a check together, as a scheduler would cut the dataset.
SHARDS = 8


def strided():
    """Four layers at the resolutions of a DeepLab with an output stride of 8, for `scripts/export_model.py`."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    strides = ((3, 8, 4), (8, 16, 2), (16, 16, 1), (16, 16, 1))
    blocks = [nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()) for before, after, stride in strides]
    model = nn.Sequential(*blocks, nn.Conv2d(16, len(growth.CLASSES), 1)).eval()
    model.camflow_metadata = {
        "task": "segmentation",
        "classes": {str(index): name for index, name in growth.CLASSES.items()},
        "preprocess": [
            {"op": "resize_smaller", "size": 520, "interpolation": "bilinear", "antialias": True},
            {"op": "normalize", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        ],
        "aliases": {str(layer + 1): str(layer) for layer in range(LAYERS)},
        "example": [520, 693],
    }
    return model


class ThreadTimes:
    """Seconds of processors that a process's threads take, by the first word of their names: camflow's are named by stage."""

    def __init__(self, pid: int):
        self.tasks = Path(f"/proc/{pid}/task")
        self.seen: dict[str, tuple[str, int]] = {}
        self.ended = threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    def watch(self) -> None:
        while not self.ended.wait(0.02):
            self.look()

    def look(self) -> None:
        with contextlib.suppress(OSError):
            for task in self.tasks.iterdir():
                # A thread may end between two looks at it.
                with contextlib.suppress(OSError, IndexError):
                    name = (task / "comm").read_text().split()[0]
                    self.seen[task.name] = (name, int((task / "schedstat").read_text().split()[0]))

    def end(self) -> dict[str, float]:
        self.ended.set()
        self.watcher.join()
        totals: dict[str, float] = {}
        for name, nanoseconds in self.seen.values():
            totals[name] = totals.get(name, 0.0) + nanoseconds / 1e9
        return totals


def busy_cpu() -> float:
    """Seconds that all processors of the machine have worked, for whomever, or were taken away from it."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def children_cpu() -> float:
    """Seconds of processors of all processes that this one has started and that have ended."""
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.ru_utime + times.ru_stime


class World:
    """A dataset in a database of its own, a model and two folders, until the block is left."""

    def __init__(self, args):
        self.args = args
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        # Two threads of a network's small operators would wait for each other, on a busy machine for long.
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ.update(FIFTYONE_DO_NOT_TRACK="true", FIFTYONE_SHOW_PROGRESS_BARS="false", FIFTYONE_DATABASE_VALIDATION="false")
        with self.stack as stack:
            enter = stack.enter_context
            self.work = Path(enter(tempfile.TemporaryDirectory(prefix="camflow-scale-", dir=self.args.work)))
            self.maps = Path(enter(tempfile.TemporaryDirectory(prefix="camflow-scale-", dir=self.args.maps)))
            self.mongod = enter(PrivateMongod(self.work / "mongo", cache_gb=1.5))
            self.server = psutil.Process(self.mongod.process.pid)
            os.environ["FIFTYONE_DATABASE_URI"] = self.mongod.uri
            self.model = self.args.model or self.exported()
            images = self.work / "images"
            images.mkdir()
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as helper:
                make = (growth.make_dataset, self.mongod.uri, DATASET, self.args.samples, str(images), 640, 480)
                self.document_bytes = helper.submit(*make).result()
            self.image_bytes = sum((images / f"{photo}.jpg").stat().st_size for photo in growth.PHOTOS) / len(growth.PHOTOS)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.__exit__(*error)

    def exported(self) -> Path:
        path = self.work / "strided.pt2"
        command = [sys.executable, SCRIPTS / "export_model.py", f"{Path(__file__).resolve()}:strided", "--out", path]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        return path

    def server_cpu(self) -> float:
        times = self.server.cpu_times()
        return times.user + times.system

    def flags(self, out: Path, name: str = "light") -> list:
        """What makes a job, behind `annotate`."""
        command = [
            "--dataset",
            DATASET,
            "--class",
            name,
            "--layers",
            f"1-{LAYERS}",
            "--target",
            "labels:ground_truth",
            "--model",
            self.model,
        ]
        return [*command, "--device", "cpu", "--workers", 1, "--batch-size", 1, "--out", out]

    def run(self, *flags) -> dict:
        """A run of camflow: its report, its threads' times, what the server took."""
        report, server = self.work / "report.json", self.server_cpu()
        command = [self.args.camflow, "annotate", *flags, "--new-folder", "--report-file", report, "--quiet"]
        process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
        threads = ThreadTimes(process.pid)
        _, errors = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"error: {' '.join(map(str, command))} ended with {process.returncode}\n{errors}")
        return {**json.loads(report.read_text()), "cpu_s": threads.end(), "server_cpu_s": self.server_cpu() - server}

    def example(self, *arguments) -> dict:
        """A run of examples/write_rate.rs."""
        command = [str(part) for part in (self.args.write_rate, *arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"error: {' '.join(command)} ended with {done.returncode}\n{done.stderr}")
        return json.loads(done.stdout)


def measure_job(world: World, name: str) -> dict:
    """What an image of a job takes, on average: the best of some runs, by processors' seconds."""
    out, count, best = world.maps / "job", world.args.images, None
    for _ in range(world.args.repeat):
        run = world.run(*world.flags(out), *JOBS[name], "--limit", count, "--overwrite")
        if run["counts"]["num_committed"] != count:
            raise SystemExit(f"error: {run['counts']}")
        stages = run["stages"]
        cpu = {stage: run["cpu_s"].get(stage, 0.0) / count for stage in stages}
        # The driver's own threads.
        cpu["commit"] += run["cpu_s"].get("camflow-mongodb", 0.0) / count
        if best is None or sum(cpu.values()) < sum(best["cpu_s"].values()):
            best = {
                "busy_s": {stage: times["busy_s"] / count for stage, times in stages.items()},
                "threads": {stage: times["num_threads"] for stage, times in stages.items()},
                "cpu_s": cpu,
                "server_cpu_s": run["server_cpu_s"] / count,
            }
    files = [file.stat().st_size for file in out.rglob("*.*") if file.suffix in (".png", ".npy")]
    shutil.rmtree(out)
    return {
        **best,
        "heatmaps": LAYERS,
        "image_bytes": world.image_bytes,
        "write_bytes": sum(files) / count,
        "files": len(files) / count,
    }


def measure_updates(world: World, writers: int, heatmaps: int) -> dict:
    """The best of some goes: updates/s, and seconds of processors for each, mongod's and the writers'."""
    goes = []
    for _ in range(world.args.repeat):
        server, clients = world.server_cpu(), children_cpu()
        found = world.example("updates", world.mongod.uri, DATASET, writers, world.args.seconds, heatmaps)
        each = {"server_cpu_s": world.server_cpu() - server, "client_cpu_s": children_cpu() - clients}
        goes.append(
            {
                "writers": writers,
                "heatmaps": heatmaps,
                "per_s": found["per_s"],
                **{key: cpu / found["count"] for key, cpu in each.items()},
            }
        )
    return max(goes, key=lambda go: go["per_s"])


def measure_database(world: World) -> dict:
    updates = [measure_updates(world, writers, LAYERS) for writers in world.args.writers]
    single = measure_updates(world, max(world.args.writers), 1)
    # Where writers get in each other's way, an update costs more; the cluster will have many.
    dearest = max(updates, key=lambda row: row["server_cpu_s"])["server_cpu_s"]
    heatmap = max(0.0, (dearest - single["server_cpu_s"]) / (LAYERS - 1))
    # Documents read and masks unpacked, nothing else: a class that no mask has.
    scans = [world.run(*world.flags(world.maps / "none", "never")) for _ in range(world.args.repeat)]
    # A shard among the most there can be: ids, and next to no documents. The same with one id is the start.
    walks, starts = [], []
    for n in range(2 * world.args.repeat):
        shard = (*world.flags(world.maps / "none", "never"), "--shard", f"{n + 1}/10000")
        walks.append(world.run(*shard))
        starts.append(world.run(*shard, "--limit", 1))

    def beyond_start(seconds) -> float:
        """The ids' own share; means, as each alone is a few ticks of the clock."""
        return max(0.0, sum(map(seconds, walks)) - sum(map(seconds, starts))) / len(walks) / world.args.samples

    return {
        "updates": updates,
        "single": single,
        "update_cpu_s": max(0.0, dearest - LAYERS * heatmap),
        "heatmap_cpu_s": heatmap,
        "document_bytes": world.document_bytes,
        "read_cpu_s": min(run["server_cpu_s"] for run in scans) / world.args.samples,
        "read_busy_s": min(run["stages"]["read"]["busy_s"] for run in scans) / world.args.samples,
        "id_cpu_s": beyond_start(lambda run: run["server_cpu_s"]),
        "id_client_cpu_s": beyond_start(lambda run: run["cpu_s"].get("camflow", 0.0)),
    }


def measure_disk(world: World, jobs: dict) -> dict:
    """Files that survive a power cut, by writers: small ones for their number, large ones for their bytes; and bytes read anew."""
    pictures = jobs["pictures"]
    sizes = {"small": pictures["write_bytes"] / pictures["files"], "large": jobs["full"]["write_bytes"] - pictures["write_bytes"]}
    sizes = {"small": int(sizes["small"]), "large": int(sizes["large"] / (jobs["full"]["files"] - pictures["files"]))}
    rows, reads = [], []
    for writers in world.args.writers:
        for size in sizes.values():
            folder = world.work / "files"
            done = [world.example("files", folder / str(n), writers, world.args.seconds, size) for n in range(world.args.repeat)]
            fastest = max(row["per_s"] for row in done)
            rows.append({"writers": writers, "bytes": size, "per_s": fastest, "bytes_per_s": fastest * size})
            reads.append(read_anew(folder))
            shutil.rmtree(folder)
    small = [row["per_s"] for row in rows if row["bytes"] == sizes["small"]]
    large = [row["bytes_per_s"] for row in rows if row["bytes"] == sizes["large"]]
    return {"files": rows, "files_per_s": max(small), "write_bytes_per_s": max(large), "read_bytes_per_s": max(reads)}


def read_anew(folder: Path) -> float:
    """Bytes/s at which four readers get files from the disk that are no longer in memory."""
    paths = [path for path in folder.rglob("*.bin")][:2000]
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    with ThreadPoolExecutor(4) as readers:
        total = sum(readers.map(lambda path: len(path.read_bytes()), paths))
    return total / (time.perf_counter() - start)


class Worker:
    """A `camflow worker`, which takes shards from a queue."""

    def __init__(self, world: World, job: str, out: Path):
        command = [
            world.args.camflow,
            "worker",
            "annotate",
            *world.flags(out),
            "--new-folder",
            *JOBS[job],
            "--limit",
            world.args.images,
            "--overwrite",
        ]
        pipe, self.log = subprocess.PIPE, world.work / f"worker-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([str(part) for part in command], stdin=pipe, stdout=pipe, stderr=log, text=True)

    def hear(self, event: str) -> dict:
        answer = json.loads(self.process.stdout.readline() or "{}")
        if answer.get("event") != event or answer.get("exit_code", 0) != 0:
            raise SystemExit(f"error: a worker answered {answer}\n{self.log.read_text()}")
        return answer

    def do(self, shard: str) -> int:
        self.process.stdin.write(json.dumps({"shard": shard}) + "\n")
        self.process.stdin.flush()
        return self.hear("shard_finished")["counts"]["num_committed"]

    def work(self, shards: queue.SimpleQueue) -> int:
        done = 0
        while True:
            try:
                done += self.do(shards.get_nowait())
            except queue.Empty:
                return done

    def cpu(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system


def time_alone(worker: Worker, shard: str) -> float | None:
    """Seconds for a shard of an image or a few, from the first stage to the last and whatever a shard takes besides."""
    start = time.perf_counter()
    return time.perf_counter() - start if worker.do(shard) else None


def measure_together(world: World, job: str, count: int) -> dict:
    """Images/s of some workers that share a dataset, without their start; how much of the machine others used meanwhile."""
    workers = [Worker(world, job, world.maps / "together") for _ in range(count)]
    try:
        for worker in workers:
            worker.hear("ready")
        with ThreadPoolExecutor(count) as threads:
            # The first images of a process take longer.
            list(threads.map(lambda one: one[1].do(f"{one[0] + 1}/64"), enumerate(workers)))
            shards = queue.SimpleQueue()
            for shard in range(SHARDS):
                shards.put(f"{shard + 1}/{SHARDS}")

            def ours() -> float:
                return world.server_cpu() + sum(worker.cpu() for worker in workers)

            start, cpu, everybody = time.perf_counter(), ours(), busy_cpu()
            done = sum(threads.map(lambda worker: worker.work(shards), workers))
            wall, cpu, everybody = time.perf_counter() - start, ours() - cpu, busy_cpu() - everybody
        alone = [time_alone(workers[0], f"{shard + 1}/{world.args.images}") for shard in range(min(8, world.args.images))]
    finally:
        for worker in workers:
            worker.process.stdin.close()
            worker.process.wait()
    if done != world.args.images:
        raise SystemExit(f"error: {count} workers did {done} of {world.args.images} images")
    return {
        "workers": count,
        "shard_s": min(filter(None, alone), default=0.0),
        "images_per_s": done / wall,
        "cpu_s": cpu / done,
        "others_cores": max(0.0, (everybody - cpu) / wall),
    }
