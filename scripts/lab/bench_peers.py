"""Maps per second and peak memory of camflow and of the libraries that people use instead, by model and method.

    bash scripts/bench_peers.sh [--models NAME ...] [--methods NAME ...] [--json FILE] [--write benches/RESULTS.md]

A map is one heatmap of one photograph for one class, at the model's last stage. Every contender is a process of its own, with the same
photographs (JPEG, 480x640), weights (random, from a seed), class and threads. Rates are those of the loop over the images; start,
imports, loading the model and one image to warm up are not in it.

The libraries are used as their documentation says, in a loop over the images: decode, prepare, a map at the size of the model's input as
an array, which nobody writes. Their weights are frozen, which none of them asks for: it spares them the gradients of all weights.
camflow annotates a FiftyOne dataset: beside the same it reads the database, writes PNG and `.npy` files, measures the heatmaps, and
updates the samples.

The methods that ask the network again for every channel (scorecam, ablationcam) get one image, the others as many as `--seconds` allow.

`agrees` is the largest difference between a library's map and camflow's, both from 0 to 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

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
METHODS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "eigencam", "scorecam", "ablationcam")
# A pass of the network for every channel.
PROBING = ("scorecam", "ablationcam")
PEERS = {"pytorch_grad_cam": "pytorch_grad_cam", "torchcam": "torch-cam", "captum": "Captum"}
# A difference beyond this is said: another formula, or a mistake. The default mode folds batch norms, which moves the last bits.
AGREED = 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camflow", type=Path, required=True, metavar="BINARY")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=8, help="of each library and method (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="camflow-peers-") as temporary, PrivateMongod(Path(temporary) / "mongo") as mongod:
        folder = Path(temporary)
        environment = {**os.environ, "FIFTYONE_DATABASE_URI": mongod.uri, "FIFTYONE_DO_NOT_TRACK": "true"}
        for name in args.models:
            job = {"model": name, "layer": MODELS[name], "seconds": args.seconds, "folder": str(folder / name)}
            say(f"{name}: exporting it")
            child(["make"], job, environment)
            for method in args.methods:
                rows.append(row(args.camflow, job, method, environment, mongod.uri))
                print(line(rows[-1]), flush=True)
    result = {"commit": commit(), "cpu": cpu_name(), "cores": os.cpu_count(), "seconds": args.seconds, "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    print("\n".join(table(result)))


def child(role: list[str], job: dict, environment: dict) -> dict:
    """A role of bench_peers_contenders.py: what it prints, with its peak memory."""
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, ROOT / "scripts" / "lab" / "bench_peers_contenders.py", *role, json.dumps(job)]
    found = measure(command, folder / f"{'-'.join(role)}.log", environment)
    return {**found["lines"][-1], "peak_memory_bytes": found["peak_memory_bytes"]}


def row(camflow: Path, job: dict, method: str, environment: dict, uri: str) -> dict:
    """One line of the table: camflow and each library that has the method for such a network."""
    made = json.loads((Path(job["folder"]) / "made.json").read_text())
    job = {**job, "method": method, "images": 1 if method in PROBING else made["images"]}
    peers = {}
    for peer, name in PEERS.items():
        found = child([peer], job, environment)
        if "loop_s" in found:
            peers[peer] = found
        else:
            say(f"{job['model']}, {method}: {name} has none: {found['lacks']}")
    # As many images as the quickest of them had.
    count = max((one["num_samples"] for one in peers.values()), default=job["images"])
    command = [camflow, "annotate", "--dataset", f"peers-{job['model']}", "--class", made["class"], "--layers", job["layer"]]
    command += [
        "--method",
        method,
        "--target",
        "labels:ground_truth",
        "--model",
        made["archive"],
        "--field",
        f"{method.replace('+', 'p')}_map",
    ]
    command += [
        "--out",
        Path(job["folder"]) / "maps",
        "--device",
        "cpu",
        "--limit",
        count,
        "--format",
        "json",
        "--database-uri",
        uri,
    ]
    done = measure(command, Path(job["folder"]) / f"camflow-{method}.log", environment)
    summary = next(event for event in done["lines"] if event.get("event") == "run_finished")
    if summary["num_committed"] != count:
        raise SystemExit(
            f"error: camflow annotated {summary['num_committed']} of {count} samples of {job['model']} by {method}: {summary}"
        )
    ours = {"num_samples": count, "loop_s": summary["elapsed_s"], "peak_memory_bytes": done["peak_memory_bytes"]}
    if peers:
        agreed = child(["compare"], {**job, "peers": list(peers)}, environment)
        for peer, one in peers.items():
            one["difference"] = agreed[peer]
            if agreed[peer] is None:
                say(f"{job['model']}, {method}: {PEERS[peer]}'s map is empty, and tells nothing of agreement")
            elif agreed[peer] > AGREED:
                say(f"{job['model']}, {method}: {PEERS[peer]}'s map is {agreed[peer]:.1e} from camflow's")
    return {"model": job["model"], "method": method, "camflow": ours, **peers}


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
        f"Maps per second (GiB of memory at the most). {result['cores']} cores ({result['cpu']}), commit {result['commit']}.",
        "",
        "| " + " | ".join(head) + " |",
        "| --- " * len(head) + "|",
        *map(line, rows),
        "",
        f"camflow is first in {first} of {len(compared)} rows.",
    ]


if __name__ == "__main__":
    main()
