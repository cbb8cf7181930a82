"""Models that are exported without a flag: of one size, with sizes that torch cannot write, with modules that are shared."""

from camflow.export import export, load_model

import torch
from torch import nn


class Net(nn.Module):
    """Three convolutions that share one activation, as Ultralytics' do."""

    def __init__(self, side=None):
        super().__init__()
        torch.manual_seed(0)
        act = nn.SiLU()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), act)
        self.b = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), act)
        self.c = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), act)
        self.head = nn.Linear(16, 3)
        self.places = nn.Parameter(torch.randn(1, 16, side // 8, side // 8)) if side else 0

    def forward(self, x):
        return self.head((self.c(self.b(self.a(x))) + self.places).mean((2, 3)))


class Branching(Net):
    """Other weights for large images: the graph holds for one side of the branch."""

    def forward(self, x):
        return super().forward(x) * (2 if x.shape[-1] > 256 else 1)


class Moody(Net):
    """A module that does something else in an export, and one whose answer nobody uses."""

    def __init__(self):
        super().__init__()
        self.aside = Aside()

    def forward(self, x):
        y = self.b(self.a(x))
        self.aside(y)
        return self.head(self.c(y).mean((2, 3)))


class Aside(nn.Module):
    def forward(self, x):
        return x * (2 if torch.compiler.is_exporting() else 1)


def made(module, tmp_path):
    return export(load_model(module, preprocess=[{"op": "normalize", "mean": [0.5], "std": [0.5]}]), tmp_path / "m.pt2")


def test_modules_that_share_an_activation(tmp_path):
    meta = made(Net(), tmp_path)
    assert {"a.1", "b.1", "c.1"} <= {layer["path"] for layer in meta["layers"]}
    assert meta["verified"]["hooks_checked"] == len(meta["layers"]) and meta["input"]["dynamic"] == "bhw"


def test_a_model_of_one_size_says_it_by_what_it_takes(tmp_path):
    meta = made(Net(side=64), tmp_path)
    assert meta["input"]["example"][2:] == [64, 64] and meta["input"]["dynamic"] == "batch"


def test_sizes_are_fixed_where_a_freer_graph_does_not_hold(tmp_path, capsys):
    meta = made(Branching(), tmp_path)
    assert meta["input"]["dynamic"] == "batch" and "height and width are fixed" in capsys.readouterr().err


def test_a_layer_that_nobody_asked_for_is_dropped(tmp_path, capsys):
    meta = made(Moody(), tmp_path)
    assert "aside" not in {layer["path"] for layer in meta["layers"]} and "`aside`" in capsys.readouterr().err
    assert meta["aliases"]["3"] == "c"


def test_images_get_the_one_size_that_the_model_takes(tmp_path, capsys):
    steps = [{"op": "resize_smaller", "size": 256}, {"op": "center_crop", "height": 224, "width": 224}]
    meta = export(
        load_model(Net(side=64), preprocess=[*steps, {"op": "normalize", "mean": [0.5], "std": [0.5]}]), tmp_path / "m.pt2"
    )
    assert meta["input"]["example"][2:] == [64, 64]
    resize, crop, _ = meta["preprocess"]
    assert (resize["size"], crop["height"], crop["width"]) == (73, 64, 64) and "of 64x64, and not" in capsys.readouterr().err
