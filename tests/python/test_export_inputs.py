"""What the exporter makes of models and weights as people have them: fine-tuned, wrapped, frozen, random, gray, in other formats."""

import json
import pickle
import zipfile

import pytest
import torchvision
from camflow import export as export_package
from camflow.export import ExportError, cli, load_model
from camflow.export.classes import classes_by_channel, read_classes
from camflow.export.preprocess import checked_steps, fixed_size
from camflow.export.transforms import steps_from_flags

import torch

MODELS = '''
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    """conv - bn - relu - conv - relu - pool - linear"""

    def __init__(self, classes=3, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.conv2, self.fc = nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, classes)
        self.camflow_metadata = {"example": [32, 40], "classes": ["ant", "bee", "cat"]}

    def features(self, x):
        return torch.relu(self.conv2(torch.relu(self.bn1(self.conv1(x)))))

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))

def compiled():
    return torch.compile(Net())

def parallel():
    model = nn.DataParallel(torch.compile(Net()))
    model.camflow_metadata = {"example": [32, 40], "classes": ["x", "y", "z"]}
    return model

def inside():
    model = Net()
    model.compile()
    model.conv2 = torch.compile(model.conv2)
    return model

class Frozen(Net):
    def forward(self, x):
        with torch.no_grad():
            y = self.features(x)  # frozen
        return self.fc(y.mean((2, 3)))

class Inference(Net):
    @torch.inference_mode()
    def features(self, x):
        return super().features(x)

    def forward(self, x):
        return self.fc(self.features(x).clone().mean((2, 3)))

class Detached(Net):
    def forward(self, x):
        return self.fc(self.features(x).detach().mean((2, 3)))  # probing

class Branch(Net):
    def forward(self, x):
        y = super().forward(x)
        return y * 2 if y.sum() > 0 else y  # branch

class Item(Net):
    def forward(self, x):
        return super().forward(x) * int(x.amax())  # item

class Dropped(Net):
    def forward(self, x):
        return self.fc(F.dropout(self.features(x).mean((2, 3)), 0.5, True))

class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)

class Sampling(Net):
    def __init__(self):
        super().__init__()
        self.noise = Noisy()

    def forward(self, x):
        return self.fc(self.noise(self.features(x)).mean((2, 3)))

def volume():
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))

def signal():
    return nn.Sequential(nn.Conv1d(1, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))

def multispectral():
    return Net(channels=6)

def gray():
    model = Net(channels=1)
    model.camflow_metadata["preprocess"] = [{"op": "normalize", "mean": [0.5], "std": [0.25]}]
    return model

def lenet():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(64, 3))

def weights():
    return Net().state_dict()

def scripted():
    return torch.jit.script(torch.nn.ReLU())
'''


@pytest.fixture
def models(tmp_path):
    path = tmp_path / "people.py"
    path.write_text(MODELS)
    return path


def export(loaded, folder, **options):
    """Exports a model, of samples in [0, 1] where it does not say how its images are preprocessed."""
    loaded.metadata.setdefault("preprocess", [{"op": "normalize", "mean": 0, "std": 1}])
    return export_package.export(loaded, folder / "model.pt2", **options)


def refusal(call, *arguments, **options):
    with pytest.raises(ExportError) as caught:
        call(*arguments, **options)
    return f"{caught.value}\nhint: {caught.value.hint}"


@pytest.fixture(scope="module")
def fine_tuned():
    torch.manual_seed(1)
    return torchvision.models.squeezenet1_1(num_classes=5).state_dict()


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": {f"_orig_mod.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}},
        lambda state: {"net": {k.replace("features.", "features._orig_mod."): v for k, v in state.items()}},
        lambda state: {"state_dict": {**{f"backbone.encoder.{k}": v for k, v in state.items()}, "loss.weight": torch.ones(5)}},
    ],
    ids=("plain", "compiled", "parallel", "part compiled", "any prefix"),
)
def test_a_checkpoint_brings_its_number_of_classes(fine_tuned, tmp_path, capsys, wrap):
    torch.save(wrap(fine_tuned), tmp_path / "w.pth")
    loaded = load_model("torchvision:squeezenet1_1", str(tmp_path / "w.pth"), classes=list("abcde"))
    assert all(torch.equal(loaded.module.state_dict()[key], value) for key, value in fine_tuned.items())
    assert loaded.metadata["classes"] == {str(i): name for i, name in enumerate("abcde")}
    said = capsys.readouterr().err
    assert "5 classes" in said and ("taken off" in said) == (wrap(fine_tuned) is not fine_tuned)


def test_published_names_are_not_those_of_other_classes(fine_tuned, tmp_path, capsys):
    torch.save(fine_tuned, tmp_path / "w.pth")
    loaded = load_model("squeezenet1_1", str(tmp_path / "w.pth"))
    assert loaded.metadata["classes"] == {} and "`--classes` gives their names" in capsys.readouterr().err
    torch.save({"model": fine_tuned, "class_to_idx": {name: i for i, name in enumerate("vwxyz")}}, tmp_path / "w.pth")
    loaded = load_model("torchvision:squeezenet1_1", str(tmp_path / "w.pth"))
    assert loaded.metadata["classes"] == {str(i): name for i, name in enumerate("vwxyz")}
    assert "names of classes as in" in capsys.readouterr().err
    assert "4 names, the model has 5" in refusal(
        load_model, "torchvision:squeezenet1_1", str(tmp_path / "w.pth"), classes=list("abcd")
    )


def test_classes_can_be_counted_and_named(models, tmp_path):
    arguments = cli.parse(["torchvision:squeezenet1_1", "--weights", "none", "--classes", "ant, bee"])
    assert read_classes(arguments.classes) == ["ant", "bee"]
    many = [f"class {channel}" for channel in range(1000)]
    assert read_classes(",".join(many)) == many
    (tmp_path / "names.txt").write_text("tabby, tabby cat\nÄffchen\n", encoding="utf-8")
    assert read_classes(str(tmp_path / "names.txt")) == ["tabby, tabby cat", "Äffchen"]
    (tmp_path / "names.json").write_text('{"ant": 1, "bee": 0}')
    assert classes_by_channel(read_classes(str(tmp_path / "names.json"))) == {"0": "bee", "1": "ant"}
    (tmp_path / "own.py").write_text("import torch\ndef net():\n    return torch.nn.Conv2d(3, 2, 1)\n")
    assert load_model(f"{tmp_path / 'own.py'}:net", "none", classes=["ant", "bee"]).metadata["classes"] == {
        "0": "ant",
        "1": "bee",
    }
    assert load_model("torchvision:squeezenet1_1", "none", classes=["ant", "bee"]).module.num_classes == 2
    loaded = load_model("torchvision:squeezenet1_1", "none", num_classes=2, classes=["ant", "bee"])
    assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 2) and loaded.metadata["classes"] == {"0": "ant", "1": "bee"}
    assert load_model("timm:resnet10t", "none", num_classes=2).module.num_classes == 2
    assert "head random" in refusal(load_model, "torchvision:squeezenet1_1", num_classes=2)
    assert "makes its own network" in refusal(load_model, f"{models}:Net", num_classes=2)
    assert "2 names for the 3 channels" in refusal(export, load_model(f"{models}:Net", classes=["ant", "bee"]), tmp_path)


def test_weights_that_do_not_fit_say_where(models, tmp_path):
    model = load_model(f"{models}:Net").module
    torch.save({**model.state_dict(), "fc.weight": torch.ones(7, 16), "fc.bias": torch.ones(7)}, tmp_path / "w.pth")
    assert "it is for 7 classes" in refusal(load_model, f"{models}:Net", str(tmp_path / "w.pth"))
    torch.save({"body.0.weight": torch.ones(3), "body.0.bias": torch.ones(3)}, tmp_path / "w.pth")
    text = refusal(load_model, f"{models}:Net", str(tmp_path / "w.pth"))
    assert "missing are `conv1.weight`" in text and "left over are `body.0.weight`" in text


def foreign(folder):
    """Files that are no weights, by what has to be said of them."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    torch.jit.script(net).save(folder / "script.pt")
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), folder / "program.pt2")
    torch.save([net.state_dict()], folder / "list.pth")
    torch.save({"epoch": 3, "lr": 0.1}, folder / "settings.pth")
    (folder / "page.pth").write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>")
    (folder / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    (folder / "net.onnx").write_bytes(b"\x08\x09\x12\x07pytorch\x1a\x052.1.0")
    (folder / "net.bin").write_bytes(b"\x08\x09\x12\x07pytorch\x1a\x052.1.0")
    (folder / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    (folder / "empty.pth").touch()
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("a/b.jpg", b"x")
    (folder / "cut.pth").write_bytes((folder / "list.pth").read_bytes()[:300])
    (folder / "packed.pth").write_bytes(b"\x1f\x8b\x08\x00")
    return {
        "script.pt": "TorchScript",
        "program.pt2": "torch.export.save",
        "page.pth": "HTML page",
        "lfs.pth": "git lfs pull",
        "net.onnx": "ONNX",
        "net.bin": "ONNX",
        "plain.pkl": "pickle",
        "empty.pth": "is empty",
        "photos.zip": "zip archive of other files",
        "cut.pth": "cut off",
        "packed.pth": "gzip",
    }


def test_files_that_are_no_weights_are_named(models, tmp_path):
    said = foreign(tmp_path) | {
        "list.pth": "holds a list",
        "script.pt": "does not fit the model",
        "settings.pth": "but `epoch`, `lr`",
    }
    for name, words in said.items():
        text = refusal(load_model, f"{models}:Net", str(tmp_path / name))
        assert words in text and f"`{tmp_path / name}`" in text and "\x1b" not in text, text
        assert text.count("\n") == 1, text


def test_files_that_are_no_models_are_named(models, tmp_path):
    said = foreign(tmp_path) | {"list.pth": "holds a list"}
    del said["program.pt2"]
    for name, words in said.items():
        assert words in refusal(load_model, str(tmp_path / name))
    meta = export(load_model(f"{models}:Net"), tmp_path)
    assert meta["layers"] and "is a camflow model already" in refusal(load_model, str(tmp_path / "model.pt2"))
    assert "gives weights without a network" in refusal(load_model, f"{models}:weights") or "OrderedDict" in refusal(
        load_model, f"{models}:weights"
    )
    assert "TorchScript" in refusal(load_model, f"{models}:scripted")


# -------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("is_free", [True, False], ids=("free sizes", "one size"))
def test_a_program_of_torch_export_becomes_a_model(models, tmp_path, is_free):
    model, free = load_model(f"{models}:Net").module, torch.export.Dim.DYNAMIC
    dims = ({0: free, 2: free, 3: free},) if is_free else None
    torch.export.save(torch.export.export(model, (torch.randn(2, 3, 32, 40),), dynamic_shapes=dims), tmp_path / "own.pt2")
    loaded = load_model(
        str(tmp_path / "own.pt2"), classes=["ant", "bee", "cat"], preprocess=[{"op": "normalize", "mean": [0.5], "std": [0.5]}]
    )
    meta = export(loaded, tmp_path)
    arguments = cli.parse([str(tmp_path / "own.pt2"), "--out", str(tmp_path / "own.pt2"), "--force"])
    assert "is the program itself" in refusal(cli.run, arguments, print)
    assert meta["name"] == "own" and meta["input"]["example"] == [2, 3, 32, 40]
    assert meta["input"]["dynamic"] == ("bhw" if is_free else "none") and meta["aliases"]["2"] == "conv2"
    x = torch.randn(2, 3, 32, 40)
    archive = torch.export.load(tmp_path / "model.pt2").module(check_guards=False)
    assert torch.allclose(torch.fx.Interpreter(archive).run(x), model(x), atol=1e-6)


@pytest.mark.parametrize("name", ["compiled", "parallel", "inside"])
def test_wrappers_are_taken_off(models, tmp_path, capsys, name):
    meta = export(load_model(f"{models}:{name}"), tmp_path)
    assert "torch.compile" in capsys.readouterr().err
    assert {layer["path"] for layer in meta["layers"]} == {"conv1", "bn1", "conv2"}, "as without the wrappers"
    assert meta["classes"]["0"] == ("x" if name == "parallel" else "ant")


def test_a_backbone_without_gradients_is_said(models, tmp_path, capsys):
    text = refusal(export, load_model(f"{models}:Frozen"), tmp_path)
    assert "`no_grad()` at " in text and "`with torch.no_grad():`" in text and "requires_grad_(False)" in text
    capsys.readouterr()
    meta = export(load_model(f"{models}:Inference"), tmp_path)  # torch.export leaves inference mode out
    assert meta["default_layers"] and "no gradient" not in capsys.readouterr().err


def test_a_detached_backbone_is_said(models, tmp_path, capsys):
    assert export(load_model(f"{models}:Detached"), tmp_path)["layers"]
    said = capsys.readouterr().err
    assert "`detach()` at " in said and "# probing`" in said


@pytest.mark.parametrize("name", ["Branch", "Item"])
def test_flow_that_depends_on_data_is_one_short_error(models, tmp_path, capfd, name):
    text = refusal(export, load_model(f"{models}:{name}"), tmp_path)
    line = next(n for n, code in enumerate(MODELS.splitlines(), 1) if code.endswith(f"# {name.lower()}"))
    assert (
        "takes values out of a tensor" in text
        and f"{models}:{line}" in text
        and f"# {name.lower()}`" in text
        and text.count("\n") == 1
    ), text
    printed = capfd.readouterr()
    assert "def forward" not in printed.out + printed.err, "torch's graph is for `--verbose`"


@pytest.mark.parametrize("name, words", [("Dropped", "the forward of `Dropped`"), ("Sampling", "module `noise` (Noisy)")])
def test_randomness_is_called_so(models, tmp_path, name, words):
    text = refusal(export, load_model(f"{models}:{name}"), tmp_path)
    assert "the model is random" in text and words in text


@pytest.mark.parametrize(
    "name, words",
    [("volume", "Conv3d"), ("signal", "Conv1d"), ("multispectral", "takes 6\nhint: `--samples 0-255`, `0-65535` or `as-is`")],
)
def test_other_inputs_are_refused_by_name(models, tmp_path, name, words):
    assert words in refusal(export, load_model(f"{models}:{name}"), tmp_path)


def test_gray_models_get_gray_images(models, tmp_path):
    # of one size, which is not the one that is tried first
    assert "channels" not in refusal(export, load_model(f"{models}:lenet"), tmp_path)
    assert export(load_model(f"{models}:lenet"), tmp_path, size=(16, 16), static_size=True)["input"]["example"] == [2, 1, 16, 16]
    meta = export(load_model(f"{models}:gray"), tmp_path)
    assert meta["input"]["channels"] == 1 and meta["input"]["example"] == [2, 1, 32, 40] and meta["verified"]["shapes"][0][1] == 1
    assert meta["preprocess"] == [{"op": "grayscale", "channels": 1}, {"op": "normalize", "mean": [0.5], "std": [0.25]}]


# ------------------------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize(
    "steps, words",
    [
        ([{"op": "rotate", "size": 640}], ("step 1", "`rotate`", "`resize_smaller`")),
        ([{"size": 640}], ("no `op`",)),
        ({"op": "resize"}, ("not a list",)),
        ([{"op": "resize", "height": 8}], ("(`resize`)", "lacks `width`")),
        ([{"op": "resize_smaller", "sise": 8, "size": 8}], ("unknown key `sise`",)),
        ([{"op": "resize_smaller", "size": 7.5}], ("`size` is 7.5",)),
        ([{"op": "resize_smaller", "size": 0}], ("`size` is 0",)),
        ([{"op": "resize_smaller", "size": 8, "interpolation": "cubic"}], ("`interpolation`", "bicubic")),
        ([{"op": "resize_smaller", "size": 8, "interpolation": "lanczos", "antialias": False}], ("antialias",)),
        ([{"op": "resize_min", "height": 8}], ("either `size` or both",)),
        ([{"op": "center_crop", "height": 8, "width": 8}, {"op": "resize_smaller", "size": 9}], ("step 2", "after a crop")),
        ([{"op": "normalize", "mean": [0.5], "std": [1]}, {"op": "resize_smaller", "size": 9}], ("step 1", "not the last")),
        ([{"op": "normalize", "mean": [0.5, 0.5], "std": [1]}], ("`mean`", "3 finite numbers")),
        ([{"op": "normalize", "mean": [0.5], "std": [0, 1, 1]}], ("`std`", "above 0")),
        ([{"op": "normalize", "mean": [float("nan")], "std": [1]}], ("`mean`", "finite")),
        (
            [{"op": "grayscale", "channels": 1}, {"op": "normalize", "mean": [0], "std": [1]}],
            ("gives 1 channels, the model takes 3",),
        ),
    ],
    ids=str,
)
def test_what_the_reader_refuses_is_refused_at_export(steps, words):
    text = refusal(checked_steps, steps, 3)
    assert all(word in text for word in words), text


def test_one_number_counts_for_all_channels():
    (step,) = checked_steps([{"op": "normalize", "mean": [0.5], "std": 0.25}], 3)
    assert step == {"op": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3}
    _, step = checked_steps([{"op": "normalize", "mean": [0, 0, 0], "std": [1, 1, 1]}], 1)
    assert step == {"op": "normalize", "mean": [0.0], "std": [1.0]}


def test_flags_say_the_preprocessing(models, tmp_path, capsys):
    def steps(*flags):
        arguments = cli.parse([f"{models}:Net", *flags])
        return steps_from_flags(arguments.preprocess, arguments.mean, arguments.std, arguments.resize)

    assert steps() is None
    assert [step["op"] for step in steps("--preprocess", "imagenet")] == ["resize_smaller", "center_crop", "normalize"]
    assert steps("--preprocess", "none") == [{"op": "normalize", "mean": [0.0], "std": [1.0]}]
    assert steps("--mean", "0.5", "--std", "0.5", "--resize", "32x40")[0]["width"] == 40
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "do_resize": True,
                "size": {"shortest_edge": 64},
                "resample": 3,
                "do_center_crop": True,
                "crop_size": {"height": 32, "width": 40},
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.25, 0.25, 0.25],
            }
        )
    )
    assert steps("--preprocess", str(tmp_path / "preprocessor_config.json")) == [
        {"op": "resize_smaller", "size": 64, "interpolation": "bicubic", "antialias": True},
        {"op": "center_crop", "height": 32, "width": 40, "rounds_down": True},
        {"op": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3},
    ]
    assert "cannot be read" in refusal(steps, "--preprocess", "nowhere.json")

    silent = load_model(f"{models}:Net")
    assert "nothing says how images are preprocessed for `Net`" in refusal(export_package.export, silent, tmp_path / "no.pt2")
    sizes_alone = steps("--resize", "32x40")
    assert "nothing says how such images are normalised" in refusal(load_model, f"{models}:Net", preprocess=sizes_alone)
    meta = export(load_model(f"{models}:Net", preprocess=steps("--mean", "0.5", "--std", "0.25")), tmp_path)
    assert meta["assumed"] == [] and meta["preprocess"] == [{"op": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3}]


def test_functions_of_timm_and_hugging_face_are_known(tmp_path, capsys):
    (tmp_path / "library.py").write_text(
        """
import timm, torch
from transformers import ViTConfig, ViTForImageClassification

def of_timm():
    return torch.nn.Sequential(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2))

def fine_tuned():
    return timm.create_model("resnet10t", num_classes=3)

def hugging_face():
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16)
    config.id2label = {0: "tabby, tabby cat", 1: "Egyptian cat", 2: "crane"}
    model = ViTForImageClassification(config)
    model.config._name_or_path = FOLDER
    return model
""".replace("FOLDER", repr(str(tmp_path)))
    )
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "do_resize": True,
                "size": {"height": 64, "width": 64},
                "resample": 2,
                "do_normalize": True,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            }
        )
    )
    vit = load_model(f"{tmp_path / 'library.py'}:of_timm").metadata
    assert vit["preprocess"][-1]["mean"] == [0.5] * 3 and fixed_size(vit["preprocess"]) == (64, 64)
    assert vit["classes"]["0"] == "tench, Tinca tinca" and "`pretrained_cfg`" in capsys.readouterr().err
    other = load_model(f"{tmp_path / 'library.py'}:fine_tuned").metadata
    assert other["preprocess"][-1]["mean"] == [0.485, 0.456, 0.406] and not other.get("classes"), (
        "its three classes are not ImageNet's"
    )
    ours = load_model(f"{tmp_path / 'library.py'}:hugging_face").metadata
    assert ours["classes"] == {"0": "tabby, tabby cat", "1": "Egyptian cat", "2": "crane"} and ours["example"] == (64, 64)
    assert ours["preprocess"][0] == {"op": "resize", "height": 64, "width": 64, "interpolation": "bilinear", "antialias": True}
    said = capsys.readouterr().err
    assert "`config.id2label`" in said and "`preprocessor_config.json`" in said


def test_an_old_torch_is_said(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    text = refusal(load_model, "torchvision:squeezenet1_1", "none")
    assert "torch 2.6.0+cu124 is too old" in text and "2.9 or later" in text


def test_names_of_classes_are_for_the_channels_that_there_are(models, tmp_path):
    (tmp_path / "none.txt").write_text("\n\n")
    (tmp_path / "none.json").write_text("{}")
    for name, said in {"none.txt": "it has no names", "none.json": "it has no names", "nosuch.txt": "there is no file"}.items():
        assert said in refusal(read_classes, str(tmp_path / name))
    loaded = load_model(f"{models}:Net", classes={0: "ant", 1: "bee", 5: "cat"})
    assert "for channel 5, too, and the output has 3 channels, from 0" in refusal(export, loaded, tmp_path)


def test_a_score_of_the_image_is_no_segmentation(models, tmp_path):
    said = refusal(export, load_model(f"{models}:Net", task="segmentation"), tmp_path)
    assert "the output has shape [2, 3], one score per class and none per pixel" in said


def test_means_are_of_samples_that_were_divided(models, tmp_path):
    assert "`--mean` is 123.7, and samples are in [0, 1]" in refusal(steps_from_flags, None, [123.7, 116.3, 103.5], [58.4], None)
    for more in ({"rescale": False}, {"samples": "as-is"}):
        assert steps_from_flags(None, [123.7], [58.4], None, **more)[-1]["mean"] == [123.7]


@pytest.mark.parametrize("where", ["", "    "])
def test_a_module_that_ends_python_gives_no_model(tmp_path, where):
    """The exit code 0 of `sys.exit()` would pass the file of an earlier export for a new one."""
    (tmp_path / "ends.py").write_text(f"import sys\ndef build():\n    pass\n{where}sys.exit()\n")
    said = refusal(load_model, f"{tmp_path}/ends.py:build")
    assert "ends Python" in said
