"""The layer that is explained where none is named: it feeds the score, depends on the image and lies over it."""

import hugging_face_folders as folders
import pytest
from camflow.export import export
from camflow.export.describe import describe
from camflow.export.evidence import telling
from camflow.export.known import unshare
from camflow.export.layers import observe
from camflow.export.loaders import LoadedModel, scores

import torch
from torch import nn


def described(module, side=224):
    torch.manual_seed(0)
    module.eval().requires_grad_(False)
    unshare(module)
    image = torch.randn(2, 3, side, side)
    shapes, _, output = observe(module, image)
    return describe(LoadedModel(module, "m", "m", {}), shapes, image, output)[0]


@pytest.mark.parametrize(
    "name, layer",
    [
        ("resnet18", "layer4"),
        ("vit_tiny_patch16_224", "blocks.11.norm1"),
        ("swin_tiny_patch4_window7_224", "layers.3.blocks.1.norm1"),
        ("xcit_nano_12_p16_224", "blocks.11"),  # not the position encoding, the same for every image
        ("levit_128s", "stages.2"),  # not the stem
        ("efficientformer_l1", "stages.3"),  # not the last but one
        ("pit_ti_224", "transformers.2.blocks.3.norm1"),  # not what comes before all blocks
        ("hiera_tiny_224", "blocks.11"),  # not the tokens in the order of windows
    ],
)
def test_the_default_of_timms_models(name, layer):
    import timm

    torch.manual_seed(0)
    meta = described(timm.create_model(name))
    assert meta["aliases"][meta["default_layers"][0]] == layer


@pytest.mark.parametrize(
    "build, layer",
    [
        (folders.swinv2, "swinv2.layernorm"),  # its other norms are the attention's own
        (folders.vit, "vit.layers.2.layernorm_before"),
        (folders.convnext, "convnext.encoder.stages.3"),
        (folders.segformer, "segformer.stages.3"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_default_of_models_of_transformers(build, layer):
    torch.manual_seed(0)
    module = build()[0]
    scores.logits(module)
    meta = described(module, 64)
    assert meta["aliases"][meta["default_layers"][0]] == layer


class Odd(nn.Module):
    """Convolutions, a map that is the same for every image, and one that is turned upside down."""

    def __init__(self):
        super().__init__()
        self.stem, self.constant, self.turned, self.head = (
            nn.Conv2d(3, 8, 3, 8, 1),
            nn.Identity(),
            nn.Identity(),
            nn.Conv2d(8, 3, 1),
        )
        self.encoding = nn.Parameter(torch.randn(1, 8, 28, 28))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + self.constant(self.encoding.expand(x.shape[0], -1, -1, -1))
        return self.head(self.turned(x.rot90(2, (2, 3)))).mean((2, 3))


def test_one_changed_image_tells():
    torch.manual_seed(0)
    model = Odd().eval()
    layers = [{"path": path, "layout": "nchw"} for path in ("stem", "constant", "turned", "head")]
    assert telling(model, torch.randn(1, 3, 224, 224), layers, None) == {"stem"}


def test_a_norm_behind_the_attention_is_no_default(capsys):
    import timm

    torch.manual_seed(0)
    meta = described(timm.create_model("swinv2_cr_tiny_224"))
    assert "norm1" not in meta["aliases"][meta["default_layers"][0]]


def test_behind_the_last_attention_only_the_class_token_counts():
    import timm

    meta = described(timm.create_model("vit_tiny_patch16_224"))
    assert "norm" not in meta["aliases"].values() and "blocks.11" not in meta["aliases"].values()


class Segmenter(nn.Module):
    """An encoder, a decoder, and a head whose output is resized: as segmentation-models-pytorch has them."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
        self.decoder = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.segmentation_head = nn.Sequential(nn.Conv2d(8, 5, 1), nn.Upsample(scale_factor=4))

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x)))


def test_the_scores_are_no_default_of_a_segmentation_network():
    meta = described(Segmenter())
    assert meta["aliases"] == {"1": "encoder", "2": "decoder"} and meta["default_layers"] == ["2"]
    assert "segmentation_head.0" in {layer["path"] for layer in meta["layers"]}, "whoever names it gets it"


class Twice(nn.Module):
    """One block that is gone through twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.block(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.block(x)).mean((2, 3)))


@pytest.mark.parametrize(("given", "is_said"), [({"1": "stem", "2": "block"}, True), ({"1": "stem", "2": "block@1"}, False)])
def test_which_call_a_layer_is_is_said(given, is_said, tmp_path, capsys):
    torch.manual_seed(0)
    metadata = {"aliases": given, "preprocess": [{"op": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3}]}
    export(LoadedModel(Twice().eval(), "twice", "twice", metadata), tmp_path / "twice.pt2", size=(64, 64))
    said = "`block` is called 2 times, and its first call is the layer; `block@1` is the second"
    assert (said in capsys.readouterr().err) == is_said
