"""Small models for tests: a classifier whose preprocessing crops, and two that are no classifiers."""

import torch


class Rows(torch.nn.Module):
    """Logits of three classes: each from the mean of a feature of its own."""

    def __init__(self):
        super().__init__()
        self.layer1 = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, stride=4, padding=2), torch.nn.ReLU())
        self.layer2 = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, stride=2, padding=1), torch.nn.ReLU())
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(x)).mean((2, 3)))


class Boxes(torch.nn.Module):
    """An output [N, 6, 4] that is no scores of classes."""

    def __init__(self):
        super().__init__()
        self.layer1 = torch.nn.Sequential(torch.nn.Conv2d(3, 24, 5, stride=4, padding=2), torch.nn.ReLU())

    def forward(self, x):
        return self.layer1(x).mean((2, 3)).view(-1, 6, 4)


METADATA = {
    "classes": {0: "cat", 1: "dog", 2: "person"},
    "preprocess": [{"op": "resize_smaller", "size": 72}, {"op": "center_crop", "height": 64, "width": 64}],
    "example": [64, 64],
}


def classifier():
    torch.manual_seed(3)
    model = Rows().eval()
    model.camflow_metadata = METADATA
    return model


def boxes():
    torch.manual_seed(3)
    model = Boxes().eval()
    model.camflow_metadata = METADATA
    return model


def detector():
    model = boxes()
    model.camflow_metadata = {**METADATA, "task": "detection"}
    return model
