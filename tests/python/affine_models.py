"""Small classifiers that differ in what is behind their last layer, `features`: affine functions of it, and others."""

import torch

CLASSES = 6
SIDE = 32


class Classifier(torch.nn.Module):
    """Logits of six classes from features `[N, 12, 8, 8]`."""

    def __init__(self, *last: torch.nn.Module):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, stride=2, padding=2), torch.nn.ReLU())
        self.features = torch.nn.Sequential(torch.nn.Conv2d(8, 12, 3, stride=2, padding=1), *last)
        self.head = torch.nn.Linear(12, CLASSES)

    def pooled(self, features):
        return torch.nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)

    def forward(self, x):
        return self.head(self.pooled(self.features(self.stem(x))))


class Signed(Classifier):
    """Features below zero, too, and a dropout, a batch norm and a factor behind them."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(12)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.scale = torch.nn.Parameter(torch.rand(12, 1, 1))

    def pooled(self, features):
        return torch.nn.functional.dropout(super().pooled(self.norm(features) * self.scale), 0.5, self.training)


class Flat(Classifier):
    """A weight for each place: the gradient is another one at each."""

    def __init__(self):
        super().__init__(torch.nn.ReLU())
        self.head = torch.nn.Linear(12 * 8 * 8, CLASSES)

    def pooled(self, features):
        return features.flatten(1)


class Beside(Classifier):
    """Something of the image goes around the features."""

    def __init__(self):
        super().__init__(torch.nn.ReLU())
        self.around = torch.nn.Conv2d(8, 12, 1, stride=2)

    def forward(self, x):
        stem = self.stem(x)
        return self.head(self.pooled(self.features(stem) + torch.sigmoid(self.around(stem))))


class Gated(Classifier):
    """Each image weighs its features by itself."""

    def __init__(self):
        super().__init__(torch.nn.ReLU())
        self.gate = torch.nn.Linear(12, 12)

    def pooled(self, features):
        pooled = super().pooled(features)
        return pooled * torch.sigmoid(self.gate(pooled))


class Dead(Classifier):
    """Five of its features are zero, whatever the image."""

    def __init__(self):
        super().__init__(torch.nn.ReLU())
        self.features[0].bias.data[3:8] = -100


class Many(Classifier):
    """More classes than are drawn at once for images of 512 pixels."""

    COUNT = 80
    SIDE = 512

    def __init__(self):
        super().__init__(torch.nn.ReLU(), torch.nn.AvgPool2d(8))
        self.head = torch.nn.Linear(12, self.COUNT)


def made(model: type[Classifier], *arguments: torch.nn.Module) -> Classifier:
    torch.manual_seed(11)
    found = model(*arguments).eval()
    found.camflow_metadata = {
        "classes": {channel: f"class {channel}" for channel in range(CLASSES)},
        "preprocess": [{"op": "center_crop", "height": SIDE, "width": SIDE}],
        "example": [SIDE, SIDE],
    }
    return found


def plain():
    return made(Classifier, torch.nn.ReLU())


def signed():
    return made(Signed)


def flat():
    return made(Flat)


def beside():
    return made(Beside)


def gated():
    return made(Gated)


def dead():
    return made(Dead)


def many():
    model = made(Many)
    model.camflow_metadata = {
        "classes": {channel: f"class {channel}" for channel in range(Many.COUNT)},
        "preprocess": [{"op": "resize", "height": Many.SIDE, "width": Many.SIDE}],
        "example": [Many.SIDE, Many.SIDE],
    }
    return model
