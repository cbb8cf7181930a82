"""The stand-in's pictures: real photographs, and people put in front of them.

A machine that cannot reach the internet has no COCO images and no pretrained
network. What it does have are the photographs that scikit-image, scikit-learn
and matplotlib ship inside their wheels, which FiftyOne installs anyway. Three
of them show a person. Those people are cut out once (``masks/*.png``, made by
GrabCut from the outlines below) and pasted in front of the other photographs,
so that every composite has an exact ground truth.

Sources and licences, as their packages state them: ``astronaut`` NASA, public
domain; ``grace_hopper`` U.S. Navy, public domain; ``camera`` and ``chelsea``
CC0; ``coffee``, ``rocket``, ``motorcycle``, ``brick``, ``grass`` and
``gravel`` CC0 or public domain; ``china`` and ``flower`` CC BY 2.0
(danielbuechele, vultilion). No photograph is copied into this repository.

``python scripts/lab/standin/photos.py`` cuts the people out again. The masks are
kept beside this file because another OpenCV may cut a slightly different edge.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

MASKS = Path(__file__).resolve().parent / "masks"

# The class index of `person` in the VOC order that torchvision's segmentation
# models use.
PERSON = 15


@dataclass(frozen=True)
class Person:
    """A photograph of one person, and the rough outline GrabCut starts from."""

    photo: str
    outline: tuple[tuple[int, int], ...]
    # Where the photograph's frame cuts the body off: such a side must lie on
    # (or beyond) the same side of a composite, or the person ends in mid-air.
    cut_left: bool = False
    cut_right: bool = False
    # Half the width, in pixels, of the band in which the outline may be wrong.
    slack: int = 9


PEOPLE = {
    # The helmet she holds is an object: the outline leaves it out.
    "astronaut": Person(
        "astronaut",
        (
            *((155, 80), (165, 45), (200, 20), (240, 13), (280, 35), (300, 70), (298, 110)),
            *((280, 135), (265, 160), (262, 172), (290, 200), (303, 235), (300, 260)),
            *((330, 275), (347, 295), (364, 348), (335, 352), (300, 385), (282, 420)),
            *((278, 470), (285, 511), (24, 511), (20, 490), (22, 420), (38, 330), (50, 260)),
            *((75, 235), (112, 205), (125, 170), (150, 152), (185, 150), (178, 120), (160, 105)),
        ),
    ),
    "grace_hopper": Person(
        "grace_hopper",
        (
            *((185, 60), (215, 35), (260, 20), (300, 25), (340, 50), (360, 85), (374, 110)),
            *((372, 150), (374, 185), (378, 200), (365, 250), (357, 290), (332, 320)),
            *((400, 350), (480, 382), (503, 420), (511, 450), (511, 599), (13, 599)),
            *((22, 520), (33, 430), (52, 385), (150, 345), (200, 318), (190, 292)),
            *((160, 265), (156, 190), (165, 150), (153, 120), (160, 95), (175, 80)),
        ),
        cut_right=True,
    ),
    # Camera and tripod are left out, as for the helmet.
    "camera": Person(
        "camera",
        (
            *((158, 100), (170, 75), (195, 63), (240, 65), (268, 90), (270, 115), (258, 135)),
            *((253, 163), (245, 178), (240, 198), (243, 222), (248, 246), (262, 230)),
            *((262, 215), (274, 205), (300, 203), (316, 172), (325, 167), (332, 190)),
            *((326, 202), (318, 225), (306, 234), (304, 276), (290, 288), (265, 302)),
            *((246, 312), (225, 305), (206, 293), (192, 318), (160, 365), (141, 382)),
            *((147, 410), (150, 425), (151, 511), (0, 511), (0, 245), (50, 180), (90, 130)),
            *((130, 108),),
        ),
        cut_left=True,
        # Coat and tripod are equally dark: only a close outline parts them.
        slack=7,
    ),
}

# Photographs without people. The held-out ones are never seen in training:
# the figures in training.json are measured in front of them.
TRAINING_BACKGROUNDS = (
    *("brick", "coffee", "coins", "flower", "grass", "hubble_deep_field", "ihc"),
    *("moon", "motorcycle_left", "page", "retina", "rocket", "text"),
)
HELD_OUT_BACKGROUNDS = ("chelsea", "china", "gravel")

_PACKAGES = {
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}


@functools.cache
def photo(name: str) -> np.ndarray:
    """The photograph as RGB, u8 ``[H, W, 3]``."""
    import importlib.util

    package, inside = _PACKAGES.get(name, ("skimage", f"data/{name}.png"))
    root = Path(importlib.util.find_spec(package).origin).parent
    # Pillow, as OpenCV warns about a colour profile in one of the files.
    from PIL import Image

    with Image.open(root / inside) as image:
        return np.asarray(image.convert("RGB"))


@functools.cache
def alpha(name: str) -> np.ndarray:
    """How much of each pixel of ``photo(name)`` is the person, f32 ``[H, W]`` in 0..1."""
    mask = cv2.imread(str(MASKS / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise FileNotFoundError(f"{MASKS / name}.png: make it with scripts/lab/standin/photos.py")
    return mask.astype(np.float32) / 255


def cut_out(name: str) -> np.ndarray:
    """Cuts the person out of the photograph: alpha as u8 ``[H, W]``."""
    person = PEOPLE[name]
    image = cv2.cvtColor(photo(person.photo), cv2.COLOR_RGB2BGR)
    inside = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.array(person.outline, np.int32)], 1)
    # Only the band around the hand-drawn outline is open, the rest is given.
    # Padding by replication keeps the frame's own edge from counting as outline.
    pad = 16
    padded = cv2.copyMakeBorder(inside, *(pad,) * 4, cv2.BORDER_REPLICATE)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * person.slack + 1,) * 2)
    inner = cv2.erode(padded, kernel)[pad:-pad, pad:-pad]
    outer = cv2.dilate(padded, kernel)[pad:-pad, pad:-pad]
    trimap = np.where(inside == 1, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    trimap[inner == 1] = cv2.GC_FGD
    trimap[outer == 0] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(image, trimap, None, *np.zeros((2, 1, 65)), 6, cv2.GC_INIT_WITH_MASK)
    cut = ((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)).astype(np.uint8)
    # One body: drop specks, close holes that are smaller than a button.
    cut = cv2.morphologyEx(cut, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    cut = cv2.morphologyEx(cut, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cut)
    cut = (labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])).astype(np.uint8)
    # A pixel further in, and soft: hides the old background at the edge.
    cut = cv2.erode(cut, np.ones((3, 3), np.uint8), borderValue=1)
    return cv2.GaussianBlur(cut * 255, (0, 0), 0.8)


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    """`image` at another scale: averaged when it shrinks, bicubic when it grows."""
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)


def window(image: np.ndarray, height: int, width: int, zoom: float, at: tuple[float, float]):
    """A ``[height, width]`` piece of `image`, enlarged by at least `zoom` times what is needed.

    `at` in 0..1 says where between the edges the piece lies, down and across.
    """
    h, w = image.shape[:2]
    grown = resized(image, zoom * max(height / h, width / w) + 1e-3)
    y = round(at[0] * (grown.shape[0] - height))
    x = round(at[1] * (grown.shape[1] - width))
    return grown[y : y + height, x : x + width]


def paste(
    image: np.ndarray,
    mask: np.ndarray,
    name: str,
    *,
    tall: float,
    bottom: float,
    centre: float,
    mirrored: bool = False,
    looks: np.ndarray | None = None,
    value: int = PERSON,
) -> None:
    """Puts a person into `image` (RGB u8, changed in place) and into `mask`.

    `tall` is the person's height, `bottom` where they end and `centre` where
    they stand, all in pixels of `image`; they may reach over its edges. `looks`
    replaces the photograph (same size), `value` what the mask gets.
    """
    cut = alpha(name)
    rows, columns = np.where(cut.any(1))[0], np.where(cut.any(0))[0]
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cut, front = cut[box], (photo(PEOPLE[name].photo) if looks is None else looks)[box]
    left, right = PEOPLE[name].cut_left, PEOPLE[name].cut_right
    if mirrored:
        cut, front, left, right = cut[:, ::-1], front[:, ::-1], right, left
    scale = tall / cut.shape[0]
    cut = np.clip(resized(np.ascontiguousarray(cut), scale), 0, 1)
    front = resized(np.ascontiguousarray(front), scale)
    (h, w), (height, width) = cut.shape, mask.shape
    y, x = round(bottom) - h, round(centre - w / 2)
    # A side that the photograph's frame cut off has to end at the frame here too.
    if left:
        x = min(x, 0)
    if right:
        x = max(x, width - w)
    top, low, first, last = max(y, 0), min(y + h, height), max(x, 0), min(x + w, width)
    if top >= low or first >= last:
        return
    there = np.s_[top:low, first:last]
    here = np.s_[top - y : low - y, first - x : last - x]
    share = cut[here][..., None]
    image[there] = np.rint(front[here] * share + image[there] * (1 - share)).astype(np.uint8)
    mask[there][cut[here] > 0.5] = value


def main() -> None:
    MASKS.mkdir(exist_ok=True)
    for name in PEOPLE:
        mask = cut_out(name)
        cv2.imwrite(str(MASKS / f"{name}.png"), mask, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        print(f"{name}: {100 * (mask > 127).mean():.1f} % of the photograph")


if __name__ == "__main__":
    main()
