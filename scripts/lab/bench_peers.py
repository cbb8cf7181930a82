"""Maps per second and peak memory of camflow and of the libraries that people use instead, by model and method.

    bash scripts/bench_peers.sh [--models NAME ...] [--methods NAME ...] [--json FILE] [--markdown FILE] [--plot FILE]

A map is one heatmap of one photograph for one class, at the model's last stage. Every contender is a process of its own for each model,
camflow for each method, too, with the same photographs (JPEG, 480x640), weights (random, from a seed), class, threads and precision (fp32).
Rates are those of the loop over the images; start, imports, loading the model and one image to warm up are not in it.

The libraries are used as their documentation says, in a loop over the images: decode, prepare, a map at the size of the model's input as
an array, which nobody writes. Their weights are frozen, which none of them asks for: it spares them the gradients of all weights.
OpenVINO XAI gives the maps of all classes at once, in 8 bits, of a model that OpenVINO compiled.
camflow annotates a FiftyOne dataset: beside the same it reads the database, writes PNG and `.npy` files, measures the heatmaps, and
updates the samples.

The methods that ask the network again for every channel (scorecam, ablationcam) get one image, and small networks; the others as many
images as `--seconds` allow.

`largest difference` is that between a library's map and camflow's, both from 0 to 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import filing
from bench import ROOT, commit, cpu_name, measure, say
from private_mongod import PrivateMongod

MODELS = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "vgg16": "features.29",
    "mobilenet_v3_large": "features.16",
    "efficientnet_b0": "features.8",
    "densenet121": "features.denseblock4",
    "regnet_y_800mf": "trunk_output.block4",
    "shufflenet_v2_x1_0": "conv5",
    "convnext_tiny": "features.7",
    "resnext50_32x4d": "layer4",
    "swin_t": "features.7",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
}
# Where OpenVINO XAI puts its branch, if that is another layer.
BRANCHES = {"vgg16": "features.30"}
METHODS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "eigencam", "reciprocam", "scorecam", "ablationcam")
# A pass of the network for every channel.
PROBING = ("scorecam", "ablationcam")
# Networks of which that takes a minute and not many; all of them with --all.
PROBED = ("resnet18", "mobilenet_v3_large", "efficientnet_b0", "regnet_y_800mf", "shufflenet_v2_x1_0")
PEERS = {"pytorch_grad_cam": "pytorch_grad_cam", "torchcam": "torch-cam", "captum": "Captum", "openvino_xai": "OpenVINO XAI"}
# A difference beyond this is said: another formula, or a mistake. The default mode folds batch norms, which moves the last bits.
AGREED = 2e-3
# A level of 8 bits, and a half.
AGREED_IN_BYTES = 6e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camflow", type=Path, required=True, metavar="BINARY")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME")
    parser.add_argument(
        "--all", action="store_true", help="the methods of a pass for every channel of every model, too: another hour"
    )
    parser.add_argument("--seconds", type=float, default=8, help="of each library and method (default: %(default)s)")
    filing.add_flags(parser)
    args = parser.parse_args()
    result = json.loads(args.source.read_text()) if args.source else benchmark(args)
    text = "\n".join(table(result))
    print(text)
    if args.markdown:
        filing.put(args.markdown, "scripts/bench_peers.sh", text + "\n")
    if args.plot:
        plot(result, args.plot)


def benchmark(args: argparse.Namespace) -> dict:
    head = {
        "date": str(datetime.date.today()),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
    }
    result = {**head, "seconds": args.seconds, "rows": []}
    with tempfile.TemporaryDirectory(prefix="camflow-peers-") as temporary, PrivateMongod(Path(temporary) / "mongo") as mongod:
        environment = {**os.environ, "FIFTYONE_DATABASE_URI": mongod.uri, "FIFTYONE_DO_NOT_TRACK": "true"}
        for name in args.models:
            job = {"model": name, "layer": MODELS[name], "seconds": args.seconds, "folder": str(Path(temporary) / name)}
            is_probed = args.all or name in PROBED
            job.update(methods=[method for method in args.methods if is_probed or method not in PROBING], probing=PROBING)
            found = rows(args.camflow, job, environment, mongod.uri)
            print("\n".join(map(line, found)), flush=True)
            result["rows"] += found
            if args.json:
                args.json.write_text(json.dumps(result, indent=1))
    return result


def child(role: str, job: dict, environment: dict) -> dict:
    """A role of bench_peers_contenders.py: what it prints."""
    say(f"{job['model']}: {role}")
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, ROOT / "scripts" / "lab" / "bench_peers_contenders.py", role, json.dumps(job)]
    return measure(command, folder / f"{role}.log", environment)["lines"][-1]


def rows(camflow: Path, job: dict, environment: dict, uri: str) -> list[dict]:
    """A line of the table for each method: camflow and each library that has the method for such a network."""
    made = child("make", job, environment)
    job["channel"] = made["channel"]
    rows: dict[str, dict] = {method: {"model": job["model"], "method": method} for method in job["methods"]}
    for peer, name in PEERS.items():
        for method, found in child(peer, job, environment).items():
            if "loop_s" in found:
                rows[method][peer] = found
            else:
                say(f"{job['model']}, {method}: {name} has none: {found['lacks']}")
    peers = {method: [peer for peer in PEERS if peer in row] for method, row in rows.items()}
    for method, row in rows.items():
        # As many images as the quickest of them had.
        count = max((row[peer]["num_samples"] for peer in peers[method]), default=1)
        row["camflow"] = annotated(camflow, job, method, made, count, environment, uri)
    differences = child("compare", {**job, "peers": peers}, environment)
    for method, row in rows.items():
        for peer in peers[method]:
            apart = row[peer]["difference"] = differences[method][peer]
            if apart is None:
                say(f"{job['model']}, {method}: {PEERS[peer]}'s map is empty, and tells nothing of agreement")
            elif apart > (AGREED_IN_BYTES if peer == "openvino_xai" else AGREED):
                say(f"{job['model']}, {method}: {PEERS[peer]}'s map is {apart:.1e} from camflow's")
    return list(rows.values())


def annotated(camflow: Path, job: dict, method: str, made: dict, count: int, environment: dict, uri: str) -> dict:
    """What camflow takes for as many images."""
    say(f"{job['model']}: camflow, {method}")
    folder, field = Path(job["folder"]), f"{method.replace('+', 'p')}_map"
    layer = BRANCHES.get(job["model"], job["layer"]) if method == "reciprocam" else job["layer"]
    command = [camflow, "annotate", "--dataset", f"peers-{job['model']}", "--class", made["class"], "--layers", layer]
    command += ["--method", method, "--target", "labels:ground_truth", "--model", made["archive"], "--field", field]
    command += ["--out", folder / "maps", "--device", "cpu", "--limit", count, "--format", "json", "--database-uri", uri]
    done = measure(command, folder / f"camflow-{method}.log", environment)
    summary = next(event for event in done["lines"] if event.get("event") == "run_finished")
    if summary["num_committed"] != count:
        raise SystemExit(
            f"error: camflow annotated {summary['num_committed']} of {count} samples of {job['model']} by {method}: {summary}"
        )
    return {"num_samples": count, "loop_s": summary["elapsed_s"], "peak_memory_bytes": done["peak_memory_bytes"]}


def rate(one: dict) -> float:
    return one["num_samples"] / one["loop_s"]


def cell(one: dict | None) -> str:
    return f"{rate(one):.3g} ({one['peak_memory_bytes'] / 2**30:.2f})" if one else ""


def difference(one: dict) -> str:
    return "empty" if one["difference"] is None else f"{one['difference']:.0e}"


def line(one: dict) -> str:
    best = max((rate(one[peer]) for peer in PEERS if peer in one), default=None)
    times = f"{rate(one['camflow']) / best:.2f}" if best else ""
    apart = ", ".join(difference(one[peer]) for peer in PEERS if peer in one)
    cells = [cell(one["camflow"]), *(cell(one.get(peer)) for peer in PEERS), times, apart]
    return f"| {one['model']} | {one['method']} | " + " | ".join(cells) + " |"


def table(result: dict) -> list[str]:
    head = ["model", "method", "camflow", *PEERS.values(), "camflow by the best", "largest difference"]
    rows = result["rows"]
    compared = [one for one in rows if any(peer in one for peer in PEERS)]
    first = sum(rate(one["camflow"]) >= max(rate(one[peer]) for peer in PEERS if peer in one) for one in compared)
    return [
        f"{result['date']}, {machine(result)}, torch {result['torch']}, commit {result['commit']}. Maps per second (GiB of memory at the most).",
        "",
        "| " + " | ".join(head) + " |",
        "| --- " * len(head) + "|",
        *map(line, rows),
        "",
        f"camflow is first in {first} of {len(compared)} rows.",
    ]


def machine(result: dict) -> str:
    return f"{result['cores']} cores ({result['cpu']}), no GPU"


def plot(result: dict, path: Path) -> None:
    """By method and model, how many times a library's rate camflow has."""
    plt = filing.pyplot(path, 9)
    from matplotlib.ticker import FixedLocator, FormatStrFormatter

    methods = list(dict.fromkeys(one["method"] for one in result["rows"]))
    colours = dict(zip(PEERS, ("#1d3557", "#2a9d8f", "#e9c46a", "#9b5de5"), strict=True))
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(methods) + 1.6))
    for index, peer in enumerate(PEERS):
        compared = [one for one in result["rows"] if peer in one]
        places = [methods.index(one["method"]) + 0.18 * (index - 1.5) for one in compared]
        times = [rate(one["camflow"]) / rate(one[peer]) for one in compared]
        axes.scatter(times, places, s=14, color=colours[peer], alpha=0.8, linewidths=0, label=PEERS[peer])
    axes.axvline(1, color="#d1495b", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlabel(
        "camflow's maps per second, in times a library's; a point is a model, and right of the line camflow is faster\n"
        f"{machine(result)}, {result['date']}"
    )
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="upper center", ncols=len(PEERS), frameon=False)
    filing.save(figure, path)


if __name__ == "__main__":
    main()
