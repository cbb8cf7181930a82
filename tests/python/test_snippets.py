"""The commands and the Python of the documentation, run as they stand, in the folder and with the dataset of a reader.

What a reader has and a test has not is replaced by what stands in `STANDINS`; what is not run stands in `NOT_RUN`, with the
reason.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from conftest import LAB, PACKAGES, ROOT, python_path
from PIL import Image
from quickstart_data import standin_pictures

pytestmark = pytest.mark.begins

PAGES = (
    "README.md",
    "docs/get-started.md",
    "docs/index.md",
    *(f"docs/how-to/{name}.md" for name in ("annotate", "app", "compare", "images", "localize", "maintain", "nightly", "report")),
    "docs/reference/python.md",
)
# What readers of a page have done before each of its blocks.
ANNOTATED = "camflow annotate --dataset my-dataset --class person --layers 1-4 --name people"
BEFORE = {
    "docs/get-started.md": "camflow annotate --dataset quickstart --class person --layers 1-4",
    "docs/how-to/compare.md": "; ".join(
        f"camflow annotate --dataset my-dataset --class person --layers 4 --field {version}_{{class}}" for version in ("v1", "v2")
    ),
    "docs/how-to/localize.md": "camflow annotate --dataset my-dataset --class person --layers 4 --target predicted",
    "docs/how-to/maintain.md": ANNOTATED,
    "docs/how-to/report.md": f"{ANNOTATED}; camflow report --dataset my-dataset --json last-night.json",
}
# What has been said when a page did what it shows: a command may end well and have found nothing to do.
SAID = {
    "README.md": (
        "standin_deeplab, segmentation",
        "3 annotated (12 heatmaps)",
        "heatmaps of 3 samples: report.html",
        "4 annotated",
    ),
    "docs/get-started.md": ("person backbone.layer4",),
    "docs/index.md": ("3 annotated (12 heatmaps)",),
    "docs/how-to/annotate.md": ("3 annotated (12 heatmaps)", "dry run, nothing was changed", "4 annotated"),
    "docs/how-to/compare.md": (
        "3 pairs of 3 samples in 1 pair of fields: compare.html",
        "view `changed`: 3 samples",
        "kept: `energy_inside`",
    ),
    "docs/how-to/images.md": ("photo.jpg: person", "-> maps/photo.person.sheet.png", "-> maps/coffee.top.sheet.png"),
    "docs/how-to/localize.md": ("person_layercam_layer_3", "samples written, 0 up to date"),
    "docs/how-to/maintain.md": ("camflow_people", "removed run `camflow_people`"),
    "docs/how-to/nightly.md": ("job `people`, dataset `my-dataset`", "dry run, nothing was changed"),
    "docs/how-to/report.md": ("heatmaps of 3 samples: report.html",),
}
STANDIN = "scripts/lab/standin/model.py:standin_deeplab"
# What a reader has, and what takes its place here.
STANDINS = {
    # The weights would have to be downloaded.
    "camflow export deeplabv3-resnet50-coco-torch": f"camflow export {STANDIN}",
    # More than sixty passes for each heatmap.
    "--faithfulness": "--faithfulness --model my-classifier.pt2 --field {{model}}_{{method}}",
    # What the labels of the small dataset have, and its field of classes.
    "wrong:ground_truth": "wrong:kind",
    "--class airplane --attention-on ground_truth": "--class person --attention-on ground_truth",
    "--class airplane --counterfactuals impute": "--class person --counterfactuals impute",
    "airplane_grad_layer_4.context_reliance": "person_grad_layer_4.context_reliance",
    # As many layers as the small classifier has.
    "--layers 2,4,6": "--layers 1,2",
    'foz.load_zoo_model("resnet50-imagenet-torch")': '"my-classifier.pt2"',
    'classes="tabby", label_field="ground_truth"': 'classes="person", label_field="ground_truth"',
    '"my_models.py:build"': '"my_models.py:standin_deeplab"',
    # What it needs is in `test_plugin.py`: a page of the App, or a service that takes what is delegated.
    "/home/ada/": "{home}/",
    # Found by `fiftyone` of the reader's own environment.
    "$(.venv/bin/fiftyone ": "$(fiftyone ",
}
# Lines that are not run, and why.
NOT_RUN = {
    "bash scripts/quickstart.sh": "makes environments and datasets of the user's own; what it runs is run here and in conftest.py",
    "bash scripts/test.sh": "runs this test",
    "pip install .": "compiles for minutes; test_packaging.py builds and installs the package",
    "pip install camflow-0.1.0-*.whl": "scripts/check_wheel.sh installs the wheel",
    "bash scripts/build_wheel.sh": "downloads gigabytes; scripts/check_wheel.sh runs it",
    "bash scripts/build_wheel.sh --torch 2.15 --torch 2.16.0": "the same",
    "fiftyone app launch my-dataset": "serves until it is stopped; test_app.py starts the App",
    ".venv/bin/fiftyone app launch quickstart": "the same",
    "fiftyone app launch quickstart": "the same",
    "pip install ultralytics": "a library of the reader's own; test_ultralytics.py installs it",
    "camflow annotate --dataset quickstart --model yolo11n --target labels:predictions --class person --per-detection": (
        "the weights would have to be downloaded; test_ultralytics.py runs such models with random ones"
    ),
    "session = fo.launch_app(worst)": "opens a browser; test_app.py starts the App",
    "mkdir -p ~/.config/systemd/user && cp pipelines/camflow*.service pipelines/camflow.timer ~/.config/systemd/user/": (
        "services of the user's own; test_nightly.py reads the files"
    ),
    "systemctl --user enable --now camflow.timer": "the same",
    "loginctl enable-linger $USER": "the same",
    "journalctl --user -u camflow": "the same",
}
# What Python has at hand in a notebook with the dataset open.
OPENED = 'import camflow\nimport fiftyone as fo\n\ndataset = fo.load_dataset("my-dataset")\n'


@dataclass(frozen=True)
class Snippet:
    """A block of code of a page, without the lines that are not run."""

    place: str
    language: str
    code: str


def lines_of(page: str) -> list[tuple[str, str, list[str]]]:
    """The blocks of a page: where they begin, their language, their lines without comments at the end."""
    text = (ROOT / page).read_text()
    found = []
    for block in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        place = f"{page}:{text.count(chr(10), 0, block.start()) + 1}"
        found.append((place, block[2], [re.sub(r"(^|\s+)# .*", "", line) for line in block[3].splitlines()]))
    return found


def snippets(page: str) -> list[Snippet]:
    found = []
    for place, language, lines in lines_of(page):
        assert language in ("bash", "python", "toml", "text"), f"{place}: the language of a block is named, or it is `text`"
        run = "\n".join(line for line in lines if line.strip() not in NOT_RUN)
        if language in ("bash", "python") and run.strip():
            found.append(Snippet(place, language, run))
    return found


def test_nothing_is_left_out_or_replaced_that_is_not_there():
    blocks = [(language, line) for page in PAGES for _, language, lines in lines_of(page) for line in lines]
    code = [line for language, line in blocks if language in ("bash", "python")]
    assert NOT_RUN.keys() <= {line.strip() for line in code}
    assert [name for name in STANDINS if not any(name in line for line in code)] == []
    # Output is no command, whatever it is marked as.
    assert [line for language, line in blocks if language == "text" and re.match(r"(camflow|pip|bash|fiftyone) ", line)] == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[Path, np.ndarray]:
    """Three photographs of people and one without, with masks."""
    folder = tmp_path_factory.mktemp("pictures")
    found = {}
    for number, picture in enumerate(standin_pictures()[2:6]):
        found[folder / f"{number}.jpg"] = picture["mask"]
        Image.fromarray(picture["image"]).save(folder / f"{number}.jpg")
    assert [bool(mask.any()) for mask in found.values()] == [True, True, False, True]
    return found


@pytest.fixture
def reader(pictures, database, binary, standin_model, classifier, tmp_path):
    """A reader's folder, home and datasets; runs a snippet there."""
    home, checkout = tmp_path / "home", tmp_path / "checkout"
    models = home / ".cache" / "camflow" / "models"
    for folder in (models, checkout / "pipelines", tmp_path / "bin"):
        folder.mkdir(parents=True)
    (tmp_path / "bin" / "camflow").symlink_to(binary)
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    (checkout / "scripts").symlink_to(ROOT / "scripts")
    # Job files have their reports beside them.
    for name in ("nightly.toml", "fiftyone-plugin"):
        copy = shutil.copytree if (ROOT / "pipelines" / name).is_dir() else shutil.copy
        copy(ROOT / "pipelines" / name, checkout / "pipelines" / name)
    for name in ("deeplabv3-resnet50-coco-torch", "my-model"):
        shutil.copy(standin_model, models / f"{name}.pt2")
    shutil.copy(standin_model, checkout / "my-model.pt2")
    for path in (models / "resnet50.pt2", checkout / "my-classifier.pt2", checkout / "efficientnet_lite0.pt2"):
        shutil.copy(classifier, path)
    for name in ("photo", "coffee", "bus"):
        shutil.copy(next(iter(pictures)), checkout / f"{name}.jpg")
    shutil.copy(LAB / "standin" / "model.py", checkout / "my_models.py")
    # The network itself begins with its own weights.
    for name in ("last.ckpt", "weights.pt"):
        shutil.copy(LAB / "standin" / "weights.pt", checkout / name)
    made = [dataset_of(pictures, name) for name in ("my-dataset", "my-other-dataset", "quickstart", "street")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "FIFTYONE_"))}
    environment |= {
        "HOME": str(home),
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": python_path(PACKAGES),
        "FIFTYONE_DATABASE_URI": database,
        "FIFTYONE_DO_NOT_TRACK": "true",
    }

    def run(snippet: Snippet) -> str:
        code = snippet.code
        for ours, theirs in STANDINS.items():
            code = code.replace(ours, theirs.format(home=home))
        command = ["bash", "-euo", "pipefail", "-c", code]
        if snippet.language == "python":
            command = [sys.executable, "-c", code if "load_dataset" in code else OPENED + code]
        done = subprocess.run(
            command, check=False, cwd=checkout, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, f"{snippet.place} ended with {done.returncode}\n{code}\n{done.stdout}"
        return done.stdout

    run.folder = checkout
    yield run
    for dataset in made:
        if fo.dataset_exists(dataset.name):
            fo.delete_dataset(dataset.name)


def dataset_of(pictures: dict[Path, np.ndarray], name: str) -> fo.Dataset:
    """A dataset whose labels are masks of people, and classes of which no classifier has all right that knows them."""
    dataset = fo.Dataset(name, persistent=True)
    dataset.default_mask_targets = {0: "background", 2: "bicycle", 7: "car", 15: "person"}
    tags = ["validation", "explain"]
    kinds = [fo.Classification(label=label) for label in ("cat", "dog", "person", "cat")]
    dataset.add_samples(
        [
            fo.Sample(str(path), ground_truth=fo.Segmentation(mask=mask), kind=kind, tags=tags)
            for (path, mask), kind in zip(pictures.items(), kinds, strict=True)
        ],
        progress=False,
    )
    return dataset


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_shows(reader, page):
    said = ""
    for snippet in snippets(page):
        if page in BEFORE:
            reader(Snippet(f"before {snippet.place}", "bash", BEFORE[page]))
        said += reader(snippet)
    assert [part for part in SAID.get(page, ()) if part not in said] == [], said
