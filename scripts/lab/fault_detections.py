"""Heatmaps of single detections (`--per-detection`): several files for a sample, whose names stand in a list."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import fault_checks
import fault_fiftyone
from fault_disks import CannotMount, disk, mount
from fault_scenarios import ABORTED, DONE, Fault, Suite
from fault_world import NOW, SCRIPTS, SINGLE, Dataset, Run, World, digest
from tcp_proxy import TcpProxy

LABEL, TRUTH = "thing", "truth"
FIELD = f"{LABEL}_layercam_layer_1_detections"
# As it is, without heatmaps.
PLAIN = "detections"
# Where a network of this grid has its boxes; neighbours do not overlap.
GRID = 4
NUM_SAMPLES = 48
PATHS = ("npy_path", "map_path")
# How the heatmaps were made that a run replaces.
BEFORE = ("--eigen-smooth",)


def detector():
    """A detector of four convolutions for images of 32 x 32, for `scripts/export_model.py`: a prediction in each cell of a grid."""
    import torch
    from torch import nn

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.features = nn.Sequential(*(layer for _ in range(3) for layer in (nn.LazyConv2d(8, 3, 2, 1), nn.SiLU())))
            self.scores = nn.LazyConv2d(2, 3, 1, 1)
            edges = torch.arange(GRID) / GRID
            top, left = torch.meshgrid(edges, edges, indexing="ij")
            sides = torch.stack([left, top, left + 1 / GRID, top + 1 / GRID], dim=-1)
            self.register_buffer("places", sides.reshape(1, GRID * GRID, 4))

        def forward(self, images):
            logits = self.scores(self.features(images))
            return {"logits": logits.flatten(2).unsqueeze(-1), "boxes": self.places.expand(len(images), -1, -1)}

    model = Detector().eval()
    model(torch.zeros(1, 3, 32, 32))
    model.camflow_metadata = {
        "task": "detection",
        "primary_output": "logits",
        "detections": {"boxes": "boxes", "scores": "sigmoid", "threshold": 0.5, "suppression": {"iou": None, "most": None}},
        "classes": {"0": LABEL, "1": "other"},
        "preprocess": [
            {"op": "resize", "height": 32, "width": 32, "interpolation": "bilinear", "antialias": True},
            {"op": "normalize", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        ],
        "aliases": {"1": "features.3"},
        "default_layers": ["1"],
        "example": [32, 32],
    }
    return model


class Detected(Dataset):
    """A dataset of such labels."""

    def __init__(self, world: World, name: str, out: Path, model: Path):
        super().__init__(world, name, out, {})
        self.model = model

    def run(self, *flags, uri: str | None = None) -> Run:
        arguments = ["annotate", "--model", self.model, "--target", f"labels:{TRUTH}", "--class", LABEL, "--per-detection"]
        arguments += ["--device", "cpu", "--format", "json", "--replace", "--batch-size", 4, "--workers", 4]
        return Run(self, [*arguments, *self.named(uri), *flags], ())


class Detections:
    """What undisturbed runs make of the dataset, and whether what others leave of it is that."""

    def __init__(self, suite: Suite):
        self.suite, self.world = suite, suite.world
        self.model = self.world.folder / "detector.pt2"
        export = [sys.executable, SCRIPTS / "export_model.py", f"{__file__}:detector", "--out", self.model]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.world.environment)
        self.world.apart(
            fault_fiftyone.make_detections, PLAIN, str(self.world.folder / "images"), NUM_SAMPLES, LABEL, TRUTH, GRID
        )
        # Sample -> the detections of it that are to have heatmaps.
        self.wanted: dict[str, set[str]] = {}
        # (sample, detection) -> fingerprint of the sample -> which file and its name -> digests that are right for it.
        self.right: dict[tuple[str, str], dict[str, dict[tuple[str, str], set[str]]]] = {}
        self.current: dict[str, str] = {}
        for flags in (BEFORE, ()):
            dataset = self.dataset()
            for more in (SINGLE, ("--overwrite",)):
                self.annotate(dataset, *flags, *more)
                self.learn(dataset)
            # Files of the same names would count as referred to.
            dataset.delete()

    def dataset(self, out: Path | None = None) -> Detected:
        """A new one without heatmaps."""
        name = f"{PLAIN}-{next(self.world.numbers)}"
        self.world.apart(fault_fiftyone.copy_dataset, PLAIN, name)
        return Detected(self.world, name, out or self.world.folder / "maps" / name, self.model)

    def annotate(self, dataset: Detected, *flags) -> None:
        run = dataset.run(*flags)
        if run.wait() != 0 or run.summary()["num_committed"] != NUM_SAMPLES:
            raise SystemExit(f"error: the undisturbed run ended with {run.code}\n{run.errors()}")

    def learn(self, dataset: Detected) -> None:
        for sample in dataset.samples():
            one = str(sample["_id"])
            self.wanted[one] = {str(label["_id"]) for label in sample[TRUTH]["detections"] if label["label"] == LABEL}
            self.current[one] = sample[FIELD]["fingerprint"]
            for label in sample[FIELD]["detections"]:
                known = self.right.setdefault((one, str(label["_id"])), {}).setdefault(sample[FIELD]["fingerprint"], {})
                for of in PATHS:
                    path = Path(label[of])
                    known.setdefault((of, path.name), set()).add(digest(path))

    def wrong(self, dataset: Detected, *, complete: bool) -> list[str]:
        """Everything that is wrong, as `fault_checks.violations` has it."""
        document, samples, reading = dataset.as_read_by(fault_fiftyone.count_detections, FIELD)
        found = [f"{dataset.name}: {problem}" for problem in fault_checks.undeclared(document, samples)]
        if {str(sample["_id"]) for sample in samples} != self.wanted.keys():
            found.append(f"{dataset.name}: other samples than there were")
        num_labels = 0
        for sample in samples:
            one, kept = str(sample["_id"]), sample.get(FIELD)
            if kept is None:
                found += [f"{dataset.name}: {one} has no heatmap"] * complete
                continue
            if complete and kept["fingerprint"] != self.current[one]:
                found.append(f"{dataset.name}: {one} has the heatmaps of an earlier run")
            ids = [str(label["_id"]) for label in kept["detections"]]
            num_labels += len(ids)
            if sorted(ids) != sorted(self.wanted[one]):
                found.append(f"{dataset.name}: {one} has heatmaps of {ids}, not of {self.wanted[one]}")
            for label in kept["detections"]:
                right = self.right.get((one, str(label["_id"])), {}).get(kept["fingerprint"], {})
                for of in PATHS:
                    path = Path(label[of])
                    if not path.is_relative_to(dataset.out) or (of, path.name) not in right:
                        found.append(f"{dataset.name}: {one} refers to `{path}`, which is not its file")
                    elif not path.is_file():
                        found.append(f"{dataset.name}: {one} refers to `{path}`, which does not exist")
                    elif digest(path) not in right[of, path.name]:
                        found.append(f"{dataset.name}: {one} refers to `{path}`, whose content is not that of an undisturbed run")
        if reading.result() != num_labels:
            found.append(f"{dataset.name}: FiftyOne sees {reading.result()} heatmaps of {num_labels}")
        return found

    def self_test(self) -> int:
        """Breaks a dataset in the ways that the checks are there for; how many. Raises where one goes unnoticed."""

        def first(dataset: Detected, of: str) -> Path:
            return Path(dataset.samples()[0][FIELD]["detections"][0][of])

        def update(dataset: Detected, values: dict) -> None:
            samples = self.world.database[dataset.document()["sample_collection_name"]]
            samples.update_one({"_id": dataset.samples()[0]["_id"]}, {"$set": values})

        breaks = {
            "does not exist": lambda dataset: first(dataset, "npy_path").unlink(),
            "whose content": lambda dataset: first(dataset, "map_path").write_bytes(first(dataset, "map_path").read_bytes()[:-1]),
            "not its file": lambda dataset: update(dataset, {f"{FIELD}.detections.0.map_path": str(first(dataset, "npy_path"))}),
            "has heatmaps of": lambda dataset: update(dataset, {f"{FIELD}.detections": []}),
            "of an earlier run": lambda dataset: update(dataset, {f"{FIELD}.fingerprint": "0" * 32}),
            "has no heatmap": lambda dataset: update(dataset, {FIELD: None}),
        }
        dataset = self.dataset()
        for expected, damage in breaks.items():
            self.annotate(dataset, "--overwrite")
            if before := self.wrong(dataset, complete=True):
                raise SystemExit(f"error: the checks find faults where there are none: {before[:3]}")
            damage(dataset)
            found = self.wrong(dataset, complete=True)
            if not any(expected in one for one in found):
                raise SystemExit(f"error: the checks do not notice `{expected}`; they found {found[:3]}")
        dataset.delete()
        return len(breaks)

    def begun(self, *, replacing: bool, out: Path | None = None) -> Detected:
        """One without heatmaps, or one whose heatmaps a run replaces."""
        dataset = self.dataset(out)
        if replacing:
            self.annotate(dataset, *BEFORE)
        return dataset

    def midway(self, one: Fault, dataset: Detected, *flags, **more) -> Run:
        run = dataset.run(*flags, **more)
        going = run.until_files(self.suite.random.randrange(4, NUM_SAMPLES))
        one.expect(going, f"the run ended before the fault: {run.code}, {run.errors()[-600:]}")
        return run

    def recover(self, one: Fault, dataset: Detected) -> None:
        """The next run does what is left to do, and `clean` then leaves what labels refer to."""
        one.violations += self.wrong(dataset, complete=False)
        current = [
            sample
            for sample in dataset.samples()
            if (sample.get(FIELD) or {}).get("fingerprint") == self.current[str(sample["_id"])]
        ]
        run = dataset.run("--no-space-check")
        one.ends(run, DONE)
        summary = run.summary()
        one.violations += fault_checks.adds_up(summary, NUM_SAMPLES)
        found = (summary.get("num_committed"), summary.get("skipped", {}).get("up to date", 0))
        one.expect(
            found == (NUM_SAMPLES - len(current), len(current)), f"{len(current)} were done; annotated and skipped: {found}"
        )
        one.violations += self.wrong(dataset, complete=True)
        one.ends(dataset.clean(*NOW), DONE)
        kept = [label for sample in dataset.samples() for label in sample[FIELD]["detections"]]
        one.expect(
            {str(path) for path in dataset.files()} == {label[of] for label in kept for of in PATHS}, "files are left over"
        )
        dataset.delete()


def of_detections(suite: Suite) -> None:
    world = suite.world
    of = Detections(suite)
    if suite.long:
        suite.tell(f"the checks notice all of {of.self_test()} ways in which detections were broken on purpose")
    for number in range(20 if suite.long else 2):
        replacing = number % 2 == 1
        with suite.fault(f"SIGKILL, heatmaps of detections, {'replacing' if replacing else 'first'} run") as one:
            dataset = of.begun(replacing=replacing)
            of.midway(one, dataset).kill()
            of.recover(one, dataset)
    for replacing in (False, True) if suite.long else (True,):
        with suite.fault(
            f"connections: reset for a while, heatmaps of detections, {'replacing' if replacing else 'first'} run"
        ) as one:
            dataset = of.begun(replacing=replacing)
            with TcpProxy(world.mongod.port) as proxy:
                run = of.midway(one, dataset, uri=f"mongodb://127.0.0.1:{proxy.port}")
                proxy.set_mode("reset")
                time.sleep(suite.random.uniform(0.2, 1))
                proxy.set_mode("pass")
                one.ends(run, DONE)
            of.recover(one, dataset)
    name = "disk full, heatmaps of detections"
    try:
        with suite.fault(name) as one, ExitStack() as stack:
            # A page for each file: a third of them.
            half = NUM_SAMPLES * len(next(iter(of.wanted.values()))) * len(PATHS) * 4096 // 3
            folder = stack.enter_context(disk(world.folder / "disks" / "of-detections", f"size={half}"))
            dataset = of.begun(replacing=False, out=folder)
            one.ends(dataset.run("--no-space-check"), ABORTED, saying="No space left on device")
            one.violations += of.wrong(dataset, complete=False)
            mount("-o", "remount,size=64m", folder)
            of.recover(one, dataset)
    except CannotMount as error:
        suite.not_tried[name] = str(error)
