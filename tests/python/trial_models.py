"""Models whose result depends on the other images of a batch, or whose ReLUs sit at the edge; functions for the exporter."""

import torch
from torch import nn

NAMES = ["ant", "bee", "cat"]
SIZE = [48, 64]
RESIZE = {"op": "resize", "height": SIZE[0], "width": SIZE[1], "interpolation": "bilinear", "antialias": True}
NORMALIZE = {"op": "normalize", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def described(model):
    model.camflow_metadata = {"task": "classification", "classes": NAMES, "preprocess": [RESIZE, NORMALIZE], "example": SIZE}
    return model


class Net(nn.Module):
    """Two convolutions and a linear layer; subclasses say what is between the convolutions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.scores(torch.relu(self.second(torch.relu(self.between(self.first(x))))))

    def between(self, y):
        return self.norm(y)

    def scores(self, y):
        return self.head(y.mean((2, 3)))


class NoStatistics(Net):
    """The batch norm has no running statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)


class MinusTheMean(Net):
    """What all images of a batch have in common is taken away."""

    def between(self, y):
        return y - 0.5 * y.mean(0, keepdim=True)


class Sorted(Net):
    """Each number is taken from whichever image comes next in the order of sizes."""

    def between(self, y):
        return y + y.sort(0).values


class AcrossTheBatch(Net):
    """Attention between the images, as `nn.MultiheadAttention` without `batch_first` computes on `[N, T, C]`."""

    def between(self, y):
        tokens = y.flatten(2).mean(2)
        weights = torch.softmax(tokens @ tokens.T, 1)
        return y * (weights @ tokens)[:, :, None, None]


class OnlyTheGradient(Net):
    """The values are those of the image, their gradients are not."""

    def between(self, y):
        mean = y.mean(0, keepdim=True)
        return self.norm(y) + 3 * (mean - mean.detach())


class OwnStatistics(Net):
    """Statistics of the image itself, by reshaping as a group norm does: no neighbour has a say."""

    def between(self, y):
        n, c, h, w = y.shape
        groups = y.reshape(n * 2, c // 2 * h * w)
        return ((groups - groups.mean(1, keepdim=True)) / groups.std(1, keepdim=True)).reshape(n, c, h, w)


class UNet(nn.Module):
    """A U-Net on a ResNet-18, as segmentation-models-pytorch builds it: batch norms and ReLUs down and up."""

    def __init__(self):
        super().__init__()
        import torchvision

        torch.manual_seed(0)
        self.encoder = torchvision.models.resnet18(weights=None)
        self.encoder.fc = nn.Identity()
        self.decoder = nn.ModuleList(self._block(i, o) for i, o in ((768, 256), (384, 128), (192, 64), (128, 32), (32, 16)))
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    @staticmethod
    def _block(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, x):
        e = self.encoder
        skips = [e.relu(e.bn1(e.conv1(x)))]
        y = e.maxpool(skips[0])
        for stage in (e.layer1, e.layer2, e.layer3, e.layer4):
            y = stage(y)
            skips.append(y)
        skips.pop()
        for block, skip in zip(self.decoder, [*skips[::-1], None], strict=True):
            y = nn.functional.interpolate(y, scale_factor=2.0)
            y = block(y if skip is None else torch.cat([y, skip], 1))
        return self.head(y)


class Smooth(Net):
    """Batch norms to fold, and no kink in which a last bit decides."""

    def forward(self, x):
        return self.scores(nn.functional.gelu(self.second(nn.functional.gelu(self.between(self.first(x))))))


class Wide(Net):
    """Asks for 32-bit floats in the middle, where it is run in 64."""

    def between(self, y):
        return self.norm(y).to(torch.float32) + torch.zeros(y.shape, dtype=torch.float32)


class Scores(nn.Module):
    """The class scores of a model of transformers."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def no_statistics():
    return described(NoStatistics())


def minus_the_mean():
    return described(MinusTheMean())


def sorted_batch():
    return described(Sorted())


def across_the_batch():
    return described(AcrossTheBatch())


def only_the_gradient():
    return described(OnlyTheGradient())


def own_statistics():
    return described(OwnStatistics())


def plain():
    return described(Net())


def smooth():
    return described(Smooth())


def wide():
    return described(Wide())


def unet():
    model = UNet()
    model.camflow_metadata = {"task": "segmentation", "classes": NAMES, "preprocess": [NORMALIZE], "example": [160, 192]}
    return model


def upernet():
    """Whose backbone has layers at which Grad-CAM++ divides by sums that nearly cancel."""
    import transformers

    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = transformers.ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 48, 64], out_features=stages)
    config = transformers.UperNetConfig(backbone_config=backbone, num_labels=3, hidden_size=32, use_auxiliary_head=False)
    model = Scores(transformers.UperNetForSemanticSegmentation(config)).train()
    with torch.no_grad():
        for _ in range(4):
            model(torch.rand(2, 3, 128, 160) * 2 - 1)
    model.camflow_metadata = {"task": "segmentation", "classes": NAMES, "preprocess": [NORMALIZE], "example": [160, 192]}
    return model
