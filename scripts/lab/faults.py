"""Does to camflow what happens in a year of nights, and counts what it survives.

    bash scripts/faults.sh [--long] [--seed N]      each fault a few times, with --long SIGKILL 50 times, every file-system call and more
    bash scripts/faults.sh --soak MINUTES           random faults over and over, and the memory of the first and last run

Real processes throughout: camflow as it is built, a private mongod, datasets made and edited by FiftyOne in another process.
After each fault, and after the run that follows it, every sample is looked at (scripts/lab/fault_checks.py). The last line is

    faults N, survived N, violations N

*Survived* means that the run ended as documented and the next one made everything whole. A *violation* is a reference to what
is missing, incomplete or wrong, or a dataset that FiftyOne cannot read. The exit code is 0 if all is well, else 1.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fault_checks
from fault_copies import copied
from fault_detections import of_detections
from fault_disks import disks
from fault_folders import folders
from fault_hosts import hosts
from fault_inputs import inputs
from fault_outages import cuts, restarts
from fault_scenarios import Suite, kills, people, signals, two_runs
from fault_sweep import SWEPT, sweep
from fault_world import EXACT, SMOOTH, World

ROOT = Path(__file__).resolve().parents[2]
# The allocator's threads share memory out by chance; peaks of equal runs differ by a few percent.
MEMORY_MARGIN = 0.10
NAMESPACE = "CAMFLOW_FAULTS_NAMESPACE"


def say(text: str) -> None:
    print(text, flush=True)


def enter_namespace() -> None:
    """Goes on in a mount namespace of its own, where disks can be made without rights and vanish with the process."""
    if NAMESPACE in os.environ:
        return
    for flags in (["--mount"], ["--map-root-user", "--mount"]):
        command = ["unshare", *flags]
        try:
            works = subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0
        except FileNotFoundError:
            return
        if works:
            os.environ[NAMESPACE] = "1"
            os.execvp("unshare", [*command, sys.executable, *sys.argv])


def small(group, num_samples: int, *variants: str):
    """A group that works on few samples, in a database of its own."""

    def run(suite: Suite) -> None:
        name = group.__name__
        folder = suite.world.folder / name
        with World(folder, suite.world.camflow, num_samples, variants, name=name, beside=suite.world) as world:
            part = suite.part(name)
            part.world = world
            group(part)

    return run


GROUPS = {
    "kills": lambda suite: kills(suite, 50 if suite.long else 10),
    "people": people,
    "two_runs": two_runs,
    "disks": disks,
    "cuts": cuts,
    "sweep": sweep,
    "hosts": hosts,
    "folders": small(folders, 12),
    "copies": small(copied, 24, SMOOTH),
    "inputs": small(inputs, 64, EXACT),
    "detections": of_detections,
    "signals": signals,
    "restarts": restarts,
}
# What waits most of the time, and what has a server of its own.
ASIDE = {"cuts": ("cuts",), "hosts": ("hosts",), "small": ("folders", "copies", "inputs"), "sweep": ("sweep",)}
ASIDE |= {"detections": ("detections",)}


def all_faults(suite: Suite) -> None:
    """Every kind of fault; what waits for a lost database or the end of a lease goes on beside what does not."""
    with ThreadPoolExecutor() as beside:

        def each(names: tuple[str, ...]) -> None:
            for name in names:
                GROUPS[name](suite.part(name))

        waiting = {name: beside.submit(each, names) for name, names in ASIDE.items()}
        for name in ("kills", "people", "two_runs", "disks"):
            GROUPS[name](suite)
        for name in ("cuts", "small", "sweep", "detections"):
            waiting[name].result()
        # Now the server is nobody else's.
        for name in ("signals", "restarts"):
            GROUPS[name](suite)
        waiting["hosts"].result()


def peak(suite: Suite) -> float:
    """Peak memory in MiB of an undisturbed run over everything: the median of three."""
    peaks = []
    for _ in range(3):
        dataset = suite.dataset()
        run = dataset.run()
        if run.wait() != 0:
            raise SystemExit(f"error: an undisturbed run ended with {run.code}\n{run.errors()}")
        peaks.append(run.peak_bytes / 2**20)
        dataset.delete()
    return statistics.median(peaks)


# What meets the most samples in flight comes most often; what takes minutes has no place in a soak.
WEIGHTS = {"kills": 6, "people": 3, "two_runs": 1, "disks": 2, "cuts": 1, "signals": 1, "restarts": 2}


def soak(suite: Suite, minutes: float) -> bool:
    """Random faults until the time is over; whether memory stayed what it was."""
    first, deadline = peak(suite), time.monotonic() + 60 * minutes
    rounds, num_rounds = random.Random(suite.seed), 0
    while time.monotonic() < deadline:
        num_rounds += 1
        name = rounds.choices(list(WEIGHTS), WEIGHTS.values())[0]
        kills(suite, 5) if name == "kills" else GROUPS[name](suite)
    last = peak(suite)
    say(f"soak: {minutes:g} minutes, {num_rounds} rounds")
    say(
        f"peak memory of a run: {first:.1f} MiB at first, {last:.1f} MiB at last ({100 * (last / first - 1):+.1f} %; {100 * MEMORY_MARGIN:.0f} % is allowed)"
    )
    return last <= first * (1 + MEMORY_MARGIN)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--camflow", type=Path, default=target / "debug" / "camflow", metavar="BINARY")
    parser.add_argument("--long", action="store_true", help="more kills, and the driver's own patience")
    parser.add_argument(
        "--soak",
        type=float,
        metavar="MINUTES",
        help="random faults for so long instead; then --long is what one round of a kind does",
    )
    parser.add_argument("--only", choices=GROUPS, help="one group of faults instead")
    parser.add_argument("--swept", choices=SWEPT, help="with --only sweep: one command instead of all")
    parser.add_argument(
        "--first-call",
        type=int,
        default=0,
        metavar="N",
        help="with --swept: from the call with this number on, to go on with a sweep",
    )
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the moments; default: a new one"
    )
    parser.add_argument("--samples", type=int, default=160, metavar="N", help="size of the datasets (default: %(default)s)")
    args = parser.parse_args()
    args.camflow = args.camflow.resolve()
    if not args.camflow.is_file():
        parser.error(f"no camflow at {args.camflow}: run `cargo build` or say --camflow")
    enter_namespace()
    say(f"seed {args.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="camflow-faults-") as folder,
        World(Path(folder), args.camflow, args.samples) as world,
    ):
        say(f"an undisturbed run over {args.samples} samples takes {world.undisturbed_s:.1f} s")
        say(f"the checks notice all of {fault_checks.self_test(world)} ways in which a dataset was broken on purpose")
        suite = Suite(world, args.seed, args.long, say)
        suite.swept, suite.first_call = args.swept, args.first_call
        steady = True
        if args.soak:
            steady = soak(suite, args.soak)
        elif args.only:
            GROUPS[args.only](suite)
        else:
            all_faults(suite)
    for name, reason in suite.not_tried.items():
        say(f"not tried: {name}: {reason}")
    num_faults, num_survived, num_violations = suite.counts()
    say(f"faults {num_faults}, survived {num_survived}, violations {num_violations}")
    return 0 if num_faults == num_survived and steady else 1


if __name__ == "__main__":
    sys.exit(main())
