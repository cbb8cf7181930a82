"""What the steps of `check.py` share: processes with limits, models, the database, and what the GPU does meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(os.environ["CHECK_ROOT"])
WORK = Path(os.environ["CHECK_WORK"])
OUT = Path(os.environ["OUT"]).resolve()
BIN = WORK / "bin"
KIT = Path(__file__).resolve().parent
CAMFLOW, DEVICE_RATE, TRACE = BIN / "camflow", BIN / "device_rate", BIN / "libtrace.so"
DEVICE = os.environ.get("DEVICE", "cuda")
TINY = os.environ.get("SIZE") == "tiny"
CUDA = DEVICE != "cpu"
DEADLINE = time.monotonic() + float(os.environ.get("BUDGET_S", "450"))
TMPFS = Path("/dev/shm") if Path("/dev/shm").is_dir() else WORK
PYTHON = sys.executable
STARTED = time.monotonic()

# What is measured, by size of the check.
TRAINED = "scripts/lab/standin/model.py:standin_deeplab"
SEGMENTATION = TRAINED if TINY else "torchvision:deeplabv3_resnet50"
TWIN, TWIN_LAYERS = "deeplabv3_resnet50", ["backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4"]
CLASSIFIER, VIT = (
    ("torchvision:resnet18", "timm:deit_tiny_patch16_224") if TINY else ("torchvision:resnet50", "timm:deit_small_patch16_224")
)
INPUT = [96, 128] if TINY else [520, 693]
EXPORT_FLAGS = ["--weights", "none", "--seed", "0", "--warm-batchnorm", "4"]

RESULTS: dict = {"steps": {}}


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def save() -> None:
    RESULTS["elapsed_s"] = round(time.monotonic() - STARTED, 1)
    (OUT / "results.json").write_text(json.dumps(RESULTS, indent=1) + "\n")


def left() -> float:
    return DEADLINE - time.monotonic()


class Late(Exception):
    """A step's time is over."""


def run(command: list, limit: float, environment: dict | None = None, log: Path | None = None) -> dict:
    """Runs a process and its children to the end or the limit: code, seconds, output."""
    log = log or WORK / "logs" / f"{len(list((WORK / 'logs').iterdir())):03}.log"
    start, wall = time.perf_counter(), time.time()
    with log.open("w") as out, log.with_suffix(".err").open("w") as err:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=err,
            env={**os.environ, **(environment or {})},
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            code = process.wait(max(1.0, min(limit, left())))
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code = 124
    return {
        "code": code,
        "s": round(time.perf_counter() - start, 3),
        "from": wall,
        "to": time.time(),
        "out": log.read_text(errors="replace"),
        "err": log.with_suffix(".err").read_text(errors="replace"),
    }


def last_json(done: dict) -> dict:
    """What a process found; of one that was stopped at its limit, what it had by then."""
    found = [json.loads(line) for line in done["out"].splitlines() if line.startswith("{") and line.endswith("}")]
    if done["code"] == 124 and found:
        return {**found[-1], "cut_off_after_s": done["s"]}
    if done["code"] != 0:
        raise RuntimeError(f"ended with {done['code']} after {done['s']} s: {(done['out'] + done['err'])[-700:]}")
    return found[-1]


def twin(role: str, limit: float, environment: dict | None = None, **job) -> dict:
    path = WORK / f"{role}-{time.time_ns()}.json"
    path.write_text(json.dumps({"root": str(ROOT), "device": DEVICE, "camflow": str(CAMFLOW), **job}))
    program = "fidelity.py" if role in ("fidelity", "method") else "rates.py"
    return last_json(run([PYTHON, KIT / program, role, path], limit, environment))


# ------------------------------------------------------------------------------------------- what the GPU does meanwhile


class Watch:
    """Samples `nvidia-smi` five times a second."""

    def __init__(self):
        self.samples: list[tuple[float, float, float]] = []
        self.process = None
        if CUDA and shutil.which("nvidia-smi"):
            command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200"]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                used, memory = (float(part) for part in line.split(","))
                self.samples.append((time.time(), used, memory))

    def between(self, start: float, end: float) -> dict:
        found = [(used, memory) for at, used, memory in self.samples if start <= at <= end]
        if not found:
            return {}
        busy = [used for used, _ in found]
        # The end of a run: its start loads libraries.
        late = busy[len(busy) // 2 :]
        return {
            "gpu_percent": round(sum(busy) / len(busy), 1),
            "gpu_percent_second_half": round(sum(late) / len(late), 1),
            "gpu_mib": max(m for _, m in found),
        }

    def stop(self) -> None:
        if self.process:
            self.process.terminate()


# -------------------------------------------------------------------------------------------------------------- models


class Exports:
    """Models that are exported in the background, one process each."""

    def __init__(self):
        self.running: dict[str, tuple[Path, subprocess.Popen | None]] = {}

    def start(self, name: str) -> None:
        # The trained network travels as it is.
        path = WORK / "models" / ("standin-deeplab.pt2" if name == TRAINED else re.sub(r"\W", "_", name) + ".pt2")
        path.parent.mkdir(exist_ok=True)
        process = None
        if not path.exists():
            command = [PYTHON, ROOT / "scripts" / "export_model.py", name, "--out", path, *EXPORT_FLAGS]
            log = (WORK / "logs" / f"export_{path.stem}.err").open("w")
            # They run beside each other and beside what is measured: all cores for each would make each of them ten times slower.
            environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 6))}
            process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=ROOT, env=environment)
        self.running[name] = (path, process)

    def get(self, name: str) -> Path:
        if name not in self.running:
            self.start(name)
        path, process = self.running[name]
        if process:
            process.wait(max(1.0, min(120.0 if CUDA else 900.0, left())))
        if not path.exists():
            raise RuntimeError(f"`{name}` was not exported: {(WORK / 'logs' / f'export_{path.stem}.err').read_text()[-600:]}")
        return path

    def metadata(self, name: str) -> dict:
        import zipfile

        with zipfile.ZipFile(self.get(name)) as entries:
            [entry] = [entry for entry in entries.namelist() if entry.endswith("/camflow.json")]
            return json.loads(entries.read(entry))


EXPORTS = Exports()


def layer_paths(name: str, numbers: list[str]) -> list[str]:
    aliases = EXPORTS.metadata(name)["aliases"]
    return [aliases[number] for number in numbers]


def wanted_layers() -> list[str]:
    known = sorted(EXPORTS.metadata(SEGMENTATION)["aliases"], key=lambda key: (len(key), key))
    return [number for number in ("1", "2", "3", "4") if number in known]


# ------------------------------------------------------------------------------------------------------------- database


class Mongod:
    def __init__(self):
        self.folder = WORK / "db"
        self.folder.mkdir(exist_ok=True)
        self.port = 27999
        self.uri = f"mongodb://127.0.0.1:{self.port}"
        log = (WORK / "logs" / "mongod.out").open("w")
        command = [
            BIN / "mongod",
            "--dbpath",
            self.folder,
            "--port",
            self.port,
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            "2",
        ]
        self.process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        import pymongo

        self.client = pymongo.MongoClient(self.uri, serverSelectionTimeoutMS=20000)
        RESULTS["mongod"] = self.client.server_info()["version"]
        os.environ["FIFTYONE_DATABASE_URI"] = self.uri

    def dataset(self, name: str, count: int) -> str:
        """A FiftyOne dataset of so many samples, from documents that FiftyOne itself wrote: they share a few photographs."""
        import bson

        database = self.client["fiftyone"]
        if database["datasets"].find_one({"name": name}):
            database[database["datasets"].find_one({"name": name})["sample_collection_name"]].drop()
            database["datasets"].delete_one({"name": name})
        dump = WORK / "dataset"
        dataset = bson.decode((dump / "dataset.bson").read_bytes())
        samples = bson.decode_all((dump / "samples.bson").read_bytes())
        for kind in ("config", "versions"):
            if (dump / f"{kind}.bson").exists() and database[kind].estimated_document_count() == 0:
                found = bson.decode_all((dump / f"{kind}.bson").read_bytes())
                if found:
                    database[kind].insert_many(found)
        dataset |= {"_id": bson.ObjectId(), "name": name, "slug": name}
        dataset["sample_collection_name"] = f"samples.{dataset['_id']}"
        images = WORK / "images" / name
        images.mkdir(parents=True, exist_ok=True)
        documents = []
        for index in range(count):
            sample = samples[index % len(samples)]
            path = images / f"{index:06}.jpg"
            if not path.exists():
                os.link(WORK / "dataset" / "images" / Path(sample["filepath"]).name, path)
            document = {**sample, "_id": bson.ObjectId(), "filepath": str(path), "_dataset_id": dataset["_id"]}
            documents.append(document)
        database[dataset["sample_collection_name"]].insert_many(documents)
        database["datasets"].insert_one(dataset)
        return name


MONGOD: list[Mongod] = []
WATCH: list[Watch] = []


def annotate(
    name: str,
    count: int,
    flags: list,
    limit: float,
    out: Path | None = None,
    environment: dict | None = None,
    model: Path | None = None,
    layers: list[str] | None = None,
) -> dict:
    """One run of `camflow annotate` on a dataset of its own; the images a second of its loop."""
    MONGOD[0].dataset(name, count)
    folder = out or TMPFS / "camflow-gpu-maps" / name
    command = [
        CAMFLOW,
        "annotate",
        "--dataset",
        name,
        "--class",
        "person",
        "--target",
        "labels:ground_truth",
        "--model",
        model or EXPORTS.get(SEGMENTATION),
    ]
    command += [
        "--layers",
        ",".join(layers or wanted_layers()),
        "--out",
        folder,
        "--database-uri",
        MONGOD[0].uri,
        "--format",
        "json",
        "--overwrite",
        "--no-app-config",
        *flags,
    ]
    if "--device" not in flags:
        command += ["--device", DEVICE]
    done = run(command, limit, environment)
    events = [json.loads(line) for line in done["out"].splitlines() if line.startswith("{")]
    ended = next((event for event in events if event.get("event") == "run_finished"), None)
    shutil.rmtree(folder, ignore_errors=True)
    if ended is None:
        raise RuntimeError(f"ended with {done['code']}: {(done['out'] + done['err'])[-700:]}")
    row = {
        "samples": ended["num_committed"],
        "failed": ended.get("num_failed"),
        "loop_s": round(ended["elapsed_s"], 2),
        "images_per_s": round(ended["num_committed"] / ended["elapsed_s"], 2),
    }
    row["start_s"] = round(done["s"] - ended["elapsed_s"], 2)
    row["stages"] = {stage: {key: round(value, 2) for key, value in times.items()} for stage, times in ended["stages"].items()}
    if WATCH:
        row |= WATCH[0].between(done["from"] + row["start_s"], done["to"])
    notices = [line for line in done["err"].splitlines() if line.strip()][:6]
    if notices:
        row["stderr"] = notices
    failures = [event for event in events if event.get("event") == "sample_failed"][:2]
    if failures:
        row["failures"] = failures
    return row
