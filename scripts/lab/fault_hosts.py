"""Holders that sleep longer than their lease lasts, hosts that cannot see each other's processes, and clocks that are set."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fault_scenarios import ABORTED, DONE, LOCKED, Fault, Suite
from fault_tracer import CannotTrace, Strike, Tracer
from fault_world import FIELDS, FLAGS, NOW, ORIGINAL, SINGLE, SMOOTH, Dataset, Run, World
from tcp_proxy import UPDATE, Gate

# After so long nobody has renewed a lease; whoever waits for it watches it for some seconds more.
LEASE_S = 90
# Long after that: it will never be free.
FREE_S = 240
# How many samples each sleeper has for itself.
NUM_SAMPLES = 6
UNLINKS = ("unlink", "unlinkat")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SOURCE = Path(__file__).with_name("fault_clock.c")


class CannotPretend(Exception):
    """The system does not let a program see another host, clock or process list."""


def checked(before: tuple) -> tuple:
    """A way to start a program, which works."""
    try:
        done = subprocess.run([str(part) for part in (*before, "true")], check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise CannotPretend(str(error)) from None
    if done.returncode != 0:
        raise CannotPretend(done.stderr.strip())
    return before


def seeing(folder: Path, place: str, content: str, *namespaces: str, first: str = "true") -> tuple:
    """What starts a program that sees another content at a place of the system's."""
    file = folder / f"{Path(place).name}-{abs(hash((content, namespaces)))}"
    file.write_text(content)
    script = f'{first} && mount --bind {shlex.quote(str(file))} {place} && exec "$@"'
    return checked(("unshare", "--mount", *namespaces, "sh", "-c", script, "sh"))


def other_host(folder: Path) -> tuple:
    boot_id = "00000000-1111-4222-8333-444444444444\n"
    return seeing(folder, BOOT_ID, boot_id, "--uts", first="hostname other-host")


def built_clock(folder: Path) -> Path:
    library = folder / "fault_clock.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotPretend(f"`{SOURCE.name}` does not compile here: {done.stderr.strip()[:300]}")
    return library


def awaited(one: Fault, start: Callable[[], Run], deadline: float, held: bool = True) -> Run:
    """Started once while somebody else holds the lease, and again and again when it should have run out."""
    run = start()
    if held:
        one.expect(run.wait() == LOCKED, f"began although another holds the lease: {run.code} {run.errors()[-600:]}")
    time.sleep(max(0, deadline - FREE_S + LEASE_S - time.monotonic()))
    while run.wait() == LOCKED and time.monotonic() < deadline:
        time.sleep(5)
        run = start()
    return run


def asleep(one: Fault, run: Run, reached: Callable[[], bool]) -> float:
    """Sends a run to sleep once it has come to something; when its lease will surely be free."""
    one.comes_to(run, reached, "where it was to fall asleep")
    run.send(signal.SIGSTOP)
    return time.monotonic() + FREE_S


def annotate_asleep(suite: Suite, host: tuple, dataset: Dataset, clean: bool = False) -> None:
    """Its update is on its way when it falls asleep."""
    what = "removes the orphans of its folder" if clean else "annotates otherwise"
    port = suite.world.mongod.port
    with suite.fault(f"annotate sleeps past its lease, another host {what}") as one, Gate(port, *UPDATE) as gate:
        sleeper = dataset.run(*SINGLE, uri=f"mongodb://127.0.0.1:{gate.port}")
        deadline = asleep(one, sleeper, gate.reached.is_set)
        if clean:
            one.ends(awaited(one, lambda: dataset.clean(*NOW, before=host), deadline), DONE)
        else:
            one.ends(awaited(one, lambda: dataset.run(*SINGLE, *FLAGS[SMOOTH], before=host), deadline), DONE)
            dataset.labels = dict.fromkeys(dataset.labels, SMOOTH)
            one.check(dataset, complete=True)
        sleeper.send(signal.SIGCONT)
        gate.open()
        one.ends(sleeper, ABORTED, saying="lease")
        # The winner's labels are as the winner made them.
        one.check(dataset, complete=not clean)
        dataset.labels = dict.fromkeys(dataset.labels, ORIGINAL)
        one.recover(dataset)
        dataset.delete()


def clean_asleep(suite: Suite, host: tuple, dataset: Dataset) -> None:
    """It removes files when it falls asleep; meanwhile another host makes the same files anew, and labels for them."""
    with suite.fault("clean sleeps past its lease, another host wants its files") as one:
        tracer = Tracer(dataset.world.folder / f"calls-{dataset.name}")
        for flags in (SINGLE, (*SINGLE, *FLAGS[SMOOTH])):
            one.ends(dataset.run(*flags), DONE)
        folders = [dataset.out / field for field in FIELDS]
        sleeper = dataset.clean("--apply", "--grace", 0, before=tracer.before(folders, Strike("--stop", 1), UNLINKS))
        removed_asleep(one, host, dataset, sleeper, tracer)


def remove_asleep(suite: Suite, host: tuple, dataset: Dataset) -> None:
    """It has taken the labels away and removes their files when it falls asleep."""
    with suite.fault("remove sleeps past its lease, another host annotates again") as one:
        tracer = Tracer(dataset.world.folder / f"calls-{dataset.name}")
        one.ends(dataset.run(*SINGLE), DONE)
        folders = [dataset.out / field for field in FIELDS]
        sleeper = dataset.remove("--apply", "--grace", 0, before=tracer.before(folders, Strike("--stop", 1), UNLINKS))
        removed_asleep(one, host, dataset, sleeper, tracer)


def removed_asleep(one: Fault, host: tuple, dataset: Dataset, sleeper: Run, tracer: Tracer) -> None:
    deadline = asleep(one, sleeper, tracer.has_struck)
    one.ends(awaited(one, lambda: dataset.run(*SINGLE, before=host), deadline), DONE)
    one.check(dataset, complete=True)
    sleeper.send(signal.SIGCONT)
    one.ends(sleeper, ABORTED, saying="lease")
    one.check(dataset, complete=True)
    one.recover(dataset)
    dataset.delete()


def unseen(suite: Suite, dataset: Dataset) -> None:
    """A holder that lives, looked at from where it seems to have ended, to have started at another time, or not to be there."""
    folder = suite.world.folder
    statistics = Path("/proc/stat").read_text()
    set_by_5_s = re.sub(r"btime (\d+)", lambda found: f"btime {int(found[1]) + 5}", statistics)
    clock = folder / "ahead"
    clock.write_text("7200")
    views = {
        "after the clock was set": lambda: seeing(folder, "/proc/stat", set_by_5_s),
        "from another time namespace": lambda: checked(("unshare", "--time", "--boottime", 86400, "--fork")),
        "from a container with processes of its own": lambda: checked(("unshare", "--pid", "--fork", "--mount-proc")),
        "from another host": lambda: other_host(folder),
        "with a clock two hours ahead": lambda: checked(("env", f"LD_PRELOAD={built_clock(folder)}", f"FAULT_CLOCK={clock}")),
    }
    owner = dataset.run(*SINGLE)
    owner.until_files(2)
    owner.send(signal.SIGSTOP)
    for name, view in views.items():
        try:
            before = view()
        except CannotPretend as error:
            suite.not_tried[f"a holder looked at {name}"] = str(error)
            continue
        with suite.fault(f"a holder that lives, looked at {name}") as one:
            one.expect(owner.poll() is None, f"the owner ended before the fault: {owner.code}")
            one.ends(dataset.run(*SINGLE, *FLAGS[SMOOTH], before=before), LOCKED)
            one.ends(dataset.clean(*NOW, before=before), LOCKED)
    owner.send(signal.SIGCONT)
    with suite.fault("the holder that was looked at") as one:
        one.ends(owner, DONE)
        one.check(dataset, complete=True)
        one.recover(dataset)
    dataset.delete()


def servers_clock(suite: Suite, host: tuple, clock: Path) -> None:
    """The database server's clock is set."""
    port = suite.world.mongod.port
    with suite.fault("the server's clock goes forward under a holder") as one, Gate(port, *UPDATE) as gate:
        dataset = suite.dataset()
        owner = dataset.run(*SINGLE, uri=f"mongodb://127.0.0.1:{gate.port}")
        one.comes_to(owner, gate.reached.is_set, "its first update")
        clock.write_text("7200")
        other = dataset.run(*SINGLE, *FLAGS[SMOOTH], before=host)
        other.wait()
        gate.open()
        # Either is right, but only one of them wrote.
        one.ends(other, LOCKED, DONE)
        one.ends(owner, *((DONE,) if other.code == LOCKED else (ABORTED,)))
        dataset.labels = dict.fromkeys(dataset.labels, ORIGINAL if other.code == LOCKED else SMOOTH)
        one.check(dataset, complete=True)
        dataset.delete()
    with (
        suite.fault("the server's clock goes back under a holder, which then dies on another host") as one,
        Gate(port, *UPDATE) as gate,
    ):
        dataset = suite.dataset()
        owner = dataset.run(*SINGLE, uri=f"mongodb://127.0.0.1:{gate.port}", before=host)
        one.comes_to(owner, gate.reached.is_set, "its first update")
        # Its lease would last for two hours more, and it goes on renewing it.
        clock.write_text("0")
        one.ends(dataset.run(*SINGLE, *FLAGS[SMOOTH]), LOCKED)
        owner.kill()
        gate.drop()
        one.ends(awaited(one, lambda: dataset.run(*SINGLE), time.monotonic() + FREE_S, held=False), DONE)
        one.check(dataset, complete=True)
        dataset.delete()


def hosts(suite: Suite) -> None:
    """In a world of its own, whose server's clock can be set."""
    folder = suite.world.folder / "hosts"
    folder.mkdir()
    clock = folder / "clock"
    clock.write_text("0")
    try:
        server = {**os.environ, "LD_PRELOAD": str(built_clock(folder)), "FAULT_CLOCK": str(clock)}
        host = other_host(folder)
        Tracer(folder / "calls")
    except (CannotPretend, CannotTrace) as error:
        suite.not_tried["holders that sleep, other hosts, clocks that are set"] = str(error)
        return
    cases = [annotate_asleep, clean_asleep]
    if suite.long:
        cases += [lambda *where: annotate_asleep(*where, clean=True), remove_asleep]
    # No dataset has a sample of another: files of the same names would count as referred to.
    num_samples = NUM_SAMPLES * (len(cases) + 2)
    more = {"name": "hosts", "beside": suite.world, "server": server}
    with World(folder / "world", suite.world.camflow, num_samples, (SMOOTH,), **more) as world:
        suite.world = world
        datasets = [world.clone(most=NUM_SAMPLES, skip=NUM_SAMPLES * n) for n in range(len(cases))]
        with ThreadPoolExecutor(len(cases)) as beside:
            waiting = [beside.submit(case, suite, host, dataset) for case, dataset in zip(cases, datasets, strict=True)]
            unseen(suite, world.clone(skip=NUM_SAMPLES * len(cases)))
            for one in waiting:
                one.result()
        if suite.long:
            servers_clock(suite, host, clock)
