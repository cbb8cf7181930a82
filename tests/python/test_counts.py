"""What a batch asks of libtorch beside forward and backward pass: what holds a GPU up, counted on the CPU."""

from __future__ import annotations

import json
import subprocess

import pytest

SMALL, LARGE = 8, 32


@pytest.fixture(scope="module")
def counts(binary):
    """Counts of `examples/device_counts.rs`; `beside` is what is left of them without the passes."""

    def run(model, size, layers, methods, target, batch) -> dict:
        program = binary.parent / "examples" / "device_counts"
        assert program.is_file(), f"no {program}: run `cargo build --examples`"
        command = [program, model, *size, layers, methods, target, batch]
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=600)
        found = json.loads(done.stdout)
        # What is launched ahead is looked at one batch later, and is the same.
        assert found["num_ahead"] == [0, *[1] * batch] and found["distance"] == 0, found
        num_columns = len(layers.split(",")) * len(methods.split(","))
        assert found["passes"]["waits"] == 0 and found["num_heatmaps"] == batch * num_columns
        found["beside"] = {name: found["all"][name] - found["passes"][name] for name in ("calls", "bytes", "waits")}
        return found

    return run


def check(counts, *arguments):
    small, large = (counts(*arguments, batch)["beside"] for batch in (SMALL, LARGE))
    # Views of single samples grow with the batch; what computes does not.
    assert large["calls"] < 2 * small["calls"], (small, large)
    assert large["bytes"] <= 1.02 * LARGE / SMALL * small["bytes"], (small, large)
    assert large["waits"] <= 2, large


@pytest.mark.parametrize("target", ["mask", "top"])
def test_a_classifier_of_a_thousand_classes(counts, export, target):
    model = export("torchvision:resnet18", "--weights", "none", "--seed", "0", "--warm-batchnorm", "4")
    check(counts, model, (64, 64), "layer1,layer4", "gradcam", target)


def test_a_segmentation_with_masks(counts, standin_model):
    check(counts, standin_model, (96, 128), "3,4", "gradcam,layercam", "mask")


def test_a_segmentation_asked_what_it_sees(counts, export):
    model = export("torchvision:lraspp_mobilenet_v3_large", "--weights", "none", "--seed", "0", "--warm-batchnorm", "4")
    check(counts, model, (64, 64), "backbone.16", "gradcam", "top")
