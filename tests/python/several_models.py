"""Small models of several inputs or outputs, for `test_several.py`; each a function for the exporter."""

import torch
from torch import nn

ABOUT = {
    "task": "classification",
    "classes": ["a", "b", "c"],
    "preprocess": [{"op": "normalize", "mean": 0.5, "std": 0.25}],
    "aliases": {"1": "body"},
    "example": [32, 40],
}


class Timed(nn.Module):
    """Scores of an image at a time, for one place of a table; the image is not the first input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.table, self.head = nn.Embedding(5, 8), nn.Linear(8, 3)
        self.camflow_metadata = dict(ABOUT)

    def forward(self, time: torch.Tensor, image: torch.Tensor, place: torch.Tensor, flip: bool = False) -> torch.Tensor:
        found = self.body(image)
        found = found * (1 + torch.sin(time)[:, None, None, None]) + self.table(place)[:, :, None, None]
        return self.head(found.mean((2, 3))) * (-1 if flip else 1)


def timed() -> nn.Module:
    return Timed().eval()


def stated() -> nn.Module:
    """It says itself what else it is given."""
    model = Timed().eval()
    model.camflow_metadata["inputs"] = {"time": torch.tensor([0.25]), "place": torch.tensor([3]), "flip": True}
    return model


class Outputs(nn.Module):
    """A dict of scores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.coarse, self.fine = nn.Linear(8, 3), nn.Linear(8, 3)
        self.camflow_metadata = dict(ABOUT)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.body(image)
        pooled = found.mean((2, 3))
        return {"coarse": self.coarse(pooled), "fine": self.fine(pooled), "features": found}


def outputs() -> nn.Module:
    return Outputs().eval()
