"""How a run is spread over devices, batches and precisions: faster, and the same heatmaps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from camflow import load
from PIL import Image

import torch

HERE = Path(__file__).parent
FIELDS = [f"person_grad_layer_{layer}" for layer in range(1, 5)]


@pytest.fixture
def maps(quickstart, clone, camflow, standin_model, tmp_path):
    """Annotates six samples with a person on a copy of its own; the exact floats by sample and field, and the run's summary."""
    source = fo.load_dataset(quickstart)
    people = source.select([s.id for s in source if (s.ground_truth.mask == 15).any()][:6])

    def run(*flags, **environment):
        dataset = clone(people)
        done = camflow(
            *("annotate", "--dataset", dataset.name, "--class", "person", "--layers", "1-4", "--model", standin_model),
            *("--target", "labels:ground_truth", "--out", tmp_path / dataset.name, "--format", "json", *flags),
            env=environment,
        )
        dataset.reload()
        found = {(s.filepath, field): load(s[field]) for s in dataset for field in FIELDS}
        assert len(found) == 6 * 4
        return found, next(event for event in done.events if event["event"] == "run_finished")

    return run


def test_two_devices_share_the_work(maps):
    one, _ = maps("--device", "cpu", OMP_NUM_THREADS="2")
    two, summary = maps("--device", "cpu,cpu", OMP_NUM_THREADS="2")
    assert summary["stages"]["device"]["num_threads"] == 2
    # Sums are split otherwise among fewer threads.
    assert max(np.abs(two[key] - map).max() for key, map in one.items()) < 1e-3


def test_batches_do_not_mix_samples(maps):
    singly, _ = maps("--device", "cpu", "--exact", "--batch-size", 1)
    together, _ = maps("--device", "cpu", "--exact", "--batch-size", 6)
    assert max(np.abs(together[key] - map).max() for key, map in singly.items()) < 1e-3


def test_bfloat16_deviates_little_on_a_trained_network(maps):
    full, _ = maps("--device", "cpu")
    half, _ = maps("--device", "cpu", "--precision", "bf16")
    distances = [np.abs(half[key] - map) for key, map in full.items()]
    print(f"largest {max(d.max() for d in distances):.1e}, mean {np.mean([d.mean() for d in distances]):.1e}")
    assert any(d.max() > 1e-4 for d in distances), "it was not bfloat16"
    assert np.mean([d.mean() for d in distances]) < 0.01


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--exact", "--precision", "bf16"), "`--exact` computes in fp32"),
        (("--device", "cpu", "--precision", "tf32"), "`--precision tf32` is a mode of NVIDIA GPUs"),
        (("--batch-size", "0"), "`auto` or a number from 1"),
        (("--device", "cpu,tpu"), "`tpu` is not a device"),
    ],
)
def test_what_cannot_be_is_refused(camflow, database, standin_model, flags, words):
    arguments = ("annotate", "--dataset", "none", "--class", "person", "--model", standin_model)
    assert words in camflow(*arguments, *flags, code=2).stderr


@pytest.fixture
def driver(tmp_path) -> dict:
    """An environment in which the library of NVIDIA's driver is found, though it drives nothing."""
    folder = tmp_path / "driver"
    folder.mkdir()
    subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", "-o", folder / "libcuda.so.1"], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")
def test_cuda_is_found_out_before_the_cpu_has_work(camflow, standin_model, driver, tmp_path):
    """libtorch remembers that there is no CUDA where a convolution comes first, and a later job of the process would lose it."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (96, 64)).save(photo)
    # The loader tells which libraries it opens, in order.
    environment = {**driver, "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(tmp_path / "loaded")}
    command = (
        "explain",
        photo,
        "--model",
        standin_model,
        "--class",
        "person",
        "--layers",
        "4",
        "--target",
        "pixel=9,9",
        "--out",
        tmp_path / "maps",
    )
    camflow(*command, "--device", "cpu", env=environment)
    [loaded] = tmp_path.glob("loaded.*")
    assert "libtorch_cuda.so" in loaded.read_text()
    said = camflow(*command, "--device", "cuda", env=driver, code=2).stderr
    assert "the NVIDIA driver reports no device" in said and "`--device cpu` works everywhere" in said


def test_libtorch_warns_nobody(camflow, export, tmp_path):
    """Its warnings are for people who write models: the deviation of a single number has one."""
    source = HERE / "odd_models.py"
    model = export(f"{source}:deviation_of_one", "--size", "18x22", "--preprocess", "none", inputs=(source,))
    photo = tmp_path / "photo.png"
    Image.new("RGB", (22, 18), (200, 10, 90)).save(photo)
    command = ("explain", photo, "--model", model, "--target", "top", "--layers", "first", "--out", tmp_path / "maps")
    said = camflow(*command, "--device", "cpu", "--exact").stderr
    assert said == ""
