"""Models whose gradient goes nowhere, or whose output has one channel; each a function for `scripts/export_model.py`."""

import torch
from torch import nn

PLAIN = [{"op": "normalize", "mean": [0, 0, 0], "std": [1, 1, 1]}]


def described(model, classes, task="classification"):
    model.camflow_metadata = {"task": task, "classes": {str(i): name for i, name in enumerate(classes)}, "preprocess": PLAIN}
    return model


class Net(nn.Module):
    """`backbone`, then `neck`, then `head` on the mean; subclasses say what comes between."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.neck = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.scores(self.between(self.backbone(x)))

    def between(self, y):
        return y

    def scores(self, y):
        return self.head(torch.relu(self.neck(y)).mean((2, 3)))


class Detached(Net):
    def between(self, y):
        return y.detach()


class Rounded(Net):
    """Whole numbers between the backbone and the rest."""

    def between(self, y):
        return (y * 8).long().float()


class ByShape(Net):
    """Only the shape of the backbone's output counts."""

    def between(self, y):
        return torch.ones_like(y) * y.shape[-1]


class Constant(Net):
    def scores(self, y):
        return torch.zeros(y.shape[0], 3) + y.shape[-1]


class Classes(Net):
    """The output is no score but the class."""

    def scores(self, y):
        return super().scores(y).argmax(1, keepdim=True)


class StraightThrough(torch.autograd.Function):
    """Whole numbers with the gradient of what they were, as quantised networks have it."""

    @staticmethod
    def forward(ctx, y):
        return (8 * y).round() / 8

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Quantised(Net):
    def between(self, y):
        return StraightThrough.apply(y)


class QuantisedByDetach(Net):
    """The same, as a graph can hold it."""

    def between(self, y):
        return y + ((8 * y).round() / 8 - y).detach()


class Hooked(Net):
    """Gradients are changed on their way back, as guided backpropagation does."""

    def __init__(self):
        super().__init__()
        self.neck.register_full_backward_hook(lambda module, inputs, outputs: tuple(x.clamp(max=0) for x in inputs))


class Steps(Net):
    """A step function: a gradient that is there and zero."""

    def between(self, y):
        return y.sign()


class Behind(Net):
    """A layer behind the output, of the output's own kind."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Conv2d(8, 3, 1)
        self.after = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.backbone(x)
        aux = nn.functional.interpolate(self.aux(y), scale_factor=2.0)
        out = self.scores(y)
        return {"out": out, "aux": aux, "after": self.after(aux)}


class DeadChannel(Net):
    """The scores of two classes do not depend on the image, in two ways."""

    def scores(self, y):
        scores = super().scores(y)
        return torch.cat([scores[:, :1], torch.zeros(y.shape[0], 1), scores[:, 1:2] * 0], 1)


class OneChannel(nn.Module):
    """A U-Net's kind of output: positive logits are the object."""

    def __init__(self, bias=0.0, probabilities=False):
        super().__init__()
        torch.manual_seed(3)
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 1, 1)
        self.conv2.bias.data += bias
        self.probabilities = probabilities

    def forward(self, x):
        y = self.conv2(torch.relu(self.conv1(x)))
        y = nn.functional.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(y) if self.probabilities else y


class Two(nn.Module):
    """Two outputs, of which the auxiliary one comes last."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(8, 3, 1)
        self.aux_classifier = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        y = torch.relu(self.body(x))
        grow = lambda z: nn.functional.interpolate(z, size=x.shape[-2:])
        return {"out": grow(self.classifier(y)), "aux": grow(self.aux_classifier(y))}


NAMES = ["ant", "bee", "cat"]


def detached():
    return described(Detached(), NAMES)


def rounded():
    return described(Rounded(), NAMES)


def by_shape():
    return described(ByShape(), NAMES)


def constant():
    return described(Constant(), NAMES)


def classes():
    return described(Classes(), [])


def quantised():
    return described(Quantised(), NAMES)


def quantised_by_detach():
    return described(QuantisedByDetach(), NAMES)


def hooked():
    return described(Hooked(), NAMES)


def steps():
    return described(Steps(), NAMES)


def behind():
    return described(Behind(), NAMES)


def dead_channel():
    return described(DeadChannel(), NAMES)


def two():
    return described(Two(), NAMES, "segmentation")


def misled():
    model = two()
    model.camflow_metadata.update(aliases={"1": "classifier", "2": "aux_classifier"}, default_layers=["2"])
    return model


def one_channel():
    return described(OneChannel(), ["object"], "segmentation")


def never():
    return described(OneChannel(bias=-20.0), ["object"], "segmentation")


def probabilities():
    return described(OneChannel(probabilities=True), ["object"], "segmentation")


def tumour():
    model = Net(classes=1)
    model.head.bias.data += 1.0
    return described(model, ["tumour"])


def healthy():
    model = Net(classes=1)
    model.head.bias.data -= 1.0
    return described(model, ["tumour"])


def two_names(bias):
    model = Net(classes=1)
    model.head.bias.data += bias
    return described(model, ["healthy", "tumour"])


def named_tumour():
    return two_names(1.0)


def named_healthy():
    return two_names(-1.0)


class Squeezed(Net):
    """`[N]`, as many binary classifiers return, in the two ways that people write it."""

    def __init__(self, dimension):
        super().__init__(classes=1)
        self.head.bias.data += 1.0
        self.dimension = dimension

    def scores(self, y):
        scores = super().scores(y)
        return scores.squeeze() if self.dimension is None else scores.squeeze(self.dimension)


def squeezed():
    return described(Squeezed(1), ["healthy", "tumour"])


def squeezed_whole():
    return described(Squeezed(None), ["healthy", "tumour"])


class Pooled(Net):
    """`[N, 1, 1, 1]`, as pooling leaves it; or without the last of these."""

    def __init__(self, dimensions):
        super().__init__(classes=1)
        self.head.bias.data += 1.0
        self.dimensions = dimensions

    def scores(self, y):
        scores = super().scores(y)
        return scores.reshape(*scores.shape, *[1] * self.dimensions)


def pooled():
    return described(Pooled(2), ["healthy", "tumour"])


def pooled_once():
    return described(Pooled(1), ["healthy", "tumour"])


def rounded_score():
    class Whole(Squeezed):
        def scores(self, y):
            return super().scores(y).ceil()

    return described(Whole(1), ["healthy", "tumour"])


class FlatMap(OneChannel):
    """`[N, H, W]`, with the sigmoid before the dimension goes."""

    def forward(self, x):
        return super().forward(x).squeeze(1)


def flat_map():
    return described(FlatMap(bias=-0.32, probabilities=True), ["tissue", "polyp"], "segmentation")


def flat_map_of_logits():
    return described(FlatMap(bias=-0.32), ["tissue", "polyp"], "other")


def classes_last():
    class Last(OneChannel):
        def forward(self, x):
            return super().forward(x).permute(0, 2, 3, 1)

    return described(Last(), ["tissue", "polyp"], "segmentation")


def three_names():
    return described(Net(classes=1), NAMES)


class UNet(nn.Module):
    """Skip connections: sides are multiples of 4."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down1, self.down2, self.down3 = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.up2, self.up1 = (nn.ConvTranspose2d(8, 8, 2, stride=2) for _ in range(2))
        self.middle, self.head = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x):
        first = torch.relu(self.down1(x))
        second = torch.relu(self.down2(nn.functional.max_pool2d(first, 2)))
        third = torch.relu(self.down3(nn.functional.max_pool2d(second, 2)))
        second = torch.relu(self.middle(torch.cat([self.up2(third), second], 1)))
        return self.head(torch.cat([self.up1(second), first], 1))


def unet():
    return described(UNet(), ["background", "cat", "dog"], "segmentation")


class Aside(Net):
    """The branch beside a shortcut begins with an Identity, as dropout is when a model predicts."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.1)

    def scores(self, y):
        return self.head((y + 3 * torch.relu(self.neck(self.dropout(y)))).mean((2, 3)))


def aside():
    return described(Aside(), ["ant", "bee", "cat"])
