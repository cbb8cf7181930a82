"""Networks whose outputs are no scores of classes: numbers of regressions, and embeddings."""

import torch

STEPS = [{"op": "resize", "height": 48, "width": 64}, {"op": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3}]


class Network(torch.nn.Module):
    """Two convolutions, and `count` numbers of each image or, with `dense`, of each of its places."""

    def __init__(self, count: int, dense: bool = False, squeezed: bool = False):
        super().__init__()
        self.layer1 = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, stride=4, padding=2), torch.nn.ReLU())
        self.layer2 = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, stride=2, padding=1), torch.nn.ReLU())
        self.head = torch.nn.Conv2d(16, count, 1) if dense else torch.nn.Linear(16, count)
        self.dense, self.squeezed = dense, squeezed

    def forward(self, x):
        maps = self.layer2(self.layer1(x))
        found = self.head(maps if self.dense else maps.mean((2, 3)))
        return found.squeeze(1) if self.squeezed else found


def made(task: str, classes: dict | None = None, **how):
    torch.manual_seed(5)
    model = Network(**how).eval()
    model.camflow_metadata = {"task": task, "classes": classes or {}, "preprocess": STEPS, "example": [48, 64]}
    return model


def measurements():
    return made("regression", {0: "age", 1: "weight", 2: "height"}, count=3)


def age():
    return made("regression", {0: "age"}, count=1, squeezed=True)


def depth():
    return made("regression", count=1, dense=True)


def embedding():
    return made("embedding", count=12)


def scores():
    return made("classification", {0: "cat", 1: "dog", 2: "person"}, count=3)


def one_score():
    return made("classification", {0: "cat"}, count=1)
