"""What happens to an output folder: others share it, it is not there, it cannot be read, people put their own files there."""

from __future__ import annotations

import errno
import shutil
import signal
from pathlib import Path

import fault_checks
import fault_fiftyone
from fault_scenarios import ABORTED, DONE, LOCKED, NOT_STARTED, Fault, Suite
from fault_tracer import CannotTrace, Strike, Tracer
from fault_world import FIELDS, NOW, Dataset, World, digest
from tcp_proxy import UPDATE, Gate

NUM_SAMPLES = 6
FAILURES = (errno.EACCES, errno.EIO, errno.ESTALE)


def contents(dataset: Dataset) -> tuple:
    """All that camflow must not touch when it refuses to do something."""
    files = {path: digest(path) for path in dataset.out.rglob("*") if path.is_file() and ".camflow" not in path.parts}
    return dataset.document(), dataset.samples(), files


def shared(suite: Suite, world: World) -> tuple[Dataset, Dataset]:
    """Two datasets with one folder, the first with heatmaps; the second is of `world`."""
    mine = suite.world.clone(most=NUM_SAMPLES)
    return mine, world.clone(most=NUM_SAMPLES, skip=NUM_SAMPLES, out=mine.out)


def neighbours(suite: Suite) -> None:
    """What one dataset's clean and remove do while a run of another one has files that no label names yet."""
    port = suite.world.mongod.port
    for name, world in (("dataset", suite.world), ("database", suite.world.beside)):
        what = f"clean and remove beside a run of another {name} in the same folder"
        with suite.fault(what) as one, Gate(port, *UPDATE) as gate:
            mine, other = shared(suite, world)
            one.ends(mine.run(), DONE)
            run = other.run(uri=f"mongodb://127.0.0.1:{gate.port}")
            one.comes_to(run, gate.reached.is_set, "its first update")
            # Who cannot ask the other database may say that instead.
            codes = (LOCKED,) if world is suite.world else (LOCKED, NOT_STARTED)
            one.ends(mine.clean(*NOW), *codes)
            one.ends(mine.remove("--apply", "--grace", 0), *codes)
            gate.open()
            one.ends(run, DONE)
            one.check(other, complete=True)
            one.check(mine, complete=True)
            # What may be done now does not touch the other's either.
            mine.clean(*NOW).wait()
            one.check(mine, complete=True)
            mine.remove("--apply", "--grace", 0).wait()
            one.check(other, complete=True)
            for dataset in (other, mine):
                dataset.delete()
    with suite.fault("clean after a run of another dataset was killed: its files are young") as one, Gate(port, *UPDATE) as gate:
        mine, other = shared(suite, suite.world)
        one.ends(mine.run(), DONE)
        run = other.run(uri=f"mongodb://127.0.0.1:{gate.port}")
        one.comes_to(run, gate.reached.is_set, "its first update")
        run.kill()
        gate.drop()
        before = contents(other)
        one.ends(mine.clean("--apply", "--force"), DONE)
        one.expect(contents(other)[2].keys() >= {path for path in before[2] if path.suffix != ".tmp"}, "young files are gone")
        one.recover(other)
        one.check(mine, complete=True)
        for dataset in (other, mine):
            dataset.delete()


def refused(one: Fault, dataset: Dataset, commands, *codes: int, saying: str = "") -> None:
    """None of these changes anything."""
    for command in commands:
        before = contents(dataset)
        one.ends(command(), *codes, saying=saying)
        if contents(dataset) != before:
            one.violations.append(f"{dataset.name}: something was changed by a command that was refused")


def gone(suite: Suite) -> None:
    """The folder is somewhere else: not mounted, moved, or another one is mounted in its place."""
    with suite.fault("the output folder is not the one that it was") as one:
        dataset = suite.world.clone(most=NUM_SAMPLES)
        stranger = suite.world.clone(most=NUM_SAMPLES, skip=NUM_SAMPLES)
        for each in (dataset, stranger):
            one.ends(each.run(), DONE)
        aside = dataset.out.with_name(f"{dataset.out.name}-aside")
        dataset.out.rename(aside)
        places = {
            "moved away": lambda: None,
            "not mounted": dataset.out.mkdir,
            "another one": lambda: shutil.copytree(stranger.out, dataset.out),
        }
        for place, put in places.items():
            put()
            was_there = dataset.out.exists()
            refused(one, dataset, (lambda: dataset.clean(*NOW), dataset.run), NOT_STARTED)
            one.expect(dataset.out.exists() == was_there, f"a folder was made where it was {place}")
            shutil.rmtree(dataset.out, ignore_errors=True)
        aside.rename(dataset.out)
        one.ends(dataset.clean(*NOW), DONE)
        one.check(dataset, complete=True)
        one.recover(dataset)
        for each in (dataset, stranger):
            each.delete()


def unreadable(suite: Suite) -> None:
    """It is there, and cannot be looked at from some moment on."""
    try:
        tracer = Tracer(suite.world.folder / "calls-unreadable")
    except CannotTrace as error:
        suite.not_tried["a folder that cannot be read"] = str(error)
        return
    with suite.fault("the output folder cannot be read") as one:
        dataset = suite.world.clone(most=NUM_SAMPLES)
        one.ends(dataset.run(), DONE)
        one.ends(dataset.clean(*NOW, before=tracer.before([dataset.out])), DONE)
        total = len(tracer.calls())
        shares = (0, 0.3, 0.6, 0.9) if suite.long else (0, 0.5)
        strikes = [Strike("--fail-from", 1 + int(share * total), error) for share in shares for error in FAILURES]
        # Gone between one look and the next.
        strikes += [Strike("--fail-from", 1 + int(share * total), errno.ENOENT) for share in shares]
        one.count = len(strikes)
        for strike in strikes:
            before = contents(dataset)
            run = dataset.clean(*NOW, before=tracer.before([dataset.out], strike))
            said = f"{strike} from call {strike.number}: ended with {run.wait()}: {run.errors()[-300:]}"
            one.expect(run.code in (NOT_STARTED, ABORTED) and "\nhint: " in run.errors(), said)
            if contents(dataset) != before:
                one.violations.append(f"{dataset.name}: something was changed by {strike} from call {strike.number}")
        one.ends(dataset.clean(*NOW), DONE)
        one.check(dataset, complete=True)
        one.recover(dataset)
        dataset.delete()


def landslides(suite: Suite) -> None:
    """Much is missing at once."""
    with suite.fault("a third of the files were deleted by hand") as one:
        dataset = suite.world.clone(most=NUM_SAMPLES)
        one.ends(dataset.run(), DONE)
        lost = [dataset.samples()[n][field] for n in (0, 1) for field in FIELDS]
        for path in (Path(label[of]) for label in lost for of in ("npy_path", "map_path")):
            path.unlink()
        numbers = f"{len(lost)} of {NUM_SAMPLES * len(FIELDS)} heatmap labels"
        refused(one, dataset, (lambda: dataset.clean("--apply"),), NOT_STARTED, saying=numbers)
        one.ends(dataset.clean("--apply", "--force"), DONE)
        one.check(dataset)
        one.recover(dataset)
        dataset.delete()
    with suite.fault("half of the samples were deleted, and their files are orphans") as one:
        dataset = suite.world.clone(most=NUM_SAMPLES)
        one.ends(dataset.run(), DONE)
        half = sorted(dataset.labels)[: NUM_SAMPLES // 2]
        suite.world.apart(fault_fiftyone.delete_samples, dataset.name, half)
        for sample in half:
            del dataset.labels[sample]
        refused(one, dataset, (lambda: dataset.clean("--apply", "--grace", 0),), NOT_STARTED)
        # Young, for all that it knows.
        one.ends(dataset.clean("--apply", "--force"), DONE)
        one.expect(fault_checks.orphans(suite.world, dataset.out), "young orphans are gone")
        one.ends(dataset.clean(*NOW), DONE)
        one.expect(not (left := fault_checks.orphans(suite.world, dataset.out)), f"orphans are left: {left[:3]}")
        one.check(dataset, complete=True)
        dataset.delete()


def foreign(suite: Suite) -> None:
    """Labels name files that are not camflow's, and these labels are replaced."""
    with suite.fault("labels name somebody's own files, behind a link, above the folder, without a fingerprint") as one:
        dataset = suite.dataset(replacing=True)
        outside = suite.world.folder / "precious"
        outside.mkdir(exist_ok=True)
        (dataset.out / "link").symlink_to(outside)
        ours = Path(dataset.samples()[0][FIELDS[0]]["map_path"]).name
        by_hand, bare = dataset.out / "mine/by hand.png", dataset.out / "bare.png"
        named = {by_hand: by_hand, bare: bare, outside / ours: dataset.out / "link" / ours}
        named[outside / "thesis.png"] = f"{dataset.out}/../../precious/thesis.png"
        samples = suite.world.database[dataset.document()["sample_collection_name"]]
        for number, (path, name) in enumerate(named.items()):
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(dataset.samples()[number][FIELDS[0]]["map_path"], path)
            change = {"$set": {f"{FIELDS[0]}.map_path": str(name)}}
            if path == bare:
                change["$unset"] = dict.fromkeys((f"{FIELDS[0]}.fingerprint", f"{FIELDS[0]}.npy_path"), "")
            samples.update_one({"_id": dataset.samples()[number]["_id"]}, change)
        before = {path: digest(path) for path in named}
        one.ends(dataset.run("--grace", 0), DONE)
        one.ends(dataset.clean(*NOW), DONE)
        for path, content in before.items():
            if not path.is_file() or digest(path) != content:
                one.violations.append(f"{path} is not as somebody left it")
        one.recover(dataset)
        one.ends(dataset.remove("--apply", "--grace", 0), DONE)
        one.violations += [f"{path} is gone" for path in before if not path.is_file()]
        dataset.delete()


def in_turn(suite: Suite) -> None:
    """A run comes while `clean` or `remove` is between two files."""
    try:
        tracer = Tracer(suite.world.folder / "calls-in-turn")
    except CannotTrace as error:
        suite.not_tried["a run beside clean and remove"] = str(error)
        return
    with suite.fault("a run beside clean and remove") as one:
        dataset = suite.dataset(replacing=True)
        one.ends(dataset.run(), DONE)
        places = [dataset.out / field for field in FIELDS]
        for command, flags in ((dataset.clean, NOW), (dataset.remove, ("--apply", "--grace", 0))):
            removing = command(*flags, before=tracer.before(places, Strike("--stop", 2), ("unlink", "unlinkat")))
            one.comes_to(removing, tracer.has_struck, "its second file")
            one.ends(dataset.run(), LOCKED)
            removing.send(signal.SIGCONT)
            one.ends(removing, DONE)
            one.check(dataset)
            one.recover(dataset)
        dataset.delete()


def folders(suite: Suite) -> None:
    for group in (neighbours, gone, unreadable, landslides, foreign, in_turn):
        group(suite)
