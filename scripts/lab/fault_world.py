"""What faults are tried on: a private database, a dataset made by FiftyOne, its clones, and camflow as a process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import fault_fiftyone
import growth
import pymongo
from bson import ObjectId
from private_mongod import PrivateMongod

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from camflow.labels import upsample

SCRIPTS = Path(__file__).resolve().parents[1]
CLASSES = ("light", "middle")
FIELDS = tuple(f"{name}_grad_layer_1" for name in CLASSES)
MEASURES = (
    *("energy_inside", "energy_ratio", "pointing_hit", "best_iou", "best_threshold", "center_offset", "object_area", "entropy"),
    *("rank_correlation", "confidence", "confidence_drop", "confidence_increase", "deletion_auc", "insertion_auc", "road"),
    *("confidence_without_object", "confidence_without_background", "confidence_without_attended", "context_reliance"),
)
MEASURED = "measures"
# As a user's Python left it; with the labels that a user's Python edited; as it was, but annotated in other ways.
ORIGINAL, EDITED, SMOOTH, EXACT = "original", "edited", "smooth", "exact"
# How each is annotated.
FLAGS = {ORIGINAL: (), EDITED: (), SMOOTH: ("--eigen-smooth",), EXACT: ("--exact",)}
# Each image alone: libtorch sums a batch of one in another order.
SINGLE = ("--batch-size", 1)
# For `clean`: everything that is not referred to, however young and however much.
NOW = ("--apply", "--force", "--grace", 0)
# Far beyond what any run may take: whatever reaches it hangs.
PATIENCE = 300


def measures(label: dict) -> str:
    """What a label says of where the attention lies."""
    return repr([label.get(name, "absent") for name in MEASURES])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Hung(Exception):
    """A process that did not end."""


class Run:
    """One process of camflow, perhaps started by another program (`before`)."""

    def __init__(self, dataset: Dataset, arguments: list, before: tuple):
        self.dataset, world = dataset, dataset.world
        self.log = world.folder / "logs" / f"{next(world.numbers)}"
        command = [*before, world.camflow, *arguments]
        self.started = time.monotonic()
        with self.log.open("w") as out, self.log.with_suffix(".err").open("w") as err:
            self.process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=world.environment)
        self.code: int | None = None
        self.peak_bytes = 0

    def poll(self) -> int | None:
        """The exit code once it has ended; -9 if it was killed."""
        if self.code is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.code = self.process.returncode = os.waitstatus_to_exitcode(status)
                self.peak_bytes = usage.ru_maxrss * 1024
                self.wall_s = time.monotonic() - self.started
        return self.code

    def wait(self, patience: float = PATIENCE) -> int:
        deadline = time.monotonic() + patience
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise Hung(f"camflow did not end within {patience:.0f} s\n{self.errors()}")
            time.sleep(0.005)
        return self.code

    def send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> int:
        self.send(signal.SIGKILL)
        return self.wait()

    def until(self, reached, what: str) -> bool:
        """Waits until something holds; False if the run ended before."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            if self.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.kill()
                raise Hung(f"camflow never came to {what}\n{self.errors()}")
            time.sleep(0.005)
        return self.poll() is None

    def until_files(self, count: int) -> bool:
        """Waits until so many files are complete; False if the run ended before."""
        have = set(self.dataset.files())
        return self.until(lambda: len(set(self.dataset.files()) - have) >= count, f"{count} files")

    def until_committed(self) -> bool:
        """Waits until the first update is made; False if the run ended before."""
        return self.until(lambda: '"sample_committed"' in self.log.read_text(), "its first update")

    def events(self) -> list[dict]:
        lines = self.log.read_text().splitlines()
        # A killed process may leave half a line.
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def summary(self) -> dict:
        """Empty if it did not come to one."""
        return next((event for event in self.events() if event["event"] == "run_finished"), {})

    def output(self) -> str:
        return self.log.read_text()

    def errors(self) -> str:
        return self.log.with_suffix(".err").read_text()


class Dataset:
    """A clone that faults may happen to."""

    def __init__(self, world: World, name: str, out: Path, labels: dict[str, str]):
        self.world, self.name, self.out = world, name, out
        # Which labels each sample has that there is: what is right for it follows from them.
        self.labels = labels

    def run(self, *flags, classes: tuple[str, ...] = CLASSES, uri: str | None = None, before: tuple = ()) -> Run:
        """`camflow annotate`."""
        arguments = ["annotate", "--model", self.world.model, "--layers", 1, "--class", ",".join(classes)]
        arguments += ["--target", "labels:ground_truth", "--device", "cpu", "--format", "json"]
        # Among the faults are labels that are no longer camflow's.
        arguments += ["--replace"]
        # Small batches and more workers than cores: many samples are in flight in every stage.
        arguments += ["--batch-size", 4, "--workers", 4, *self.named(uri), *flags]
        return Run(self, arguments, before)

    def clean(self, *flags, uri: str | None = None, before: tuple = ()) -> Run:
        return Run(self, ["clean", *self.named(uri), *flags], before)

    def remove(self, *flags, uri: str | None = None, before: tuple = ()) -> Run:
        return Run(self, ["remove", "--fields", ",".join(FIELDS), *self.named(uri), *flags], before)

    def check(self, *flags) -> Run:
        return Run(self, ["check", "--format", "json", *self.named(None)[:2], *self.named(None)[4:], *flags], ())

    def named(self, uri: str | None) -> list:
        """Which dataset it is, and which folder, for camflow."""
        return ["--dataset", self.name, "--out", self.out, "--database-uri", uri or self.world.mongod.uri]

    def document(self) -> dict:
        return self.world.database.datasets.find_one({"name": self.name})

    def samples(self) -> list[dict]:
        return list(self.world.database[self.document()["sample_collection_name"]].find())

    def as_read_by(self, function, *arguments) -> tuple[dict, list[dict], Future]:
        """The document, the samples, and what FiftyOne finds in them, all of one state: what a process had sent before it was
        killed, the server still carries out."""
        deadline = time.monotonic() + PATIENCE
        samples = self.samples()
        while True:
            reading = self.world.helper.submit(function, self.name, *arguments)
            reading.exception(PATIENCE)
            before, samples = samples, self.samples()
            if samples == before or time.monotonic() > deadline:
                return self.document(), samples, reading

    def files(self) -> list[Path]:
        """All complete files below the output folder."""
        found = (Path(folder) / name for folder, _, names in os.walk(self.out) for name in names)
        return [path for path in found if path.suffix in (".npy", ".png")]

    def flip_masks(self, ids: list[str]) -> None:
        """Lets FiftyOne edit labels."""
        self.world.apart(fault_fiftyone.flip_masks, self.name, ids)
        self.labels.update(dict.fromkeys(ids, EDITED))

    def delete(self) -> None:
        document = self.document()
        if document:
            self.world.database.drop_collection(document["sample_collection_name"])
            self.world.database.datasets.delete_one({"_id": document["_id"]})
        shutil.rmtree(self.out, ignore_errors=True)


class World:
    """The database, the datasets that are cloned and what undisturbed runs make of them.

    One that is `beside` another world has a database of its own on the same server, or on a server of its own where that gets
    an environment of its own.
    """

    def __init__(self, folder: Path, camflow: Path, num_samples: int, variants=(), *, name="fiftyone", beside=None, server=None):
        self.folder, self.camflow, self.num_samples = folder, camflow, num_samples
        # Which ways to annotate are learnt, beside the usual one.
        self.variants = variants
        self.name, self.beside, self.server = name, beside, server
        # Several threads count here.
        self.numbers = count(1)
        # (sample, field) -> fingerprint -> name of a file -> digests that are right for it, and under MEASURED the measures.
        self.right: dict[tuple[str, str], dict[str, dict[str, set[str]]]] = {}
        # Which labels -> (sample, field) -> the fingerprint that is up to date.
        self.current: dict[str, dict[tuple[str, str], str]] = {}

    def __enter__(self):
        with ExitStack() as stack:
            (self.folder / "logs").mkdir(parents=True)
            own = PrivateMongod(self.folder / "mongo", environment=self.server)
            self.mongod = self.beside.mongod if self.beside and not self.server else stack.enter_context(own)
            self.environment = {**os.environ, "FIFTYONE_DO_NOT_TRACK": "true", "FIFTYONE_DATABASE_URI": self.mongod.uri}
            self.environment["FIFTYONE_DATABASE_NAME"] = self.name
            # The network is too small for two threads.
            self.environment["OMP_NUM_THREADS"] = "1"
            apart = {**self.environment, "FIFTYONE_SHOW_PROGRESS_BARS": "false", "FIFTYONE_DATABASE_VALIDATION": "false"}
            # Spawned, not forked: this process stays as small as it is, and what FiftyOne does is another process's doing.
            spawn = get_context("spawn")
            self.helper = stack.enter_context(ProcessPoolExecutor(1, spawn, fault_fiftyone.use, (apart,)))
            self.database = pymongo.MongoClient(self.mongod.uri)[self.name]
            self.model = self.beside.model if self.beside else self.folder / "tiny.pt2"
            export = [sys.executable, SCRIPTS / "export_model.py", f"{growth.__file__}:tiny", "--out", self.model]
            export = ["true"] if self.beside else [str(part) for part in export]
            exporting = subprocess.Popen(export, stdout=subprocess.DEVNULL, env=apart)
            images = self.folder / "images"
            images.mkdir()
            self.apart(growth.make_dataset, self.mongod.uri, ORIGINAL, self.num_samples, str(images))
            for name in (EDITED, *self.variants):
                self.apart(fault_fiftyone.copy_dataset, ORIGINAL, name)
            self.apart(fault_fiftyone.flip_masks, EDITED)
            if exporting.wait() != 0:
                raise SystemExit("error: the model cannot be exported")
            self.undisturbed_s = max(self.learn(labels) for labels in (ORIGINAL, EDITED))
            for name in self.variants:
                self.learn(name)
            self.set_aside()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def apart(self, function, *arguments):
        """Calls a function in the process that has FiftyOne."""
        return self.helper.submit(function, *arguments).result(PATIENCE)

    def learn(self, labels: str) -> float:
        """Annotates a dataset without disturbance and keeps what came out; seconds it took.

        Once in batches and once image by image: libtorch sums a batch of one in another order, and the last batch of a
        run may be one.
        """
        import numpy as np
        from PIL import Image

        dataset = Dataset(self, labels, self.folder / "undisturbed" / labels, {})
        current, before = self.current.setdefault(labels, {}), {}
        for flags in (SINGLE, ("--overwrite",)):
            run = dataset.run(*flags, *FLAGS[labels])
            if run.wait() != 0 or run.summary()["num_committed"] != self.num_samples:
                raise SystemExit(f"error: the undisturbed run ended with {run.code}\n{run.errors()}")
            for sample in dataset.samples():
                for field in FIELDS:
                    label, key = sample[field], (str(sample["_id"]), field)
                    values = upsample(np.load(label["npy_path"]), label["upsampling"])
                    levels = np.asarray(Image.open(label["map_path"]))
                    far = np.abs(values - before.setdefault(key, values)).max()
                    if not (
                        values.shape == levels.shape == (32, 32) and values.min() == 0 and 0 < values.max() <= 1 and far < 1e-4
                    ):
                        raise SystemExit(f"error: an undisturbed run made no heatmap of sample {key}, or another one each time")
                    current[key] = label["fingerprint"]
                    right = self.right.setdefault(key, {}).setdefault(label["fingerprint"], {})
                    for path in (Path(label["npy_path"]), Path(label["map_path"])):
                        right.setdefault(path.name, set()).add(digest(path))
                    right.setdefault(MEASURED, set()).add(measures(label))
        return run.wall_s

    def set_aside(self) -> None:
        """Moves what is cloned to a database of its own: files of the same names would count as referred to."""
        self.aside = self.database.client[f"{self.name}-aside"]
        for document in list(self.database.datasets.find()):
            samples = document["sample_collection_name"]
            self.database[samples].aggregate([{"$out": {"db": self.aside.name, "coll": samples}}])
            self.aside.datasets.insert_one(document)
            self.database.drop_collection(samples)
        for name in self.database.list_collection_names():
            if name in ("datasets", "runs") or name.startswith("camflow."):
                self.database[name].delete_many({})

    def clone(
        self, labels: str = ORIGINAL, annotated: bool = False, most: int | None = None, skip: int = 0, out: Path | None = None
    ) -> Dataset:
        """A copy of a dataset by plain copies of its documents; where it is annotated, with its heatmaps and links to their
        files (copies where `out` says a place)."""
        name = f"clone-{next(self.numbers)}"
        source = self.folder / "undisturbed" / labels
        dataset = Dataset(self, name, out or self.folder / "maps" / name, {})
        document = self.aside.datasets.find_one({"name": labels})
        samples, number = document["sample_collection_name"], ObjectId()
        document |= {"_id": number, "name": name, "slug": name, "sample_collection_name": f"samples.{number}", "runs": {}}
        stages = [{"$sort": {"_id": 1}}, {"$skip": skip}, {"$limit": most or self.num_samples}, {"$set": {"_dataset_id": number}}]
        if annotated:
            # What a folder knows of its datasets is not copied.
            ignore = shutil.ignore_patterns(".camflow")
            copy = os.link if out is None else shutil.copyfile
            shutil.copytree(source, dataset.out, copy_function=copy, dirs_exist_ok=True, ignore=ignore)
            moved = {"find": str(source), "replacement": str(dataset.out)}
            paths = (f"{field}.{path}" for field in FIELDS for path in ("map_path", "npy_path"))
            stages.append({"$set": {path: {"$replaceOne": {"input": f"${path}", **moved}} for path in paths}})
        else:
            stages.append({"$unset": list(FIELDS)})
            document["sample_fields"] = [field for field in document["sample_fields"] if field["name"] not in FIELDS]
        self.aside[samples].aggregate([*stages, {"$out": {"db": self.name, "coll": document["sample_collection_name"]}}])
        self.database.datasets.insert_one(document)
        dataset.labels = {str(sample["_id"]): labels for sample in dataset.samples()}
        return dataset
