"""The faults: what is done to a run, how the run has to end, and that the next one makes everything whole."""

from __future__ import annotations

import copy
import random
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fault_checks
import fault_fiftyone
from fault_world import CLASSES, EDITED, FIELDS, ORIGINAL, Dataset, Hung, Run, World

DONE, SOME_FAILED, NOT_STARTED, ABORTED, LOCKED, INTERRUPTED = 0, 1, 2, 3, 4, 130


@dataclass
class Fault:
    """One fault that was tried."""

    name: str
    # How many it is, where several happen to one dataset.
    count: int = 1
    # What camflow did that it should not have done.
    failures: list[str] = field(default_factory=list)
    # What is wrong with the data.
    violations: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        return not self.failures and not self.violations

    def expect(self, fine: bool, what: str) -> None:
        if not fine:
            self.failures.append(what)

    def ends(self, run: Run, *codes: int, saying: str = "") -> None:
        """The run ends with one of these codes, and its error says so."""
        code = run.wait()
        self.expect(code in codes, f"ended with {code} instead of {codes}: {run.errors().strip()[-600:]}")
        self.expect(saying in run.errors(), f"did not say `{saying}`: {run.errors().strip()[-600:]}")
        # With the flags and the dataset, what went wrong and what to do.
        self.expect(code not in (NOT_STARTED, ABORTED) or "\nhint: " in run.errors(), f"gave no hint: {run.errors()[-600:]}")
        if code in (DONE, ABORTED, INTERRUPTED) and run.summary():
            self.violations += fault_checks.adds_up(run.summary())

    def comes_to(self, run: Run, reached, what: str) -> None:
        """The run comes to something before it ends."""
        self.expect(run.until(reached, what), f"ended before {what}: {run.code}, {run.errors().strip()[-600:]}")

    def check(self, dataset: Dataset, complete: bool = False) -> None:
        self.violations += fault_checks.violations(dataset, complete)

    def recover(self, dataset: Dataset, *flags) -> None:
        """The next run does exactly what is left to do, and then everything is there and right."""

        def current(sample: dict) -> bool:
            of = world.current[dataset.labels[str(sample["_id"])]]
            return all((sample.get(field) or {}).get("fingerprint") == of[str(sample["_id"]), field] for field in FIELDS)

        world, samples = dataset.world, dataset.samples()
        num_done = sum(map(current, samples))
        run = dataset.run(*flags)
        self.ends(run, DONE)
        summary = run.summary()
        self.violations += fault_checks.adds_up(summary, len(samples))
        if summary:
            found = (summary["num_committed"], summary["skipped"].get("up to date", 0))
            self.expect(
                found == (len(samples) - num_done, num_done),
                f"of {len(samples)} samples {num_done} were done; the rerun annotated and skipped {found}",
            )
        self.check(dataset, complete=True)


class Suite:
    """The faults that were tried so far."""

    def __init__(self, world: World, seed: int, long: bool, tell):
        self.world, self.seed, self.long, self.tell = world, seed, long, tell
        self.random = random.Random(seed)
        self.faults: list[Fault] = []
        # The sweep's part: one command alone, and only calls from this one on.
        self.swept: str | None = None
        self.first_call = 0
        # What could not be tried here, and why.
        self.not_tried: dict[str, str] = {}

    @contextmanager
    def fault(self, name: str, quiet: bool = False):
        """One fault: whatever goes wrong in the block is its own. A quiet one is told of only where it was not survived."""
        one = Fault(name)
        start = time.monotonic()
        try:
            yield one
        except Hung as error:
            one.failures.append(str(error))
        self.faults.append(one)
        if quiet and one.survived:
            return
        times = f", {one.count} times" * (one.count != 1)
        self.tell(f"{'survived' if one.survived else 'FAILED  '}  {one.name}{times}  ({time.monotonic() - start:.1f} s)")
        for problem in (*one.failures, *one.violations[:5]):
            self.tell(f"    {problem}")

    def part(self, name: str) -> Suite:
        """The same suite with moments of its own, for another thread."""
        part = copy.copy(self)
        part.random = random.Random(f"{self.seed} {name}")
        return part

    def counts(self) -> tuple[int, int, int]:
        """Faults tried, faults survived, violations."""
        num_survived = sum(one.count for one in self.faults if one.survived)
        return sum(one.count for one in self.faults), num_survived, sum(len(one.violations) for one in self.faults)

    def dataset(self, replacing: bool = False, out: Path | None = None) -> Dataset:
        """One without heatmaps; or one whose heatmaps are those of other labels than it has, so that a run replaces all files."""
        dataset = self.world.clone(ORIGINAL, annotated=replacing, out=out)
        if replacing:
            samples = self.world.database[dataset.document()["sample_collection_name"]]
            edited = self.world.aside[self.world.aside.datasets.find_one({"name": EDITED})["sample_collection_name"]]
            for sample in edited.find({}, ["ground_truth"]):
                samples.update_one({"_id": sample["_id"]}, {"$set": {"ground_truth": sample["ground_truth"]}})
            dataset.labels = dict.fromkeys(dataset.labels, EDITED)
        return dataset

    def midway(self, one: Fault, dataset: Dataset, *flags, **more) -> Run:
        """A run that has written some of its files, and has most of them before it."""
        run = dataset.run(*flags, **more)
        going = run.until_files(self.random.randrange(4, 2 * len(dataset.labels)))
        one.expect(going, f"the run ended before the fault: {run.code}, {run.errors()[-600:]}")
        return run


def kills(suite: Suite, count: int) -> None:
    """SIGKILL at random moments, once or several times in a row, of first runs and of runs that replace files."""
    while count > 0:
        replacing = suite.random.random() < 0.5
        with suite.fault(f"SIGKILL at random, {'replacing' if replacing else 'first'} run") as one:
            dataset = suite.dataset(replacing)
            one.count = 0
            for _ in range(min(count, suite.random.choice((1, 1, 2, 3)))):
                run = dataset.run()
                time.sleep(suite.random.uniform(0.05, 1.0) * suite.world.undisturbed_s)
                run.kill()
                # Whoever was done when the signal came was not killed; then the machine has become quicker.
                if run.code == -signal.SIGKILL:
                    one.count += 1
                elif run.summary().get("num_committed") == suite.world.num_samples:
                    suite.world.undisturbed_s = run.wall_s
                one.check(dataset)
            count -= one.count
            one.recover(dataset)
            dataset.delete()


def signals(suite: Suite) -> None:
    """SIGINT and SIGTERM finish what is in flight and commit it; the second one stops at once."""
    for number in (signal.SIGTERM, signal.SIGINT)[: 1 + suite.long]:
        with suite.fault(f"{number.name} while samples are in flight") as one:
            dataset = suite.dataset()
            run = suite.midway(one, dataset)
            run.send(number)
            one.ends(run, INTERRUPTED)
            summary = run.summary()
            one.expect(summary.get("num_abandoned") == 0 and summary.get("interrupted"), f"left samples in flight: {summary}")
            one.check(dataset)
            one.recover(dataset)
            dataset.delete()
    with suite.fault("SIGTERM twice, the second while the first waits for a frozen database") as one:
        dataset = suite.dataset()
        run = suite.midway(one, dataset)
        suite.world.mongod.freeze()
        try:
            run.send(signal.SIGTERM)
            time.sleep(1)
            one.expect(run.poll() is None, "the first signal did not wait for what was in flight")
            run.send(signal.SIGTERM)
            one.expect(run.wait(20) == INTERRUPTED, f"ended with {run.code}")
        finally:
            suite.world.mongod.thaw()
        one.check(dataset)
        one.recover(dataset)
        dataset.delete()


def two_runs(suite: Suite) -> None:
    """Different classes side by side; the same job twice at once."""
    with suite.fault("two runs at once, of different classes") as one:
        dataset = suite.dataset()
        runs = [dataset.run(classes=(name,)) for name in CLASSES]
        for run in runs:
            one.ends(run, DONE)
        one.check(dataset, complete=True)
        dataset.delete()
    with suite.fault("a second run of a job that is running") as one:
        dataset = suite.dataset()
        owner = suite.midway(one, dataset)
        # Still its owner, although it has nothing to say for a while.
        owner.send(signal.SIGSTOP)
        second = dataset.run()
        one.ends(second, LOCKED)
        one.expect(not second.summary(), "the second run began")
        owner.send(signal.SIGCONT)
        one.ends(owner, DONE)
        one.check(dataset, complete=True)
        one.recover(dataset)
        dataset.delete()


def people(suite: Suite) -> None:
    """What FiftyOne does meanwhile, in another process."""
    apart = suite.world.apart
    with suite.fault("samples deleted by FiftyOne") as one:
        dataset = suite.dataset()
        run = suite.midway(one, dataset)
        gone = suite.random.sample(sorted(dataset.labels), len(dataset.labels) // 3)
        apart(fault_fiftyone.delete_samples, dataset.name, gone)
        for sample in gone:
            del dataset.labels[sample]
        one.ends(run, DONE)
        one.check(dataset, complete=True)
        one.recover(dataset)
        dataset.delete()
    with suite.fault("labels edited by FiftyOne") as one:
        dataset = suite.dataset()
        run = suite.midway(one, dataset)
        dataset.flip_masks(suite.random.sample(sorted(dataset.labels), len(dataset.labels) // 10))
        one.ends(run, DONE)
        # What was read before the edit has heatmaps of the earlier label, until the next run.
        one.check(dataset)
        one.recover(dataset)
        dataset.delete()
    with suite.fault("a heatmap field deleted by FiftyOne") as one:
        dataset = suite.dataset()
        run = suite.midway(one, dataset)
        run.until_committed()
        apart(fault_fiftyone.delete_field, dataset.name, FIELDS[0])
        one.ends(run, DONE)
        one.check(dataset)
        one.recover(dataset)
        dataset.delete()
    with suite.fault("dataset renamed by FiftyOne") as one:
        dataset = suite.dataset()
        run = suite.midway(one, dataset)
        renamed = f"{dataset.name}-renamed"
        apart(fault_fiftyone.rename_dataset, dataset.name, renamed)
        dataset.name = renamed
        one.ends(run, DONE)
        one.check(dataset, complete=True)
        one.recover(dataset)
        dataset.delete()
    with suite.fault("dataset deleted by FiftyOne") as one:
        dataset = suite.dataset()
        collection = dataset.document()["sample_collection_name"]
        run = suite.midway(one, dataset)
        # Else it may be done before FiftyOne is.
        run.send(signal.SIGSTOP)
        apart(fault_fiftyone.delete_dataset, dataset.name)
        run.send(signal.SIGCONT)
        one.ends(run, ABORTED, saying="was deleted while camflow worked on it")
        if collection in suite.world.database.list_collection_names() or apart(fault_fiftyone.dataset_exists, dataset.name):
            one.violations.append(f"{dataset.name}: camflow brought a deleted dataset back")
        dataset.delete()
