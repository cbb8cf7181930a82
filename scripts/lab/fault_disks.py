"""The output folder fails: full, without inodes, read-only, or not a folder."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from fault_scenarios import ABORTED, DONE, NOT_STARTED, Fault, Suite
from fault_world import FIELDS

# An .npy and a .png of 32 x 32, in pages.
HEATMAP_BYTES = 3 * 4096


def mount(*arguments: object) -> str:
    """Empty, or why it did not work."""
    done = subprocess.run(["mount", *map(str, arguments)], check=False, capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


class CannotMount(Exception):
    """Faults that need a disk of their own cannot be tried."""


@contextmanager
def disk(folder: Path, options: str):
    """A file system of its own in memory."""
    folder.mkdir(parents=True)
    try:
        if problem := mount("-t", "tmpfs", "-o", options, "camflow-faults", folder):
            raise CannotMount(problem)
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        # For the next time.
        folder.rmdir()


def full(suite: Suite) -> None:
    """The disk fills up while files are written."""
    half = suite.world.num_samples * len(FIELDS) * HEATMAP_BYTES // 2
    # Every sample has a folder or two of its own, beside its files.
    few = suite.world.num_samples * len(FIELDS)
    cases = (
        ("disk full, first run", False, f"size={half}", "size=64m"),
        ("disk full, replacing run", True, f"size={int(2.3 * half)}", "size=64m"),
        ("disk without inodes", False, f"size=64m,nr_inodes={few}", "nr_inodes=100k"),
    )
    for name, replacing, options, more in cases if suite.long else cases[1:2]:
        with suite.fault(name) as one, disk(suite.world.folder / "disks" / name.replace(" ", "-"), options) as folder:
            dataset = suite.dataset(replacing, out=folder)
            one.ends(dataset.run("--no-space-check"), ABORTED, saying="No space left on device")
            one.check(dataset)
            mount("-o", f"remount,{more}", folder)
            one.recover(dataset)
            dataset.delete()


def too_small(suite: Suite) -> None:
    """The disk has room for half of the heatmaps: the run ends before it is full."""
    half = suite.world.num_samples * len(FIELDS) * HEATMAP_BYTES // 2
    with suite.fault("disk too small") as one, disk(suite.world.folder / "disks/small", f"size={half}") as folder:
        dataset = suite.dataset(out=folder)
        one.ends(dataset.run(), ABORTED, saying="the heatmaps will not fit")
        one.check(dataset)
        mount("-o", "remount,size=64m", folder)
        one.recover(dataset)
        dataset.delete()


def read_only(suite: Suite) -> None:
    """The file system becomes read-only, as Linux makes it after an error of the disk."""

    def remount(one: Fault, folder: Path, options: str) -> None:
        # Refused while a file is open for writing.
        for _ in range(10_000):
            if not (problem := mount("-o", f"remount,{options}", folder)):
                return
            time.sleep(0.001)
        one.expect(False, f"the file system could not be made {options}: {problem}")

    with (
        suite.fault("output folder becomes read-only") as one,
        disk(suite.world.folder / "disks/read-only", "size=64m") as folder,
    ):
        dataset = suite.dataset(out=folder)
        run = suite.midway(one, dataset)
        # The writers stand still for a moment, so that none is in the middle of a file for ever.
        remount(one, folder, "ro")
        one.ends(run, ABORTED, saying="Read-only file system")
        one.check(dataset)
        # One that is so from the start.
        before = dataset.document()
        one.ends(dataset.run(), NOT_STARTED, saying="Read-only file system")
        one.expect(dataset.document() == before, "the dataset was changed by a run that could not start")
        remount(one, folder, "rw")
        one.recover(dataset)
        dataset.delete()


def unmounted(suite: Suite) -> None:
    """The disk goes away and comes back; meanwhile there is an empty folder in its place."""
    with suite.fault("output folder is unmounted in the middle of a run") as one:
        store, folder = (suite.world.folder / "disks" / name for name in ("store", "mounted"))
        for place in (store, folder):
            place.mkdir(parents=True)
        one.expect(not (problem := mount("--bind", store, folder)), problem)
        dataset = suite.dataset(out=folder)
        run = suite.midway(one, dataset)
        run.send(signal.SIGSTOP)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        run.send(signal.SIGCONT)
        # Who has the folder open may well finish in it.
        one.ends(run, DONE, ABORTED)
        one.expect(not (problem := mount("--bind", store, folder)), problem)
        one.check(dataset, complete=run.code == DONE)
        one.recover(dataset)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        dataset.delete()


def file_as_output_folder(suite: Suite) -> None:
    with suite.fault("a file in place of the output folder") as one:
        dataset = suite.dataset()
        dataset.out.parent.mkdir(parents=True, exist_ok=True)
        dataset.out.write_text("in the way")
        before = dataset.document()
        one.ends(dataset.run(), NOT_STARTED, saying="cannot make the folder")
        one.expect(dataset.document() == before, "the dataset was changed by a run that could not start")
        dataset.out.unlink()
        one.recover(dataset)
        dataset.delete()


def not_a_folder(suite: Suite) -> None:
    """Files where folders should be: needs no rights."""
    if suite.long:
        file_as_output_folder(suite)
    with suite.fault("a file in place of a field's folder, in the middle of a run") as one:
        dataset = suite.dataset()
        run = suite.midway(one, dataset)
        folder, aside = dataset.out / FIELDS[0], dataset.out / "aside"
        folder.rename(aside)
        # The run may have made the folder again.
        for _ in range(1000):
            try:
                folder.write_text("in the way")
                break
            except IsADirectoryError:
                folder.rename(dataset.out / f"aside-{time.monotonic_ns()}")
        one.ends(run, ABORTED, saying="cannot write to")
        folder.unlink()
        for part in dataset.out.glob("aside*"):
            for file in part.rglob("*.*"):
                place = folder / file.relative_to(part)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.rename(place)
        one.check(dataset)
        one.recover(dataset)
        dataset.delete()


def disks(suite: Suite) -> None:
    not_a_folder(suite)
    try:
        with disk(suite.world.folder / "disks" / "trial", "size=1m"):
            pass
    except CannotMount as error:
        suite.not_tried.update(
            dict.fromkeys(
                ("disk full, too small", "disk without inodes", "output folder becomes read-only, is unmounted"), str(error)
            )
        )
        return
    full(suite)
    too_small(suite)
    read_only(suite)
    unmounted(suite)
