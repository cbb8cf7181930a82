"""How a run is spread over devices, batches and precisions: faster, and the same heatmaps."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from camflow import load

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
