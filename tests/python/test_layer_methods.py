"""The CAM methods that pytorch_grad_cam does not have give what their papers and torch-cam say, with the same noise."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import torch

HERE = Path(__file__).resolve().parent
LAB = HERE.parents[1] / "scripts" / "lab"
sys.path.insert(0, str(LAB))
import cam_reference
import parity

TINY = HERE / "tiny_classifier.py"
CODE = (LAB / "cam_reference.py", TINY)
RESNET = next(case for case in parity.CASES if case.model == "torchvision:resnet18")


@pytest.fixture(scope="module")
def tiny(export):
    """A classifier of three classes with 8 channels and a linear layer behind their means."""
    return export(f"{TINY}:classifier", inputs=(TINY,))


@pytest.fixture
def explain(camflow, tmp_path):
    """`explain(archive, pixels, *arguments)`: the maps by class, method and layer, of the layer's own size, on the CPU with `--exact`."""
    numbers = iter(range(100))

    def run(archive, pixels, *arguments):
        folder = tmp_path / str(next(numbers))
        np.save(tmp_path / "input.npy", pixels.numpy())
        common = ("--model", archive, "--size", "layer", "--exact", "--device", "cpu", "--out", folder, "--format", "json")
        done = camflow("explain", tmp_path / "input.npy", *common, *arguments)
        events = [event for event in done.events if event["event"] == "heatmap"]
        return {(event["channel"], event["method"], event["layer"]): np.load(event["files"][0]) for event in events}

    return run


def network(reference: str, archive: Path) -> torch.nn.Module:
    module = parity.export_model.load_model(reference, "none").module
    module.load_state_dict(torch.export.load(archive).state_dict)
    return module.eval()


NAME = "input.0"  # of the first image in that file


def test_every_method_is_what_its_paper_says(explain, tiny, kept):
    pixels = parity.picture(64, 64, seed=1)
    model = network(f"{TINY}:classifier", tiny)
    methods = ",".join(cam_reference.METHODS)
    found = explain(tiny, pixels, "--class", "0,1", "--layers", "layer2", "--method", methods, "--cam-batch-size", 5)
    assert len(found) == 2 * len(cam_reference.METHODS)
    for (channel, method, layer), heatmap in found.items():
        compute = partial(cam_reference.METHODS[method], model, layer, pixels, channel, NAME)
        wanted = kept(lambda compute=compute: cam_reference.heatmap(compute()), "tiny", method, channel, NAME, code=CODE)
        assert wanted.std() > 0.1, method
        assert np.abs(heatmap - wanted).max() <= 1e-4, (method, channel)


def test_groups_and_derivatives_of_a_deeper_network(explain, export, kept):
    """Groups of several channels, and gradients that differ from place to place."""
    archive = export(RESNET.model, *RESNET.export)
    model, pixels = network(RESNET.model, archive), parity.picture(*RESNET.size, seed=2)
    found = explain(archive, pixels, "--class", 5, "--layers", "layer3,layer4", "--method", "smoothgradcam++,groupcam")
    found |= explain(archive, pixels, "--class", 5, "--layers", "layer4", "--method", "cam,gradcam")
    assert len(found) == 6
    for (channel, method, layer), heatmap in found.items():
        if method != "gradcam":
            compute = partial(cam_reference.METHODS[method], model, layer, pixels, channel, NAME)
            wanted = kept(lambda compute=compute: cam_reference.heatmap(compute()), "resnet18", method, layer, NAME, code=CODE)
            assert np.abs(heatmap - wanted).max() <= 1e-4, (method, layer)
    assert np.abs(found[5, "cam", "layer4"] - found[5, "gradcam", "layer4"]).max() < 1e-4


def test_chance_follows_from_the_sample_and_from_nothing_else(explain, tiny):
    pixels = torch.cat([parity.picture(64, 64, seed=seed) for seed in (3, 3)])
    methods = ("--class", 2, "--layers", "layer2", "--method", "smoothgradcam++,sscam")
    alone = explain(tiny, pixels[:1], *methods, "--cam-batch-size", 32)
    again = explain(tiny, pixels[:1], *methods, "--cam-batch-size", 3)
    with_others = explain(tiny, pixels[:1], "--class", "0,1,2", *methods[2:], "--cam-batch-size", 32)
    for key, heatmap in alone.items():
        assert np.abs(heatmap - again[key]).max() < 1e-5 and np.abs(heatmap - with_others[key]).max() < 1e-5, key
    assert len(alone) == 2 and len(with_others) == 6


def test_cam_is_refused_where_more_stands_behind_a_layer(camflow, export, tiny, standin_model, tmp_path):
    np.save(tmp_path / "input.npy", parity.picture(*RESNET.size, seed=5).numpy())

    def refused(archive, *arguments):
        return camflow(
            "explain", tmp_path / "input.npy", "--out", tmp_path, "--method", "cam", "--model", archive, *arguments, code=2
        ).stderr

    resnet = export(RESNET.model, *RESNET.export)
    message = refused(resnet, "--class", 5, "--layers", "layer3,layer4")
    assert "`layer3`" in message and "`layer4`" not in message and "`--method gradcam`" in message
    # Two linear layers with an activation between them: the gradient is the same everywhere, and another for each image.
    mobilenet = next(case for case in parity.CASES if "mobilenet" in case.model)
    assert "global pooling" in refused(export(mobilenet.model, *mobilenet.export), "--class", 5, "--layers", "features.12")
    # The class's token has the last word.
    deit = next(case for case in parity.CASES if "deit" in case.model)
    assert "global pooling" in refused(export(deit.model, *deit.export), "--class", 5, "--layers", "blocks.11")
    assert "cam takes the weights of a classifier" in refused(standin_model, "--class", "person", "--layers", "4")


def test_refinecam_wants_several_layers(camflow, tiny, tmp_path):
    np.save(tmp_path / "input.npy", parity.picture(64, 64, seed=6).numpy())
    arguments = ("--model", tiny, "--class", 1, "--method", "refinecam,gradcam", "--out", tmp_path, "--device", "cpu")
    error = camflow("explain", tmp_path / "input.npy", *arguments, "--layers", "layer2", code=2).stderr
    assert "one heatmap of several layers" in error and "--layers 2-4" in error
    done = camflow("explain", tmp_path / "input.npy", *arguments, "--layers", "layer1,layer2", "--format", "json")
    maps = {(event["method"], event["layer"]): event for event in done.events if event["event"] == "heatmap"}
    assert maps.keys() == {("refinecam", "fused"), ("gradcam", "layer1"), ("gradcam", "layer2")}
    assert maps["refinecam", "fused"]["path"] == "the product of layer1, layer2"


# What pytorch_grad_cam exports beside the methods that the table compares, and what there is of it.
OTHERS = {
    "RandomCAM": "`randomcam`",  # its weights are drawn otherwise
    "SESS": "SESS",
    "DeepFeatureFactorization": "Deep Feature Factorization",
    "run_dff_on_image": "Deep Feature Factorization",
}
# No methods of layers: parts of the reference, and one of the image.
PARTS = {"ActivationsAndGradients", "AblationLayer", "AblationLayerVit", "AblationLayerFasterRCNN", "GuidedBackpropReLUModel"}


def test_what_the_reference_exports_is_here_or_it_is_said_why_not():
    import types

    import pytorch_grad_cam

    exported = {
        name for name, value in vars(pytorch_grad_cam).items() if name[0] != "_" and not isinstance(value, types.ModuleType)
    }
    compared = {method.__name__ for method in parity.METHODS.values()}
    assert exported - PARTS - compared == set(OTHERS), "the reference has a method that is neither compared nor explained"
    page = (HERE.parents[1] / "docs" / "reference" / "methods.md").read_text()
    assert all(text in page for text in OTHERS.values())


@pytest.mark.parametrize("size", [(64, 64), (48, 72)])
def test_sess_puts_tiles_together_as_the_reference_does(camflow, tiny, kept, tmp_path, size):
    from pytorch_grad_cam import SESS
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, pixels = network(f"{TINY}:classifier", tiny).requires_grad_(True), parity.picture(*size, seed=7)

    def reference() -> np.ndarray:
        # Of LayerCAM many places are 0 within rounding, and whether a tile counts there is for the last bit to say.
        method = SESS(model, [model.layer1], base_method=parity.METHODS["hirescam"])
        return np.stack([method(pixels.clone(), [ClassifierOutputTarget(channel)])[0] for channel in (0, 1)])

    wanted = kept(reference, "sess", "hirescam", size, code=(TINY,))
    np.save(tmp_path / "input.npy", pixels.numpy())
    arguments = ("--model", tiny, "--class", "0,1", "--layers", "layer1", "--method", "hirescam", "--exact", "--device", "cpu")
    done = camflow("explain", tmp_path / "input.npy", *arguments, "--sess", "--out", tmp_path / "maps", "--format", "json")
    found = [np.load(event["files"][0]) for event in done.events if event["event"] == "heatmap"]
    assert len(found) == 2 and wanted.std() > 0.05
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other).max() <= 1e-4
    error = camflow("explain", tmp_path / "input.npy", *arguments, "--sess", "--aug-smooth", "--out", tmp_path, code=2).stderr
    assert "leave one of them out" in error


def test_sess_is_for_classifiers(camflow, standin_model, tmp_path):
    np.save(tmp_path / "input.npy", parity.picture(64, 64, seed=8).numpy())
    arguments = ("--model", standin_model, "--class", "person", "--layers", "4", "--sess", "--out", tmp_path)
    assert "is no classifier" in camflow("explain", tmp_path / "input.npy", *arguments, code=2).stderr


def test_of_a_dataset_a_second_run_has_nothing_to_do_and_chance_is_the_same(camflow, tiny, quickstart, tmp_path):
    import fiftyone as fo
    from camflow import load

    dataset = fo.load_dataset(quickstart).limit(3).clone("methods-at-layers")
    dataset.persistent = True
    common = ("--dataset", dataset.name, "--model", tiny, "--target", "top", "--out", tmp_path / "maps", "--device", "cpu")

    def annotate(*arguments) -> int:
        done = camflow("annotate", *common, "--batch-size", 1, "--format", "json", *arguments)
        return next(event for event in done.events if event["event"] == "run_finished")["num_committed"]

    late = ("--method", "cam,smoothgradcam++,iscam,groupcam", "--layers", "layer2")
    both = ("--method", "refinecam", "--layers", "layer1,layer2")
    assert annotate(*late) == 3 and annotate(*both) == 3
    dataset.reload()
    fields = [name for name in dataset.get_field_schema() if name.startswith("top_")]
    assert fields == [
        *(f"top_{method}_layer_layer2" for method in ("cam", "smoothgradcampp", "iscam", "groupcam")),
        "top_refinecam_layer_fused",
    ]
    first = {(sample.id, name): load(sample[name]) for sample in dataset for name in fields}
    assert all(sample[fields[-1]].layer == "the product of layer1, layer2" for sample in dataset)
    assert annotate(*late) == 0 and annotate(*both) == 0
    assert annotate(*late, "--overwrite") == 3
    dataset.reload()
    for (key, name), before in first.items():
        assert np.array_equal(load(dataset[key][name]), before), name
    assert sum(heatmap.max() > 0.9 for heatmap in first.values()) > 10
    dataset.delete()
