"""Compares what camflow reads of image and mask files with what Pillow, OpenCV and FiftyOne read: see scripts/images.sh.

Images count as `PIL.Image.open(path).convert("RGB")`, masks as `cv2.imread(path, IMREAD_UNCHANGED)`, instance masks as the
low bytes of those. Every file is equal, refused by both, or of a kind in DIFFERENCES, with its reason.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from image_cases import cases, damaged
from PIL import Image

# Patterns of kind and file name, what differs (`refused`: camflow alone refuses; `read`: it alone reads; `pixels`: both read,
# to other pixels), and why. The first that fits counts.
DIFFERENCES: list[tuple[str, str, str]] = [
    (
        r"image tiff-hand-be-deflated-[if](16|32)(-.*)?\.tif",
        "pixels",
        "Pillow swaps the bytes of compressed big-endian numbers",
    ),
    (r".* tiff-(?!lzma|jpeg).*YCbCr.*|.* tiff-.*-ycbcr.*", "refused", "libtiff's own arithmetic for compressed YCbCr"),
    (r".* tiff-.*(LAB|-lab).*", "refused", "CIE L*a*b*: Pillow asks Little CMS"),
    (r".* tiff-lzma-.*", "refused", "LZMA in TIFF"),
    (r".* tiff-(jpeg-LA|group3-1|tiff_ccitt-1).*", "refused", "rare compressions in TIFF"),
    (r"image (avif|jp2|dds|qoi|other)-.*", "refused", "formats that are refused by name"),
    (r"mask (avif|jp2)-.*", "refused", "formats that are refused by name"),
    (r"image .*dib.*", "refused", "a bitmap without its file header"),
    (r"image tga-1-.*", "refused", "Targa of 1 bit"),
    (r"image bmp-rle8-skips.*", "refused", "pixels that run lengths skip"),
    (r"image png-.*(adler|crc-text).*", "read", "a wrong checksum of pixels that are all there, or of a text"),
    (r"image tiff-hand-(le|be).*-gray-extra1.*", "read", "Pillow has no conversion of gray with associated alpha"),
    (r"image tiff-hand-be-.*", "read", "Pillow reads no big-endian BigTIFF, nor inverted gray of 16 bits"),
    (r"image bmp-(444|32-swapped).*", "read", "Pillow reads some layouts of colours only"),
    (
        r".*-(cut.*|longer|flip\d)\.[a-z0-9]+",
        "refused",
        "damage that costs no pixel, or that Pillow or OpenCV pass over",
    ),
    (
        r".*-(cut.*|longer|flip\d)\.[a-z0-9]+",
        "read",
        "damage behind the pixels, or in what does not concern them",
    ),
    (
        r".* (tiff-)?jpeg-.*-flip\d\.(jpg|tif)",
        "pixels",
        "a wrong bit, from which on each version of libjpeg goes its own way",
    ),
    (
        r".* tiff-group4-.*-flip\d\.tif",
        "pixels",
        "a wrong bit in fax codes, from which on each decoder goes its own way",
    ),
    (r"mask bmp-.*-flip\d\.bmp", "pixels", "a wrong bit in a palette, which OpenCV then takes for colours"),
    (
        r"mask tiff-.*",
        "refused",
        "alpha, orientation, signed bytes, fractions: OpenCV changes them, or FiftyOne has no class numbers",
    ),
    (r"mask png-color[246]-16bit.*", "refused", "colours of 16 bits are no class numbers"),
    (
        r"mask jpeg-(CMYK|color_ycck|no-end).*",
        "refused",
        "OpenCV has its own way from ink to colours, and takes files without an end",
    ),
    (r"mask bmp-(555|565|444|32|rle8-skips|os2).*", "refused", "OpenCV has its own way with packed colours"),
    (
        r"mask gif-(transparent|small-frame).*",
        "refused",
        "OpenCV makes transparent pixels white, Pillow those outside of a frame",
    ),
    (r"mask pnm-.*", "refused", "OpenCV scales no levels, or to other ones"),
    (r"mask (png|tiff|bmp|pnm)-.*", "read", "OpenCV reads fewer kinds of PNG, TIFF, BMP and PNM than Pillow"),
]


def as_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def as_mask(path: Path) -> np.ndarray:
    """As FiftyOne's `get_mask`; camflow drops the alpha of a mask, which says nothing about classes."""
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise OSError("not read")
    if mask.ndim == 3:
        mask = mask[:, :, 2::-1]
    return mask


READERS = {"image": as_image, "mask": as_mask}


def ours(program: Path, requests: list[tuple[str, Path]]):
    lines = "".join(f"{kind} {path}\n" for kind, path in requests)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(answers) != len(requests):
        sys.exit(f"{program} ended with {done.returncode} at {requests[len(answers)]}:\n{done.stderr}")
    for (kind, _), answer in zip(requests, answers, strict=True):
        if "error" in answer:
            yield answer["error"]
            continue
        is_index = kind == "mask" and len(answer["shape"]) == 2
        pixels = np.frombuffer(base64.b64decode(answer["pixels"]), np.int64 if is_index else np.uint8)
        yield pixels.reshape(answer["shape"])


def verdict(kind: str, path: Path, mine) -> tuple[str, str]:
    """What became of a file, and a word about it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = READERS[kind](path)
    except Exception as error:  # noqa: BLE001 - whatever it is, Pillow refuses
        return ("refused by both", "") if isinstance(mine, str) else ("read", f"reference: {error!r:.90}")
    if isinstance(mine, str):
        return "refused", mine.split("`", 2)[-1][:110]
    if expected.shape != mine.shape:
        return "pixels", f"shape {mine.shape}, not {expected.shape}"
    if np.array_equal(expected, mine):
        return "equal", ""
    apart = np.abs(expected.astype(np.float64) - mine)
    return "pixels", f"{(apart > 0).mean():.1%} differ, by up to {apart.max():g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=Path, required=True, help="the program of examples/pixels.rs")
    parser.add_argument("--damage", type=int, default=1, help="every so manieth file is also damaged (0: none)")
    parser.add_argument("--keep", type=Path, help="a folder for the files")
    parser.add_argument("--all", action="store_true", help="print every file, not only those that differ")
    arguments = parser.parse_args()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, (name, content) in enumerate(cases()):
            files = [(name, content)]
            if arguments.damage and content and number % arguments.damage == 0:
                files += damaged(name, content)
            for file, bytes_of_it in files:
                (folder / file).write_bytes(bytes_of_it)
                paths.append(folder / file)
        requests = [(kind, path) for path in paths for kind in READERS]
        counts, used = Counter(), Counter()
        for (kind, path), mine in zip(requests, ours(arguments.pixels, requests), strict=True):
            what, words = verdict(kind, path, mine)
            if what in ("equal", "refused by both"):
                counts[what] += 1
                if arguments.all:
                    print(f"{kind:5} {path.name}: {what}")
                continue
            for number, (pattern, difference, _) in enumerate(DIFFERENCES):
                if difference == what and re.fullmatch(pattern, f"{kind} {path.name}"):
                    counts["listed"] += 1
                    used[number] += 1
                    break
            else:
                counts["other"] += 1
                print(f"{kind:5} {path.name}: {what}: {words}")
    for number, (pattern, difference, reason) in enumerate(DIFFERENCES):
        print(f"listed, {used[number]} files: {pattern}: {difference}: {reason}")
    order = ("equal", "refused by both", "listed", "other")
    print(f"{len(paths)} files, {len(requests)} readings: " + ", ".join(f"{counts[what]} {what}" for what in order))
    sys.exit(1 if counts["other"] else 0)


if __name__ == "__main__":
    main()
