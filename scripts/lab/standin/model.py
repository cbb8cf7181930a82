"""The stand-in for ``deeplabv3-resnet50-coco-torch``: the same shape, much smaller.

A machine that cannot download pretrained weights still needs a segmentation
network that really finds people, or a heatmap of it would mean nothing. This
one is torchvision's own ``DeepLabV3`` around a small ResNet. Module names,
strides (4, 8, 8, 8), the 21 VOC classes and the ``OrderedDict`` with ``out``
at input resolution are those of the original, so whatever works here works
there. Only `background` and `person` were trained (see ``train.py``).

As a model reference: ``scripts/lab/standin/model.py:standin_deeplab``.
"""

from __future__ import annotations

from pathlib import Path

from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabV3

import torch
from torch import nn

WEIGHTS = Path(__file__).resolve().parent / "weights.pt"

# PASCAL VOC's classes in VOC order; the index is the channel of the logits.
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus"),
    *("car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike"),
    *("person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

# What a model file has to say beside the graph: how an image becomes its input,
# what its channels mean, and which module the numbers in `--layers 1-4` name.
# The preprocessing is that of FiftyOne's `deeplabv3-resnet50-coco-torch`.
METADATA = {
    "task": "segmentation",
    "classes": {str(i): name for i, name in enumerate(VOC_CLASSES)},
    "preprocess": [
        {"op": "resize_smaller", "size": 520, "interpolation": "bilinear", "antialias": True},
        {"op": "normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    ],
    "aliases": {str(i): f"backbone.layer{i}" for i in range(1, 5)},
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; torchvision's has no dilation."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + identity)


class SmallResNet(nn.Module):
    """A ResNet of four layers, two blocks each, with torchvision's names.

    As in torchvision's segmentation models, layers 3 and 4 trade their stride
    for dilation, so that their activations stay at 1/8 of the input.
    """

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = self._layer(widths[0], widths[0], stride=1, dilation=1)
        self.layer2 = self._layer(widths[0], widths[1], stride=2, dilation=1)
        self.layer3 = self._layer(widths[1], widths[2], stride=1, dilation=2)
        self.layer4 = self._layer(widths[2], widths[3], stride=1, dilation=4)

    @staticmethod
    def _layer(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(inputs, outputs, stride, dilation),
            BasicBlock(outputs, outputs, 1, dilation),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def untrained() -> DeepLabV3:
    """The architecture with random weights: 0.74 million parameters, 5 GMAC at 520x693."""
    widths = (32, 48, 64, 96)
    # This keeps the modules of `SmallResNet` by name and hands out layer4's
    # activation, exactly as torchvision builds its own DeepLabV3.
    backbone = IntermediateLayerGetter(SmallResNet(widths), {"layer4": "out"})
    # DeepLabHead with 48 channels instead of 256. The rates of the original
    # assume objects larger than those that so few parameters can tell apart.
    classifier = nn.Sequential(
        ASPP(widths[3], [6, 12, 24], 48),
        nn.Conv2d(48, 48, 3, padding=1, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.Conv2d(48, len(VOC_CLASSES), 1),
    )
    model = DeepLabV3(backbone, classifier)
    model.camflow_metadata = METADATA
    return model


def standin_deeplab() -> DeepLabV3:
    """The trained stand-in, in evaluation mode, with `camflow_metadata` attached.

    Takes f32 ``[N, 3, H, W]``, normalised as `METADATA` says; returns an
    ``OrderedDict`` whose ``out`` holds logits f32 ``[N, 21, H, W]``.
    """
    model = untrained()
    # Stored as float16 to keep the repository small, used as float32.
    state = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval()
