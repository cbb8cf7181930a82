"""Makes the files beside this script: small pictures, and what Pillow, OpenCV, FiftyOne and numpy make of them.

Run with a Python that has fiftyone (1.22.1), Pillow (13.0) and numpy; all files are overwritten. The pictures are random
with a fixed seed, so that a second run changes nothing.
"""

import io
import struct
import sys
import zlib
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "scripts" / "lab"))

import image_cases

RANDOM = np.random.default_rng(20240607)


def smooth(height, width):
    """Random colours with some structure, so that chroma upsampling and resizing have something to do."""
    coarse = RANDOM.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC)).astype(int)
    image += RANDOM.integers(-12, 13, image.shape)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def as_fiftyone_sees(name):
    """The RGB array that FiftyOne's torch models get."""
    with open(HERE / name, "rb") as file:
        return np.asarray(Image.open(file).convert("RGB"))


def save_npy(name, array):
    np.save(HERE / name, array, allow_pickle=False)


def pictures():
    color = smooth(37, 53)
    gray = color.convert("L")
    color.save(HERE / "color_rgb.png")
    color.save(HERE / "color_420.jpg", quality=85)
    color.save(HERE / "color_422.jpg", quality=80, subsampling="4:2:2")
    color.save(HERE / "color_444.jpg", quality=90, subsampling="4:4:4")
    color.save(HERE / "color_progressive.jpg", quality=75, progressive=True)
    gray.save(HERE / "color_gray.jpg", quality=85)
    color.convert("CMYK").save(HERE / "color_cmyk.jpg", quality=85)
    ycck()
    alpha = color.copy()
    alpha.putalpha(gray)
    alpha.save(HERE / "color_alpha.png")
    alpha.convert("LA").save(HERE / "color_gray_alpha.png")
    color.quantize(32).save(HERE / "color_palette.png")
    color.quantize(32).save(HERE / "color_palette.gif")
    color.quantize(32).save(HERE / "color_palette.bmp")
    color.save(HERE / "color_rgb.tif", compression="tiff_lzw")
    color.save(HERE / "color_lossy.webp", quality=70)
    wide = Image.fromarray(RANDOM.integers(0, 600, (9, 11), dtype=np.uint16))
    wide.save(HERE / "color_gray16.png")
    cv2.imwrite(str(HERE / "color_rgb16.png"), RANDOM.integers(0, 65536, (5, 4, 3), dtype=np.uint16))
    exif = Image.Exif()
    exif[274] = 6
    for name in ("color_turned.jpg", "color_turned.png", "color_turned.webp", "color_turned.tif"):
        color.crop((0, 0, 16, 10)).save(HERE / name, exif=exif)
    for path in sorted(HERE.glob("color_*")):
        if path.suffix != ".npy":
            save_npy(f"{path.name.replace('.', '_')}.npy", as_fiftyone_sees(path.name))

    image = Image.open(HERE / "color_rgb.png")
    for name in ("nearest", "bilinear", "bicubic", "lanczos"):
        for height, width in ((18, 26), (37, 20), (18, 60), (50, 53), (80, 101), (5, 7)):
            resized = image.resize((width, height), getattr(Image, name.upper()))
            save_npy(f"resize_{name}_{height}x{width}.npy", np.asarray(resized))


def ycck():
    """Pillow writes four channels without a colour transform. The same file, declared as YCCK, is other colours and valid."""
    data = bytearray((HERE / "color_cmyk.jpg").read_bytes())
    at = data.index(b"Adobe\x00")
    assert data[at + 11] == 0
    data[at + 11] = 2
    (HERE / "color_ycck.jpg").write_bytes(data)


def masks():
    numbers = RANDOM.integers(0, 5, (12, 17), dtype=np.uint8)
    colors = np.array([[0, 0, 0], [255, 109, 4], [1, 2, 3], [3, 2, 1], [7, 7, 7]], np.uint8)
    rgb = colors[numbers]
    Image.fromarray(numbers).save(HERE / "mask_gray8.png")
    Image.fromarray(numbers.astype(np.uint16) * 300).save(HERE / "mask_gray16.png")
    gray2(numbers % 4)
    Image.fromarray(numbers % 2 * 255).convert("1").save(HERE / "mask_bit1.png")
    palette = Image.new("P", (17, 12))
    palette.putpalette(colors.flatten().tolist())
    palette.putdata(numbers.flatten().tolist())
    palette.save(HERE / "mask_palette.png")
    palette.save(HERE / "mask_palette_alpha.png", transparency=1)
    palette.save(HERE / "mask_palette.bmp")
    palette.save(HERE / "mask_palette.gif")
    Image.merge("LA", [Image.fromarray(numbers), Image.fromarray(255 - numbers)]).save(HERE / "mask_gray_alpha.png")
    Image.fromarray(numbers).save(HERE / "mask_gray_transparent.png", transparency=2)
    Image.fromarray(rgb).save(HERE / "mask_rgb.png")
    Image.fromarray(np.dstack([rgb, numbers * 60])).save(HERE / "mask_rgba.png")
    Image.fromarray(numbers).save(HERE / "mask_gray8.tif")
    Image.fromarray(numbers.astype(np.uint16) * 300).save(HERE / "mask_gray16.tif")
    Image.fromarray(rgb).save(HERE / "mask_rgb.tif")
    Image.fromarray(numbers).save(HERE / "mask_gray8.bmp")
    Image.fromarray(numbers * 50).save(HERE / "mask_gray.jpg")
    Image.fromarray(rgb).save(HERE / "mask_rgb.webp", lossless=True)
    for path in sorted(HERE.glob("mask_*")):
        if path.suffix != ".npy":
            mask = fo.Segmentation(mask_path=str(path)).get_mask()
            save_npy(f"{path.name.replace('.', '_')}.npy", mask)


# Of scripts/lab/image_cases.py: the names there, and those of the files here.
KINDS = {
    "tiff-big-RGB.tif": "large.tif",
    "tiff-hand-le-rgb-extra1.tif": "associated_alpha.tif",
    "tiff-hand-be-rgb16-extra1.tif": "associated_alpha16.tif",
    "tiff-hand-le-gray-extra2.tif": "gray_alpha.tif",
    "tiff-hand-le-f32.tif": "float.tif",
    "tiff-hand-be-i16.tif": "int16.tif",
    "tiff-hand-le-big-deflated-i32.tif": "int32.tif",
    "tiff-hand-le-deflated-tiles-planar.tif": "tiles.tif",
    "tiff-hand-be-ycbcr.tif": "ycbcr.tif",
    "tiff-hand-le-4bit-palette.tif": "palette4.tif",
    "tiff-hand-le-1bit-fill2.tif": "bits_reversed.tif",
    "tiff-hand-le-cmyk.tif": "cmyk.tif",
    "tiff-zstd-RGB.tif": "zstd.tif",
    "tiff-packbits-RGB.tif": "packbits.tif",
    "tiff-group4-1.tif": "fax.tif",
    "tiff-jpeg-YCbCr.tif": "jpeg.tif",
    "tiff-predictor-tiff_lzw-RGBA.tif": "predictor.tif",
    "png-color2-8bit-crc-idat.png": "wrong_checksum.png",
    "png-palette-whole-rows.png": "missing_rows.png",
    "bmp-555.bmp": "555.bmp",
    "bmp-565.bmp": "565.bmp",
    "gif-small-frame.gif": "small_frame.gif",
    "tga-P-compression.tga": "rle.tga",
    "tga-16bit.tga": "16bit.tga",
    "ico-RGB-2-bmp.ico": "bitmap.ico",
    "ico-L-1-png.ico": "png.ico",
    "pnm-p5-1000.pgm": "levels16.pgm",
    "pnm-p6-100.ppm": "levels.ppm",
    "pnm-p3-255.ppm": "text.ppm",
    "pnm-p1-dense.pbm": "text.pbm",
    "pnm-p4.pbm": "bits.pbm",
    "pnm-pf.pfm": "float.pfm",
    "pcx-P.pcx": "palette.pcx",
    "sgi-RGB-1.sgi": "rgb.sgi",
    "sgi-L-2.sgi": "gray16.sgi",
    "qoi-RGBA.qoi": "alpha.qoi",
}


def kinds():
    """Besides `color_arithmetic.jpg`, which no library of Python writes."""
    made = dict(image_cases.cases())
    for case, name in KINDS.items():
        (HERE / f"color_{name}").write_bytes(made[case])


def gray2(levels):
    """A PNG with two bits per pixel, which Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = levels.shape
    padded = np.pad(levels, ((0, 0), (0, -width % 4))).reshape(height, -1, 4)
    packed = (padded << np.array([6, 4, 2, 0], np.uint8)).sum(axis=2).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, 2, 0, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (HERE / "mask_gray2.png").write_bytes(file)


def arrays():
    unsigned = np.arange(24).reshape(2, 3, 4)
    signed = unsigned - 3
    save_npy("array_b1.npy", unsigned % 2 == 1)
    for name, source in (("u1", unsigned), ("u4", unsigned), ("i1", signed), ("i2", signed), ("f2", signed)):
        save_npy(f"array_{name}.npy", source.astype(name))
    save_npy("array_u2_big.npy", unsigned.astype(">u2"))
    save_npy("array_f8_big.npy", signed.astype(">f8"))
    save_npy("array_i4_fortran.npy", np.asfortranarray(signed.astype("i4")))
    save_npy("array_f4_fortran.npy", np.asfortranarray(signed.astype("f4")))
    save_npy("array_u8_big_fortran.npy", np.asfortranarray(unsigned.astype(">u8")))
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, signed.astype("i8"), version=(2, 0))
    (HERE / "array_i8_version2.npy").write_bytes(buffer.getvalue())
    written = (np.arange(6) / 4).reshape(2, 3)
    save_npy("written_f4.npy", written.astype("f4"))
    save_npy("written_f2.npy", written.astype("f2"))


if __name__ == "__main__":
    kinds()
    pictures()
    masks()
    arrays()
