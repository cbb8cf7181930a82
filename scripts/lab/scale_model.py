"""How far camflow goes on N GPUs: what an image takes of each resource, what there is of it, and which is used up first.

Asymptotic bounds, as in operational analysis (P. J. Denning and J. P. Buzen, "The Operational Analysis of Queueing Network
Models", Computing Surveys 10(3), 1978; E. D. Lazowska et al., Quantitative System Performance, 1984, chapter 5). By the
utilization law, a rate of X images/s keeps a resource busy for X times what one image takes of it, and nothing is busy for more
than all of its time. So X is at most the smallest of capacity / demand. Nothing is assumed about queues: between camflow's stages
there are some, and with enough images in flight the bound is what a run comes near to. It is never more.

Pure functions; `scale.py` measures what they take and shows what they give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# What nobody can measure on one machine; shards as `pipelines/ray` makes them. Everything else that a site has was measured.
ASSUMED = {"cores_per_gpu": 8, "shards_per_gpu": 16, "network_bytes_per_s": math.inf}

# By resource: what it is, and what to do when it is used up.
ADVICE = {
    "GPUs": "more GPUs; `--precision bf16`, fewer layers or a smaller input make each of them quicker",
    "cores": "more cores for each GPU; `--size layer` and `--npy none` for less to encode, smaller image files for less to decode",
    "commit thread": "two processes to a GPU, each with shards of its own",
    "read thread": "two processes to a GPU, each with shards of its own",
    "network": "`--npy none` and `--size layer` for smaller heatmaps; smaller image files; a faster network",
    "storage reads": "a copy of the images on a disk of each node, under the same path; smaller image files",
    "storage writes": "the default `--npy layer`, then `--npy none`, then `--size layer`; faster storage",
    "flushed files": "`--npy none` for half of the files, fewer layers; storage that has a cache with a battery, or several disks",
    "database": "more cores for mongod, and nothing else on its host; fewer layers; fewer and larger shards; of a replica set only the "
    "primary takes updates, and each waits for most of the others, so more members make it no faster",
}


@dataclass(frozen=True)
class Resource:
    """Something that images use up: what one image takes of it, and how much of it there is in a second."""

    name: str
    demand: float
    capacity: float

    @property
    def rate(self) -> float:
        """Images/s that it bears; infinite where they take nothing of it."""
        return self.capacity / self.demand if self.demand > 0 else math.inf


def database_cpu(profile: dict, job: dict, shards: int) -> float:
    """Seconds of mongod's processors for an image: its document read, the ids walked once for each shard, its update."""
    database = profile["database"]
    update = database["update_cpu_s"] + job["heatmaps"] * database["heatmap_cpu_s"]
    return database["read_cpu_s"] + shards * database["id_cpu_s"] + update


def client_cpu(profile: dict, job: dict, shards: int) -> float:
    """Seconds of a node's processors for an image, without what a device does."""
    stages = sum(seconds for stage, seconds in job["cpu_s"].items() if stage != "device")
    return stages + shards * profile["database"]["id_client_cpu_s"]


def site(profile: dict, changes: dict | None = None) -> dict:
    """What there is: as measured, as assumed, and as somebody knows better.

    Raises KeyError for a name that is none.
    """
    disk, cores = profile["disk"], profile["machine"]["cores"]
    known = {
        **ASSUMED,
        "database_cores": cores,
        **{name: disk[name] for name in ("read_bytes_per_s", "write_bytes_per_s", "files_per_s")},
    }
    for name, value in (changes or {}).items():
        if name not in known:
            raise KeyError(name)
        known[name] = value
    return known


def cluster(profile: dict, job: dict, there: dict, gpus: int, device_s: float) -> list[Resource]:
    """A process for each GPU, with cores of its own; one MongoDB and one storage for all."""
    shards = max(1, round(there["shards_per_gpu"] * gpus))
    bytes_moved = job["image_bytes"] + job["write_bytes"]
    return [
        Resource("GPUs", device_s, gpus),
        Resource("cores", client_cpu(profile, job, shards), gpus * there["cores_per_gpu"]),
        Resource("read thread", job["busy_s"]["read"], gpus),
        Resource("commit thread", job["busy_s"]["commit"], gpus),
        Resource("network", bytes_moved, gpus * there["network_bytes_per_s"]),
        Resource("storage reads", job["image_bytes"], there["read_bytes_per_s"]),
        Resource("storage writes", job["write_bytes"], there["write_bytes_per_s"]),
        Resource("flushed files", job["files"], there["files_per_s"]),
        Resource("database", database_cpu(profile, job, shards), there["database_cores"]),
    ]


def machine_cpu(profile: dict, job: dict, shards: int) -> float:
    """Seconds of processors for an image, where camflow, its network and its MongoDB share them."""
    return client_cpu(profile, job, shards) + job["cpu_s"]["device"] + database_cpu(profile, job, shards)


def one_machine(profile: dict, job: dict, workers: int, shards: int, cores: float, between_s: float = 0.0) -> list[Resource]:
    """Processes that share all cores with their MongoDB, compute the network on them, too, and write to memory. This is what can
    be checked where the costs were measured. Their stages wait for nothing but cores, or the database, and in each process for
    the next shard: `between_s` is what an image bears of that."""
    resources = [Resource("cores", machine_cpu(profile, job, shards), cores)]
    for stage, threads in job["threads"].items():
        seconds = job["busy_s" if stage in ("read", "commit") else "cpu_s"][stage]
        resources.append(Resource(f"{stage} thread", seconds / threads + between_s, workers))
    return resources


def bound(resources: list[Resource]) -> dict:
    """Images/s at most, what limits them, and what would next."""
    first, second = sorted(resources, key=lambda resource: resource.rate)[:2]
    return {"images_per_s": first.rate, "limit": first.name, "next": second.name, "next_images_per_s": second.rate}


def predict(profile: dict, job: dict, there: dict, gpus: list[int], device_s: float) -> list[dict]:
    """For each number of GPUs the rate, what a million images take, how busy the GPUs are, and what limits."""
    rows = []
    for count in gpus:
        found = bound(cluster(profile, job, there, count, device_s))
        rate = found["images_per_s"]
        rows.append({"gpus": count, "hours_per_million": 1e6 / rate / 3600, "gpu_use": rate * device_s / count, **found})
    return rows


def enough_for(profile: dict, job: dict, there: dict, device_s: float) -> list[dict]:
    """The shared resources: images/s that each bears, and how many GPUs that is work for.

    The database gets more to do with each shard, and shards grow with GPUs, so its rate is that at the GPUs that it is enough for.
    """
    found = []
    for shared in ("storage reads", "storage writes", "flushed files", "database"):

        def rate(gpus: int, name: str = shared) -> float:
            return next(one.rate for one in cluster(profile, job, there, gpus, device_s) if one.name == name)

        gpus = next((count for count in range(1, 4097) if rate(count) * device_s < count), 4097) - 1
        found.append({"resource": shared, "images_per_s": rate(max(1, gpus)), "gpus": gpus})
    return found


def usl(points: list[tuple[int, float]]) -> tuple[float, float, float]:
    """The universal scalability law X(N) = a N / (1 + s (N - 1) + k N (N - 1)) through measured rates, the first of which is that
    of one (N. J. Gunther, Guerrilla Capacity Planning, 2007): a, contention s and coherency k, none of them below zero.

    With k = 0 it is Amdahl's law.
    """
    one = dict(points)[1]
    rest = [(n, (n * one / rate - 1) / (n - 1)) for n, rate in points if n > 1]
    mean_n, mean_y = (sum(column) / len(rest) for column in zip(*rest, strict=True))
    spread = sum((n - mean_n) ** 2 for n, _ in rest)
    slope = sum((n - mean_n) * (y - mean_y) for n, y in rest) / spread if spread else 0.0
    coherency = max(0.0, slope)
    return one, max(0.0, mean_y - coherency * mean_n), coherency


def usl_rate(law: tuple[float, float, float], count: int) -> float:
    """What the law says of so many."""
    one, contention, coherency = law
    return one * count / (1 + contention * (count - 1) + coherency * count * (count - 1))
