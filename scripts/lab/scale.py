"""How far camflow goes: what an image takes of each part of a cluster, measured here, and what is used up first on 1 to 64 GPUs.

    bash scripts/setup.sh && cargo build --release --bin camflow --example write_rate
    .venv/bin/python scripts/lab/scale.py measure --json FILE          costs of every stage, of the database and of the disk
    .venv/bin/python scripts/lab/scale.py check --profile FILE         1, 2 and 4 workers on this machine, beside what is predicted
    .venv/bin/python scripts/lab/scale.py predict [--profile FILE] [--device-ms 20] [--gpus 1 2 4] [--set database_cores=16]

`measure` runs camflow itself, against a private MongoDB, for jobs that write more or less; `scale_measure.py` says how, and
`scale_model.py` what the prediction assumes. What a GPU takes for an image is nothing that can be known here: say it with
--device-ms (`camflow annotate --format json` says it as the device's `busy_s`). The profile in `benches/scale.json` is that of
`benches/RESULTS.md`.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import sys
from pathlib import Path

import filing
import scale_model as model

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "benches" / "scale.json"
STAGES = ("read", "decode", "batch", "device", "encode", "commit")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------- measure, check


def measure(args: argparse.Namespace) -> None:
    import scale_measure as real
    from bench import commit, cpu_name

    load = os.getloadavg()
    with real.World(args) as world:
        say(f"{args.samples} samples, {world.document_bytes} bytes a document")
        jobs = {}
        for name in real.JOBS:
            jobs[name] = real.measure_job(world, name)
            say(f"{name}: {jobs[name]}")
        database = real.measure_database(world)
        say(f"database: {database}")
        disk = real.measure_disk(world, jobs)
        say(f"disk: {disk}")
    profile = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load_before": load[0], "load_after": os.getloadavg()[0]},
        "samples": args.samples,
        "images": args.images,
        "repeat": args.repeat,
        "jobs": jobs,
        "database": database,
        "disk": disk,
    }
    args.json.write_text(json.dumps(profile, indent=1) + "\n")
    print(measured_table(profile))


def check(args: argparse.Namespace) -> None:
    import scale_measure as real

    profile, rows = json.loads(args.profile.read_text()), []
    with real.World(args) as world:
        for job in args.jobs:
            for count in args.workers:
                costs, cores = profile["jobs"][job], profile["machine"]["cores"]
                goes = [real.measure_together(world, job, count) for _ in range(args.repeat)]
                best = max(goes, key=lambda go: go["images_per_s"])
                between = best["shard_s"] * real.SHARDS / args.images
                left = max(0.01, cores - best["others_cores"])
                alone, beside = (
                    model.bound(model.one_machine(profile, costs, count, real.SHARDS, free, between)) for free in (cores, left)
                )
                of_cpu = {"predicted_cpu_s": model.machine_cpu(profile, costs, real.SHARDS)}
                rows.append(
                    {
                        "job": job,
                        "alone": alone["images_per_s"],
                        "predicted": beside["images_per_s"],
                        "limit": beside["limit"],
                        **of_cpu,
                        **best,
                    }
                )
                say(f"{rows[-1]}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    text = check_table(rows)
    print(text)
    if args.markdown:
        filing.put(args.markdown, "scripts/lab/scale.py check", text)


# ---------------------------------------------------------------------------------------------------------------- tables


def machine_text(profile: dict) -> str:
    machine = profile["machine"]
    return f"{machine['cores']} cores ({machine['cpu']}), commit {profile['commit']}, {profile['date']}"


def measured_table(profile: dict) -> str:
    """What was measured, in Markdown."""
    jobs, database, disk = profile["jobs"], profile["database"], profile["disk"]
    lines = [f"{machine_text(profile)}.", "", f"| an image takes | {' | '.join(jobs)} |", "| --- |" + " ---: |" * len(jobs)]

    def row(name: str, value) -> None:
        lines.append(f"| {name} | {' | '.join(value(job) for job in jobs.values())} |")

    for stage in STAGES:
        row(
            f"{stage}: CPU ms (by the clock)",
            lambda job, stage=stage: f"{1e3 * job['cpu_s'][stage]:.2f} ({1e3 * job['busy_s'][stage]:.2f})",
        )
    row("mongod: CPU ms in this run", lambda job: f"{1e3 * job['server_cpu_s']:.2f}")
    row("mongod: CPU ms by its parts", lambda job: f"{1e3 * model.database_cpu(profile, job, 1):.2f}")
    row("read: kB of image", lambda job: f"{job['image_bytes'] / 1e3:.0f}")
    row("written: kB", lambda job: f"{job['write_bytes'] / 1e3:.0f}")
    row("written: files", lambda job: f"{job['files']:.0f}")
    lines += [
        "",
        "| writers | updates/s | mongod's CPU ms | the writers' | by the law | files/s | MB/s |",
        "| ---: |" + " ---: |" * 6,
    ]
    law = model.usl([(row["writers"], row["per_s"]) for row in database["updates"]])
    small = min(row["bytes"] for row in disk["files"])
    for update in database["updates"]:
        writers = update["writers"]
        files = {one["bytes"] == small: one for one in disk["files"] if one["writers"] == writers}
        cpu = f"{1e3 * update['server_cpu_s']:.3f} | {1e3 * update['client_cpu_s']:.3f} | {model.usl_rate(law, writers):.0f}"
        lines.append(
            f"| {writers} | {update['per_s']:.0f} | {cpu} | {files[True]['per_s']:.0f} | {files[False]['bytes_per_s'] / 1e6:.0f} |"
        )
    parts = {
        "a document read": "read_cpu_s",
        "an id walked, for each shard": "id_cpu_s",
        "an update": "update_cpu_s",
        "a heatmap in it": "heatmap_cpu_s",
    }
    costs = ", ".join(f"{what} {1e6 * database[key]:.3g} µs" for what, key in parts.items())
    heatmaps, large = max(job["heatmaps"] for job in jobs.values()), max(row["bytes"] for row in disk["files"])
    lines += ["", f"Updates have {heatmaps} heatmaps, and go to documents of {database['document_bytes'] / 1e3:.1f} kB."]
    lines += [
        f"Files are flushed: {small / 1e3:.1f} kB for files/s, {large / 1e6:.2f} MB for MB/s. Read anew: {disk['read_bytes_per_s'] / 1e6:.0f} MB/s."
    ]
    lines += [f"The law is Gunther's, with contention {law[1]:.3f} and coherency {law[2]:.4f}. mongod's CPU: {costs}."]
    return "\n".join(lines) + "\n"


def check_table(rows: list[dict]) -> str:
    """What was predicted and what came, in Markdown."""
    head = [
        "job",
        "workers",
        "alone",
        "others took, of cores",
        "predicted images/s",
        "by",
        "measured",
        "ratio",
        "CPU ms predicted",
        "measured",
        "ratio",
    ]
    lines = [f"| {' | '.join(head)} |", "| --- | ---: | ---: | ---: | ---: | --- |" + " ---: |" * 5]
    for row in rows:
        ratios = [row["images_per_s"] / row["predicted"], row["cpu_s"] / row["predicted_cpu_s"]]
        rate = f"{row['alone']:.1f} | {row['others_cores']:.2f} | {row['predicted']:.1f} | {row['limit']} | {row['images_per_s']:.1f} | {ratios[0]:.2f}"
        lines.append(
            f"| {row['job']} | {row['workers']} | {rate} | {1e3 * row['predicted_cpu_s']:.1f} | {1e3 * row['cpu_s']:.1f} | {ratios[1]:.2f} |"
        )
    return "\n".join(lines) + "\n"


def predicted_table(result: dict) -> str:
    """The prediction, in Markdown."""
    devices = list(result["by_device_ms"])
    times = " | ".join(f"GPUs at {ms} ms" for ms in devices)
    lines = [f"Job `{result['job']}`; {', '.join(f'{name} {value:.4g}' for name, value in result['site'].items())}.", ""]
    lines += [f"| shared | images/s | {times} |", "| --- | ---: |" + " ---: |" * len(devices)]
    for at, first in enumerate(result["by_device_ms"][devices[0]]["enough_for"]):
        each = [result["by_device_ms"][ms]["enough_for"][at] for ms in devices]
        rates = [one["images_per_s"] for one in each]
        rate = f"{rates[0]:.0f}" if max(rates) < 1.01 * min(rates) else f"{min(rates):.0f} to {max(rates):.0f}"
        counts = " | ".join("over 4096" if one["gpus"] >= 4096 else str(one["gpus"]) for one in each)
        lines.append(f"| {first['resource']} | {rate} | {counts} |")
    lines += ["", f"| GPUs | {' | '.join(f'{ms} ms: images/s | hours for a million | limit' for ms in devices)} |"]
    lines += ["| ---: |" + " ---: | ---: | --- |" * len(devices)]
    for rows in zip(*(result["by_device_ms"][ms]["rows"] for ms in devices), strict=True):
        cells = (f"{row['images_per_s']:.0f} | {row['hours_per_million']:.2f} | {row['limit']}" for row in rows)
        lines.append(f"| {rows[0]['gpus']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------------------- predict


def predicted(profile: dict, name: str, changes: dict, gpus: list[int], device_ms: list[float]) -> dict:
    """All that is predicted for a job of a profile."""
    job, there = profile["jobs"][name], model.site(profile, changes)
    by_device = {}
    for ms in device_ms:
        rows = model.predict(profile, job, there, gpus, ms / 1e3)
        by_device[f"{ms:g}"] = {"rows": rows, "enough_for": model.enough_for(profile, job, there, ms / 1e3)}
    limits = {row["limit"] for found in by_device.values() for row in found["rows"]}
    what_then = {limit: advice for limit, advice in model.ADVICE.items() if limit in limits}
    return {"job": name, "site": there, "by_device_ms": by_device, "what_then": what_then}


def plot(results: list[dict], path: Path) -> None:
    """Images/s by the number of GPUs, a colour for each time on the GPU, a line for each job."""
    plt = filing.pyplot(path)

    figure, axes = plt.subplots(figsize=(8, 4.5))
    for result, style in zip(results, itertools.cycle(("-", "--", ":", "-.")), strict=False):
        for (ms, found), color in zip(result["by_device_ms"].items(), ("#d1495b", "#2e6f95", "#66a182", "#8d99ae"), strict=False):
            gpus = [row["gpus"] for row in found["rows"]]
            rates = [row["images_per_s"] for row in found["rows"]]
            axes.plot(gpus, rates, style, color=color, marker="o", markersize=3, label=f"{ms} ms, {result['job']}")
    axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="images/s, at most", xticks=gpus, xticklabels=gpus)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="time on the GPU, job", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    filing.save(figure, path)


def predict(args: argparse.Namespace) -> None:
    profile = json.loads(args.profile.read_text())
    changes = dict(args.set)
    if args.cores_per_gpu:
        changes["cores_per_gpu"] = args.cores_per_gpu
    for job in args.jobs:
        if job not in profile["jobs"]:
            raise SystemExit(f"error: `{args.profile}` has no job `{job}`\nhint: it has {', '.join(profile['jobs'])}")
    try:
        results = [predicted(profile, job, changes, sorted(args.gpus), args.device_ms) for job in args.jobs]
    except KeyError as error:
        raise SystemExit(f"error: a site has no {error}\nhint: it has {', '.join(model.site(profile))}") from None
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    what_then = {
        limit: advice for limit, advice in model.ADVICE.items() if any(limit in result["what_then"] for result in results)
    }
    advice = "".join(f"- {limit}: {then}.\n" for limit, then in what_then.items())
    text = "\n".join([*map(predicted_table, results), f"What to do then:\n\n{advice}"])
    print(text)
    if args.markdown:
        filing.put(args.markdown, "scripts/lab/scale.py measure", measured_table(profile))
        filing.put(args.markdown, "scripts/lab/scale.py predict", text)
    if args.plot:
        plot(results, args.plot)


# ------------------------------------------------------------------------------------------------------------------ main


def setting(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, positive(value)


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"`{text}` is not above zero")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not 1 or more")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    release = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    shared = Path("/dev/shm")

    real = argparse.ArgumentParser(add_help=False)
    real.add_argument("--camflow", type=Path, default=release / "camflow", metavar="BINARY")
    real.add_argument("--model", type=Path, metavar="FILE", help="scale_measure.py:strided, exported already")
    real.add_argument("--samples", type=count, default=20_000, metavar="N", help="in the dataset (default: %(default)s)")
    real.add_argument("--images", type=count, default=192, metavar="N", help="that a job does (default: %(default)s)")
    real.add_argument("--repeat", type=count, default=3, metavar="N", help="the best of so many (default: %(default)s)")
    real.add_argument(
        "--work", type=Path, metavar="FOLDER", help="for the database and files, on the disk to measure; default: a temporary one"
    )
    real.add_argument(
        "--maps",
        type=Path,
        default=shared if shared.is_dir() else None,
        metavar="FOLDER",
        help="for heatmaps; default: in memory",
    )

    one = commands.add_parser("measure", parents=[real], help="what an image takes, on this machine")
    one.add_argument("--json", type=Path, default=PROFILE, metavar="FILE", help="the profile (default: %(default)s)")
    one.add_argument("--write-rate", type=Path, metavar="BINARY", help="the example of that name (default: beside camflow)")
    one.add_argument("--writers", type=count, nargs="+", default=[1, 2, 4, 8, 16], metavar="N")
    one.add_argument("--seconds", type=positive, default=2, metavar="S", help="for each rate (default: %(default)s)")
    one.set_defaults(do=measure)

    known = argparse.ArgumentParser(add_help=False)
    known.add_argument("--profile", type=Path, default=PROFILE, metavar="FILE", help="of `measure` (default: %(default)s)")
    known.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    known.add_argument("--markdown", type=Path, metavar="FILE", help="the tables, where `benches/RESULTS.md` marks their places")
    known.add_argument(
        "--jobs",
        nargs="+",
        default=["default", "full", "pictures", "small pictures"],
        metavar="JOB",
        help="of the profile (default: %(default)s)",
    )

    two = commands.add_parser("check", parents=[real, known], help="some workers on this machine, beside what is predicted")
    two.add_argument("--workers", type=count, nargs="+", default=[1, 2, 4], metavar="N")
    two.set_defaults(do=check)

    three = commands.add_parser("predict", parents=[known], help="images/s by the number of GPUs, and what limits them")
    three.add_argument("--gpus", type=count, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], metavar="N")
    three.add_argument(
        "--device-ms",
        type=positive,
        nargs="+",
        default=[5.0, 20.0, 100.0],
        metavar="MS",
        help="for an image on a GPU (default: %(default)s)",
    )
    three.add_argument("--cores-per-gpu", type=count, metavar="N")
    three.add_argument(
        "--set",
        type=setting,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of the site, as in `database_cores=16 write_bytes_per_s=2e9`",
    )
    three.add_argument("--plot", type=Path, metavar="FILE", help="a picture: .svg or .png")
    three.set_defaults(do=predict)

    args = parser.parse_args()
    if args.command != "predict":
        args.camflow = args.camflow.resolve()
        if args.command == "measure":
            args.write_rate = (args.write_rate or args.camflow.parent / "examples" / "write_rate").resolve()
        for binary in (args.camflow, getattr(args, "write_rate", args.camflow)):
            if not binary.is_file():
                parser.error(f"no {binary.name} at {binary}: cargo build --release --bin camflow --example write_rate")
    if args.command != "measure" and not args.profile.is_file():
        parser.error(f"no profile at {args.profile}: scripts/lab/scale.py measure")
    args.do(args)


if __name__ == "__main__":
    main()
