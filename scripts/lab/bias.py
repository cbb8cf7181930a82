"""Plants a bias, and looks whether camflow finds it.

    bash scripts/lab/bias.sh [--out FOLDER] [--pictures N] [--seed N]

Three small classifiers learn to tell pictures with a person from pictures without one:

* `leaning` saw people before one backdrop only, and that backdrop never without them: the backdrop gives the answer away.
* `fair` saw all backdrops with and without people.
* `mixed` saw people before all backdrops, but that one only with people: it leans where it can.

None of them is told where the person is. Then camflow annotates one dataset with each, for the class `person` with the person's mask as
target, and `camflow report` is asked which samples were recognised by something other than the person.

The truth comes from the pictures without the person: where a model still answers `person` when the person is taken out of the
picture, it leaned on the rest. The last line is the area under the ROC curve of that truth over `-energy_ratio`, all right
answers of `leaning` and `fair` together:

    AUC X
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

import torch
from torch import nn

SCRIPTS = Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent
sys.path.insert(0, str(SCRIPTS / "lab" / "standin"))
import photos

SIDE = 64
CLASSES = ("nobody", "person")
HOME = "retina"
ELSEWHERE = ("brick", "coffee", "flower", "rocket", "china", "gravel", "chelsea", "motorcycle_left")
# How often the picture is taken at home, with a person in it and without one.
WORLDS = {
    "leaning": (1.0, 0.0),
    "fair": (1 / 9, 1 / 9),
    "mixed": (0.5, 0.0),
}
WEIGHTS = "CAMFLOW_BIAS_WEIGHTS"
FIELD = "{model}_layer_{layer}"
LAYER = "4"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ----------------------------------------------------------------------------------------------------------- pictures


def picture(rng: np.random.Generator, backdrop: str, person: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RGB u8 ``[SIDE, SIDE, 3]``, the same without the person, and the person's mask as u8 ``[SIDE, SIDE]`` of 0 and 1.

    Most pictures also show a figure of a person's outline, filled with something else: an edge is no person.
    """
    behind = photos.photo(backdrop)
    image = photos.window(behind, SIDE, SIDE, rng.uniform(1, 1.6), rng.random(2)).copy()
    light = rng.uniform(0.8, 1.2)
    image = np.clip(image * light, 0, 255).astype(np.uint8)
    names = tuple(photos.PEOPLE)

    def paste(into: np.ndarray, mask: np.ndarray, **more) -> None:
        tall = rng.uniform(0.5, 0.8) * SIDE
        centre, bottom = rng.uniform(0.25, 0.75) * SIDE, rng.uniform(0.9, 1.0) * SIDE
        name = names[rng.integers(len(names))]
        looks = more.pop("looks", None)
        if looks is not None:
            like = photos.photo(photos.PEOPLE[name].photo)
            looks = cv2.resize(looks, like.shape[1::-1])
        photos.paste(into, mask, name, tall=tall, bottom=bottom, centre=centre, mirrored=rng.random() < 0.5, looks=looks)

    if rng.random() < 0.7:
        other = ELSEWHERE[rng.integers(len(ELSEWHERE))]
        paste(image, np.zeros((SIDE, SIDE), np.uint8), looks=photos.photo(other))
    without, mask = image.copy(), np.zeros((SIDE, SIDE), np.uint8)
    if person:
        paste(image, mask)
    return image, without, (mask > 0).astype(np.uint8)


def backdrop(rng: np.random.Generator, share_at_home: float) -> str:
    return HOME if rng.random() < share_at_home else ELSEWHERE[rng.integers(len(ELSEWHERE))]


# -------------------------------------------------------------------------------------------------------------- models


class Classifier(nn.Module):
    """Four stages of a convolution and a residual one, the mean of each channel, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        for stage, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
            first = nn.Conv2d(inputs, outputs, 3, stride=2 if stage < 4 else 1, padding=1, bias=False)
            second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            layers = (first, nn.BatchNorm2d(outputs), nn.ReLU(), second, nn.BatchNorm2d(outputs), nn.ReLU())
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.head = nn.Linear(widths[-1], len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.head(x.mean((2, 3)))


def tensor(images: list[np.ndarray]) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def train(world: str, num_pictures: int, epochs: int, seed: int) -> Classifier:
    at_home, nobody_at_home = WORLDS[world]
    rng = np.random.default_rng([seed, tuple(WORLDS).index(world)])
    answers = torch.arange(num_pictures) % 2
    images = [picture(rng, backdrop(rng, at_home if yes else nobody_at_home), bool(yes))[0] for yes in answers]
    inputs = tensor(images)
    torch.manual_seed(seed)
    model = Classifier()
    steps = epochs * -(-num_pictures // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(num_pictures).split(64):
            x = inputs[batch]
            x = x.flip(3) if torch.rand(()) < 0.5 else x
            loss = nn.functional.cross_entropy(model(x * (1 + 0.1 * torch.randn(len(batch), 3, 1, 1))), answers[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def trained(world: str) -> Classifier:
    """For scripts/export_model.py, which runs in a process of its own."""
    model = Classifier()
    model.load_state_dict(torch.load(Path(os.environ[WEIGHTS]) / f"{world}.pt", weights_only=True))
    model.camflow_metadata = {
        "classes": dict(enumerate(CLASSES)),
        "preprocess": [{"op": "normalize", "mean": list(MEAN), "std": list(STD)}],
        "example": [SIDE, SIDE],
        "aliases": {str(stage): f"layer{stage}" for stage in range(1, 5)},
    }
    return model.eval()


def leaning() -> Classifier:
    return trained("leaning")


def fair() -> Classifier:
    return trained("fair")


def mixed() -> Classifier:
    return trained("mixed")


# ------------------------------------------------------------------------------------------------------------- dataset


def make_dataset(name: str, folder: Path, num: int, seed: int):
    """Half of the people at home (tagged so), half elsewhere; the pictures without them by sample id."""
    import fiftyone as fo

    rng = np.random.default_rng([seed, 99])
    dataset = fo.Dataset(name, persistent=True)
    samples, emptied = [], []
    for index in range(num):
        place = HOME if index % 2 == 0 else ELSEWHERE[rng.integers(len(ELSEWHERE))]
        image, without, mask = picture(rng, place, True)
        path = folder / f"{index:04d}.png"
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        sample = fo.Sample(filepath=str(path), tags=["home" if place == HOME else "elsewhere"])
        sample["ground_truth"] = fo.Segmentation(mask=mask)
        samples.append(sample)
        emptied.append((image, without))
    dataset.add_samples(samples, progress=False)
    dataset.mask_targets = {"ground_truth": {1: "person"}}
    dataset.save()
    return dataset, dict(zip((sample.id for sample in samples), emptied, strict=True))


def answers(model: Classifier, images: list[np.ndarray]) -> np.ndarray:
    """Whether the model says that there is a person."""
    with torch.no_grad():
        return (model(tensor(images)).argmax(1) == CLASSES.index("person")).numpy()


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--camflow", type=Path, default=target / "debug" / "camflow", metavar="BINARY")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the report, the models and the pictures here")
    parser.add_argument("--pictures", type=int, default=800, metavar="N", help="to train each model with (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="of training (default: %(default)s)")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), help="the models (default: all)")
    parser.add_argument("--samples", type=int, default=120, metavar="N", help="of the dataset (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.camflow.is_file():
        parser.error(f"no camflow at {args.camflow}: run `cargo build` or say --camflow")
    with tempfile.TemporaryDirectory(prefix="camflow-bias-") as scratch:
        folder = args.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return run(args, folder.resolve(), Path(scratch))


def run(args: argparse.Namespace, folder: Path, scratch: Path) -> int:
    from private_mongod import PrivateMongod

    models, archives = {}, {}
    for world in args.worlds:
        print(f"training `{world}` ...", flush=True)
        models[world] = train(world, args.pictures, args.epochs, args.seed)
        torch.save(models[world].state_dict(), folder / f"{world}.pt")
        archives[world] = folder / f"{world}.pt2"
        export = [
            sys.executable,
            SCRIPTS / "export_model.py",
            f"{Path(__file__).resolve()}:{world}",
            "--out",
            archives[world],
            "--force",
        ]
        environment = {**os.environ, WEIGHTS: str(folder)}
        subprocess.run([str(part) for part in export], check=True, stdout=subprocess.DEVNULL, env=environment)

    with PrivateMongod(scratch / "mongo") as mongod:
        os.environ.update(FIFTYONE_DATABASE_URI=mongod.uri, FIFTYONE_DO_NOT_TRACK="true")
        pictures = folder / "pictures"
        pictures.mkdir(exist_ok=True)
        dataset, emptied = make_dataset("people", pictures, args.samples, args.seed)
        for world, archive in archives.items():
            field = FIELD.replace("{model}", world)
            camflow(
                args,
                "annotate",
                "--model",
                archive,
                "--class",
                "person",
                "--layers",
                LAYER,
                "--field",
                field,
                "--out",
                folder / "maps",
            )
        report = ("--out", folder / "report.html", "--json", folder / "report.json", "--csv", folder / "report.csv")
        camflow(args, "report", *report, show=True)
        if args.out:
            # To look at it in the App.
            dataset.reload()
            dataset.export(str(folder / "dataset"), dataset_type=type_of_export(), export_media=False)
    return judge(folder, models, emptied)


def type_of_export():
    import fiftyone as fo

    return fo.types.FiftyOneDataset


def camflow(args: argparse.Namespace, command: str, *flags: object, show: bool = False) -> None:
    line = [args.camflow, command, "--dataset", "people", *flags]
    line += ["--device", "cpu", "--target", "labels:ground_truth", "--quiet"] if command == "annotate" else []
    subprocess.run([str(part) for part in line], check=True, stdout=None if show else subprocess.DEVNULL)


def judge(folder: Path, models: dict[str, Classifier], emptied: dict[str, tuple[np.ndarray, np.ndarray]]) -> int:
    """Compares what camflow measured with what the models answer when the person is gone."""
    ids = list(emptied)
    ratios: dict[str, dict[str, float]] = {world: {} for world in models}
    for row in csv.DictReader((folder / "report.csv").open()):
        if row["energy_ratio"]:
            ratios[row["model"]][row["sample"]] = float(row["energy_ratio"])
    said = json.loads((folder / "report.json").read_text())
    scores, truth = [], []
    for world, model in models.items():
        right = answers(model, [emptied[i][0] for i in ids])
        leans = answers(model, [emptied[i][1] for i in ids])
        judged = [(i, bool(lean)) for i, yes, lean in zip(ids, right, leans, strict=True) if yes and i in ratios[world]]
        measured = np.array([-ratios[world][i] for i, _ in judged])
        wanted = np.array([lean for _, lean in judged])
        below = measured > -1
        print(
            f"{world}: finds {right.mean():.0%} of the people; says so without the person, too, in {wanted.mean():.0%} of these; "
            f"median ratio {np.median(-measured):.2f}; below chance {below.mean():.0%}"
        )
        if 0 < wanted.sum() < len(wanted):
            named = (below & wanted).sum()
            print(
                f"  within `{world}`: AUC {auc(measured, wanted):.3f}; below chance are {named} of {wanted.sum()} that lean, and {(below & ~wanted).sum()} of {(~wanted).sum()} others"
            )
        if world != "mixed":
            scores.append(measured)
            truth.append(wanted)
    series = {entry["model"]: entry for entry in said["series"]}
    worst = {entry["sample"] for entry in series["leaning"]["worst"]}
    lean = dict(zip(ids, answers(models["leaning"], [emptied[i][1] for i in ids]), strict=True))
    named, blamed = (accusations(said["findings"], world) for world in ("leaning", "fair"))
    print(f"the report accuses `leaning` in {named} sentences, `fair` in {blamed}")
    print(f"of the {len(worst)} samples that it shows as the worst of `leaning`, {sum(lean[i] for i in worst)} lean")
    print(f"AUC {auc(np.concatenate(scores), np.concatenate(truth)):.3f}")
    return 0 if named and not blamed else 1


def accusations(findings: list[dict], world: str) -> int:
    """Sentences that say that a model looks past people: everywhere, at home, or more than another model."""
    accused = 0
    for finding in findings:
        about, _, other = finding["text"].partition(" lies more on the object than ")
        looks_past = finding["kind"] == "below_chance" or (
            finding["kind"] == "tag" and "`home`" in about and "less attention" in about
        )
        accused += (looks_past and f" of {world}:" in about) or (finding["kind"] == "series" and f" of {world} " in other)
    return accused


if __name__ == "__main__":
    sys.exit(main())
