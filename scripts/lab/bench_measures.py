"""What each addition to a run costs: processor seconds of `camflow annotate` with it, beside those of the same run without.

    bash scripts/setup.sh && cargo build --release
    .venv/bin/python scripts/lab/bench_measures.py [--camflow BINARY] [--repeat 2]

The stand-in dataset (30 photographs, of which 28 have people) and its model, one layer, labels as targets, on a database of its own.
Processor seconds are those of the whole process, less those of a run in which all is up to date: start, loading, looking. The runs go in
turns, and the least of each counts.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from private_mongod import PrivateMongod

ROOT = Path(__file__).resolve().parents[2]
ADDITIONS = {
    "heatmaps alone": [],
    "`--predictions`": ["--predictions", "predicted"],
    "`--attention-on`": ["--attention-on", "resnet50_seg"],
    "`--counterfactuals mean`": ["--counterfactuals", "mean"],
    "`--counterfactuals blur`": ["--counterfactuals", "blur"],
    "`--counterfactuals impute`": ["--counterfactuals", "impute"],
    "`--faithfulness`": ["--faithfulness"],
}


def cpu_seconds(command: list[object], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"error: {command} ended with {done.returncode}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--camflow", type=Path, default=target / "release" / "camflow", metavar="BINARY")
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="camflow-measures-") as name, PrivateMongod(Path(name) / "mongo") as mongod:
        folder = Path(name)
        environment = {
            **os.environ,
            "FIFTYONE_DATABASE_URI": mongod.uri,
            "FIFTYONE_DO_NOT_TRACK": "true",
            "CAMFLOW_CACHE": str(folder / "cache"),
            "CAMFLOW_PYTHON": sys.executable,
        }
        make = [
            sys.executable,
            ROOT / "scripts" / "quickstart_data.py",
            "--offline",
            "--name",
            "people",
            "--out",
            folder / "images",
        ]
        cpu_seconds(make, environment)
        archive = folder / "standin.pt2"
        model = f"{ROOT / 'scripts' / 'lab' / 'standin' / 'model.py'}:standin_deeplab"
        cpu_seconds([args.camflow, "export", model, "--out", archive], environment)
        run = [args.camflow, "annotate", "--dataset", "people", "--model", archive, "--class", "person", "--layers", "4"]
        run += ["--target", "labels:resnet50_seg", "--device", "cpu", "--out", folder / "maps"]
        least: dict[str, float] = {}
        for _ in range(args.repeat):
            for number, (addition, flags) in enumerate(ADDITIONS.items()):
                field = ["--field", f"{{class}}_{number}_layer_{{layer}}"]
                taken = cpu_seconds([*run, *flags, *field, "--overwrite"], environment)
                taken -= cpu_seconds([*run, *flags, *field], environment)
                least[addition] = min(taken, least.get(addition, taken))
                print(f"{addition}: {taken:.2f} s", file=sys.stderr, flush=True)
        print("| | processor seconds | times heatmaps alone |\n| --- | --- | --- |")
        for addition, taken in least.items():
            print(f"| {addition} | {taken:.2f} | {taken / least['heatmaps alone']:.2f} |")


if __name__ == "__main__":
    main()
