"""People copy labels: from field to field, from dataset to dataset, into fields of their own; the copies name the same files."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import fault_checks
import fault_fiftyone
from fault_scenarios import DONE, Fault, Suite
from fault_world import FIELDS, FLAGS, NOW, ORIGINAL, SINGLE, SMOOTH, Dataset, World

# What people do in the process that has FiftyOne, with the name of the dataset and one for what is new.
COPIES: dict[str, Callable[[str, str], tuple]] = {
    "a label field is copied": lambda name, new: (fault_fiftyone.copy_field, name, FIELDS[0], "before"),
    "a label field is renamed": lambda name, new: (fault_fiftyone.rename_field, name, FIELDS[0], "old_model"),
    "the dataset is copied": lambda name, new: (fault_fiftyone.copy_dataset, name, new),
    "the dataset is copied and its fields are renamed": lambda name, new: (fault_fiftyone.copy_renamed, name, new, FIELDS),
    "labels are put into lists in fields of somebody's own": lambda name, new: (fault_fiftyone.nest, name, FIELDS, "kept"),
}


def whole(one: Fault, world: World, dataset: Dataset) -> None:
    one.violations += fault_checks.dangling(world, dataset.out)


def unmade(world: World, dataset: Dataset, new: str) -> None:
    world.apart(fault_fiftyone.delete_if_exists, new)
    dataset.delete()


def between_runs(suite: Suite) -> None:
    world = suite.world
    for number, what in enumerate(COPIES):
        with suite.fault(f"{what}, then the labels are replaced") as one:
            dataset = suite.dataset()
            new = f"{dataset.name}-copy"
            one.ends(dataset.run(), DONE)
            world.apart(*COPIES[what](dataset.name, new))
            # What is not there any more is made again, in files of the same names, and then replaced.
            for labels in (ORIGINAL, SMOOTH):
                one.ends(dataset.run(*SINGLE, "--grace", 0, *FLAGS[labels]), DONE)
                dataset.labels = dict.fromkeys(dataset.labels, labels)
                whole(one, world, dataset)
                one.check(dataset, complete=True)
            one.ends(dataset.clean(*NOW), DONE)
            whole(one, world, dataset)
            if suite.long or number == 0:
                one.ends(dataset.remove("--apply", "--grace", 0), DONE)
                whole(one, world, dataset)
            unmade(world, dataset, new)


def during_a_run(suite: Suite) -> None:
    world = suite.world
    # A run that is renamed away from under its feet declares its field again.
    for what in list(COPIES) if suite.long else ("a label field is copied", "the dataset is copied"):
        with suite.fault(f"{what} during a run that replaces") as one:
            dataset = suite.dataset(replacing=True)
            new = f"{dataset.name}-copy"
            run = suite.midway(one, dataset, "--grace", 0)
            run.send(signal.SIGSTOP)
            world.apart(*COPIES[what](dataset.name, new))
            run.send(signal.SIGCONT)
            # A label that is not what it was when it was read is left to the next run.
            one.expect(run.wait() in (0, 1), f"ended with {run.code}: {run.errors()[-600:]}")
            whole(one, world, dataset)
            one.ends(dataset.run("--grace", 0), DONE)
            whole(one, world, dataset)
            one.check(dataset, complete=True)
            one.ends(dataset.clean(*NOW), DONE)
            whole(one, world, dataset)
            unmade(world, dataset, new)


def grace(suite: Suite) -> None:
    """Replaced files stay for a while, and nothing stays for ever."""
    with suite.fault("replaced files before and after their grace period") as one:
        dataset = suite.dataset(replacing=True)
        before = {Path(sample[field][of]) for sample in dataset.samples() for field in FIELDS for of in ("npy_path", "map_path")}
        for command in (dataset.run, lambda: dataset.clean("--apply"), dataset.run):
            one.ends(command(), DONE)
            one.expect(all(path.exists() for path in before), "replaced files went before their grace period was over")
        one.check(dataset, complete=True)
        one.ends(dataset.run("--grace", 0), DONE)
        one.expect(not any(path.exists() for path in before), "replaced files stay although their grace period is over")
        one.check(dataset, complete=True)
        one.expect(not fault_checks.orphans(suite.world, dataset.out), "orphans are left")
        dataset.delete()


def copied(suite: Suite) -> None:
    for group in (between_runs, during_a_run, grace):
        group(suite)
