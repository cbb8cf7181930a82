"""Model, images and heatmaps change under a run, or rot."""

from __future__ import annotations

import os
import random
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

from fault_scenarios import DONE, NOT_STARTED, SOME_FAILED, Fault, Suite
from fault_tracer import CannotTrace, Strike, Tracer
from fault_world import EXACT, FIELDS, FLAGS, SINGLE, Dataset, digest

READS = ("read", "pread64", "readv")


def other_weights(model: Path) -> None:
    """Changes the weights in place: the file has the same size and the same names in it."""
    with zipfile.ZipFile(model) as archive:
        largest = max((entry for entry in archive.infolist() if "weights" in entry.filename), key=lambda entry: entry.file_size)
        weights = archive.read(largest)
    at = model.read_bytes().index(weights)
    with model.open("r+b") as file:
        file.seek(at)
        file.write(weights[::-1])


def replaced(model: Path) -> None:
    other = model.with_suffix(".new")
    shutil.copyfile(model, other)
    other_weights(other)
    other.rename(model)


MODEL_CHANGES: dict[str, Callable[[Path], None]] = {
    "overwritten in place": other_weights,
    "truncated": lambda model: os.truncate(model, 0),
    "cut in the middle": lambda model: os.truncate(model, model.stat().st_size // 2),
    "replaced": replaced,
    "deleted": Path.unlink,
}


def exact(suite: Suite) -> Dataset:
    dataset = suite.dataset()
    dataset.labels = dict.fromkeys(dataset.labels, EXACT)
    return dataset


def models(suite: Suite) -> None:
    """The file of the model changes while a run goes on, and while it is read."""
    for what in list(MODEL_CHANGES) if suite.long else list(MODEL_CHANGES)[:2]:
        with suite.fault(f"the model is {what} during a run") as one:
            model = shutil.copyfile(suite.world.model, suite.world.folder / "moving.pt2")
            # As the file has it: without weights in another order of memory.
            dataset = exact(suite)
            run = dataset.run("--model", model, *SINGLE, *FLAGS[EXACT])
            one.expect(run.until_files(1), f"the run ended before the fault: {run.code} {run.errors()[-600:]}")
            run.send(signal.SIGSTOP)
            MODEL_CHANGES[what](model)
            run.send(signal.SIGCONT)
            one.ends(run, DONE)
            one.check(dataset, complete=True)
            one.recover(dataset, *SINGLE, *FLAGS[EXACT])
            dataset.delete()
    try:
        tracer = Tracer(suite.world.folder / "calls-model")
    except CannotTrace as error:
        suite.not_tried["a model that changes while it is read"] = str(error)
        return
    for what in ("overwritten in place", "truncated") if suite.long else ("overwritten in place",):
        with suite.fault(f"the model is {what} while it is read") as one:
            model = shutil.copyfile(suite.world.model, suite.world.folder / "moving.pt2")
            dataset = exact(suite)
            run = dataset.run("--model", model, *SINGLE, *FLAGS[EXACT], before=tracer.before([model], Strike("--stop", 1), READS))
            one.comes_to(run, tracer.has_struck, "reading its model")
            MODEL_CHANGES[what](model)
            run.send(signal.SIGCONT)
            one.ends(run, NOT_STARTED)
            one.check(dataset)
            one.recover(dataset, *SINGLE, *FLAGS[EXACT])
            dataset.delete()


def with_own_images(suite: Suite) -> Dataset:
    """A dataset whose images may be changed."""
    dataset = suite.dataset()
    folder = suite.world.folder / f"images-{dataset.name}"
    folder.mkdir()
    samples = suite.world.database[dataset.document()["sample_collection_name"]]
    for sample in dataset.samples():
        image = shutil.copyfile(sample["filepath"], folder / f"{sample['_id']}.jpg")
        samples.update_one({"_id": sample["_id"]}, {"$set": {"filepath": str(image)}})
    return dataset


def made(dataset: Dataset) -> dict:
    """What each label says and what is in its files."""
    of = ("npy_path", "map_path")
    return {
        (sample["_id"], field): (sample[field]["fingerprint"], *(digest(Path(sample[field][path])) for path in of))
        for sample in dataset.samples()
        for field in FIELDS
        if sample.get(field)
    }


def fits(one: Fault, dataset: Dataset) -> None:
    """The next run makes everything what a run over the images as they are now makes from scratch."""
    one.ends(dataset.run(*SINGLE), DONE)
    after = made(dataset)
    one.ends(dataset.run(*SINGLE, "--overwrite"), DONE)
    anew = made(dataset)
    wrong = (key for key in anew if after.get(key) != anew[key])
    one.violations += [f"{dataset.name}: {key} is not that of its image, and counts as up to date" for key in wrong]
    one.expect(len(anew) == len(dataset.labels) * len(FIELDS), f"only {len(anew)} heatmaps were made")


def images(suite: Suite) -> None:
    with suite.fault("all images are swapped during a run") as one:
        dataset = with_own_images(suite)
        run = suite.midway(one, dataset, *SINGLE)
        run.send(signal.SIGSTOP)
        paths = [Path(sample["filepath"]) for sample in dataset.samples()]
        pictures = [path.read_bytes() for path in paths]
        for path, picture in zip(paths, pictures[1:] + pictures[:1], strict=True):
            path.write_bytes(picture)
        run.send(signal.SIGCONT)
        one.expect(run.wait() in (DONE, SOME_FAILED), f"ended with {run.code}: {run.errors()[-600:]}")
        fits(one, dataset)
        dataset.delete()
    try:
        tracer = Tracer(suite.world.folder / "calls-image")
    except CannotTrace as error:
        suite.not_tried["an image that changes while it is read"] = str(error)
        return
    ways = {
        "overwritten": lambda path, other: path.write_bytes(other.read_bytes()),
        "cut": lambda path, other: os.truncate(path, path.stat().st_size // 2),
        "replaced by one of the same size and time": same_size_and_time,
    }
    for what in list(ways) if suite.long else list(ways)[-1:]:
        with suite.fault(f"an image is {what} while it is read") as one:
            dataset = with_own_images(suite)
            paths = (Path(sample["filepath"]) for sample in dataset.samples())
            other, *_, path = sorted(paths, key=lambda path: path.stat().st_size)
            whole = path.read_bytes()
            run = dataset.run(*SINGLE, before=tracer.before([path], Strike("--stop", 1), READS))
            one.comes_to(run, tracer.has_struck, "reading that image")
            ways[what](path, other)
            run.send(signal.SIGCONT)
            one.expect(run.wait() in (DONE, SOME_FAILED), f"ended with {run.code}: {run.errors()[-600:]}")
            if what == "cut":
                path.write_bytes(whole)
            fits(one, dataset)
            dataset.delete()


def same_size_and_time(path: Path, other: Path) -> None:
    """Only the time of change of the inode tells it."""
    times = path.stat()
    picture = other.read_bytes()
    path.write_bytes(picture + b"\0" * (times.st_size - len(picture)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def rot(suite: Suite) -> None:
    """Files change where they lie."""
    moments = random.Random(suite.seed)

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
        path.write_bytes(content)

    def cut(path: Path) -> None:
        os.truncate(path, moments.randrange(path.stat().st_size))

    def damaged(dataset: Dataset, how: Callable[[Path], None], count: int) -> set[str]:
        labels = [sample[field] for sample in moments.sample(dataset.samples(), count) for field in FIELDS]
        paths = {label[moments.choice(("npy_path", "map_path"))] for label in labels}
        for path in map(Path, paths):
            # A copy instead of the link: others share the file.
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
            how(path)
        return paths

    for what, how, flags in (("cut", cut, ()), ("flipped in one bit", flip, ("--read-data",))):
        with suite.fault(f"files are {what} at random") as one:
            dataset = suite.dataset()
            one.ends(dataset.run(), DONE)
            for count in (1, 5, 10) if suite.long else (5,):
                paths = damaged(dataset, how, count)
                one.count = len(paths)
                check = dataset.check(*flags)
                one.ends(check, SOME_FAILED)
                named = {event["file"] for event in check.events() if event["event"] == "file_damaged"}
                one.expect(named == paths, f"`check` named {named} instead of {paths}")
                run = dataset.run()
                one.ends(run, DONE)
                num_made = run.summary().get("num_committed")
                one.expect(num_made == count, f"{num_made} samples were annotated where {count} had damaged files")
                one.check(dataset, complete=True)
                one.ends(dataset.check("--read-data"), DONE)
            dataset.delete()
    with suite.fault("files of no bytes, which only a run sees") as one:
        dataset = suite.dataset()
        one.ends(dataset.run(), DONE)
        damaged(dataset, lambda path: os.truncate(path, 0), 5)
        run = dataset.run()
        one.ends(run, DONE)
        one.expect(run.summary().get("num_committed") == 5, "not exactly the samples with empty files were annotated")
        one.check(dataset, complete=True)
        dataset.delete()


def inputs(suite: Suite) -> None:
    for group in (models, images, rot):
        group(suite)
