"""How time and memory grow with the dataset: scanning, committing and a second run that finds nothing to do.

    bash scripts/setup.sh && cargo build --release
    .venv/bin/python scripts/lab/growth.py [--sizes 1000 10000 100000] [--json FILE]

Each dataset is FiftyOne's own, in a private MongoDB: a few photographs with their masks, whose documents are then cloned
with fresh ids and paths (hard links to the few files). The model is a real archive, of three small convolutions, so that
what is measured is camflow around the model. Per size:

- `scan`: a class that no mask has. Every label is read and unpacked, nothing is computed.
- `commit`: the first run, one layer, pictures only.
- `no-op`: the same command again; everything is up to date.
- `cursor`: one pymongo cursor in the order of ids, over the projection that camflow reads, documents left raw.

Above 200,000 samples the clones share the few images' paths, `commit` is over the first 100,000, and the rest get copies of
their heatmaps, which are right for them: everything that a fingerprint is made of is the same.

Times are of whole processes, start included (`cursor`: of the query alone); memory is the process's peak.
`scan`, `no-op` and `cursor` are the best of `--repeat`.

This process imports nothing large: a child's peak memory begins with that of the process it was forked from.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from private_mongod import PrivateMongod

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
PHOTOS = ("astronaut", "brick", "camera", "chelsea", "china", "coffee", "coins", "flower", "grass", "gravel",
          "moon", "motorcycle_left", "page", "rocket", "text", "grace_hopper")  # fmt: skip
CLASSES = {0: "background", 1: "middle", 2: "light", 3: "never"}
FIELD = "light_grad_layer_1"
# The size from which on memory is to stay flat.
SMALLEST = 200
# Larger datasets get no files of their own, and are not annotated in full.
MOST_FILES = 200_000
MOST_COMMITS = 100_000
# ext4 allows 65,000 links to a file; a folder of some thousand is quick everywhere.
LINKS_PER_FOLDER = 4096


def tiny():
    """A segmentation network of three convolutions for images of 32 x 32, for `scripts/export_model.py`."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()),
        nn.Conv2d(8, len(CLASSES), 1),
    ).eval()
    model.camflow_metadata = {
        "task": "segmentation",
        "classes": {str(index): name for index, name in CLASSES.items()},
        "preprocess": [
            {"op": "resize", "height": 32, "width": 32, "interpolation": "bilinear", "antialias": True},
            {"op": "normalize", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        ],
        "aliases": {"1": "0"},
        "example": [32, 32],
    }
    return model


# --------------------------------------------------------------------------------- in another process, with large imports


def make_dataset(uri: str, name: str, size: int, folder: str, width: int = 80, height: int = 60) -> int:
    """Makes the dataset; bytes per document. FiftyOne makes the first few samples, the rest are clones of their documents."""
    import random

    sys.path.insert(0, str(SCRIPTS / "lab" / "standin"))
    import cv2
    import fiftyone as fo
    import numpy as np
    import photos
    import pymongo
    from bson import ObjectId, encode

    fo.config.database_uri = uri
    folder = Path(folder)
    templates = []
    for photo in PHOTOS:
        image = cv2.resize(photos.photo(photo), (width, height), interpolation=cv2.INTER_AREA)
        path = folder / f"{photo}.jpg"
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        light = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 3)
        mask = np.digitize(light, np.quantile(light, [0.5, 0.8])).astype(np.uint8)
        templates.append(fo.Sample(path, tags=["train"], uniqueness=0.5, ground_truth=fo.Segmentation(mask=mask)))
    dataset = fo.Dataset(name, persistent=True)
    dataset.default_mask_targets = CLASSES
    dataset.add_samples(templates[:size], progress=False)
    samples = pymongo.MongoClient(uri)[fo.config.database_name][dataset._sample_collection_name]
    documents = list(samples.find())
    batch = []
    for n in range(size - len(documents)):
        document = {**documents[n % len(documents)], "_id": ObjectId(), "_rand": random.random()}
        if size <= MOST_FILES:
            link = folder / f"{n // LINKS_PER_FOLDER}" / f"{n}.jpg"
            if n % LINKS_PER_FOLDER == 0:
                link.parent.mkdir()
            os.link(document["filepath"], link)
            document["filepath"] = str(link)
        document["ground_truth"] = {**document["ground_truth"], "_id": ObjectId()}
        batch.append(document)
        if len(batch) == 2000:
            samples.insert_many(batch, ordered=False)
            batch = []
    if batch:
        samples.insert_many(batch, ordered=False)
    dataset = fo.load_dataset(name)
    dataset.reload()
    assert len(dataset) == size and dataset.last().ground_truth.mask.shape == (height, width), "FiftyOne reads the clones"
    return len(encode(samples.find_one(sort=[("_id", -1)])))


def count_heatmaps(name: str) -> int:
    """How many samples have a heatmap, as FiftyOne sees it, after opening one."""
    import fiftyone as fo

    dataset = fo.load_dataset(name)
    dataset.reload()
    assert dataset.exists(FIELD).first()[FIELD].get_map().shape == (32, 32)
    return len(dataset.exists(FIELD))


def copy_heatmaps(uri: str, name: str) -> None:
    """Gives the samples without a heatmap that of a sample with the same image and mask."""
    import fiftyone as fo
    import pymongo

    samples = pymongo.MongoClient(uri)[fo.config.database_name][fo.load_dataset(name)._sample_collection_name]
    for path in samples.distinct("filepath"):
        heatmap = samples.find_one({"filepath": path, FIELD: {"$exists": True}})[FIELD]
        samples.update_many({"filepath": path, FIELD: {"$exists": False}}, {"$set": {FIELD: heatmap}})


def delete_dataset(name: str) -> None:
    import fiftyone as fo

    fo.delete_dataset(name)


def walk_cursor(uri: str, name: str) -> float:
    """Seconds that a bare cursor takes over what camflow reads."""
    import fiftyone as fo
    import pymongo
    from bson.codec_options import CodecOptions
    from bson.raw_bson import RawBSONDocument

    database = pymongo.MongoClient(uri)[fo.config.database_name]
    collection = database.datasets.find_one({"name": name})["sample_collection_name"]
    samples = database.get_collection(collection, codec_options=CodecOptions(document_class=RawBSONDocument))
    label = [f"ground_truth.{key}" for key in ("_cls", "mask", "mask_path")]
    heatmap = [f"{FIELD}.{key}" for key in ("_cls", "fingerprint", "map_path", "npy_path")]
    start = time.perf_counter()
    for _ in samples.find({}, ["filepath", *label, *heatmap], sort=[("_id", 1)]):
        pass
    return time.perf_counter() - start


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(command: list) -> dict:
    """Runs camflow to its end: what it took, and what its summary says."""
    command = [str(part) for part in [*command, "--format", "json"]]
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}\n{text}")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (counts,) = (line for line in lines if line["event"] == "run_finished")
    if counts["num_failed"]:
        raise SystemExit(f"{' '.join(command)} failed on {counts['num_failed']} samples\n{text}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024,
            "num_read": counts["num_read"], "num_committed": counts["num_committed"], "num_skipped": counts["num_skipped"]}  # fmt: skip


def best(runs: list[dict]) -> dict:
    """The quickest run, with the largest memory of all."""
    return {**min(runs, key=lambda run: run["wall_s"]), "peak_mb": max(run["peak_mb"] for run in runs)}


def measure_size(args, apart, uri: str, model: Path, size: int, work: Path, maps: Path) -> dict:
    name = f"growth-{size}"
    folder = work / name
    folder.mkdir()
    start = time.perf_counter()
    document_bytes = apart(make_dataset, uri, name, size, str(folder))
    print(f"{name}: made in {time.perf_counter() - start:.0f} s, {document_bytes} bytes a document", file=sys.stderr)
    out = maps / name
    command = [args.camflow, "annotate", "--dataset", name, "--model", model, "--layers", "1", "--target", "labels:ground_truth"]
    command += ["--npy", "none", "--out", out, "--device", "cpu", "--class"]
    repeat = args.repeat if size <= MOST_FILES else 1
    rows = {"scan": best([measure([*command, "never"]) for _ in range(repeat)])}
    print(f"  scan {rows['scan']}", file=sys.stderr)
    num_commits = size if size <= MOST_FILES else MOST_COMMITS
    rows["commit"] = measure([*command, "light", "--limit", num_commits])
    print(f"  commit {rows['commit']}", file=sys.stderr)
    if num_commits < size:
        apart(copy_heatmaps, uri, name)
    # Taken in turns, so that a busy moment of the machine meets both.
    no_ops, cursors = [], []
    for _ in range(repeat):
        cursors.append(apart(walk_cursor, uri, name))
        no_ops.append(measure([*command, "light"]))
    rows["no-op"] = best(no_ops)
    rows["cursor"] = {"wall_s": min(cursors)}
    print(f"  no-op {rows['no-op']}\n  cursor {rows['cursor']}", file=sys.stderr)
    assert rows["scan"]["num_skipped"] == rows["no-op"]["num_skipped"] == size, "nothing was left to do"
    assert rows["commit"]["num_committed"] == num_commits and apart(count_heatmaps, name) == size, "all have heatmaps"
    if not args.keep:
        apart(delete_dataset, name)
        shutil.rmtree(folder)
        shutil.rmtree(out)
    return {"size": size, "document_bytes": document_bytes, **rows}


# -------------------------------------------------------------------------------------------------------------- telling


def beyond(row: dict, what: str, start: float) -> float | None:
    """Seconds beyond the start; `None` where they drown in its noise."""
    took = row[what]["wall_s"] - start
    return took if start == 0 or took > 0.05 else None


def exponent(small: dict, large: dict, what: str, start: float) -> float | None:
    """The power of the number of samples by which the time beyond the start grows."""
    times = [beyond(row, what, start) for row in (small, large)]
    sizes = [num_samples(row, what) for row in (small, large)]
    if None in times or sizes[0] == sizes[1]:
        return None
    return math.log(times[1] / times[0]) / math.log(sizes[1] / sizes[0])


def num_samples(row: dict, what: str) -> int:
    """How many samples were read."""
    return row[what].get("num_read", row["size"])


def tell(results: list[dict]) -> None:
    """Markdown: a table per measurement, what grows how, and the targets' two figures."""
    smallest = results[0]
    print("| samples | run | seconds | µs a sample | CPU s | peak MB | grows as n^ |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for what in ("scan", "commit", "no-op", "cursor"):
        # A run over so few samples is its start and little more.
        start = 0 if what == "cursor" else smallest["no-op"]["wall_s"]
        for before, row in zip([None, *results[:-1]], results, strict=True):
            run, size = row[what], num_samples(row, what)
            more = f"{run['cpu_s']:.2f} | {run['peak_mb']:.0f}" if "cpu_s" in run else " | "
            power = exponent(before, row, what, start) if before and before is not smallest else None
            power = "" if power is None else f"{power:.2f}"
            took = beyond(row, what, start) if row is not smallest else None
            each = "" if took is None else f"{took / size * 1e6:.0f}"
            print(f"| {row['size']:,} | {what} | {run['wall_s']:.2f} | {each} | {more} | {power} |")
    last = results[-1]
    print(f"\nSeconds a sample are those beyond the no-op run over {smallest['size']} samples, which is the start.")
    ratio = last["no-op"]["wall_s"] / last["cursor"]["wall_s"]
    print(f"No-op over {last['size']:,} samples: {ratio:.2f} times the bare cursor.")
    for what in ("scan", "commit", "no-op"):
        flat = last[what]["peak_mb"] / smallest[what]["peak_mb"]
        print(f"Peak memory of {what}, {last['size']:,} against {smallest['size']} samples: {100 * (flat - 1):+.1f} %.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--camflow", type=Path, default=target / "release" / "camflow", metavar="BINARY")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], metavar="N")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the measurements, for machines")
    parser.add_argument("--work", type=Path, help="folder for the database and the images; default: a temporary one")
    shared = Path("/dev/shm")
    parser.add_argument("--maps", type=Path, default=shared if shared.is_dir() else None,
                        help="folder for heatmaps; default: in memory where that is possible, as each file is flushed")  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="leave files and datasets of each size until the end")
    args = parser.parse_args()
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
    os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")
    # Of what FiftyOne would say about its own server.
    os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    with (
        tempfile.TemporaryDirectory(prefix="camflow-growth-", dir=args.work) as work,
        tempfile.TemporaryDirectory(prefix="camflow-growth-", dir=args.maps) as maps,
    ):
        model = Path(work) / "tiny.pt2"
        export = [sys.executable, SCRIPTS / "export_model.py", f"{Path(__file__).resolve()}:tiny", "--out", model]
        subprocess.run([str(part) for part in export], check=True, stdout=subprocess.DEVNULL)
        with (
            # A gigabyte and a half holds what is walked here.
            PrivateMongod(Path(work) / "mongo", cache_gb=1.5) as mongod,
            # Spawned, not forked: what it imports stays out of this process.
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as helper,
        ):
            os.environ["FIFTYONE_DATABASE_URI"] = mongod.uri

            def apart(function, *arguments):
                return helper.submit(function, *arguments).result()

            results = []
            for size in sorted({SMALLEST, *args.sizes}):
                results.append(measure_size(args, apart, mongod.uri, model, size, Path(work), Path(maps)))
                if args.json:
                    args.json.write_text(json.dumps(results, indent=1) + "\n")
    tell(results)


if __name__ == "__main__":
    main()
