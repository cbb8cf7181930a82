"""Checks of the exporter (`python/camflow/export`): preprocessing against the libraries' own transforms, archives against their models.

Nothing is downloaded: weights are random, configurations come from the installed packages.
"""

import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from camflow import export as export_package
from camflow.export import cli
from camflow.export.loaders import zoo
from camflow.export.transforms import steps_from_transforms, steps_from_zoo_config
from camflow.export.weights import warm_batchnorm
from conftest import PACKAGES, SCRIPTS
from PIL import Image

import torch

SCRIPT = SCRIPTS / "export_model.py"
SIZES = [(640, 427), (427, 640), (100, 80), (3000, 1201), (224, 224), (521, 520)]  # width, height

TOY = '''
import torch
from torch import nn

class Toy(nn.Module):
    def __init__(self, branch=False):
        super().__init__()
        self.branch = branch
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.layer2 = nn.Sequential(nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.head, self.aux = nn.Conv2d(6, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        low = self.layer1(x)
        out = self.head(self.layer2(low))
        if self.branch and torch.compiler.is_exporting():
            out = out * 2
        return {"aux": self.aux(low), "out": out}

def build():
    torch.manual_seed(3)
    model = Toy()
    model.camflow_metadata = {
        "task": "segmentation", "classes": ["sky", "sea", "sand", "boat"], "example": [64, 80], "default_layers": [1],
        "preprocess": [{"op": "resize", "height": 64, "width": 80, "interpolation": "bilinear", "antialias": True}]}
    return model

def stated(model):
    model.camflow_metadata = {"preprocess": [{"op": "normalize", "mean": [0.5] * 3, "std": [0.5] * 3}]}
    return model

def branching():
    return stated(Toy(branch=True))

def strided():
    """Takes multiples of 32 only, as networks with shortcuts from down to up do."""
    class Up(Toy):
        def forward(self, x):
            assert x.shape[2] % 32 == 0 and x.shape[3] % 32 == 0
            return super().forward(x)["out"]
    return stated(Up())

def vit():
    import timm
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=5)
'''


@pytest.fixture(scope="module")
def exporter():
    return export_package


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(TOY)
    return path


def command(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], check=False, capture_output=True, text=True, cwd=cwd, timeout=600
    )


def entry(path, suffix):
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith(suffix))).decode()


def camflow_json(path):
    return json.loads(entry(path, "/extra/camflow.json"))


def apply(steps, image):
    """The steps as their definitions say, with Pillow alone: what the decoder of camflow has to reproduce."""
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "nearest": Image.NEAREST, "lanczos": Image.LANCZOS}
    for step in steps:
        width, height = image.size
        op, want = step["op"], (step.get("height", step.get("size")), step.get("width", step.get("size")))
        size = None
        if op == "resize":
            size = want
        elif op == "resize_smaller":
            short, long = sorted((width, height))
            other = int(step["size"] * long / short)
            size = (step["size"], other) if height <= width else (other, step["size"])
        elif op in ("resize_min", "resize_max"):
            ratios = want[0] / height, want[1] / width
            scale = max(ratios) if op == "resize_min" else min(ratios)
            if (scale > 1) if op == "resize_min" else (scale < 1):
                size = round(scale * height), round(scale * width)
        elif op in ("center_crop", "center_crop_multiple"):
            if op == "center_crop_multiple":
                want = height // step["of"] * step["of"], width // step["of"] * step["of"]
            assert want[0] <= height and want[1] <= width, "padding is not needed at these sizes"
            half = (lambda rest: rest // 2) if step.get("rounds_down") else (lambda rest: round(rest / 2.0))
            top, left = half(height - want[0]), half(width - want[1])
            image = image.crop((left, top, left + want[1], top + want[0]))
        else:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
            mean, std = (torch.tensor(step[k]).view(3, 1, 1) for k in ("mean", "std"))
            return (pixels - mean) / std
        if size and size != (height, width):
            image = image.resize((size[1], size[0]), filters[step["interpolation"]])
    raise AssertionError("the steps do not end with normalize")


def picture(width, height):
    noise = np.random.default_rng(width * height)
    waves = np.sin(np.linspace(0, 40, width))[None, :, None] * np.cos(np.linspace(0, 30, height))[:, None, None] * 80 + 128
    return Image.fromarray((waves + noise.integers(0, 40, (height, width, 3))).clip(0, 255).astype(np.uint8))


def assert_same_input(steps, transform, sizes=SIZES):
    for size in sizes:
        image = picture(*size)
        ours, theirs = apply(steps, image), transform(image)
        assert ours.shape == theirs.shape, (size, steps)
        assert (ours - theirs).abs().max() < 1e-5, (size, steps)


STATS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    "config",
    [
        {"image_dim": 520, **STATS},
        {"image_size": [299, 251], **STATS},
        {"image_min_dim": 224, "image_max_dim": 2048, **STATS},
        {"image_min_size": [300, 200], "image_max_size": [400, 600], **STATS},
        {"image_patch_size": 14, "image_min_dim": 140},
        {"image_patch_size": 16, **STATS},
        {},
    ],
    ids=str,
)
def test_zoo_preprocessing_is_fiftyones(exporter, config):
    import fiftyone.utils.torch as fout

    theirs = fout.TorchImageModel(fout.TorchImageModelConfig({"model": torch.nn.Identity(), "device": "cpu", **config}))
    steps = steps_from_zoo_config(config)
    assert steps[-1]["op"] == "normalize"
    assert_same_input(steps, theirs.transforms)
    assert steps_from_transforms(theirs.transforms) == steps, "the transform objects say the same as the config"


def test_every_torchvision_model_of_the_zoo_is_described(exporter):
    manifest = zoo.manifest()
    assert manifest, "FiftyOne is not installed"
    described = 0
    for name, item in manifest.items():
        deployment = item["default_deployment_config_dict"]
        if not deployment["type"].endswith("TorchvisionImageModel"):
            continue
        metadata = zoo.metadata_of(deployment["config"])
        assert metadata["preprocess"][-1]["op"] == "normalize"
        counts = {"imagenet": 1000, "keypoint-rcnn": 2, "rcnn": 91, "retinanet": 91}
        assert len(metadata["classes"]) == next((count for part, count in counts.items() if part in name), 21), name
        described += 1
    assert described >= 30
    deeplab = zoo.metadata_of(manifest["deeplabv3-resnet50-coco-torch"]["default_deployment_config_dict"]["config"])
    assert deeplab["task"] == "segmentation"
    assert (deeplab["classes"]["0"], deeplab["classes"]["15"], deeplab["classes"]["20"]) == ("background", "person", "tvmonitor")
    assert [s["op"] for s in deeplab["preprocess"]] == ["resize_smaller", "normalize"]
    assert deeplab["preprocess"][0]["size"] == 520


@pytest.mark.parametrize("name", ["resnet50", "swin_t", "deeplabv3_resnet50"])
def test_torchvision_preprocessing_is_that_of_its_weights(exporter, name):
    import torchvision

    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    assert_same_input(steps_from_transforms(preset), preset, SIZES[:4])


@pytest.mark.parametrize(
    "options",
    [
        {"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic"},
        {"input_size": (3, 96, 96), "crop_pct": 0.95, "crop_mode": "squash", "interpolation": "bilinear"},
    ],
    ids=str,
)
def test_timm_preprocessing_is_timms(exporter, options):
    from timm import data

    transform = data.create_transform(**options, is_training=False)
    steps = steps_from_transforms(transform)
    assert steps[-1]["mean"] == [0.485, 0.456, 0.406], "not the single-precision digits of timm's tensors"
    assert_same_input(steps, transform, SIZES[:4])


def test_unreadable_preprocessing_is_an_error(exporter):
    from torchvision import transforms

    with pytest.raises(exporter.ExportError, match="Pad"):
        steps_from_transforms(transforms.Compose([transforms.Pad(3), transforms.ToTensor()]))
    with pytest.raises(exporter.ExportError, match="box"):
        steps_from_transforms(transforms.Resize(9, interpolation=transforms.InterpolationMode.BOX))
    with pytest.raises(exporter.ExportError, match="does not end with"):
        steps_from_transforms(transforms.Compose([transforms.Normalize([0.5], [0.5]), transforms.CenterCrop(9)]))


def test_command_writes_a_verified_archive(tmp_path):
    done = command(
        "resnet18", "--weights", "none", "--warm-batchnorm", 2, "--size", "64x96", "--out", tmp_path / "r.pt2", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)  # one object and nothing else on stdout
    assert (line["path"], line["name"], line["dynamic"]) == (str(tmp_path / "r.pt2"), "resnet18", "bhw")
    meta = camflow_json(tmp_path / "r.pt2")
    assert meta["aliases"] == {str(i): f"layer{i}" for i in range(1, 5)} and meta["default_layers"] == ["4"]
    assert meta["source"] == "torchvision:resnet18" and meta["outputs"] == [None] and meta["classes"]["0"] == "tench"
    assert len({tuple(s[2:]) for s in meta["verified"]["shapes"]}) >= 3 and {s[0] for s in meta["verified"]["shapes"]} == {1, 3}
    assert meta["verified"]["hooks_checked"] == len(meta["layers"]) == line["layers"]
    program = entry(tmp_path / "r.pt2", "/models/model.json")
    assert "site-packages" not in program and str(Path.home()) not in program, "no paths of this machine"
    assert [p.name for p in tmp_path.iterdir()] == ["r.pt2"], "nothing temporary is left"

    again = command("resnet18", "--weights", "none", "--out", tmp_path / "r.pt2")
    assert again.returncode == 2 and "--force" in again.stderr


def test_function_with_metadata(exporter, toy, tmp_path):
    meta = exporter.export(exporter.load_model(f"{toy}:build"), tmp_path / "toy.pt2")
    assert meta == camflow_json(tmp_path / "toy.pt2")
    assert meta["source"] == "file:toy.py:build" and str(tmp_path) not in json.dumps(meta)
    assert meta["outputs"] == ["aux", "out"] and meta["primary_output"] == 1, "`out` is the one to explain"
    assert meta["classes"] == {"0": "sky", "1": "sea", "2": "sand", "3": "boat"}
    assert meta["input"]["example"] == [2, 3, 64, 80] and meta["input"]["dynamic"] == "bhw"
    assert meta["default_layers"] == ["1"] and meta["aliases"] == {"1": "layer1", "2": "layer2"}
    assert meta["preprocess"][-1] == {"op": "normalize", "mean": [0.0] * 3, "std": [1.0] * 3}

    x = torch.rand(1, 3, 51, 77)
    archive = torch.export.load(tmp_path / "toy.pt2").module(check_guards=False)
    ours = torch.fx.Interpreter(archive).run(x)
    theirs = exporter.load_model(f"{toy}:build").module(x)
    assert all(torch.equal(ours[k], theirs[k]) for k in ("out", "aux"))


def test_transformer_has_tokens_and_numbered_blocks(exporter, toy, tmp_path):
    meta = exporter.export(exporter.load_model(f"{toy}:vit"), tmp_path / "vit.pt2", size=(64, 64))
    assert meta["input"]["dynamic"] == "batch" and meta["input"]["example"] == [2, 3, 64, 64]
    assert meta["tokens"] == {"grid": [4, 4], "prefix": 1, "patch": [16, 16]}
    assert meta["aliases"] == {str(i + 1): f"blocks.{i}.norm1" for i in range(3)} and meta["default_layers"] == ["3"]
    assert next(layer for layer in meta["layers"] if layer["path"] == "blocks.2.norm1")["layout"] == "tokens"


def test_sizes_in_steps_of_32_are_verified_where_the_model_takes_them(exporter, toy, tmp_path):
    meta = exporter.export(exporter.load_model(f"{toy}:strided"), tmp_path / "s.pt2", size=(64, 96))
    assert meta["input"]["dynamic"] in ("bhw", "batch")
    assert all(h % 32 == 0 and w % 32 == 0 for _, _, h, w in meta["verified"]["shapes"])


def test_failed_verification_keeps_the_old_file(toy, tmp_path):
    out = tmp_path / "old.pt2"
    out.write_text("precious")
    done = command(f"{toy}:branching", "--out", out, "--force", "--size", "64x80")
    assert done.returncode == 1, done.stderr
    assert "verification failed" in done.stderr and "1x3x64x80" in done.stderr and done.stdout == ""
    assert out.read_text() == "precious" and sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".pt2") == ["old.pt2"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["resnet81"], ["`resnet81`", "resnet18"]),
        (["deeplabv3-resnet50-cocos"], ["deeplabv3-resnet50-coco-torch"]),
        (["timm:deit_tiny_patch16"], ["deit_tiny_patch16_224"]),
        (["raft_small"], ["optical_flow", "wrap"]),
        (["resnet18", "--weights", "nowhere.pth"], ["nowhere.pth"]),
        (["resnet18", "--out", "model.onnx"], ["model.onnx", ".pt2"]),
        (["nowhere.py:build"], ["nowhere.py"]),
        (["no_such_package:build"], ["no_such_package"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_requests_are_explained(exporter, capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(exporter.ExportError) as caught:
        cli.run(cli.parse(arguments), print)
    assert caught.value.code == 2
    text = f"{caught.value} {caught.value.hint}"
    assert all(word in text for word in words), text


def test_wrong_metadata_is_refused(exporter, tmp_path):
    for wrong in ({"preproces": []}, {"preprocess": [{"op": "rotate"}]}):
        (tmp_path / "bad.py").write_text(
            f"import torch\ndef build():\n    m = torch.nn.Identity()\n    m.camflow_metadata = {wrong!r}\n    return m\n"
        )
        with pytest.raises(exporter.ExportError) as caught:
            exporter.load_model(f"{tmp_path / 'bad.py'}:build")
        assert caught.value.code == 2


def test_random_weights_follow_the_seed_and_files_replace_them(exporter, tmp_path):
    one, same, other = (exporter.load_model("torchvision:resnet18", "none", seed).module for seed in (1, 1, 2))
    weight = "layer4.1.conv2.weight"
    assert torch.equal(one.state_dict()[weight], same.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])
    torch.save({"state_dict": {f"module.{k}": v for k, v in one.state_dict().items()}}, tmp_path / "w.pth")
    loaded = exporter.load_model("torchvision:resnet18", str(tmp_path / "w.pth"))
    assert torch.equal(loaded.module.state_dict()[weight], one.state_dict()[weight])
    assert loaded.metadata["weights"] == "w.pth" and not any(p.requires_grad for p in loaded.module.parameters())
    with pytest.raises(exporter.ExportError, match="does not fit"):
        exporter.load_model("torchvision:resnet34", str(tmp_path / "w.pth"))


def test_warm_batchnorm_keeps_activations_sane(exporter):
    loaded = exporter.load_model("torchvision:resnet18", "none")
    warm_batchnorm(loaded.module, 2, (64, 64))
    assert not loaded.module.training and not loaded.module.bn1.training and loaded.module.bn1.momentum == 0.1
    with torch.no_grad():
        spread = loaded.module(torch.randn(4, 3, 64, 64)).std().item()
    assert math.isfinite(spread) and 1e-3 < spread < 1e2


def test_zoo_model_is_loaded_from_fiftyones_own_folder(exporter, tmp_path):
    """A checkpoint in FiftyOne's folder is enough: no second copy from the network (none is reachable in the test)."""
    assert "resnet18-imagenet-torch" in zoo.manifest(), "FiftyOne is not installed"
    state = exporter.load_model("torchvision:resnet18", "none", seed=5).module.state_dict()
    torch.save(state, tmp_path / "resnet18-f37072fd.pth")  # torchvision's name for it
    (tmp_path / zoo.manifest()["resnet18-imagenet-torch"]["base_filename"]).touch()  # FiftyOne looks only whether it is there
    program = (
        "import sys, urllib.request; sys.path.insert(0, sys.argv[1]); from camflow import export as e\n"
        "def no_network(*a, **k): raise OSError('network used')\n"
        "urllib.request.urlopen = no_network\n"
        "m = e.load_model('resnet18-imagenet-torch')\n"
        "print('sum', m.module.state_dict()['fc.weight'].double().sum().item(), m.metadata['classes']['0'], m.source)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(PACKAGES)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "FIFTYONE_MODEL_ZOO_DIR": str(tmp_path), "TORCH_HOME": str(tmp_path / "torch")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"sum {state['fc.weight'].double().sum().item()} tench fiftyone:resnet18-imagenet-torch" in done.stdout
