"""Trains the stand-in (``model.py``) to find people, and measures how well it does.

    python scripts/lab/standin/train.py [--minutes 30] [--threads 1] [--resume]

Training pictures are made on the fly: people from ``photos.py`` at many sizes
and places in front of photographs, both altered at random. Figures that look
like people in outline only (a person's silhouette filled with another
photograph) are pasted as well, labelled background: without them the network
could learn to spot a pasted edge instead of a person.

The figures written to ``training.json`` come from composites in front of
photographs that training never saw, at the size the model is used at (smaller
side 520). The people are the same three as in training: this shows that the
network tells them from unseen surroundings, not that it knows people at large.
The committed weights took four runs (`--resume`), 3,330 steps in all, and
training stopped when that figure was good enough.
It is a stand-in that makes heatmaps mean something, nothing more.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import cv2
import numpy as np
import photos
import torch.nn.functional as F
from model import METADATA, WEIGHTS, standin_deeplab, untrained

import torch

FIGURES = Path(__file__).resolve().parent / "training.json"
NORMALIZE = METADATA["preprocess"][1]
SIDE = METADATA["preprocess"][0]["size"]
# A crop shows most of a small person or part of a large one. Larger crops cost
# more than they teach, as the receptive field is about this wide.
CROP = 192
BATCH = 16
# People's heights in pixels at the model's scale. Below, 1/8 of the resolution
# has too little left to tell; above, a crop is filled by a coat.
TALL = (130, 480)
NAMES = tuple(photos.PEOPLE)


def altered(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other light, other colours, sometimes none, sometimes out of focus."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.08:
        pixels[:] = pixels.mean(2, keepdims=True)
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
    middle = pixels.mean((0, 1))
    pixels = (pixels - middle) * rng.uniform(0.8, 1.2) + middle * gain
    if rng.random() < 0.25:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.8))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def background(names: tuple[str, ...], height: int, width: int, rng: np.random.Generator):
    """A piece of a photograph, or of two. There are few photographs, so colours are swapped
    and pieces joined freely: nothing about a background may tell that nobody is there."""

    def piece():
        image = photos.photo(names[rng.integers(len(names))])
        if rng.random() < 0.5:
            image = image[:, ::-1]
        if rng.random() < 0.5:
            image = image[..., rng.permutation(3)]
        zoom = math.exp(rng.uniform(0, math.log(2.5)))
        return photos.window(np.ascontiguousarray(image), height, width, zoom, rng.random(2))

    image, kind = piece(), rng.random()
    if kind < 0.2:
        return cv2.addWeighted(image, share := rng.uniform(0.3, 0.7), piece(), 1 - share, 0)
    if kind < 0.5:
        image, other = image.copy(), piece()
        for _ in range(rng.integers(1, 4)):
            (y, low), (x, last) = (np.sort(rng.integers(0, side + 1, 2)) for side in (height, width))
            image[y:low, x:last] = other[y:low, x:last]
    return image


def scene(names: tuple[str, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One training picture at the model's scale and its mask of 0 and 1."""
    if rng.random() < 0.12:
        # The photograph itself: what really surrounds a person belongs to no
        # person either.
        name = NAMES[rng.integers(len(NAMES))]
        image, mask = photos.photo(name), (photos.alpha(name) > 0.5).astype(np.uint8)
        if rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        scale = rng.uniform(0.35, 1)
        image = photos.resized(np.ascontiguousarray(image), scale)
        mask = cv2.resize(np.ascontiguousarray(mask), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return altered(image, rng), mask
    height, width = (int(v) for v in rng.integers(300, 640, 2))
    image = altered(background(names, height, width, rng), rng)
    mask = np.zeros((height, width), np.uint8)
    # Decoys first, so that people stand in front of them.
    kinds = [0] * int(rng.random() < 0.2) + [1] * int(rng.choice([0, 1, 2], p=[0.1, 0.65, 0.25]))
    for kind in kinds:
        name = NAMES[rng.integers(len(NAMES))]
        looks = photos.photo(photos.PEOPLE[name].photo)
        if kind == 0:
            looks = np.ascontiguousarray(background(names, *looks.shape[:2], rng))
        tall = math.exp(rng.uniform(*map(math.log, TALL)))
        # Mostly standing on the lower edge, as they do in a photograph.
        bottom = height + (rng.uniform(0, 0.3) if rng.random() < 0.8 else rng.uniform(-0.4, 0)) * tall
        photos.paste(
            image,
            mask,
            name,
            tall=tall,
            bottom=bottom,
            centre=rng.uniform(0, width),
            mirrored=rng.random() < 0.5,
            looks=altered(looks, rng),
            value=kind,
        )
    if rng.random() < 0.3:
        image = altered(image, rng)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 96))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image, mask


def to_input(image: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(NORMALIZE[key])[:, None, None] for key in ("mean", "std"))
    return (pixels - mean) / std


class Crops(torch.utils.data.IterableDataset):
    """Endless crops of endless scenes; eight crops a scene, as making one costs more than a crop."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        cv2.setNumThreads(1)
        held = []
        while True:
            image, mask = scene(photos.TRAINING_BACKGROUNDS, rng)
            for _ in range(8):
                y, x = (int(rng.integers(0, max(side - CROP, 0) + 1)) for side in mask.shape)
                crop = np.zeros((CROP, CROP, 3), np.uint8)
                # Outside the picture: nothing to learn, but nothing to find either.
                truth = np.zeros((CROP, CROP), np.uint8)
                piece = image[y : y + CROP, x : x + CROP]
                crop[: piece.shape[0], : piece.shape[1]] = piece
                truth[: piece.shape[0], : piece.shape[1]] = mask[y : y + CROP, x : x + CROP]
                held.append((to_input(crop), torch.from_numpy(truth)))
            # Crops of one scene should not meet in one batch.
            if len(held) >= 128:
                for index in sorted(rng.choice(128, 64, replace=False), reverse=True):
                    yield held.pop(index)


def held_out_scenes(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Unaltered people and photographs; every seventh picture shows nobody."""
    rng = np.random.default_rng(20240)
    scenes = []
    for index in range(count):
        height, width = [(520, 693), (693, 520), (520, 520)][index % 3]
        name = photos.HELD_OUT_BACKGROUNDS[index % len(photos.HELD_OUT_BACKGROUNDS)]
        at = rng.random(2)
        zoom = rng.uniform(1, 1.6)
        image = np.ascontiguousarray(photos.window(photos.photo(name), height, width, zoom, at))
        mask = np.zeros((height, width), np.uint8)
        for _ in range(0 if index % 7 == 6 else 1 + index % 2):
            tall = rng.uniform(0.35, 0.85) * 520
            photos.paste(
                image,
                mask,
                NAMES[rng.integers(len(NAMES))],
                tall=tall,
                bottom=height + rng.uniform(0, 0.25) * tall,
                centre=rng.uniform(0.1, 0.9) * width,
                mirrored=rng.random() < 0.5,
                value=1,
            )
        scenes.append((image, mask))
    return scenes


@torch.no_grad()
def measured(model: torch.nn.Module, count: int) -> dict:
    """IoU of `person` over all pixels and per picture, and false alarms where nobody is."""
    model.eval()
    both = either = alarms = empty = 0
    each, areas = [], {name: [0, 0] for name in photos.HELD_OUT_BACKGROUNDS}
    for index, (image, mask) in enumerate(held_out_scenes(count)):
        found = model(to_input(image)[None])["out"][0].argmax(0).numpy() == photos.PERSON
        truth = mask == 1
        if truth.any():
            each.append((found & truth).sum() / (found | truth).sum())
        else:
            alarms, empty = alarms + found.sum(), empty + found.size
        common, joint = (found & truth).sum(), (found | truth).sum()
        both, either = both + common, either + joint
        area = areas[photos.HELD_OUT_BACKGROUNDS[index % len(areas)]]
        area[:] = area[0] + common, area[1] + joint
    return {
        "person_iou": round(float(both / either), 4),
        "person_iou_mean_per_image": round(float(np.mean(each)), 4),
        "person_iou_lowest_image": round(float(np.min(each)), 4),
        "person_iou_by_background": {k: round(float(b / max(e, 1)), 4) for k, (b, e) in areas.items()},
        "false_person_share_of_empty_images": round(float(alarms / max(empty, 1)), 5),
        "images": count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="training time")
    parser.add_argument("--threads", type=int, default=1, help="more help little at this size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the stored weights")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    before = {"seconds": 0, "steps": 0}
    if args.resume:
        model, before = standin_deeplab(), json.loads(FIGURES.read_text())["training"]
    else:
        model = untrained()
        # The other 19 classes never occur. Starting them far down saves the
        # steps that it would take to learn just that.
        with torch.no_grad():
            model.classifier[-1].bias[[c for c in range(21) if c not in (0, photos.PERSON)]] = -6
    model = model.to(memory_format=torch.channels_last)
    # Weights that have learned something lose it again at the full rate.
    rate = 1e-3 if args.resume else 2e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    loader = iter(torch.utils.data.DataLoader(Crops(args.seed + before["steps"]), BATCH, num_workers=1))
    # torchvision's dropout of 0.5 is meant for long trainings.
    model.classifier[0].project[3].p = 0.1
    # The average of the late weights is smoother than the last ones.
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    begin, steps, recent = time.monotonic(), 0, []
    while (share := (time.monotonic() - begin) / (60 * args.minutes)) < 1:
        model.train()
        warm, cool = min(1, (steps + 1) / 20), 0.5 + 0.5 * math.cos(math.pi * share)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * max(cool, 0.01)
        pixels, truth = next(loader)
        with torch.autocast("cpu", torch.bfloat16):
            features = model.backbone(pixels.contiguous(memory_format=torch.channels_last))["out"]
            logits = model.classifier(features)
        # At half the input's resolution: enough for the edge, a quarter of the cost.
        logits = F.interpolate(logits.float(), scale_factor=4, mode="bilinear", align_corners=False)
        wanted = truth[:, ::2, ::2].long() * photos.PERSON
        loss = F.cross_entropy(logits, wanted)
        # Most pixels are background, and entropy alone would rather miss a
        # person than raise an alarm: the overlap (Dice) weighs both alike.
        share_of_person, person = logits.softmax(1)[:, photos.PERSON], (wanted > 0).float()
        overlap = 2 * (share_of_person * person).sum() / (share_of_person + person).sum().clamp(min=1)
        loss = loss + 0.5 * (1 - overlap)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        average.update_parameters(model)
        steps += 1
        recent = [*recent[-24:], loss.item()]
        if steps % 25 == 0:
            now = f"loss {np.mean(recent):.4f}"
            if steps % 400 == 0:
                now += f"  held-out IoU {measured(average.module, 12)['person_iou']:.3f}"
            print(f"{time.monotonic() - begin:5.0f} s  step {steps:4d}  {now}", flush=True)
    stored = {key: value.half() if value.is_floating_point() else value for key, value in average.module.state_dict().items()}
    torch.save(stored, WEIGHTS)
    figures = {
        "held_out": measured(standin_deeplab(), 60),
        "people": list(NAMES),
        "training_backgrounds": list(photos.TRAINING_BACKGROUNDS),
        "held_out_backgrounds": list(photos.HELD_OUT_BACKGROUNDS),
        "training": {
            "seconds": before["seconds"] + round(time.monotonic() - begin),
            "steps": before["steps"] + steps,
            "batch": BATCH,
            "crop": CROP,
            "seed": args.seed,
        },
        "note": "the people are the same in training and here; only what surrounds them is new",
    }
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures["held_out"], indent=2))


if __name__ == "__main__":
    main()
