"""A classifier with a layer that shows the middle of every image, whatever the image and whatever was learnt."""

import torch


class Prior(torch.nn.Module):
    """The same bump in eight channels, as bright as the image is."""

    def __init__(self):
        super().__init__()
        side = torch.linspace(-2, 2, 16)
        bump = torch.exp(-(side[:, None] ** 2 + side[None] ** 2))
        self.register_buffer("bump", bump.expand(8, 16, 16).clone())

    def forward(self, x):
        small = torch.nn.functional.avg_pool2d(x, 4).mean(1, keepdim=True)
        return self.bump * (2 + small.mean((2, 3), keepdim=True)) + 1e-6 * small


class Classifier(torch.nn.Module):
    """Three classes by one linear layer."""

    def __init__(self):
        super().__init__()
        self.layer1 = Prior()
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer1(x).mean((2, 3)))


class Unlearnt(torch.nn.Module):
    """Two classes, by nothing that was learnt."""

    def __init__(self):
        super().__init__()
        self.layer1 = torch.nn.AvgPool2d(4)

    def forward(self, x):
        red, green, _ = self.layer1(x).mean((2, 3)).unbind(1)
        return torch.stack((red, green), 1)


class Tied(torch.nn.Module):
    """Two convolutions with the same weights."""

    def __init__(self):
        super().__init__()
        self.layer1 = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.layer2 = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.layer2.weight = self.layer1.weight
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(x).relu()).relu().mean((2, 3)))


def _made(model, names):
    model.camflow_metadata = {
        "classes": dict(enumerate(names)),
        "preprocess": [{"op": "resize", "height": 64, "width": 64}],
        "example": [64, 64],
    }
    return model.eval()


def prior():
    torch.manual_seed(0)
    return _made(Classifier(), ("cat", "dog", "person"))


def unlearnt():
    return _made(Unlearnt(), ("red", "green"))


def tied():
    torch.manual_seed(0)
    return _made(Tied(), ("cat", "dog"))
