"""How fast camflow is: beside FiftyOne's tutorial and beside Python at its best, in one session, on the same images and weights.

    bash scripts/bench.sh [--json FILE] [--markdown FILE] [--plot FILE] [--repeat N] [--samples N] [--only NAME ...]
    python scripts/lab/bench.py --from FILE --plot FILE           table and picture of a finished benchmark
    python scripts/lab/bench.py --flat-memory 2000                camflow's memory over a long run

Every contender is a process of its own that does the whole job: images from files, heatmaps of four layers, into fields of a
FiftyOne dataset in a database of this benchmark's own. Its rate is that of the loop over the images; starting the process and
loading the model are shown apart. Peak memory is that of its largest process, CPU time that of all of them (in Python that of
the loop, else from start to end). The tutorial's loop is slow, so it gets the first few images only. With --repeat contenders take turns, and medians count.

The model is torchvision's DeepLabV3-ResNet50, with published weights where torch has downloaded them before, else random ones.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import filing
from private_mongod import PrivateMongod

# Nothing large is imported here: a child's peak memory begins with that of its parent.

ROOT = Path(__file__).resolve().parents[2]
CONTENDERS = {
    "notebook": "(a) the tutorial's loop",
    "python": "(b) good Python",
    "tuned": "(c) tuned Python",
    "tuned_bf16": "(c) tuned Python, bf16",
    "camflow_exact": "(d) camflow --exact",
    "camflow": "(d) camflow",
    "camflow_bf16": "(d) camflow --precision bf16",
}
CAMFLOW_FLAGS = {"camflow_exact": ["--exact"], "camflow": [], "camflow_bf16": ["--precision", "bf16"]}
# By name: which rate over which.
RATIOS = {
    "fp32_vs_notebook": ("camflow", "notebook"),
    "bf16_vs_notebook": ("camflow_bf16", "notebook"),
    "exact_vs_notebook": ("camflow_exact", "notebook"),
    "fp32_vs_python": ("camflow", "python"),
    "fp32_vs_tuned": ("camflow", "tuned"),
    "bf16_vs_tuned": ("camflow_bf16", "tuned_bf16"),
    "end_to_end_vs_device": ("camflow", "device"),
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------ processes


def measure(command: list, log: Path, environment: dict) -> dict:
    """Runs a process to its end: its lines of JSON, wall and CPU seconds, peak resident memory."""
    start = time.perf_counter()
    with log.open("w") as out, log.with_suffix(".err").open("w") as err:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=environment, cwd=ROOT)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.send_signal(signal.SIGTERM)
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text()
    if process.returncode != 0:
        raise SystemExit(
            f"error: {' '.join(map(str, command))} ended with {process.returncode}\n{text[-2000:]}\n{log.with_suffix('.err').read_text()[-4000:]}"
        )
    return {
        "lines": [json.loads(line) for line in text.splitlines() if line.startswith("{")],
        "wall_s": time.perf_counter() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_memory_bytes": usage.ru_maxrss * 1024,
    }


class Session:
    """What all measurements of a benchmark share."""

    def __init__(self, args: argparse.Namespace, folder: Path, uri: str):
        self.args, self.folder = args, folder
        self.environment = {**os.environ, "FIFTYONE_DATABASE_URI": uri, "FIFTYONE_DO_NOT_TRACK": "true"}
        self.uri = uri
        self.round = 0

    def child(self, role: str) -> dict:
        """A role of bench_contenders.py."""
        command = [sys.executable, ROOT / "scripts" / "lab" / "bench_contenders.py", role, self.folder]
        return measure(command, self.folder / f"{role}.{self.round}.log", self.environment)

    def contender(self, name: str, job: dict) -> dict:
        found = self.child(name) if name not in CAMFLOW_FLAGS else self.camflow(name, job)
        lines = found.pop("lines")
        result = lines[-1]
        if name in CAMFLOW_FLAGS:
            result = next(line for line in lines if line.get("event") == "run_finished")
            if result["num_committed"] != job["samples"]:
                raise SystemExit(f"error: {name} annotated {result['num_committed']} of {job['samples']} samples: {result}")
            stages = {stage: times["busy_s"] for stage, times in result["stages"].items()}
            result = {"num_samples": result["num_committed"], "loop_s": result["elapsed_s"], "busy_s": stages}
        found.update(result)
        found["start_s"] = found["wall_s"] - found["loop_s"]
        return found

    def camflow(self, name: str, job: dict) -> dict:
        command = [self.args.camflow, "annotate", "--dataset", f"bench-{name}", "--class", self.args.class_name]
        command += ["--layers", ",".join(self.args.layers), "--target", "labels:ground_truth", "--model", job["archive"]]
        command += ["--out", self.folder / "maps" / name, "--device", job["device"]]
        command += ["--database-uri", self.uri, "--overwrite", "--format", "json", *CAMFLOW_FLAGS[name]]
        return measure(command, self.folder / f"{name}.{self.round}.log", self.environment)

    def device(self, job: dict) -> dict:
        """The device stage alone, in the batches that camflow takes by default."""
        command = [self.args.device_rate, job["archive"], self.folder / "input.npy", self.folder / "mask.npy", job["channel"]]
        command += [",".join(job["layers"]), job["device"], job["samples"], "auto", "fp32"]
        found = measure(command, self.folder / f"device.{self.round}.log", self.environment)
        found.update(found.pop("lines")[-1])
        found["start_s"] = found["wall_s"] - found["loop_s"]
        return found


# -------------------------------------------------------------------------------------------------------- results


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], check=False, capture_output=True, text=True, cwd=ROOT)
        return done.stdout.strip()

    # Results that are being filed are no change of what was measured.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches/RESULTS.md", ":!benches/bench.svg")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def median(runs: list[dict], key: str) -> float | None:
    found = [run[key] for run in runs if key in run]
    return statistics.median(found) if found else None


def summarised(runs: list[dict]) -> dict:
    """The medians over a contender's runs, and the runs."""
    rate = statistics.median(run["num_samples"] / run["loop_s"] for run in runs)
    # Without the start where the contender says so itself.
    cpu = statistics.median(run.get("loop_cpu_s", run["cpu_s"]) / run["num_samples"] for run in runs)
    keys = ("peak_memory_bytes", "cpu_s", "start_s", "gpu_memory_bytes")
    figures = {key: median(runs, key) for key in keys}
    return {
        "num_samples": runs[0]["num_samples"],
        "images_per_s": rate,
        "s_per_image": 1 / rate,
        "cpu_s_per_image": cpu,
        **figures,
        "runs": runs,
    }


def ratios(contenders: dict) -> dict:
    def ratio(over: str, under: str) -> float | None:
        known = contenders.get(over) and contenders.get(under)
        return contenders[over]["images_per_s"] / contenders[under]["images_per_s"] if known else None

    return {name: ratio(*pair) for name, pair in RATIOS.items()}


def machine_text(result: dict) -> str:
    machine = result["machine"]
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)} ({machine['cpu']})"
    return f"{cores}, {machine['gpu'] or 'no GPU'}"


def table(result: dict) -> str:
    """What `benches/RESULTS.md` holds, in Markdown."""
    contenders = result["contenders"]
    height, width = result["input"][1:]
    counts = f"{result['samples']} images ({result['notebook_samples']} for the tutorial's loop)"
    rounds = f"Medians of {result['repeat']} rounds in turn. " if result["repeat"] > 1 else ""
    lines = [
        f"{result['date']}, {machine_text(result)}, torch {result['torch']}, commit {result['commit']}.",
        f"{result['model']}, {result['weights']} weights, 3x{height}x{width}, {len(result['layers'])} layers, {counts}. {rounds}Batches of {result['batch_size']} in Python.",
        "",
        "| | images/s | s per image | times (a) | peak memory | CPU s per image | start |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = contenders.get("notebook")
    for name, one in contenders.items():
        label = CONTENDERS.get(name, "camflow's device stage alone")
        times = f"{one['images_per_s'] / base['images_per_s']:.1f}" if base else ""
        memory = f"{one['peak_memory_bytes'] / 2**30:.2f} GiB"
        if one["gpu_memory_bytes"]:
            memory += f" (GPU {one['gpu_memory_bytes'] / 2**30:.2f})"
        lines.append(
            f"| {label} | {one['images_per_s']:.3f} | {one['s_per_image']:.2f} | {times} | {memory} | {one['cpu_s_per_image']:.1f} | {one['start_s']:.1f} s |"
        )
    lines += ["", "| ratio | |", "| --- | --- |"]
    lines += [f"| `{name}` | {value:.2f} |" for name, value in result["ratios"].items() if value is not None]
    deviation = result["agreement"]
    lines += ["", f"Distance to the heatmaps of {CONTENDERS[deviation['base']]}, over {deviation['num_maps']} maps:", ""]
    lines += ["| | largest | median of the maps' largest | mean |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {CONTENDERS[name]} | {d['max']:.1e} | {d['median_of_max']:.1e} | {d['mean']:.1e} |"
        for name, d in deviation["deviation"].items()
    ]
    return "\n".join(lines) + "\n"


def plot(result: dict, path: Path) -> None:
    """Images per second as bars."""
    plt = filing.pyplot(path)

    contenders = {name: one for name, one in result["contenders"].items() if name in CONTENDERS}
    names = list(contenders)[::-1]
    rates = [contenders[name]["images_per_s"] for name in names]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(names) + 1.2))
    bars = axes.barh(
        [CONTENDERS[name] for name in names], rates, color=["#d1495b" if name in CAMFLOW_FLAGS else "#8d99ae" for name in names]
    )
    base = contenders.get("notebook")
    texts = [f" {rate:.3g}" + (f"  ({rate / base['images_per_s']:.1f} times (a))" if base else "") for rate in rates]
    axes.bar_label(bars, texts)
    axes.set_xlim(0, max(rates) * 1.3)
    axes.set_xlabel(
        f"images/s: {result['model']}, {len(result['layers'])} layers, 3x{result['input'][1]}x{result['input'][2]}\n{machine_text(result)}, {result['date']}"
    )
    axes.spines[["top", "right"]].set_visible(False)
    filing.save(figure, path)


# ----------------------------------------------------------------------------------------------------------- main


def benchmark(args: argparse.Namespace) -> dict:
    flags = subprocess.run([args.camflow, "annotate", "--help"], check=True, capture_output=True, text=True).stdout
    names = [name for name in CONTENDERS if not args.only or name in args.only]
    if "camflow_bf16" in names and "--precision" not in flags:
        say("note: this camflow has no --precision; bf16 is left out")
        names.remove("camflow_bf16")
    with tempfile.TemporaryDirectory(prefix="camflow-bench-") as temporary, PrivateMongod(Path(temporary) / "mongo") as mongod:
        folder = Path(temporary)
        session = Session(args, folder, mongod.uri)
        job = {
            "model": args.model,
            "archive": args.archive and str(args.archive.resolve()),
            "models": str(args.models),
            "class": args.class_name,
            "layers": args.layers,
            "image_size": args.image_size,
            "samples": args.samples,
            "notebook_samples": args.notebook_samples,
            "batch_size": args.python_batch,
            "contenders": names,
        }
        (folder / "job.json").write_text(json.dumps(job))
        say("making the model's archive and the datasets")
        made = session.child("make")["lines"][-1]
        job = json.loads((folder / "job.json").read_text())
        runs = {name: [] for name in [*names, *(["device"] if args.device_rate.exists() else [])]}
        if "device" not in runs:
            say(f"note: no {args.device_rate} (cargo build --release --example device_rate); the device stage alone is left out")
        for session.round in range(1, args.repeat + 1):
            for name, done in runs.items():
                done.append(session.device(job) if name == "device" else session.contender(name, job))
                say(
                    f"{name}: {done[-1]['num_samples'] / done[-1]['loop_s']:.3f} images/s ({done[-1]['loop_s']:.1f} s for {done[-1]['num_samples']})"
                )
        agreement = session.child("compare")["lines"][-1]
    contenders = {name: summarised(done) for name, done in runs.items()}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "gpu": made["gpu"], "system": platform.platform()},
        "model": args.model,
        "class": args.class_name,
        "repeat": args.repeat,
        **{
            key: made[key]
            for key in (
                "torch",
                "python",
                "threads",
                "weights",
                "device",
                "input",
                "layers",
                "samples",
                "notebook_samples",
                "batch_size",
            )
        },
        "contenders": contenders,
        "ratios": ratios(contenders),
        "agreement": agreement,
    }


def resident(process: subprocess.Popen) -> int:
    """Bytes of memory that a process has at present."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def long_run(args: argparse.Namespace) -> dict:
    """camflow's resident memory by the number of samples done, with a network that is quick enough for many."""
    with tempfile.TemporaryDirectory(prefix="camflow-bench-") as temporary, PrivateMongod(Path(temporary) / "mongo") as mongod:
        folder = Path(temporary)
        session = Session(args, folder, mongod.uri)
        job = {"model": "torchvision:resnet18", "archive": None, "models": str(args.models), "samples": args.flat_memory}
        (folder / "job.json").write_text(json.dumps(job))
        archive = session.child("make_long")["lines"][-1]["archive"]
        command = [
            args.camflow,
            "annotate",
            "--dataset",
            "bench-long",
            "--target",
            "top",
            "--layers",
            "4",
            "--model",
            archive,
            "--device",
            "cpu",
        ]
        command += [
            "--size",
            "layer",
            "--npy",
            "none",
            "--out",
            folder / "maps",
            "--database-uri",
            mongod.uri,
            "--format",
            "json",
        ]
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=session.environment)
        memory, done = [], 0
        for line in process.stdout:
            event = json.loads(line)
            done += event["event"] == "sample_committed"
            # Commits come in bunches; between two looks lie at least 100 samples.
            if event["event"] == "sample_committed" and (not memory or done >= memory[-1][0] + 100 or done == args.flat_memory):
                memory.append([done, resident(process)])
        if process.wait() != 0 or done != args.flat_memory:
            raise SystemExit(f"error: camflow ended with {process.returncode} after {done} samples")
    return {"model": job["model"], "memory": memory}


def memory_table(result: dict) -> str:
    at_200 = next(used for done, used in result["memory"] if done >= 200)
    last, used = result["memory"][-1]
    largest = max(used for done, used in result["memory"] if done >= 200)
    rows = [("after 200 samples", at_200), (f"after {last} samples", used), ("largest in between", largest)]
    return "| resident memory of camflow | |\n| --- | --- |\n" + "".join(
        f"| {what} | {used / 2**20:.0f} MiB |\n" for what, used in rows
    )


def size(text: str) -> list[int]:
    height, width = text.split("x")
    return [int(height), int(width)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    release = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    cache = Path(os.environ.get("CAMFLOW_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "camflow")
    filing.add_flags(parser)
    parser.add_argument("--repeat", type=int, default=1, help="rounds in which contenders take turns (default: %(default)s)")
    parser.add_argument("--samples", type=int, help="images (default: 8 on a CPU, 256 on a GPU)")
    parser.add_argument("--notebook-samples", type=int, help="images for the tutorial's loop (default: 2 on a CPU, 32 on a GPU)")
    parser.add_argument(
        "--python-batch",
        dest="python_batch",
        type=int,
        metavar="N",
        help="batch size of (b) and (c) (default: 1 on a CPU, 8 on a GPU)",
    )
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=[], metavar="NAME", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--model", default="torchvision:deeplabv3_resnet50", help="as for export_model.py (default: %(default)s)")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="that model, exported already")
    parser.add_argument(
        "--models",
        type=Path,
        default=cache / "bench",
        metavar="FOLDER",
        help="where exported models are kept (default: %(default)s)",
    )
    parser.add_argument("--class", dest="class_name", default="person")
    parser.add_argument(
        "--layers",
        type=lambda text: text.split(","),
        default=["1", "2", "3", "4"],
        help="numbers, with commas (default: 1,2,3,4)",
    )
    parser.add_argument(
        "--image-size", type=size, default=[480, 640], metavar="HxW", help="of the image files (default: 480x640)"
    )
    parser.add_argument("--camflow", type=Path, default=release / "camflow", metavar="BINARY")
    parser.add_argument("--device-rate", type=Path, metavar="BINARY", help="the example of that name (default: beside camflow)")
    parser.add_argument(
        "--flat-memory", type=int, metavar="N", help="measure camflow's memory over a run of N samples instead (300 at least)"
    )
    args = parser.parse_args()
    args.camflow = args.camflow.resolve()
    if not args.source and not args.camflow.is_file():
        parser.error(f"no camflow at {args.camflow}: run `cargo build --release` or say --camflow")
    if args.flat_memory:
        if args.flat_memory < 300:
            parser.error("--flat-memory compares with 200 samples, so it needs 300 at least")
        result = long_run(args)
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")
        print(memory_table(result))
        return
    if args.source:
        result = json.loads(args.source.read_text())
    else:
        args.device_rate = (args.device_rate or args.camflow.parent / "examples" / "device_rate").resolve()
        result = benchmark(args)
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    if args.markdown:
        filing.put(args.markdown, "scripts/bench.sh", table(result))
    if args.plot:
        plot(result, args.plot)


if __name__ == "__main__":
    main()
