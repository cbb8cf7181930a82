"""Makes the FiftyOne dataset `quickstart`: images with people, and a network's masks of them.

    .venv/bin/python scripts/quickstart_data.py [--name quickstart] [--out DIR] [--offline] [--overwrite]

Where the internet can be reached, it is FiftyOne's own: the zoo's dataset
`quickstart` and the predictions of the zoo's `deeplabv3-resnet50-coco-torch`.
Where it cannot, or with `--offline`, it is a stand-in with the same fields,
made of photographs that are installed anyway (see ``standin/photos.py``) and a
small network of the same kind (``standin/model.py``); `dataset.info` says so.

The last line it prints names the model that the predictions came from:
`model: REFERENCE`, as `scripts/export_model.py` takes it.
"""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

# Before the import, which would report itself otherwise.
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
# Of FiftyOne's own server it says that it is an old one, in the middle of what is told here.
os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS / "lab" / "standin"))

import cv2
import fiftyone as fo
import numpy as np
import photos
from PIL import Image

ZOO_DATASET = "quickstart"
ZOO_MODEL = "deeplabv3-resnet50-coco-torch"
STANDIN_MODEL = "scripts/lab/standin/model.py:standin_deeplab"
PREDICTIONS = "resnet50_seg"

# (height, width): landscape, portrait and square; below, at and above the 520
# that the model resizes the smaller side to.
SIZES = (
    *((480, 640), (640, 480), (427, 640), (512, 512), (360, 640), (600, 800)),
    *((640, 427), (333, 500), (720, 540)),
)


def reachable() -> bool:
    """Whether the zoo's files are here already, or a server that has them answers soon."""
    import fiftyone.zoo as foz
    import fiftyone.zoo.models as fozm

    if foz.is_zoo_model_downloaded(ZOO_MODEL) and ZOO_DATASET in foz.list_downloaded_zoo_datasets():
        return True
    url = fozm.get_zoo_model(ZOO_MODEL).manager.config.url
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except OSError as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        print(f"the FiftyOne zoo cannot be reached ({why}): making a stand-in from installed photographs")
        return False
    return True


def standin_model():
    """The stand-in network as a FiftyOne model, set up as the zoo sets up its DeepLabV3."""
    import fiftyone.utils.torch as fout
    from model import METADATA, VOC_CLASSES, standin_deeplab

    resize, normalize = METADATA["preprocess"]
    return fout.TorchImageModel(
        fout.TorchImageModelConfig(
            {
                "model": standin_deeplab(),
                "output_processor_cls": "fiftyone.utils.torch.SemanticSegmenterOutputProcessor",
                "output_processor_args": {"has_softmax_out": False},
                "mask_targets": dict(enumerate(VOC_CLASSES)),
                "image_dim": resize["size"],
                "image_mean": normalize["mean"],
                "image_std": normalize["std"],
            }
        )
    )


def predict(dataset: fo.Dataset, model) -> None:
    """Stores the model's masks in `resnet50_seg`, and the names of their values."""
    print(f"{dataset.name}: predicting {PREDICTIONS} for {len(dataset)} samples")
    # No worker processes: starting them costs more than they save here.
    dataset.apply_model(model, label_field=PREDICTIONS, batch_size=1, num_workers=0)
    dataset.mask_targets = {**dataset.mask_targets, PREDICTIONS: model.mask_targets}
    dataset.save()


def standin_pictures() -> list[dict]:
    """Image, mask of 0 and 15, and background of every picture, always the same."""
    rng = np.random.default_rng(7)
    backgrounds = photos.HELD_OUT_BACKGROUNDS + photos.TRAINING_BACKGROUNDS
    people = tuple(photos.PEOPLE)
    pictures = []
    for index in range(27):
        height, width = SIZES[index % len(SIZES)]
        # The first third stands before photographs that training never saw.
        name = backgrounds[index % 3 if index < 10 else 3 + index % (len(backgrounds) - 3)]
        at = rng.random(2)
        piece = photos.window(photos.photo(name), height, width, rng.uniform(1, 1.4), at)
        image, mask = np.ascontiguousarray(piece), np.zeros((height, width), np.uint8)
        # Every fifth is empty, every fourth of the others holds two people.
        count = 0 if index % 5 == 4 else 2 if index % 4 == 3 else 1
        for number in range(count):
            # Back to front, so that the smaller person is not hidden.
            tall = rng.uniform(0.35, 0.55) if number == 0 and count == 2 else rng.uniform(0.5, 0.85)
            tall *= min(height, width)
            photos.paste(
                image,
                mask,
                people[(index + number) % len(people)],
                tall=tall,
                bottom=height + rng.uniform(0, 0.2) * tall,
                centre=width * (rng.uniform(0.2, 0.8) if count == 1 else (0.25, 0.75)[number]),
                mirrored=rng.random() < 0.5,
            )
        pictures.append({"image": image, "mask": mask, "background": name})
    # And the photographs that the people come from, as they are.
    for name in people:
        mask = np.where(photos.alpha(name) > 0.5, photos.PERSON, 0).astype(np.uint8)
        pictures.append({"image": photos.photo(name), "mask": mask, "background": name})
    return pictures


def write_picture(folder: Path, index: int, image: np.ndarray) -> Path:
    """Writes the image in one of the ways images come in: mostly JPEG, some not quite usual."""
    picture = Image.fromarray(image)
    if index % 7 == 6:
        path = folder / f"{index:03}.png"
        picture.save(path)
        return path
    path = folder / f"{index:03}.jpg"
    if index == 10:
        picture = picture.convert("L")
    exif = Image.Exif()
    if index == 15:
        # Orientation 6: "turn me right to show me". FiftyOne and camflow read
        # the pixels as they are stored, and so do the masks beside them.
        exif[0x0112] = 6
    picture.save(path, quality=90, exif=exif)
    return path


def make_standin(name: str, folder: Path) -> fo.Dataset:
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(exist_ok=True)
    model = standin_model()
    samples = []
    for index, picture in enumerate(standin_pictures()):
        path = write_picture(images, index, picture["image"])
        mask_path = masks / f"{index:03}.png"
        cv2.imwrite(str(mask_path), picture["mask"])
        sample = fo.Sample(filepath=str(path), background=picture["background"])
        sample["ground_truth"] = fo.Segmentation(mask=picture["mask"])
        sample["ground_truth_path"] = fo.Segmentation(mask_path=str(mask_path))
        sample.tags.append("person" if picture["mask"].any() else "nobody")
        if picture["background"] in photos.HELD_OUT_BACKGROUNDS:
            sample.tags.append("held-out")
        samples.append(sample)
    dataset = fo.Dataset(name)
    dataset.default_mask_targets = model.mask_targets
    dataset.info = {
        "stand_in": True,
        "about": "A stand-in for the FiftyOne zoo's `quickstart`, which could not be downloaded: "
        "three people, cut out of photographs and put in front of others. The tag `held-out` "
        "marks backgrounds that the stand-in network never saw in training.",
        "model": STANDIN_MODEL,
    }
    dataset.save()
    dataset.add_samples(samples, progress=False)
    dataset.compute_metadata(progress=False)
    predict(dataset, model)
    return dataset


def make_from_zoo(name: str) -> fo.Dataset:
    import fiftyone.zoo as foz

    dataset = foz.load_zoo_dataset(ZOO_DATASET, dataset_name=name)
    dataset.info["model"] = ZOO_MODEL
    dataset.save()
    predict(dataset, foz.load_zoo_model(ZOO_MODEL))
    return dataset


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", default="quickstart", help="of the dataset (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for the stand-in's images")
    parser.add_argument("--offline", action="store_true", help="make the stand-in, whatever can be reached")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()

    if fo.dataset_exists(args.name) and not args.overwrite:
        dataset = fo.load_dataset(args.name)
        if dataset.has_field(PREDICTIONS):
            print(f"the dataset `{args.name}` is there, with {len(dataset)} samples")
        elif not args.offline and reachable():
            # Somebody's own `quickstart` from the zoo: only the predictions lack.
            import fiftyone.zoo as foz

            predict(dataset, foz.load_zoo_model(ZOO_MODEL))
        else:
            print(f"error: there is a dataset `{args.name}` without `{PREDICTIONS}`", file=sys.stderr)
            print("hint: `--name OTHER` makes another one, `--overwrite` replaces it", file=sys.stderr)
            return 2
        print(f"model: {dataset.info.get('model', ZOO_MODEL)}")
        return 0

    # Under another name until it is whole: a run that is broken off leaves no
    # `quickstart` that looks finished.
    unfinished = f"{args.name}-unfinished"
    if fo.dataset_exists(unfinished):
        fo.delete_dataset(unfinished)
    dataset = None
    if not args.offline and reachable():
        try:
            dataset = make_from_zoo(unfinished)
        except Exception as error:  # noqa: BLE001 (a download can end in anything)
            print(f"the download did not work ({error}): making a stand-in from installed photographs")
            if fo.dataset_exists(unfinished):
                fo.delete_dataset(unfinished)
    if dataset is None:
        folder = args.out or Path(fo.config.default_dataset_dir) / "quickstart-standin"
        dataset = make_standin(unfinished, folder.expanduser().resolve())
    if fo.dataset_exists(args.name):
        fo.delete_dataset(args.name)
    dataset.name = args.name
    dataset.persistent = True
    print(f"made the dataset `{args.name}`: {len(dataset)} samples")
    print(f"model: {dataset.info['model']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
