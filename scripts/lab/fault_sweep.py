"""Every file-system call of annotate, clean and remove goes wrong once, and is once the last."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fault_checks
import fault_fiftyone
from fault_scenarios import ABORTED, DONE, NOT_STARTED, SOME_FAILED, Fault, Suite
from fault_tracer import Call, CannotTrace, Strike, Tracer, lasting_strikes, strikes
from fault_world import FIELDS, NOW, ORIGINAL, SINGLE, Run, World, digest

# The commands that are swept, as `commands` makes them.
FIRST_ANNOTATE, ANNOTATE, CLEAN, REMOVE = SWEPT = ("first annotate", "annotate", "clean", "remove")
# How many calls the short form takes for each command and kind of fault, at even distances.
NUM_SHORT = {"--fail": 2, "--kill-before": 2, "--kill-after": 2}
# Failures that last begin at every fourth call only: what follows is the same for most.
LASTING_STRIDE = 4
NUM_SAMPLES, NUM_NEIGHBOURS = 4, 2
# A field of copies: their files are those of other labels.
KEPT = "kept"
# One thread for each stage, and nothing that depends on which samples meet in a batch.
STEADY = ("--workers", 1, *SINGLE, "--grace", 0)


class State:
    """What the database and the output folder hold, to go back to."""

    def __init__(self, lab: Lab, aside: Path):
        self.world, self.out, self.aside = lab.world, lab.out, aside
        self.labels, self.broken, self.has_neighbour = dict(lab.dataset.labels), set(lab.broken), lab.has_neighbour
        self.documents = {name: list(self.world.database[name].find()) for name in self.world.database.list_collection_names()}
        shutil.copytree(self.out, aside, symlinks=True)

    def restore(self, lab: Lab) -> None:
        database = self.world.database
        for name in set(database.list_collection_names()) | self.documents.keys():
            # Emptied, not dropped: FiftyOne's indexes stay.
            database[name].delete_many({})
            if documents := self.documents.get(name):
                database[name].insert_many(documents)
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.aside, self.out, symlinks=True)
        lab.dataset.labels, lab.broken, lab.has_neighbour = dict(self.labels), set(self.broken), self.has_neighbour


class Lab:
    """Two datasets with heatmaps in one folder, with a field of copies and with files of nobody's in between."""

    def __init__(self, world: World):
        self.world = world
        self.out = world.folder / "maps" / "swept"
        self.dataset = world.clone(ORIGINAL, most=NUM_SAMPLES, out=self.out)
        self.neighbour = world.clone(ORIGINAL, most=NUM_NEIGHBOURS, skip=NUM_SAMPLES, out=self.out)
        self.foreign = self.make_foreign()
        # Labels that lead nowhere already, and may or may not be gone when `clean` was cut off.
        self.broken: set[tuple[str, str]] = set()
        self.has_neighbour = False
        self.untouched = self.state("untouched")
        for dataset in (self.dataset, self.neighbour):
            self.undisturbed(dataset.run(*STEADY))
        world.apart(fault_fiftyone.copy_field, self.dataset.name, FIELDS[0], KEPT)
        self.has_neighbour = True

    def undisturbed(self, run: Run) -> None:
        if run.wait() != DONE:
            raise SystemExit(f"error: an undisturbed run ended with {run.code}\n{run.errors()}")

    def make_foreign(self) -> dict[Path, str]:
        """Files that are nobody's business: by other names, in other places, behind a link."""
        name, bucket = f"{'0' * 22}ab.00000000.png", "ab"
        outside = self.world.folder / "outside"
        field = self.out / FIELDS[0]
        places = [self.out / "notes.txt", field / bucket / "corrected by hand.png", field / "cd" / name]
        places += [outside / bucket / name, self.out / name]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"somebody's own")
        (self.out / "light_elsewhere").symlink_to(outside)
        return {place: digest(place) for place in places}

    def state(self, name: str) -> State:
        return State(self, self.world.folder / "states" / name)

    def stale(self) -> State:
        """Half of the heatmaps are those of earlier labels, and one sample has none."""
        ids = sorted(self.dataset.labels)
        self.dataset.flip_masks(ids[: NUM_SAMPLES // 2])
        samples = self.world.database[self.dataset.document()["sample_collection_name"]]
        last = next(sample for sample in self.dataset.samples() if str(sample["_id"]) == ids[-1])
        samples.update_one({"_id": last["_id"]}, {"$unset": dict.fromkeys((*FIELDS, KEPT), "")})
        return self.state("stale")

    def untidy(self) -> State:
        """Files that nothing refers to (of replaced heatmaps, a deleted sample, a killed run), and a label without files."""
        self.undisturbed(self.dataset.run("--workers", 1, *SINGLE))
        gone = max(self.dataset.labels)
        self.world.apart(fault_fiftyone.delete_samples, self.dataset.name, [gone])
        del self.dataset.labels[gone]
        sample = self.dataset.samples()[-1]
        for of in ("npy_path", "map_path"):
            Path(sample[FIELDS[1]][of]).unlink()
        self.broken = {(str(sample["_id"]), FIELDS[1])}
        file = Path(sample[FIELDS[0]]["npy_path"])
        (file.parent / ".camflow-0a1b2c.tmp").write_bytes(b"half a file")
        state, self.broken = self.state("untidy"), set()
        return state

    def orphans(self) -> list[Path]:
        """Files of camflow's that no label refers to."""
        return [path for path in fault_checks.orphans(self.world, self.out) if path not in self.foreign]

    def labels(self):
        """Dataset, key and label, wherever there is one."""
        for document in self.world.database.datasets.find():
            for sample in self.world.database[document["sample_collection_name"]].find():
                for field, value in sample.items():
                    if isinstance(value, dict) and "fingerprint" in value:
                        yield document["name"], (str(sample["_id"]), field), value

    def wrong(self, complete: bool, unsure: bool = False) -> list[str]:
        """What is wrong anywhere: in the dataset, in other fields and in other datasets, with files of nobody's."""

        def is_known(problem: str) -> bool:
            return any(f"{key} refers to" in problem or f"{key} has no heatmap" in problem for key in self.broken)

        found = [one for one in fault_checks.violations(self.dataset, complete, unsure=unsure) if not is_known(one)]
        found += fault_checks.violations(self.neighbour, complete=self.has_neighbour)

        def is_broken(problem: str) -> bool:
            return any(f"{sample} names" in problem and f"/{field}/" in problem for sample, field in self.broken)

        found += [one for one in fault_checks.dangling(self.world, self.out) if not is_broken(one)]
        for path, before in self.foreign.items():
            if not path.is_file() or digest(path) != before:
                found.append(f"{path} is not as somebody left it")
        return found


@dataclass
class Swept:
    """A command that is swept."""

    name: str
    state: State
    run: Callable[..., Run]
    # Whose calls count.
    folders: list[Path]
    # Whether all heatmaps are there and current when it was not cut off; whether none is left.
    completes: bool = False
    empties: bool = False

    @property
    def tidies(self) -> bool:
        return not self.completes

    def settled(self, lab: Lab, unsure: bool = False) -> list[str]:
        """What is wrong after it said that it has done everything."""
        found = lab.wrong(self.completes, unsure)
        if self.tidies:
            found += [f"{path} is left, to which nothing refers" for path in lab.orphans()]
        if self.empties:
            left = (key for name, key, _ in lab.labels() if name == lab.dataset.name and key[1] in FIELDS)
            found += [f"{lab.dataset.name}: {key} is still there" for key in left]
        return found


def commands(lab: Lab) -> list[Swept]:
    dataset = lab.dataset
    everything = [lab.out, lab.world.folder / "images", lab.world.model]
    stale = lab.stale()
    untidy = lab.untidy()

    def annotate(before: tuple = ()) -> Run:
        return dataset.run(*STEADY, before=before)

    def clean(before: tuple = ()) -> Run:
        return dataset.clean(*NOW, before=before)

    def remove(before: tuple = ()) -> Run:
        return dataset.remove("--apply", "--grace", 0, before=before)

    return [
        # What camflow keeps for itself in a folder that it has never seen.
        Swept(FIRST_ANNOTATE, lab.untouched, annotate, [lab.out / ".camflow"], completes=True),
        Swept(ANNOTATE, stale, annotate, everything, completes=True),
        Swept(CLEAN, untidy, clean, everything),
        Swept(REMOVE, stale, remove, everything, empties=True),
    ]


def strike(lab: Lab, swept: Swept, tracer: Tracer, at: Strike, one: Fault) -> Call | None:
    """One run that is struck, and the one after it; the call that was struck, if it came to it."""
    world, dataset = lab.world, lab.dataset
    swept.state.restore(lab)
    run = swept.run(tracer.before(swept.folders, at))
    run.wait()
    struck = [call for call in tracer.calls() if call.struck]
    if not struck:
        return None
    one.name += f" ({struck[0].name} {struck[0].path.replace(str(world.folder), '')})"
    if at.what.startswith("--kill"):
        one.expect(run.code == -signal.SIGKILL, f"ended with {run.code}")
    else:
        codes = (DONE,) if at.what == "--short" else (DONE, SOME_FAILED, NOT_STARTED, ABORTED)
        one.expect(run.code in codes, f"ended with {run.code} instead of one of {codes}: {run.errors()[-600:]}")
        one.expect(run.code not in (NOT_STARTED, ABORTED) or "\nhint: " in run.errors(), f"gave no hint: {run.errors()[-600:]}")
        one.expect(run.code != SOME_FAILED or run.errors() + run.output(), "did not say what failed")
    # What it says that it has done is done.
    one.violations += swept.settled(lab, unsure=True) if run.code == DONE else lab.wrong(complete=False, unsure=True)
    again = swept.run()
    # There is nothing to remove twice.
    is_gone = swept.empties and again.wait() == NOT_STARTED and "has no heatmap field" in again.errors()
    one.expect(is_gone or again.wait() == DONE, f"the next run ended with {again.code}: {again.errors()[-600:]}")
    one.violations += lab.wrong(swept.completes) if is_gone else swept.settled(lab)
    clean = dataset.clean(*NOW)
    one.expect(clean.wait() == DONE, f"`clean` ended with {clean.code} then: {clean.errors()[-600:]}")
    one.violations += [*lab.wrong(swept.completes), *(f"{path} is left after `clean`" for path in lab.orphans())]
    return struck[0]


def self_test(lab: Lab) -> int:
    """Breaks what only this file looks at, each alone; how many ways. Raises where one goes unnoticed."""
    labels = lab.labels()
    path = next(Path(label["npy_path"]) for name, key, label in labels if name == lab.dataset.name and key[1] == KEPT)
    note = lab.out / "notes.txt"
    breaks = {
        f"names `{path}`, which does not": path.unlink,
        f"{note} is not as": lambda: note.write_bytes(b"else"),
        f"{lab.neighbour.name}: (": lambda: shutil.rmtree(lab.out / FIELDS[1]),
        "to which nothing refers": lambda: shutil.copyfile(path, path.with_name(f"{'0' * 24}.00000000.npy")),
    }
    state = lab.state("whole")
    looking = Swept("", state, lab.dataset.clean, [])
    for expected, damage in breaks.items():
        damage()
        found = looking.settled(lab)
        if not any(expected in one for one in found):
            raise SystemExit(f"error: the checks do not notice `{expected}`; they found {found[:3]}")
        state.restore(lab)
    if found := looking.settled(lab):
        raise SystemExit(f"error: the checks find faults where there are none: {found[:3]}")
    return len(breaks)


def planned(calls: list[Call], long: bool) -> list[Strike]:
    """What is done to a command that makes these calls."""
    found = [one for call in calls for one in strikes(call)]
    found += [one for call in calls[::LASTING_STRIDE] for one in lasting_strikes(call)]
    if long:
        return found
    kinds: dict[str, list[Strike]] = {}
    for one in found:
        kinds.setdefault(str(one), []).append(one)
    chosen = []
    for number, same in enumerate(kinds.values()):
        count = min(NUM_SHORT.get(same[0].what, 1), len(same))
        # Each kind begins elsewhere.
        shift = number * len(same) // len(kinds)
        chosen += [same[(shift + n * len(same) // count) % len(same)] for n in range(count)]
    return chosen


def sweep(suite: Suite) -> None:
    try:
        tracer = Tracer(suite.world.folder / "calls")
    except CannotTrace as error:
        suite.not_tried["sweep of file-system calls"] = str(error)
        return
    num_samples = NUM_SAMPLES + NUM_NEIGHBOURS
    with World(suite.world.folder / "sweep", suite.world.camflow, num_samples, name="sweep", beside=suite.world) as world:
        lab = Lab(world)
        suite.tell(f"the sweep's checks notice all of {self_test(lab)} ways in which a folder was broken on purpose")
        plan: list[tuple[Swept, Strike]] = []
        for swept in commands(lab):
            if suite.swept not in (None, swept.name):
                continue
            swept.state.restore(lab)
            lab.undisturbed(swept.run(tracer.before(swept.folders)))
            if problems := swept.settled(lab):
                raise SystemExit(f"error: {swept.name} without a fault leaves {problems[:3]}")
            calls = tracer.calls()
            counts = ", ".join(f"{count} {name}" for name, count in Counter(call.name for call in calls).most_common())
            suite.tell(f"{swept.name} makes {len(calls)} file-system calls: {counts}")
            plan += [(swept, one) for one in planned(calls, suite.long) if one.number >= suite.first_call]
        tried, missed = Counter(), 0
        suite.tell(f"{len(plan)} times a call goes wrong")
        for swept, at in plan:
            with suite.fault(f"{swept.name}, call {at.number}: {at}", quiet=True) as one:
                struck = strike(lab, swept, tracer, at, one)
                # Threads take turns as they like, and make a call less now and then.
                one.count = int(struck is not None)
            missed += not one.count
            tried[swept.name, str(at)] += one.count
        for (name, what), count in sorted(tried.items()):
            suite.tell(f"swept     {name}: {what}, {count} times")
        if missed:
            suite.tell(f"swept     {missed} calls were not made again")
