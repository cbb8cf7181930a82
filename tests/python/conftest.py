"""What the tests share: the built program, exported models, a private FiftyOne database with a dataset in it.

Nothing is downloaded and nothing of the user's is touched. A missing program or database is an error, never a skip.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
LAB = SCRIPTS / "lab"
# Where the Python package `camflow` lies.
PACKAGES = ROOT / "python"
# Seconds after which what nobody has used leaves the cache.
UNUSED = 14 * 24 * 3600
# What each Python that tests start does first.
STARTUP = Path(__file__).with_name("startup")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Before FiftyOne is imported anywhere.
os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
# A user's own defaults are no part of any test.
os.environ["CAMFLOW_CONFIG"] = ""
# Before libtorch is loaded, here and in what the tests start: the networks are small, and threads that wait for each other
# take several times as long on cores that have other work. What a sum gives does not depend on it beyond the last bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(SCRIPTS), str(LAB), str(PACKAGES)]


def python_path(*folders: Path | str) -> str:
    """The `PYTHONPATH` of a process that a test starts."""
    return os.pathsep.join(map(str, (STARTUP, *folders)))


# With what is on it already, as whoever starts the tests means it.
os.environ["PYTHONPATH"] = python_path(*filter(None, [os.environ.get("PYTHONPATH")]))

import dataset_copies
from archive_copies import copy_archive
from camflow.garbage import collect_seldom
from private_mongod import PrivateMongod

collect_seldom()


@pytest.fixture(scope="session")
def binary() -> Path:
    """The program under test: `CAMFLOW`, else the development build."""
    named = os.environ.get("CAMFLOW")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(named) if named else target / "debug" / "camflow"
    if not path.is_file():
        pytest.fail(f"no camflow at {path}: run `cargo build` or set CAMFLOW")
    return path


@pytest.fixture(scope="session")
def camflow(binary):
    """Runs camflow; fails unless it exits with the expected code. The result has stdout, stderr and the JSON lines."""

    def run(*arguments, code: int = 0, env: dict | None = None, **more):
        command = [str(binary), *map(str, arguments)]
        environment = {**os.environ, **(env or {})}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=900, **more)
        assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        done.events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return done

    return run


@pytest.fixture(scope="session")
def cache() -> Path:
    """Models that take a while to export are kept between runs, under names that hold what they depend on."""
    folder = Path(os.environ.get("CAMFLOW_TEST_CACHE", ROOT / "target" / "test-cache"))
    folder.mkdir(parents=True, exist_ok=True)
    # Whatever changes the exporter leaves gigabytes that nobody will ask for again.
    for path in (*folder.glob("*.pt2"), *folder.glob("*.npz"), *folder.glob("*.zip")):
        asked_for = [one.stat().st_mtime for one in (path, path.with_suffix(".lock")) if one.exists()]
        if time.time() - max(asked_for, default=0) > UNUSED:
            path.unlink(missing_ok=True)
    return folder


# A process that has loaded what every export needs, which takes longer than the export itself. Each runs in a copy of it.
EXPORTS = multiprocessing.get_context("forkserver")
EXPORTS.set_forkserver_preload(["torch.export", "torch._dynamo", "torchvision"])


def export_archive(arguments: list[str]) -> None:
    """What `python -m camflow.export` does."""
    os.chdir(ROOT)
    from camflow.export.cli import main

    sys.exit(main(arguments))


def code_of(path: Path) -> str:
    """What a Python file does: without its name, format, comments, docstrings and annotations, which do not change an archive."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = None
    return ast.dump(tree)


@pytest.fixture(scope="session")
def exporter_code() -> str:
    """What an archive depends on, beside the model: what the exporter does, and which libraries it finds."""
    package = PACKAGES / "camflow" / "export"
    # How its process is started changes no archive.
    files = sorted(path for path in package.rglob("*.py") if path.name != "__main__.py")
    libraries = ("torch", "torchvision", "timm", "transformers", "fiftyone")
    return repr(list(map(importlib.metadata.version, libraries))) + "".join(map(code_of, files))


@contextlib.contextmanager
def made_once(path: Path):
    """Says whether a file of the cache is there already, or this process is to make it: several may run tests."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Not the file: camflow, in another process, would say that it changed while it was read.
        os.utime(lock.fileno())
        yield path.exists()


@pytest.fixture(scope="session")
def export(cache, exporter_code):
    """Exports a model with scripts/export_model.py; its path."""

    def run(reference: str, *arguments: str, inputs: tuple[Path, ...] = ()) -> Path:
        # The same in every checkout.
        digest = hashlib.sha256(repr((reference.removeprefix(f"{ROOT}/"), arguments)).encode() + exporter_code.encode())
        for path in inputs:
            digest.update(path.read_bytes())
        stem = "".join(c if c.isalnum() else "_" for c in Path(reference).name)
        path = cache / f"{stem}-{digest.hexdigest()[:12]}.pt2"
        with made_once(path) as is_there:
            if not is_there:
                exporting = EXPORTS.Process(target=export_archive, args=([reference, "--out", str(path), *arguments],))
                exporting.start()
                exporting.join()
                assert exporting.exitcode == 0, f"exporting {reference} ended with {exporting.exitcode}"
        return path

    return run


@pytest.fixture(scope="session")
def archived(cache, exporter_code):
    """Exports a model that a test makes, as a user's Python does: `archived(make, *key, code=(FILE, ...), **options)` gives the archive
    of the loaded model that `make()` gives, exported with these options, and what it says of itself. It is made anew where the
    exporter, the key, the options, those files or the libraries are others."""

    def run(make, *key, code: tuple[Path, ...], **options) -> tuple[Path, dict]:
        from camflow.export import export

        digest = hashlib.sha256(repr((key, sorted(options.items()))).encode())
        digest.update((exporter_code + "".join(map(code_of, code))).encode())
        path = cache / f"archived-{digest.hexdigest()[:16]}.pt2"
        with made_once(path) as is_there:
            if not is_there:
                export(make(), path, **options)
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/extra/camflow.json"))
            return path, json.loads(archive.read(name))

    return run


@pytest.fixture(scope="session")
def kept(cache):
    """What the references compute, and how little it takes to look it up: `kept(compute, *key, code=(FILE, ...))` gives the array, or
    the arrays by name, that `compute()` gives. It is computed anew where the key, those files or the libraries are others."""
    import torch

    libraries = ("torch", "torchvision", "timm", "transformers", "grad-cam", "numpy")
    surroundings = [*map(importlib.metadata.version, libraries), torch.backends.cpu.get_cpu_capability()]

    def run(compute, *key, code: tuple[Path, ...]):
        digest = hashlib.sha256(repr((surroundings, key)).encode() + "".join(map(code_of, code)).encode())
        path = cache / f"reference-{digest.hexdigest()[:16]}.npz"
        if path.exists():
            os.utime(path)
        else:
            found = compute()
            with tempfile.NamedTemporaryFile(dir=cache, suffix=".npz", delete=False) as file:
                np.savez(file, **(found if isinstance(found, dict) else {"": found}))
            os.replace(file.name, path)
        with np.load(path) as arrays:
            found = dict(arrays)
        return found.get("", found)

    return run


@pytest.fixture(scope="session")
def standin_model(export) -> Path:
    """The trained stand-in network as an archive."""
    folder = LAB / "standin"
    return export("scripts/lab/standin/model.py:standin_deeplab", inputs=(folder / "model.py", folder / "weights.pt"))


@pytest.fixture(scope="session")
def small_standin_model(standin_model, tmp_path_factory) -> Path:
    """The same for images of half the side, a quarter of the work: where it does not matter how large heatmaps are."""

    def halve(described: dict) -> None:
        (resize,) = (step for step in described["preprocess"] if step["op"] == "resize_smaller")
        resize["size"] //= 2

    return copy_archive(standin_model, tmp_path_factory.mktemp("small") / standin_model.name, halve)


@pytest.fixture(scope="session")
def classifier_file() -> Path:
    """Source of a tiny classifier of cats, dogs and persons that sees the middle of an image."""
    return Path(__file__).with_name("tiny_classifier.py")


@pytest.fixture(scope="session")
def classifier(export, classifier_file) -> Path:
    """It, as an archive."""
    return export(f"{classifier_file}:classifier", inputs=(classifier_file,))


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A private MongoDB, FiftyOne's own, with FiftyOne in this process connected to it; its URI."""
    with PrivateMongod(tmp_path_factory.mktemp("mongo")) as mongod:
        os.environ["FIFTYONE_DATABASE_URI"] = mongod.uri
        import fiftyone as fo

        fo.config.database_uri = mongod.uri
        yield mongod.uri


@pytest.fixture(scope="session")
def quickstart(database, cache, tmp_path_factory):
    """The stand-in dataset as scripts/quickstart_data.py makes it; its name. Tests that write work on clones.

    It is none of camflow's results, and kept between runs: a network predicts its masks.
    """
    import fiftyone as fo
    import pymongo

    name, out = "standin", tmp_path_factory.mktemp("quickstart").resolve()
    libraries = ("fiftyone", "torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "scikit-image", "scikit-learn")
    digest = hashlib.sha256(repr(list(map(importlib.metadata.version, libraries))).encode())
    digest.update((LAB / "standin" / "weights.pt").read_bytes())
    for mask in sorted((LAB / "standin" / "masks").glob("*.png")):
        digest.update(mask.read_bytes())
    made_by = (
        SCRIPTS / "quickstart_data.py",
        LAB / "standin" / "photos.py",
        LAB / "standin" / "model.py",
        Path(dataset_copies.__file__),
    )
    digest.update("".join(map(code_of, made_by)).encode())
    archive = cache / f"dataset-{digest.hexdigest()[:16]}.zip"
    with pymongo.MongoClient(database) as client, made_once(archive) as is_there:
        documents = client[fo.config.database_name]
        if is_there:
            dataset_copies.restore(documents, out, archive)
        else:
            command = [sys.executable, SCRIPTS / "quickstart_data.py", "--offline", "--name", name, "--out", out]
            subprocess.run([str(part) for part in command], check=True, cwd=ROOT)
            dataset_copies.save(documents, name, out, archive)
    return name


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's browser."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(f"no {' or '.join(BROWSERS[:3])} on the PATH: run `sudo apt-get install chromium`")
    return path


@pytest.fixture
def clone(request):
    """Makes persistent copies of a dataset (or view) that the test may change; they are deleted when it is over."""
    import fiftyone as fo

    made = []

    def copy(source):
        made.append(source.clone(f"{request.node.name}-{len(made)}"))
        made[-1].persistent = True
        return made[-1]

    yield copy
    for dataset in made:
        if fo.dataset_exists(dataset.name):
            fo.delete_dataset(dataset.name)


@pytest.fixture(scope="session")
def tiny_model(export) -> Path:
    """Three convolutions for images of 32 x 32: what is tested is camflow around the model."""
    return export("scripts/lab/growth.py:tiny", inputs=(LAB / "growth.py",))


@pytest.fixture
def tiny_dataset(database, request, tmp_path):
    """Makes persistent datasets of small pictures with masks, in which every picture has something light (class 2)."""
    import fiftyone as fo
    import numpy as np
    from PIL import Image

    made = []

    def make(count: int, **fields):
        dataset = fo.Dataset(f"{request.node.name}-tiny-{len(made)}", persistent=True)
        made.append(dataset)
        dataset.default_mask_targets = {0: "background", 1: "middle", 2: "light", 3: "never"}
        folder = tmp_path / f"images-{len(made)}"
        folder.mkdir()
        samples = []
        for n in range(count):
            levels = np.random.default_rng(n).integers(0, 255, (30, 40, 3), np.uint8)
            Image.fromarray(levels).save(folder / f"{n:03}.png")
            mask = np.digitize(levels.mean(2), (100, 150)).astype(np.uint8)
            values = {name: value(n) for name, value in fields.items()}
            samples.append(fo.Sample(str(folder / f"{n:03}.png"), ground_truth=fo.Segmentation(mask=mask), n=n, **values))
        dataset.add_samples(samples, progress=False)
        return dataset

    yield make
    for dataset in made:
        if fo.dataset_exists(dataset.name):
            fo.delete_dataset(dataset.name)
