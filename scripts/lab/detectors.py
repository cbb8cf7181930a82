#!/usr/bin/env python3
"""Detectors of Ultralytics beside the library's own heatmaps (`visualize=True` of its `predict`, LayerCAM), with random weights.

    .venv/bin/python scripts/lab/detectors.py [--only SETTINGS.yaml ...]   how far maps of one prediction are from each other
    .venv/bin/python scripts/lab/detectors.py --rates                      how many images a second, with 16 predictions each

The library is installed into a folder of its own, as it is AGPL and no part of camflow.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

LAB = Path(__file__).resolve().parent
ROOT = LAB.parents[1]
sys.path[:0] = [str(ROOT / "python")]

ULTRALYTICS = "8.4.190"
SIDE = 640
# For rates: the network, its predictions in an image (the library's own limit), images and rounds.
RATED, PREDICTIONS, NUM_RATED, ROUNDS = "yolo11n.yaml", 16, 48, 3
SETTINGS = [
    "yolov5n.yaml",
    "yolov8n.yaml",
    "yolov8s-world.yaml",
    "yolov9t.yaml",
    "yolov10n.yaml",
    "yolo11n.yaml",
    "yolo11n-seg.yaml",
    "yolo11n-pose.yaml",
    "yolo12n.yaml",
    "yolo26n.yaml",
    "rtdetr-l.yaml",
    "rtdetr-resnet50.yaml",
]


def installed(folder: Path, wanted: list[str]) -> Path:
    """A folder with packages, made once. Several processes may ask for it, and one that is there is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            building = folder.with_name(f"{folder.name}.building")
            shutil.rmtree(building, ignore_errors=True)
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(building), *wanted]
            subprocess.run(install, check=True, timeout=600)
            building.rename(folder)
    return folder


def with_ultralytics(cache: Path, settings: Path) -> dict[str, str]:
    """The environment of a process that imports the library."""
    packages = [f"ultralytics=={ULTRALYTICS}", "ultralytics-thop", "py-cpuinfo"]
    folder = installed(cache / f"ultralytics-{ULTRALYTICS}", packages)
    own = {"YOLO_CONFIG_DIR": str(settings), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    given = filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(folder), *given])}


@contextlib.contextmanager
def reference(script: str, environment: dict[str, str]) -> Iterator[Callable[..., dict]]:
    """Asks a script of this folder, which has loaded its library once, and answers each time in a copy of its process."""
    command = [sys.executable, str(LAB / script), "serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as asked:

        def run(*arguments) -> dict:
            asked.stdin.write(f"{json.dumps(list(map(str, arguments)))}\n")
            asked.stdin.flush()
            said: list[str] = []
            for line in asked.stdout:
                if line.startswith('{"ended": '):
                    break
                said.append(line)
            else:
                raise RuntimeError(f"{script} has ended: {''.join(said)[-5000:]}")
            if json.loads(line)["ended"] != 0:
                raise RuntimeError(f"{script} {arguments}: {''.join(said)[-5000:]}")
            return json.loads(said[-1])

        yield run


def export(ref: str, folder: Path, environment: dict[str, str], *flags: str) -> tuple[Path, str]:
    """The archive of a model, and what the exporter said."""
    model = folder / "model.pt2"
    command = [sys.executable, "-m", "camflow.export", ref, "--out", str(model), *flags]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=1800)
    if done.returncode != 0:
        raise RuntimeError(f"{ref} was not exported: {done.stderr[-3000:]}")
    return model, done.stderr


def colours(side: int, seed: int = 3) -> Image.Image:
    """A smooth picture of many colours."""
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def picture(path: Path, side: int) -> Path:
    """The same in a file."""
    colours(side).save(path)
    return path


def two_apart(boxes: np.ndarray) -> list[list[float]]:
    """Two boxes that are not small, and far apart."""
    sizes = (boxes[:, 2:] - boxes[:, :2]).min(1)
    first = int(np.argmax(np.where(boxes[:, 2] < 0.6, sizes, 0)))
    second = int(np.argmax(np.where(boxes[:, 0] > 0.4, sizes, 0)))
    return [boxes[first].tolist(), boxes[second].tolist()]


def dataset_of(name: str, images: list[Path], boxes: list[list[float]], label: str):
    """A FiftyOne dataset in which each image has the boxes (left, top, right, bottom) in its field `truth`."""
    import fiftyone as fo

    dataset = fo.Dataset(name, persistent=True)
    detections = [[left, top, right - left, bottom - top] for left, top, right, bottom in boxes]
    samples = [
        fo.Sample(str(image), truth=fo.Detections(detections=[fo.Detection(label=label, bounding_box=box) for box in detections]))
        for image in images
    ]
    dataset.add_samples(samples, progress=False)
    return dataset


def heatmap_of(
    dataset, annotate: Callable[..., object], model: Path, label: str, folder: Path, *flags: str
) -> tuple[float, np.ndarray]:
    """(score, map) of the first sample."""
    from camflow import load

    asked = ["--target", "labels:truth", "--class", label, "--npy", "f32", "--exact", "--device", "cpu"]
    annotate("annotate", "--dataset", dataset.name, "--model", model, "--out", folder, *asked, *flags)
    dataset.reload()
    (field,) = (name for name in dataset.get_field_schema() if name.startswith(f"{label}_"))
    found = dataset.first()[field]
    return found.score, load(found)


def of_two_boxes(
    annotate: Callable[..., object],
    theirs: Callable[..., dict],
    weights: Path,
    model: Path,
    folder: Path,
    *,
    side: int,
    channel: int,
    label: str,
    num_levels: int | None = None,
) -> tuple[tuple[float, np.ndarray], tuple[float, np.ndarray]]:
    """(score, map) of the sum of two predictions that stored boxes mean: camflow's, and those that the reference computes.

    At least `num_levels` of the levels have a map; all of them, unless it is given.
    """
    job = {"image": str(picture(folder / "image.png", side)), "channel": channel, "out": str(folder / "wanted.npy")}
    (folder / "job.json").write_text(json.dumps(job))
    wanted = two_apart(np.array(theirs("layercam", weights, folder / "job.json")["boxes"]).clip(0, 1))
    (folder / "job.json").write_text(json.dumps({**job, "wanted": wanted}))
    expected = theirs("layercam", weights, folder / "job.json")
    there = sum(largest > 0.5 for largest in expected["largest"])
    if len(expected["meant"]) != 2 or there < (num_levels or len(expected["largest"])):
        raise RuntimeError(f"the boxes are no good choice: {expected}")
    dataset = dataset_of(f"detector-{weights.stem}", [Path(job["image"])], wanted, label)
    try:
        return heatmap_of(dataset, annotate, model, label, folder / "maps"), (expected["score"], np.load(job["out"]))
    finally:
        dataset.delete()


def of_best(
    annotate: Callable[..., object], theirs: Callable[..., dict], weights: Path, model: Path, folder: Path
) -> tuple[tuple[float, np.ndarray], tuple[float, np.ndarray]]:
    """(score, map) of the best prediction, as its stored box means it: camflow's, and those that the library itself draws; with the
    map [2, H, W] also as if it took the least value off."""
    job = {"image": str(picture(folder / "image.png", SIDE)), "out": str(folder / "wanted.npy")}
    (folder / "job.json").write_text(json.dumps(job))
    wanted = theirs("own", weights, folder / "job.json")
    dataset = dataset_of(f"best-{weights.stem}", [Path(job["image"])], [wanted["box"]], wanted["label"])
    try:
        return heatmap_of(dataset, annotate, model, wanted["label"], folder / "maps"), (wanted["score"], np.load(job["out"]))
    finally:
        dataset.delete()


def parity(
    only: list[str], run: Callable[..., str], environment: dict[str, str], theirs: Callable[..., dict], folder: Path
) -> int:
    failed = 0
    print(
        "| model | score of the prediction | difference as drawn | with the least value taken off |\n|---|---|---|---|",
        flush=True,
    )
    for settings in only or SETTINGS:
        place = folder / settings
        place.mkdir()
        weights = place / settings.replace(".yaml", "-own.pt")
        theirs("save", "-c", settings, weights)
        model, _ = export(f"ultralytics:{weights}", place, environment)
        (score, found), (wanted_score, wanted) = of_best(run, theirs, weights, model, place)
        drawn, scaled = (float(np.abs(found - one).max()) for one in wanted)
        is_right = scaled < 1e-4 and abs(score - wanted_score) < 1e-4 * max(1.0, abs(wanted_score))
        failed += not is_right
        print(
            f"| {settings.removesuffix('.yaml')} | {wanted_score:.4f} | {drawn:.1e} | {scaled:.1e}{'' if is_right else ' !'} |",
            flush=True,
        )
        shutil.rmtree(place)
    print(f"{len(only or SETTINGS) - failed} passed, {failed} failed")
    return min(1, failed)


def rates(run: Callable[..., str], environment: dict[str, str], theirs: Callable[..., dict], folder: Path) -> int:
    """Prints images a second, each of as many predictions as the library takes by itself. It draws one picture of all, the largest
    value of each pixel; camflow stores a heatmap and measures of each."""
    import fiftyone as fo

    weights = folder / "yolo11n-rates.pt"
    theirs("save", "-c", RATED, weights)
    model, _ = export(f"ultralytics:{weights}", folder, environment)
    images = [folder / f"{number}.jpg" for number in range(NUM_RATED)]
    for number, path in enumerate(images):
        colours(SIDE, number).save(path, quality=90)
    job = folder / "rate.json"
    job.write_text(json.dumps({"images": list(map(str, images)), "topk": PREDICTIONS, "side": SIDE}))
    # As it is, and as docs/how-to/detections.md advises for many detections: an image on each core.
    ways = ("cpu", ",".join(["cpu"] * len(os.sched_getaffinity(0))))
    heads = "".join(f" camflow, `--device {way}`, images/s | ratio |" for way in ways)
    print(f"| round | Ultralytics, images/s |{heads}\n|---|---|{'---|---|' * len(ways)}", flush=True)
    for number in range(ROUNDS):
        drawn = theirs("rate", weights, job)
        dataset = fo.Dataset(f"rate-{number}", persistent=True)
        for path, explained in zip(images, drawn["explained"], strict=True):
            boxes = [
                fo.Detection(label=one["label"], bounding_box=[left, top, right - left, bottom - top])
                for one in explained
                for left, top, right, bottom in [one["box"]]
            ]
            dataset.add_sample(fo.Sample(str(path), truth=fo.Detections(detections=boxes)))
        cells = f"| {number + 1} | {drawn['images_per_s']:.2f} |"
        for place, way in enumerate(ways):
            report, maps = folder / f"report-{number}-{place}.json", folder / f"maps-{number}-{place}"
            asked = ["--target", "labels:truth", "--class", "all", "--per-detection", "--device", way, "--report-file", report]
            run("annotate", "--dataset", dataset.name, "--model", model, "--out", maps, "--overwrite", *asked)
            done = json.loads(report.read_text())
            num_heatmaps, ours = done["counts"]["num_heatmaps"], len(images) / done["elapsed_s"]
            if num_heatmaps < 0.95 * PREDICTIONS * len(images):
                raise RuntimeError(f"camflow made {num_heatmaps} heatmaps of {PREDICTIONS * len(images)} predictions")
            cells += f" {ours:.2f} ({num_heatmaps} heatmaps) | {ours / drawn['images_per_s']:.2f} |"
            shutil.rmtree(maps)
        print(cells, flush=True)
        dataset.delete()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="SETTINGS.yaml", help="not all of the twelve")
    parser.add_argument("--rates", action="store_true", help="images a second instead")
    parser.add_argument("--camflow", default=os.environ.get("CAMFLOW", "camflow"), help="the program (default: $CAMFLOW)")
    arguments = parser.parse_args()
    cache = Path(os.environ.get("CAMFLOW_TEST_CACHE", Path.home() / ".cache" / "camflow" / "test"))
    os.environ |= {"FIFTYONE_DO_NOT_TRACK": "true", "CAMFLOW_CONFIG": ""}
    from private_mongod import PrivateMongod

    def run(*command) -> str:
        done = subprocess.run([arguments.camflow, *map(str, command)], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"camflow {command[0]} ended with {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}")
        return done.stdout

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environment = with_ultralytics(cache, folder / "settings")
        asking = reference("ultralytics_reference.py", environment)
        with PrivateMongod(folder / "database") as mongod, asking as theirs:
            os.environ["FIFTYONE_DATABASE_URI"] = mongod.uri
            if arguments.rates:
                return rates(run, environment, theirs, folder)
            return parity(arguments.only, run, environment, theirs, folder)


if __name__ == "__main__":
    sys.exit(main())
