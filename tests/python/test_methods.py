"""Every CAM method gives pytorch_grad_cam's numbers, on a part of the table that `scripts/parity.sh` makes."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import torch

LAB = Path(__file__).resolve().parents[2] / "scripts" / "lab"
sys.path.insert(0, str(LAB))
import grad_cam_reference
import parity
import pytorch_grad_cam
from camflow import load
from pytorch_grad_cam.utils import model_targets

# They take minutes.
pytestmark = pytest.mark.begins
# What the reference's heatmaps are made by.
CODE = (LAB / "grad_cam_reference.py", LAB / "logits.py")
CASES = {case.model: case for case in parity.CASES}


@pytest.fixture(scope="module")
def rows(binary, export, kept):
    """The rows of the subset, computed once."""
    torch.backends.mha.set_fastpath_enabled(False)
    reference = partial(kept, code=CODE)
    found = []
    for name in parity.SUBSET:
        found += parity.compare(binary, CASES[name], export(name, *CASES[name].export), reference)
    return found


def test_every_method_equals_the_reference(rows):
    assert {row.method for row in rows} == set(parity.METHODS), "a method was not compared"
    assert {row.smoothing for row in rows} == {"none", "eigen", "aug", "aug+eigen"}
    failed = [parity.describe(row) for row in rows if not row.passed()]
    assert not failed, "\n".join(failed)


def test_the_default_is_as_near_to_fp64_as_the_reference(rows):
    assert sum(row.default is not None for row in rows) > 20
    assert parity.median_ratio(rows) <= 1.5


def test_shapleys_second_order_is_not_nothing(rows, binary, export):
    """On a network without ReLU ShapleyCAM and Grad-CAM differ, or the comparison above compares nothing."""
    case = CASES["timm:deit_tiny_patch16_224"]
    pixels = parity.picture(*case.size, seed=1)
    maps = parity.camflow_maps(
        binary, export(case.model, *case.export), case, case.layers, pixels, None, 3, ["gradcam", "shapleycam"], []
    )
    assert np.abs(maps["gradcam", case.layers[0]] - maps["shapleycam", case.layers[0]]).max() > 1e-3


def test_layers_at_which_hirescam_cancels_are_told(camflow, export, tmp_path):
    """Behind the last stage is a norm over channels, whose gradient is orthogonal to what it is given."""
    case = CASES["timm:swin_tiny_patch4_window7_224"]
    archive = export(case.model, *case.export)
    model = parity.network(case.model, archive).double().requires_grad_(True)
    pixels = parity.picture(*case.size, seed=1)

    def cancelled(layer: str) -> float:
        kept = {}
        hook = model.get_submodule(layer).register_forward_hook(lambda _, __, given: kept.update(given=given))
        score = model(pixels.double())[0, 3]
        hook.remove()
        products = kept["given"] * torch.autograd.grad(score, kept["given"])[0]
        return (products.sum(-1).abs().max() / products.abs().sum(-1).max()).item()

    assert cancelled("layers.3") < 1e-4 and min(cancelled("norm"), cancelled("layers.2")) > 1e-2
    np.save(tmp_path / "input.npy", pixels.numpy())
    asked = ("explain", tmp_path / "input.npy", "--model", archive, "--class", 3, "--device", "cpu", "--out", tmp_path / "maps")
    told = camflow(*asked, "--layers", "layers.2,layers.3,norm", "--method", "gradcam,hirescam").stderr
    assert told.count("little more than rounding") == 1
    assert "`hirescam` of layer `layers.3` is" in told and "name layer `norm` instead" in told
    assert "little more than rounding" not in camflow(*asked, "--layers", "layers.3", "--method", "gradcam").stderr


def test_tokens_follow_the_size_of_the_image(binary, export, kept):
    """SegFormer's stages have tokens in grids of their own, which depend on the image; here on one that fills no stride."""
    wrapped = Path(__file__).with_name("wrapped_models.py")
    model = f"{wrapped}:segformer"
    without = frozenset({*parity.PROBING, "shapleycam"})
    layers = ("segformer.stages.0.layer_norm", "segformer.stages.0.blocks.0.layernorm_before")
    case = parity.Case(model, layers, (103, 130), "tokens", (26, 33), segmentation=True, channel=3, without=without)
    torch.backends.mha.set_fastpath_enabled(False)
    reference = partial(kept, code=(*CODE, wrapped))
    rows = parity.compare(binary, case, export(model, inputs=(wrapped,)), reference)
    failed = [parity.describe(row) for row in rows if not row.passed()]
    assert len(rows) > 15 and not failed, "\n".join(failed)


def reciprocal(model, layer, pixels, channel, masks, prefix: int):
    """Recipro-CAM in PyTorch: the logit of each masked activation, scaled by minimum and maximum. `masks` f32 [P, H', W']."""
    kept = {}
    module = model.get_submodule(layer)
    hook = module.register_forward_hook(lambda _module, _inputs, output: kept.update(activation=output))
    with torch.no_grad():
        model(pixels)
        hook.remove()
        activation = kept["activation"]
        if prefix:
            flat = torch.cat([masks.new_ones(len(masks), prefix), masks.flatten(1)], 1)
            variants = activation * flat[:, :, None]
        else:
            variants = activation * masks[:, None]
        hook = module.register_forward_hook(lambda _module, _inputs, _output: variants)
        given = model(pixels.expand(len(masks), -1, -1, -1))[:, channel]
        hook.remove()
    return ((given - given.min()) / (given.max() - given.min())).view(masks.shape[1:]).numpy()


@pytest.mark.parametrize("name, kernel", [("torchvision:resnet18", [0, 1, 0]), ("timm:deit_tiny_patch16_224", [0.25, 0.5, 0.25])])
def test_reciprocam_is_the_score_of_each_place_alone(binary, export, name, kernel):
    """As in OpenVINO XAI: of a feature map one place, of tokens those around it, too, and the class's token."""
    case = CASES[name]
    archive = export(case.model, *case.export)
    model = parity.export_model.load_model(case.model, "none").module
    model.load_state_dict(torch.export.load(archive).state_dict)
    model.eval()
    layer, pixels = case.layers[-1], parity.picture(*case.size, seed=2)
    flags = ["--size", "layer", "--cam-batch-size", "7"]
    # Without --exact a place before pooling and a linear layer needs no run of these.
    found, default = (
        parity.camflow_maps(binary, archive, case, [layer], pixels, None, 5, ["reciprocam"], more)["reciprocam", layer]
        for more in ([*flags, "--exact"], flags)
    )
    rows, columns = found.shape
    alone = torch.eye(rows * columns).view(-1, 1, rows, columns)
    kernel = torch.outer(torch.tensor(kernel, dtype=torch.float32), torch.tensor(kernel, dtype=torch.float32))
    masks = torch.nn.functional.conv2d(alone, kernel[None, None], padding=1)[:, 0]
    wanted = reciprocal(model, layer, pixels, 5, masks, case.prefix)
    assert rows * columns > 7 and wanted.std() > 0.1
    # As in scripts/lab/parity.py: tokens of random weights differ so little that fp32 itself is off, on some processors by more.
    true = reciprocal(model.double(), layer, pixels.double(), 5, masks.double(), case.prefix)
    allowed = max(1e-4, 3 * np.abs(wanted - true).max())
    assert np.abs(found - wanted).max() <= allowed and np.abs(default - true).max() <= allowed


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photograph of a cup of coffee, of 600 x 400 pixels."""
    import skimage.data

    path = tmp_path_factory.mktemp("photos") / "coffee.jpg"
    Image.fromarray(skimage.data.coffee()).save(path, quality=95)
    return path


@pytest.fixture(scope="module")
def classifier(export):
    """EfficientNet-Lite0 with its published weights."""
    script = LAB / "efficientnet_lite0.py"
    return export(f"{script}:efficientnet_lite0", inputs=(script,))


def test_a_trained_classifier_looks_at_the_cup(camflow, classifier, photo, tmp_path):
    done = camflow(
        "explain", photo, "--model", classifier, "--out", tmp_path, "--format", "json", "--method", "gradcam,layercam,eigencam"
    )
    heatmaps = [event for event in done.events if event["event"] == "heatmap"]
    assert [event["method"] for event in heatmaps] == ["gradcam", "layercam", "eigencam"]
    for event in heatmaps:
        assert event["class"] == "espresso"
        found = np.load(next(file for file in event["files"] if file.endswith(".npy")))
        # The frame is the photograph with its smaller side at 256; the cup's opening lies in the upper middle.
        assert found.shape == (256, 384)
        cup = found[20:150, 110:260].mean()
        assert cup > 4 * found[150:, :].mean(), event["method"]
    sheet = next(event for event in done.events if event["event"] == "contact_sheet")
    # Three rows (methods) of two pictures (the image and one layer), 480 wide, with captions.
    width, height = Image.open(sheet["file"]).size
    rows = Image.open(photo).height * 480 // Image.open(photo).width * 3
    assert width == 12 + 2 * (480 + 12) and rows < height < 1.2 * rows
    assert Image.open(next(file for file in heatmaps[0]["files"] if file.endswith(".overlay.png"))).size == Image.open(photo).size


def test_several_layers_are_fused_as_the_reference_does(camflow, export, tmp_path):
    case = CASES["torchvision:resnet18"]
    archive = export(case.model, *case.export)
    model = parity.Logits(parity.export_model.load_model(case.model, "none").module)
    model.model.load_state_dict(torch.export.load(archive).state_dict)
    model.eval().requires_grad_(True)
    pixels = parity.picture(*case.size, seed=3)
    np.save(tmp_path / "input.npy", pixels.numpy())
    layers = [model.model.get_submodule(layer) for layer in case.layers]
    wanted = grad_cam_reference.reference_map(case, model, layers, pixels, None, 5, "gradcam", eigen=False, aug=False)
    arguments = (
        "--model",
        archive,
        "--class",
        5,
        "--layers",
        ",".join(case.layers),
        "--fuse-layers",
        "--exact",
        "--device",
        "cpu",
    )
    done = camflow("explain", tmp_path / "input.npy", *arguments, "--out", tmp_path / "maps", "--format", "json")
    [event] = done.events
    assert event["layer"] == "fused" and event["path"] == "layer2 + layer4"
    assert np.abs(np.load(event["files"][0]) - wanted).max() <= 1e-5


def test_several_layers_are_fused_as_torch_cam_does(binary, export):
    """The rule applied to the layers' own maps; `scripts/lab/torchcam_parity.py` compares with torch-cam itself."""
    case = CASES["torchvision:resnet18"]
    archive = export(case.model, *case.export)
    pixels = parity.picture(*case.size, seed=3)

    def found(*flags):
        flags = ["--exact", "--size", "layer", *flags]
        return parity.camflow_maps(binary, archive, case, case.layers, pixels, None, 5, ["gradcam", "layercam"], flags)

    single, fused, meant = found(), found("--fusion", "max"), found("--fusion", "mean")
    for method in ("gradcam", "layercam"):
        maps = [torch.from_numpy(single[method, layer])[None, None] for layer in case.layers]
        size = maps[0].shape[2:]
        if method == "layercam":
            maps = [torch.tanh(2 * one) for one in maps]
        wanted = torch.stack([torch.nn.functional.interpolate(one, size, mode="bilinear") for one in maps]).amax(0)[0, 0]
        assert fused[method, "fused"].shape == size
        assert np.abs(fused[method, "fused"] - wanted.numpy()).max() <= 1e-6
        # A smaller layer that is enlarged has no longer its largest value, and stays so.
        assert wanted.max() < 1
        assert meant[method, "fused"].max() > 0.999


@pytest.mark.parametrize(
    "score, target", [("softmax", model_targets.ClassifierOutputSoftmaxTarget), ("rest", model_targets.ClassifierOutputReST)]
)
def test_scores_are_the_targets_of_the_reference(binary, export, score, target):
    case = CASES["torchvision:resnet18"]
    archive = export(case.model, *case.export)
    model = parity.Logits(parity.export_model.load_model(case.model, "none").module)
    model.model.load_state_dict(torch.export.load(archive).state_dict)
    model.eval().requires_grad_(True)
    pixels = parity.picture(*case.size, seed=6)

    def found(*flags):
        return parity.camflow_maps(binary, archive, case, ["layer4"], pixels, None, 5, ["layercam"], ["--exact", *flags])

    with pytorch_grad_cam.LayerCAM(model=model, target_layers=[model.model.layer4]) as cam:
        wanted = cam(pixels.clone(), targets=[target(5)])[0]
    explained = found("--score", score)["layercam", "layer4"]
    assert np.abs(explained - wanted).max() <= 1e-4
    assert np.abs(explained - found()["layercam", "layer4"]).max() > 1e-3, "the same as of the logit"


def test_classes_of_one_image_share_a_run_and_keep_their_own_maps(camflow, export, tmp_path):
    case = CASES["torchvision:resnet18"]
    archive = export(case.model, *case.export)
    np.save(tmp_path / "input.npy", parity.picture(*case.size, seed=4).numpy())
    methods = "gradcam,scorecam,ablationcam,finercam,shapleycam,fullgrad"

    def maps(classes):
        arguments = (
            "--model",
            archive,
            "--class",
            classes,
            "--layers",
            "layer4",
            "--method",
            methods,
            "--exact",
            "--device",
            "cpu",
        )
        done = camflow("explain", tmp_path / "input.npy", *arguments, "--out", tmp_path / classes, "--format", "json")
        return {(event["channel"], event["method"]): np.load(event["files"][0]) for event in done.events}

    both, one, other = maps("5,9"), maps("5"), maps("9")
    assert both.keys() == one.keys() | other.keys() and len(both) == 12
    for key, found in both.items():
        assert np.abs(found - {**one, **other}[key]).max() < 1e-5, key


def test_the_second_half_of_the_tutorial(camflow, export, quickstart, tmp_path):
    """A vision transformer's highest class by several methods, smoothed, into fields of their own; then one method more."""
    import fiftyone as fo

    dataset = fo.load_dataset(quickstart).limit(3).clone("vision-transformer")
    dataset.persistent = True
    case = CASES["timm:deit_tiny_patch16_224"]

    def annotate(methods):
        arguments = (
            "--dataset",
            dataset.name,
            "--model",
            export(case.model, *case.export),
            "--target",
            "top",
            "--method",
            methods,
        )
        done = camflow(
            "annotate", *arguments, "--eigen-smooth", "--out", tmp_path / "maps", "--device", "cpu", "--format", "json"
        )
        dataset.reload()
        return next(event for event in done.events if event["event"] == "run_finished")

    methods = ["gradcam", "gradcam++", "xgradcam", "eigencam", "eigengradcam", "layercam"]
    summary = annotate(",".join(methods))
    assert summary["num_committed"] == 3 and summary["num_heatmaps"] == 18
    found = [name for name in dataset.get_field_schema() if name.startswith("top_")]
    # The last block is the twelfth, and the layer that the exporter chooses.
    # Grad-CAM's field is named as it is without other methods.
    assert found == ["top_grad_layer_12", *(f"top_{method.replace('+', 'p')}_layer_12" for method in methods[1:])]
    for sample in dataset:
        maps = {}
        for name, method in zip(found, methods, strict=True):
            label = sample[name]
            assert (label.method, label.layer) == (method, "blocks.11.norm1") and label.target_class
            maps[method] = load(label)
            # The map lies in the image as it was resized, before the middle was cut out.
            assert min(maps[method].shape) == 248 and maps[method].max() > 0.9
        assert np.abs(maps["gradcam"] - maps["eigencam"]).max() > 0.05
    assert annotate(",".join(methods))["num_committed"] == 0, "the second run has nothing to do"
    assert annotate(",".join([*methods, "hirescam"]))["num_committed"] == 3
    dataset.delete()


def test_what_does_not_go_together_is_refused(camflow, export, classifier, photo, standin_model, tmp_path):
    def refused(*arguments, code=2):
        return camflow("explain", photo, "--out", tmp_path, *arguments, code=code).stderr

    assert "finercam compares" in refused("--model", standin_model, "--class", "person", "--method", "finercam")
    assert "no labels without a dataset" in refused("--model", classifier, "--target", "labels", "--class", "espresso")
    assert "takes no `--class" in refused("--model", classifier, "--target", "top", "--class", "espresso")
    assert "not per pixel" in refused("--model", classifier, "--target", "pixel=3,4", "--class", "espresso")
    score = ("--model", classifier, "--class", "espresso", "--score", "softmax", "--method", "finercam")
    assert "`--score softmax` does nothing here" in refused(*score)
    assert "'gradcan'" in refused("--model", classifier, "--method", "gradcan")
    pixel = ("--model", standin_model, "--class", "person", "--layers", "4")
    assert "outside the image" in refused(*pixel, "--target", "pixel=9999,4", code=1)
    camflow("explain", photo, "--out", tmp_path / "pixel", *pixel, "--target", "pixel=300,200")


def test_random_weights_are_the_same_in_every_run(camflow, export, tmp_path):
    case = CASES["torchvision:resnet18"]
    np.save(tmp_path / "input.npy", parity.picture(*case.size, seed=5).numpy())
    found = []
    for run in ("first", "second"):
        arguments = ("--model", export(case.model, *case.export), "--class", 5, "--layers", "layer4", "--method", "randomcam")
        done = camflow("explain", tmp_path / "input.npy", *arguments, "--out", tmp_path / run, "--format", "json")
        (event,) = (event for event in done.events if "files" in event)
        found.append(np.load(event["files"][0]))
    assert np.array_equal(*found) and found[0].max() > 0.9
