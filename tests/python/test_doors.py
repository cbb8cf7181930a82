"""What `camflow export` takes beside functions: checkpoints with the name of their network, and models of Hugging Face."""

import argparse
import json
import os
import pathlib
import sys
import zipfile

import hugging_face_folders as folders
import numpy as np
import pytest
import transformers
from camflow.export import ExportError, cli, load_model
from camflow.export.loaders import hugging_face
from pytorch_grad_cam.utils.image import scale_cam_image
from test_export import apply, picture

import torch

KINDS = [
    folders.vit,
    folders.convnext,
    folders.efficientnet,
    folders.swinv2,
    folders.segformer,
    folders.mask2former,
    folders.oneformer,
    folders.clip,
]


@pytest.fixture(autouse=True)
def python(monkeypatch):
    """Commands of these tests run in folders where there is no environment to be found."""
    monkeypatch.setenv("CAMFLOW_PYTHON", sys.executable)


@pytest.fixture(scope="module")
def resnet():
    """timm's ResNet-18 for three classes."""
    import timm

    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=3).eval()


def state_dict(model, path):
    torch.save(model.state_dict(), path)


def data_parallel(model, path):
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, path)


def lightning(model, path):
    state = {f"model._orig_mod.{key}": value for key, value in model.state_dict().items()}
    hparams = argparse.Namespace(lr=0.1)
    torch.save({"state_dict": state | {"loss.weight": torch.ones(3)}, "epoch": 3, "hyper_parameters": hparams}, path)


def whole(model, path):
    torch.save(model, path)


def torchscript(model, path):
    torch.jit.trace(model, torch.zeros(1, 3, 32, 32)).save(path)


def safetensors(model, path):
    from safetensors.torch import save_file

    save_file(model.state_dict(), path)


@pytest.mark.parametrize("write", [state_dict, data_parallel, lightning, whole, torchscript, safetensors])
def test_a_checkpoint_with_its_network(resnet, write, tmp_path, capsys):
    write(resnet, tmp_path / "best.pth")
    loaded = load_model("timm:resnet18", str(tmp_path / "best.pth"), classes=["ant", "bee", "cat"])
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.module(images), resnet(images))
    assert list(loaded.metadata["classes"].values()) == ["ant", "bee", "cat"]
    assert "is for 3 classes, and so is the network" in capsys.readouterr().err


def test_a_checkpoint_of_modules_with_versions(tmp_path):
    """MNASNet takes weights without a version for those of its first, which were another network's; renamed ones have none."""
    import torchvision

    torch.manual_seed(0)
    trained = torchvision.models.mnasnet0_5(num_classes=3).eval()
    data_parallel(trained, tmp_path / "best.pth")
    loaded = load_model("torchvision:mnasnet0_5", str(tmp_path / "best.pth"), classes=["ant", "bee", "cat"])
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.module(images), trained(images))


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_checkpoint_of_other_images(library, tmp_path, capsys):
    """It says itself how many channels its images have; how those are preprocessed, nobody does."""
    import timm
    import torchvision

    torch.manual_seed(0)
    if library == "timm":
        trained = timm.create_model("resnet18", num_classes=3, in_chans=4).eval()
    else:
        trained = torchvision.models.resnet18(num_classes=3).eval()
        trained.conv1 = torch.nn.Conv2d(4, 64, 7, stride=2, padding=3, bias=False)
    state_dict(trained, tmp_path / "bands.pth")
    loaded = load_model(f"{library}:resnet18", str(tmp_path / "bands.pth"), classes=["ant", "bee", "cat"])
    images = torch.randn(2, 4, 64, 64)
    assert torch.equal(loaded.module(images), trained(images))
    assert "images of 4 channels, and so is the network" in capsys.readouterr().err
    assert "preprocess" not in loaded.metadata, "what is published is of three channels"


def test_the_command_exports_a_checkpoint(camflow, resnet, tmp_path):
    state_dict(resnet, tmp_path / "best.pth")
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    flags = ["--checkpoint", "best.pth", "--classes", "labels.txt", "--size", "64x96"]
    camflow("export", "--arch", "timm:resnet18", *flags, cwd=tmp_path, env={"CAMFLOW_CACHE": str(tmp_path / "cache")})
    made = tmp_path / "cache" / "models" / "timm_resnet18-best.pt2"
    said = camflow("inspect", made).stdout
    assert "ant" in said and "layer4" in said and "0.485" in said
    # the same file, which is not replaced, asked for the other way round
    again = camflow("export", "best.pth", "--arch", "timm:resnet18", "--out", made, code=2, cwd=tmp_path)
    assert "already there" in again.stderr
    alone = camflow("export", "--arch", "timm:resnet18", code=2)
    assert "network without weights" in alone.stderr and "`camflow export timm:resnet18`" in alone.stderr


def make(path):
    """What a checkpoint has Python call where it is loaded without care."""
    os.mkdir(path)


class Call:
    def __init__(self, function, path):
        self.called = function, (str(path),)

    def __reduce__(self):
        return self.called


def test_objects_in_a_checkpoint_run_nothing(resnet, tmp_path):
    torch.save({"state_dict": resnet.state_dict(), "hook": Call(make, tmp_path / "made")}, tmp_path / "odd.pth")
    load_model("timm:resnet18", str(tmp_path / "odd.pth"), classes=["ant", "bee", "cat"])
    torch.save({"state_dict": resnet.state_dict(), "hook": Call(os.mkdir, tmp_path / "made")}, tmp_path / "evil.pth")
    with pytest.raises(ExportError, match=r"calls `posix\.mkdir` when it is loaded"):
        load_model("timm:resnet18", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "made").exists()


def test_the_network_that_a_checkpoint_names(resnet, tmp_path, capsys):
    held = {"arch": "resnet18", "state_dict": resnet.state_dict(), "args": argparse.Namespace(output=pathlib.Path("x"))}
    torch.save(held, tmp_path / "model_best.pth.tar")
    loaded = load_model(str(tmp_path / "model_best.pth.tar"))
    assert loaded.source == "timm:resnet18" and "says that its network is `timm:resnet18`" in capsys.readouterr().err


def test_the_nearest_network_is_named(resnet, tmp_path):
    state_dict(resnet, tmp_path / "best.pth")
    nearest = "`torchvision:resnet18`, which has 120 of its 122 weights"
    with pytest.raises(ExportError, match="weights without a network") as alone:
        load_model(str(tmp_path / "best.pth"))
    assert nearest in alone.value.hint
    with pytest.raises(ExportError, match=r"missing are `layer1\.2\.conv1\.weight`") as other:
        load_model("torchvision:resnet34", str(tmp_path / "best.pth"))
    assert nearest in other.value.hint


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_a_folder_of_hugging_face(build, tmp_path):
    folder = folders.save(build, tmp_path / build.__name__)
    is_clip = build is folders.clip
    given = {"classes": ["cat", "dog", "bird"], "prompt": "a photo of a {}"} if is_clip else {}
    loaded = load_model(str(folder), **given)
    assert list(loaded.metadata["classes"].values()) == (given["classes"] if is_clip else list(folders.NAMES.values()))
    torch.manual_seed(0)
    model, processor = build()
    model.eval()
    images = torch.randn(2, 3, *loaded.metadata["example"])
    with torch.no_grad():
        scores = loaded.module(images)
        if is_clip:
            tokens = folders.tokenizer()([f"a photo of a {name}" for name in given["classes"]], return_tensors="pt")
            expected = model(pixel_values=images, input_ids=tokens["input_ids"]).logits_per_image
        elif build is folders.oneformer:
            whole = transformers.OneFormerProcessor(processor, folders.tokenizer())
            task = whole([picture(64, 64)], ["semantic"], return_tensors="pt")["task_inputs"]
            expected = model(pixel_values=images, task_inputs=task.expand(2, -1))
        else:
            expected = model(images)
    if build in (folders.mask2former, folders.oneformer):
        if build is folders.oneformer:
            scores = torch.nn.functional.interpolate(scores, images.shape[-2:], mode="bilinear")
        found = processor.post_process_semantic_segmentation(expected, target_sizes=[images.shape[-2:]] * 2)
        # Mask2Former's processor takes masks by way of 384 x 384, the size of the published ones
        agreeing = (torch.stack(found) == scores.argmax(1)).float().mean()
        assert scores.shape[1] == 4 and agreeing > 0.95, agreeing
    else:
        expected = expected if is_clip else expected.logits
        assert torch.allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [folders.vit, folders.convnext, folders.convnext_384, folders.efficientnet, folders.clip],
    ids=lambda build: build.__name__,
)
def test_preprocessing_is_the_processors(build, tmp_path):
    folder = folders.save(build, tmp_path)
    steps = load_model(str(folder), classes=["cat", "dog"] if build is folders.clip else None).metadata["preprocess"]
    processor = build()[1]
    # some of sizes whose middle is between two pixels
    for size in ((480, 320), (320, 480), (640, 427), (427, 640), (463, 320)):
        image = picture(*size)
        ours, theirs = apply(steps, image), processor(image, return_tensors="pt")["pixel_values"][0]
        assert ours.shape == theirs.shape
        # torchvision resizes 8-bit images, Pillow as the model was trained: they differ by a level here and there
        levels = (ours - theirs).abs() * torch.tensor(steps[-1]["std"]).view(3, 1, 1) * 255
        assert levels.mean() < 0.5 and levels.max() < 5, (levels.mean(), levels.max())


def test_a_folder_becomes_a_model(camflow, tmp_path):
    folder = folders.save(folders.segformer, tmp_path / "segformer")
    camflow("export", folder, "--out", tmp_path / "s.pt2")
    with zipfile.ZipFile(tmp_path / "s.pt2") as archive:
        meta = json.loads(archive.read("s/extra/camflow.json"))
    assert meta["task"] == "segmentation" and meta["classes"]["3"] == "fish"
    assert meta["input"]["example"][2:] == [128, 128] and not meta["assumed"]


def test_a_detector_of_hugging_face_is_one(tmp_path):
    loaded = load_model(str(folders.save(folders.yolos, tmp_path / "yolos")))
    assert loaded.metadata["task"] == "detection" and loaded.metadata["classes"]["2"] == "background"
    suppression = {"iou": None, "most": None}
    assert loaded.metadata["detections"] == {"boxes": "boxes", "scores": "softmax", "threshold": 0.5, "suppression": suppression}
    found = loaded.module(torch.zeros(2, 3, 64, 64))
    assert found["logits"].shape == (2, 3, 5, 1) and found["boxes"].shape == (2, 5, 4)


def test_texts_are_scored_in_boxes_as_transformers_does(tmp_path):
    folder = folders.save(folders.owlvit, tmp_path / "owlvit")
    names = ["cat", "dog", "bird"]
    loaded = load_model(str(folder), classes=names, prompt="a photo of a {}")
    assert loaded.metadata["task"] == "detection" and list(loaded.metadata["classes"].values()) == names
    suppression = {"iou": None, "most": None}
    assert loaded.metadata["detections"] == {"boxes": "boxes", "scores": "sigmoid", "threshold": 0.1, "suppression": suppression}
    own = transformers.OwlViTForObjectDetection.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)([f"a photo of a {name}" for name in names], return_tensors="pt")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = loaded.module(images)
        # What its `forward` does but for a mask of texts that begin with token 0, with which this tokenizer begins all.
        texts, places, _ = own.image_text_embedder(tokens["input_ids"], images, tokens["attention_mask"])
        wanted, _ = own.class_predictor(places.flatten(1, 2), texts[None])
        wanted_boxes = own.box_predictor(places.flatten(1, 2), places)
        # Several images at once, where the library wants the texts once for each.
        several = loaded.module(torch.cat([images, images.flip(3)]))
    assert torch.allclose(found["logits"].squeeze(-1), wanted.transpose(1, 2), atol=1e-5)
    left, top, right, bottom = found["boxes"].unbind(-1)
    boxes = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=-1)
    assert torch.allclose(boxes, wanted_boxes, atol=1e-5)
    assert torch.allclose(several["logits"][:1], found["logits"], atol=1e-5)

    with pytest.raises(ExportError, match="scores texts, and nothing says which"):
        load_model(str(folder))
    with pytest.raises(ExportError, match="`OmDetTurboForObjectDetection`, which looks at the image with a text in mind"):
        hugging_face.check_kind(transformers.OmDetTurboForObjectDetection, "omdet", names)


def test_what_gives_no_scores_is_refused(tmp_path):
    with pytest.raises(ExportError, match="`DPTForDepthEstimation`, which gives depths"):
        hugging_face.check_kind(transformers.DPTForDepthEstimation, "depths", None)
    clip = folders.save(folders.clip, tmp_path / "clip")
    with pytest.raises(ExportError, match="scores texts, and nothing says which") as texts:
        load_model(str(clip))
    assert "`--classes` names them" in texts.value.hint
    with pytest.raises(ExportError, match="`--prompt` is for models that score texts"):
        load_model(str(folders.save(folders.vit, tmp_path / "vit")), prompt="a {}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match=r"no `config\.json`"):
        load_model(str(tmp_path / "empty"))


def test_segmentation_models_pytorch_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ExportError, match="segmentation-models-pytorch is not installed") as missing:
        load_model("smp:unet:resnet34", "none")
    assert "pip install segmentation-models-pytorch" in missing.value.hint


def test_camflow_export_asks_for_unknown_preprocessing(camflow, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))\n"
    )
    asked = camflow("export", "mine.py:build", "--out", tmp_path / "m.pt2", code=2, cwd=tmp_path).stderr
    assert "nothing says how images are preprocessed" in asked and "`--preprocess imagenet`" in asked
    assert not (tmp_path / "m.pt2").exists()
    camflow("export", "mine.py:build", "--preprocess", "imagenet", "--out", tmp_path / "m.pt2", cwd=tmp_path)


def test_names_of_files_are_no_names_of_repositories(tmp_path):
    with pytest.raises(ExportError, match="there is no file"):
        load_model("runs/best.pth")
    assert cli.parse(["google/vit", "--output", "aux"]).primary_output == "aux"


def test_modules_that_an_older_torch_named_by_expressions(tmp_path):
    """As torch 2.7.1 writes them where `forward` calls `self` otherwise."""
    network = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), torch.nn.Flatten()).eval()
    pixels = torch.rand(2, 3, 8, 8)
    program = torch.export.export(network, (pixels,))
    expressions = {"0": "getattr(L['net'], '0')", "1": "getattr(L['net'], '1')"}
    expressions |= {f"0.{place}": f"getattr(getattr(L['net'], '0'), '{place}')" for place in "01"}
    for node in program.graph.nodes:
        if stack := node.meta.get("nn_module_stack"):
            node.meta["nn_module_stack"] = {key: (expressions.get(path, path), kind) for key, (path, kind) in stack.items()}
    torch.export.save(program, tmp_path / "older.pt2")
    module = load_model(str(tmp_path / "older.pt2"), preprocess=[{"op": "normalize", "mean": [0.0] * 3, "std": [1.0] * 3}]).module
    assert [path for path, _ in module.named_modules()] == ["", "0", "0.0", "0.1", "1"]
    assert torch.equal(module(pixels), network(pixels))


def test_a_program_that_an_older_torch_exported(camflow, tmp_path):
    """Made by torch 2.6: two convolutions with a batch norm, three classes, batches of 1 to 64, 16 x 16 pixels."""
    older = pathlib.Path(__file__).with_name("exported_by_torch_2_6.pt2")
    said = camflow("inspect", older, code=2).stderr
    assert "older torch" in said and "camflow export" in said
    said = camflow("export", older, "--preprocess", "imagenet", "--out", tmp_path / "new.pt2").stderr
    assert "deserializ" not in said and "Traceback" not in said, said
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "input.npy", pixels.numpy())
    flags = ["--class", "1", "--layers", "second", "--exact", "--device", "cpu", "--out", tmp_path / "maps", "--format", "json"]
    camflow("explain", tmp_path / "input.npy", "--model", tmp_path / "new.pt2", *flags)
    [found] = (tmp_path / "maps").glob("*.npy")
    network = torch.export.load(older).module()
    weights = network.state_dict()
    first = torch.nn.functional.conv2d(pixels, weights["first.weight"], weights["first.bias"], stride=2, padding=1)
    norm = [weights[f"norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    inner = torch.nn.functional.batch_norm(first, *norm).relu()
    second = torch.nn.functional.conv2d(inner, weights["second.weight"], weights["second.bias"], stride=2, padding=1)
    second = second.detach().requires_grad_(True)
    score = torch.nn.functional.linear(second.relu().mean((2, 3)), weights["head.weight"], weights["head.bias"])[0, 1]
    (gradient,) = torch.autograd.grad(score, second)
    saliency = (second * gradient.mean((2, 3), keepdim=True)).sum(1).relu().detach().numpy()
    wanted = scale_cam_image(scale_cam_image(saliency, (16, 16)))[0]  # of a layer, and of the mean over layers
    assert np.abs(np.load(found) - wanted).max() < 1e-5
