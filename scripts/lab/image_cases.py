"""Image files of every kind for scripts/lab/images.py: formats, modes, bit depths and options, and what damage makes of them."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

TESTDATA = Path(__file__).resolve().parents[2] / "src" / "media" / "testdata"
HEIGHT, WIDTH = 21, 34


def photo(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Colours that run and edges that do not, so that filters, predictors and transforms all have something to do."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 120 * np.sin(x / 5 + y / 7 + phase) for phase in (0, 2, 4)]
    picture = np.stack(waves, -1)
    picture[height // 3 : height // 2, width // 4 : width // 2] = (250, 3, 90)
    return (picture + np.random.default_rng(7).integers(-6, 7, picture.shape)).clip(0, 255).astype(np.uint8)


def in_mode(mode: str) -> Image.Image:
    """The photo in a mode of Pillow."""
    rgb = Image.fromarray(photo())
    alpha = Image.fromarray((np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256).astype(np.uint8))
    gray = np.asarray(rgb.convert("L"))
    match mode:
        case "LA" | "RGBA":
            picture = rgb.convert(mode)
            picture.putalpha(alpha)
            return picture
        case "P":
            return rgb.quantize(13)
        case "I;16":
            return Image.fromarray(gray.astype(np.uint16) * 3)
        case "I":
            return Image.fromarray(gray.astype(np.int32) * 3 - 90)
        case "F":
            return Image.fromarray(gray.astype(np.float32) * 1.7 - 60)
        case _:
            return rgb.convert(mode)


def saved(mode: str, kind: str, **options) -> bytes | None:
    """The photo as Pillow writes it; `None` where it does not."""
    out = io.BytesIO()
    try:
        in_mode(mode).save(out, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, SystemError):
        return None
    return out.getvalue()


Case = tuple[str, bytes]


def cases() -> Iterator[Case]:
    """Names (with an extension) and contents of whole files."""
    for make in (png, jpeg, tiff, bmp, gif, webp, portable, raster, jpeg2000, avif, others):
        for name, content in make():
            if content is not None:
                yield name, content


def damaged(name: str, content: bytes) -> Iterator[Case]:
    """What is left of a file that was cut, and what single bits do."""
    stem, extension = name.rsplit(".", 1)
    for kept in (0.2, 0.5, 0.8):
        yield f"{stem}-cut{int(kept * 100)}.{extension}", content[: int(len(content) * kept)]
    yield f"{stem}-cut-last.{extension}", content[:-1]
    yield f"{stem}-longer.{extension}", content + b"more than there should be"
    random = np.random.default_rng(zlib.crc32(name.encode()))
    for turn, at in enumerate(random.integers(len(content), size=4)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(random.integers(8))
        yield f"{stem}-flip{turn}.{extension}", bytes(flipped)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def packed(rows: np.ndarray, bits: int) -> list[bytes]:
    """Samples `[height, samples per row]`, each row in whole bytes."""
    if bits == 16:
        return [row.astype(">u2").tobytes() for row in rows]
    if bits == 8:
        return [row.astype(np.uint8).tobytes() for row in rows]
    as_bits = ((rows[:, :, None].astype(np.uint8) >> np.arange(bits)[::-1]) & 1).reshape(len(rows), -1)
    return [row.tobytes() for row in np.packbits(as_bits, axis=1)]


PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png_parts(color: int, bits: int, *, interlaced: bool = False) -> tuple[bytes, bytes, bytes]:
    """Header, chunks before the pixels, and the unpacked rows of a PNG that is written by hand."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    source = np.concatenate([photo().astype(np.uint32), photo()[::-1, :, :1]], -1)[:, :, :channels]
    if color == 4:
        source = source[:, :, [0, 1]]
    samples = source * 257 >> (16 - bits) if color != 3 else source % min(1 << bits, 13)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color, 0, 0, int(interlaced))
    before = chunk(b"PLTE", bytes(range(5, 5 + 3 * min(1 << bits, 13)))) if color == 3 else b""
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [samples]
    rows = b""
    for part in parts:
        if part.size:
            rows += b"".join(b"\0" + row for row in packed(part.reshape(len(part), -1), bits))
    return header, before, rows


def png_file(header: bytes, before: bytes, rows: bytes) -> bytes:
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png() -> Iterator[tuple[str, bytes | None]]:
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    for color, all_bits in depths.items():
        for bits, interlaced in itertools.product(all_bits, (False, True)):
            header, before, rows = png_parts(color, bits, interlaced=interlaced)
            name = f"png-color{color}-{bits}bit{'-interlaced' * interlaced}"
            yield f"{name}.png", png_file(header, before, rows)
            # The stream ends, but rows are missing.
            yield f"{name}-few-rows.png", png_file(header, before, rows[: len(rows) * 6 // 10])
            yield f"{name}-no-rows.png", png_file(header, before, b"")
    for color, bits, level in ((0, 8, 1), (0, 16, 2), (2, 8, 6), (0, 4, 2)):
        header, _, rows = png_parts(color, bits)
        yield (
            f"png-color{color}-{bits}bit-trns.png",
            png_file(header, chunk(b"tRNS", bytes([0, 7] * (level // 2 or 1))), rows),
        )
    header, before, rows = png_parts(3, 4)
    yield "png-palette-trns.png", png_file(header, before + chunk(b"tRNS", b"\x00\x7f\xff"), rows)
    yield "png-palette-whole-rows.png", png_file(header, before, rows[: len(rows) // HEIGHT * 9])
    header, _, rows = png_parts(2, 8)
    yield "png-gamma.png", png_file(header, chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"tEXt", b"a\0b"), rows)
    yield from png_damage()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"):
        yield f"png-pillow-{mode.replace(';', '')}.png", saved(mode, "PNG")
    out = io.BytesIO()
    in_mode("RGB").save(out, "PNG", save_all=True, append_images=[in_mode("RGB").rotate(90)])
    yield "png-animated.png", out.getvalue()


def png_damage() -> Iterator[tuple[str, bytes]]:
    """Checksums that are wrong, and streams that end or break."""
    for color, bits, interlaced in ((2, 8, False), (0, 8, False), (3, 4, False), (2, 8, True)):
        header, before, rows = png_parts(color, bits, interlaced=interlaced)
        name = f"png-color{color}-{bits}bit{'-interlaced' * interlaced}"
        signature, start = b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)
        stream, end = zlib.compress(rows), chunk(b"IEND", b"")

        def wrong(content: bytes) -> bytes:
            return content[:-1] + bytes([content[-1] ^ 1])

        pixels = chunk(b"IDAT", stream)
        text = chunk(b"tEXt", b"Comment\0words")
        yield f"{name}-crc-idat.png", signature + start + before + wrong(pixels) + end
        yield f"{name}-crc-ihdr.png", signature + wrong(start) + before + pixels + end
        yield f"{name}-crc-text.png", signature + start + before + wrong(text) + pixels + end
        yield f"{name}-crc-text-after.png", signature + start + before + pixels + wrong(text) + end
        yield f"{name}-crc-iend.png", signature + start + before + pixels + wrong(end)
        yield f"{name}-no-iend.png", signature + start + before + pixels
        halves = chunk(b"IDAT", stream[:40]) + chunk(b"IDAT", b"") + chunk(b"IDAT", stream[40:])
        yield f"{name}-pieces.png", signature + start + before + halves + end
        yield (
            f"{name}-text-between.png",
            signature + start + before + chunk(b"IDAT", stream[:40]) + text + chunk(b"IDAT", stream[40:]) + end,
        )
        yield f"{name}-adler.png", signature + start + before + chunk(b"IDAT", wrong(stream)) + end
        yield f"{name}-no-adler.png", signature + start + before + chunk(b"IDAT", stream[:-4]) + end
        yield f"{name}-cut-idat.png", signature + start + before + chunk(b"IDAT", stream[: len(stream) // 2]) + end
        yield f"{name}-long.png", signature + start + before + chunk(b"IDAT", zlib.compress(rows + b"more" * 50)) + end
        yield f"{name}-no-idat.png", signature + start + before + end


def jpeg() -> Iterator[tuple[str, bytes | None]]:
    for mode, quality, subsampling in itertools.product(("L", "RGB", "CMYK"), (35, 95), (0, 1, 2)):
        for options in ({}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}):
            name = "-".join(["jpeg", mode, str(quality), str(subsampling), *options])
            yield f"{name}.jpg", saved(mode, "JPEG", quality=quality, subsampling=subsampling, **options)
    for name in ("color_ycck.jpg", "color_turned.jpg", "color_arithmetic.jpg"):
        yield f"jpeg-{name}", (TESTDATA / name).read_bytes()
    yield "jpeg-rgb.jpg", saved("RGB", "JPEG", keep_rgb=True)
    plain = saved("RGB", "JPEG", quality=90)
    yield "jpeg-no-end.jpg", plain[:-2]
    yield "jpeg-garbage-first.jpg", b"\xff\xd8" + b"\xff\xff" + plain[2:]


def bmp() -> Iterator[tuple[str, bytes | None]]:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp-{mode}.bmp", saved(mode, "BMP")
    picture = photo().astype(np.uint32)
    red, green, blue = picture[:, :, 0], picture[:, :, 1], picture[:, :, 2]

    def file(
        bits: int,
        rows: bytes,
        compression: int = 0,
        masks: bytes = b"",
        palette: bytes = b"",
        height: int = HEIGHT,
        header: int = 40,
    ) -> bytes:
        colors = len(palette) // 4
        info = struct.pack("<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, len(rows), 0, 0, colors, colors)
        info += masks.ljust(header - 40, b"\0") if header > 40 else masks
        offset = 14 + len(info) + len(palette)
        return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + palette + rows

    def rows(values: np.ndarray, dtype: str) -> bytes:
        lines = [line.astype(dtype).tobytes() for line in values[::-1]]
        return b"".join(line + b"\0" * (-len(line) % 4) for line in lines)

    five = (red >> 3 << 10) | (green >> 3 << 5) | blue >> 3
    six = (red >> 3 << 11) | (green >> 2 << 5) | blue >> 3
    wide = (red << 16) | (green << 8) | blue | 0x80000000
    yield "bmp-555.bmp", file(16, rows(five, "<u2"))
    yield "bmp-555-fields.bmp", file(16, rows(five, "<u2"), 3, struct.pack("<III", 0x7C00, 0x3E0, 0x1F))
    yield "bmp-565.bmp", file(16, rows(six, "<u2"), 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    yield "bmp-555-top-down.bmp", file(16, rows(five[::-1], "<u2"), height=-HEIGHT)
    yield (
        "bmp-444.bmp",
        file(16, rows((red >> 4 << 8) | (green >> 4 << 4) | blue >> 4, "<u2"), 3, struct.pack("<III", 0xF00, 0xF0, 0xF)),
    )
    yield "bmp-32.bmp", file(32, rows(wide, "<u4"))
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield "bmp-32-fields.bmp", file(32, rows(wide, "<u4"), 3, masks[:12])
    yield "bmp-32-v4.bmp", file(32, rows(wide, "<u4"), 3, masks, header=108)
    yield "bmp-32-v5.bmp", file(32, rows(wide, "<u4"), 3, masks, header=124)
    swapped = (blue << 16) | (green << 8) | red
    yield "bmp-32-swapped.bmp", file(32, rows(swapped, "<u4"), 3, struct.pack("<III", 0xFF, 0xFF00, 0xFF0000))
    yield "bmp-565-v5.bmp", file(16, rows(six, "<u2"), 3, struct.pack("<IIII", 0xF800, 0x7E0, 0x1F, 0), header=124)
    palette = b"".join(bytes([9 * n, 255 - 7 * n, 5 * n, 0]) for n in range(16))
    index = red % 16
    yield (
        "bmp-4.bmp",
        file(4, b"".join(line + b"\0" * (-len(line) % 4) for line in packed(index[::-1], 4)), palette=palette),
    )
    run8 = b"".join(b"".join(bytes([1, int(v)]) for v in line) + b"\0\0" for line in index[::-1]) + b"\0\1"
    yield "bmp-rle8.bmp", file(8, run8, 1, palette=palette)
    run4 = b"".join(b"".join(bytes([1, int(v) << 4]) for v in line) + b"\0\0" for line in index[::-1]) + b"\0\1"
    yield "bmp-rle4.bmp", file(4, run4, 2, palette=palette)
    skips = b"\0\2\x05\x03" + run8
    yield "bmp-rle8-skips.bmp", file(8, skips, 1, palette=palette)
    core = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    lines = rows(picture[:, :, ::-1].reshape(HEIGHT, -1), "u1")
    yield "bmp-os2.bmp", b"BM" + struct.pack("<IHHI", 26 + len(lines), 0, 0, 26) + core + lines
    yield "bmp-gray-palette.bmp", file(8, rows(red, "u1"), palette=b"".join(bytes([n, n, n, 0]) for n in range(256)))
    yield "bmp-short-palette.bmp", file(8, rows(index, "u1"), palette=palette)
    yield "bmp-dib.dib", saved("RGB", "DIB")


def gif() -> Iterator[tuple[str, bytes | None]]:
    for mode, interlace in itertools.product(("1", "L", "P", "RGB"), (0, 1)):
        yield f"gif-{mode}-{interlace}.gif", saved(mode, "GIF", interlace=interlace)
    yield "gif-transparent.gif", saved("P", "GIF", transparency=3)
    out = io.BytesIO()
    frames = [in_mode("P"), in_mode("P").rotate(90)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    yield "gif-animated.gif", out.getvalue()
    # A first frame that does not fill the screen.
    small = bytearray(saved("P", "GIF"))
    small[6:10] = struct.pack("<HH", WIDTH + 9, HEIGHT + 5)
    yield "gif-small-frame.gif", bytes(small)


def webp() -> Iterator[tuple[str, bytes | None]]:
    for mode, options in itertools.product(
        ("L", "RGB", "RGBA"), ({"lossless": True}, {"quality": 40}, {"quality": 90, "method": 6})
    ):
        yield f"webp-{mode}-{'-'.join(map(str, options.values()))}.webp", saved(mode, "WEBP", **options)
    out = io.BytesIO()
    in_mode("RGB").save(out, "WEBP", save_all=True, append_images=[in_mode("RGB").rotate(90)], lossless=True)
    yield "webp-animated.webp", out.getvalue()


def tiff() -> Iterator[tuple[str, bytes | None]]:
    squeezes = (
        "raw",
        "tiff_lzw",
        "tiff_adobe_deflate",
        "tiff_deflate",
        "packbits",
        "zstd",
        "lzma",
        "webp",
        "jpeg",
        "group3",
        "group4",
        "tiff_ccitt",
    )
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")
    for squeeze, mode in itertools.product(squeezes, modes):
        yield f"tiff-{squeeze}-{mode.replace(';', '')}.tif", saved(mode, "TIFF", compression=squeeze)
    for mode in modes:
        yield f"tiff-big-{mode.replace(';', '')}.tif", saved(mode, "TIFF", big_tiff=True)
    for squeeze, mode in itertools.product(("tiff_lzw", "tiff_adobe_deflate", "zstd"), ("L", "RGB", "RGBA", "I;16")):
        yield (
            f"tiff-predictor-{squeeze}-{mode.replace(';', '')}.tif",
            saved(mode, "TIFF", compression=squeeze, tiffinfo={317: 2}),
        )
    for orientation in range(1, 9):
        yield f"tiff-turned{orientation}.tif", saved("RGB", "TIFF", tiffinfo={274: orientation})
    out = io.BytesIO()
    in_mode("RGB").save(out, "TIFF", save_all=True, append_images=[in_mode("L")])
    yield "tiff-pages.tif", out.getvalue()
    yield from tiff_by_hand()


def tiff_file(
    order: str,
    planes: list[np.ndarray],
    photometric: int,
    *,
    sample_format: int = 1,
    extra: tuple[int, ...] = (),
    planar: int = 1,
    deflated: bool = False,
    rows_per_strip: int = 8,
    tile: int = 0,
    big: bool = False,
    fill: int = 1,
    bits: int | None = None,
    more: dict | None = None,
) -> bytes:
    """A TIFF of planes `[height, width]` of one type."""
    height, width = planes[0].shape
    depth = bits or planes[0].dtype.itemsize * 8

    def pieces(layers: list[np.ndarray]) -> Iterator[bytes]:
        stacked = np.stack(layers, -1)
        if tile:
            padded = np.pad(stacked, ((0, -height % tile), (0, -width % tile), (0, 0)))
            for y, x in itertools.product(range(0, height, tile), range(0, width, tile)):
                yield encoded(padded[y : y + tile, x : x + tile])
        else:
            for y in range(0, height, rows_per_strip):
                yield encoded(stacked[y : y + rows_per_strip])

    def encoded(block: np.ndarray) -> bytes:
        if bits and bits < 8:
            content = b"".join(packed(block.reshape(len(block), -1), bits))
        else:
            content = block.astype(block.dtype.newbyteorder(order)).tobytes()
        if fill == 2:
            content = bytes(int(f"{byte:08b}"[::-1], 2) for byte in content)
        return zlib.compress(content) if deflated else content

    blocks = list(pieces(planes)) if planar == 1 else [block for plane in planes for block in pieces([plane])]
    count = len(planes)
    word = "Q" if big else "I"
    header = 16 if big else 8
    offsets = np.cumsum([header] + [len(block) + len(block) % 2 for block in blocks])
    body = b"".join(block + b"\0" * (len(block) % 2) for block in blocks)
    long = 16 if big else 4
    tags: dict[int, tuple[int, tuple]] = {
        256: (3, (width,)),
        257: (3, (height,)),
        258: (3, (depth,) * count),
        259: (3, (8 if deflated else 1,)),
        262: (3, (photometric,)),
        277: (3, (count,)),
        284: (3, (planar,)),
        339: (3, (sample_format,) * count),
    }
    if fill != 1:
        tags[266] = (3, (fill,))
    if extra:
        tags[338] = (3, extra)
    places, sizes = (long, tuple(int(o) for o in offsets[:-1])), (long, tuple(map(len, blocks)))
    if tile:
        tags |= {322: (3, (tile,)), 323: (3, (tile,)), 324: places, 325: sizes}
    else:
        tags |= {273: places, 278: (3, (rows_per_strip,)), 279: sizes}
    tags |= more or {}
    letters = {3: "H", 4: "I", 5: "I", 16: "Q"}
    at = int(offsets[-1])
    directory, beyond = b"", b""
    slot = 8 if big else 4
    after = at + (8 + 20 * len(tags) + 8 if big else 2 + 12 * len(tags) + 4)
    for tag, (kind, values) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(values)}{letters[kind]}", *values)
        directory += struct.pack(f"{order}HH{word}", tag, kind, len(values) // (2 if kind == 5 else 1))
        if len(content) > slot:
            directory += struct.pack(f"{order}{word}", after + len(beyond))
            beyond += content + b"\0" * (len(content) % 2)
        else:
            directory += content.ljust(slot, b"\0")
    mark = b"II" if order == "<" else b"MM"
    start = mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, at) if big else struct.pack(f"{order}HI", 42, at))
    entries = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    return start + body + entries + directory + struct.pack(f"{order}{word}", 0) + beyond


def tiff_by_hand() -> Iterator[tuple[str, bytes]]:
    picture = photo()
    bands = [picture[:, :, n].copy() for n in range(3)]
    alpha = ((np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 3) % 256).astype(np.uint8)
    premultiplied = [(band.astype(np.uint32) * alpha // 255).astype(np.uint8) for band in bands]
    wide = [band.astype(np.uint16) * 257 for band in bands]
    for order, big, deflated in itertools.product("<>", (False, True), (False, True)):
        name = f"tiff-hand-{'le' if order == '<' else 'be'}{'-big' * big}{'-deflated' * deflated}"
        options = {"big": big, "deflated": deflated}
        yield f"{name}-u8.tif", tiff_file(order, bands[:1], 1, **options)
        yield f"{name}-u8-inverted.tif", tiff_file(order, bands[:1], 0, **options)
        yield f"{name}-u16.tif", tiff_file(order, [wide[0] // 3], 1, **options)
        yield f"{name}-u16-inverted.tif", tiff_file(order, [wide[0] // 3], 0, **options)
        yield f"{name}-i8.tif", tiff_file(order, [bands[0].view(np.int8)], 1, sample_format=2, **options)
        yield f"{name}-i16.tif", tiff_file(order, [bands[0].astype(np.int16) * 3 - 200], 1, sample_format=2, **options)
        yield f"{name}-u32.tif", tiff_file(order, [bands[0].astype(np.uint32) * 3], 1, **options)
        yield f"{name}-i32.tif", tiff_file(order, [bands[0].astype(np.int32) * 3 - 200], 1, sample_format=2, **options)
        yield (
            f"{name}-f32.tif",
            tiff_file(order, [bands[0].astype(np.float32) * 1.7 - 30], 1, sample_format=3, **options),
        )
        yield f"{name}-f64.tif", tiff_file(order, [bands[0].astype(np.float64)], 1, sample_format=3, **options)
        yield f"{name}-rgb.tif", tiff_file(order, bands, 2, **options)
        yield f"{name}-rgb16.tif", tiff_file(order, wide, 2, **options)
        for kind, layers in ((0, bands), (1, premultiplied), (2, bands)):
            yield f"{name}-rgb-extra{kind}.tif", tiff_file(order, [*layers, alpha], 2, extra=(kind,), **options)
            yield f"{name}-gray-extra{kind}.tif", tiff_file(order, [layers[0], alpha], 1, extra=(kind,), **options)
            deep = [band.astype(np.uint16) * 257 for band in (*layers, alpha)]
            yield f"{name}-rgb16-extra{kind}.tif", tiff_file(order, deep, 2, extra=(kind,), **options)
            yield f"{name}-gray16-extra{kind}.tif", tiff_file(order, [deep[0], deep[3]], 1, extra=(kind,), **options)
        yield f"{name}-rgb-undeclared.tif", tiff_file(order, [*bands, alpha], 2, **options)
        yield f"{name}-rgb-planar.tif", tiff_file(order, bands, 2, planar=2, **options)
        yield f"{name}-rgba-planar.tif", tiff_file(order, [*bands, alpha], 2, planar=2, extra=(2,), **options)
        yield f"{name}-tiles.tif", tiff_file(order, bands, 2, tile=16, **options)
        yield f"{name}-tiles-planar.tif", tiff_file(order, bands, 2, tile=16, planar=2, **options)
        yield f"{name}-cmyk.tif", tiff_file(order, [*bands, alpha], 5, **options)
        yield f"{name}-cmyk16.tif", tiff_file(order, [*wide, wide[1]], 5, **options)
        yield f"{name}-ycbcr.tif", tiff_file(order, bands, 6, more={530: (3, (1, 1))}, **options)
        yield f"{name}-lab.tif", tiff_file(order, bands, 8, **options)
        yield f"{name}-five-bands.tif", tiff_file(order, [*bands, alpha, alpha], 2, extra=(2, 0), **options)
        palette = tuple(
            int(v)
            for v in np.concatenate([bands[0].ravel()[:256], bands[1].ravel()[:256], bands[2].ravel()[:256]]).astype(np.uint32)
            * 257
        )
        yield f"{name}-palette.tif", tiff_file(order, [bands[0]], 3, more={320: (3, palette)}, **options)
        for bits in (1, 2, 4):
            small = [bands[0] >> (8 - bits)]
            for photometric in (0, 1):
                yield f"{name}-{bits}bit-{photometric}.tif", tiff_file(order, small, photometric, bits=bits, **options)
            used = tuple(v for band in range(3) for v in palette[256 * band : 256 * band + (1 << bits)])
            yield (
                f"{name}-{bits}bit-palette.tif",
                tiff_file(order, small, 3, bits=bits, more={320: (3, used)}, **options),
            )
        yield f"{name}-1bit-fill2.tif", tiff_file(order, [bands[0] >> 7], 1, bits=1, fill=2, **options)
        yield f"{name}-u8-fill2.tif", tiff_file(order, bands[:1], 1, fill=2, **options)
        yield f"{name}-rgb-fill2.tif", tiff_file(order, bands, 2, fill=2, **options)


def portable() -> Iterator[tuple[str, bytes]]:
    picture, gray = photo(), photo()[:, :, 1]
    size = b"%d %d" % (WIDTH, HEIGHT)

    def text(values: np.ndarray) -> bytes:
        return b"\n".join(b" ".join(b"%d" % v for v in line) for line in values.reshape(HEIGHT, -1))

    yield "pnm-p1.pbm", b"P1\n# words\n" + size + b"\n" + text(gray >> 7)
    yield "pnm-p1-dense.pbm", b"P1 " + size + b"\n" + text(gray >> 7).replace(b" ", b"")
    yield "pnm-p4.pbm", b"P4\n" + size + b"\n" + b"".join(packed(gray >> 7, 1))
    for most in (255, 1, 15, 100, 254, 256, 1000, 4095, 65535):
        kind = ">u2" if most > 255 else "u1"
        few = (gray.astype(np.uint32) * most // 255).astype(kind)
        colors = (picture.astype(np.uint32) * most // 255).astype(kind)
        yield f"pnm-p2-{most}.pgm", b"P2 " + size + b" %d\n" % most + text(few)
        yield f"pnm-p3-{most}.ppm", b"P3 " + size + b" %d\n" % most + text(colors)
        yield f"pnm-p5-{most}.pgm", b"P5 " + size + b" %d\n" % most + few.tobytes()
        yield f"pnm-p6-{most}.ppm", b"P6\n#c\n" + size + b"\n%d\n" % most + colors.tobytes()
    yield "pnm-p5-above.pgm", b"P5 " + size + b" 100\n" + gray.tobytes()
    yield "pnm-p2-above.pgm", b"P2 " + size + b" 100\n" + text(gray)
    yield "pnm-p6-short.ppm", b"P6 " + size + b" 255\n" + picture.tobytes()[:-100]
    yield "pnm-p6-zero.ppm", b"P6 " + size + b" 0\n" + picture.tobytes()
    level = gray[::-1].astype("<f4") * 1.5 - 40
    yield "pnm-pf.pfm", b"Pf\n" + size + b"\n-1.0\n" + level.tobytes()
    yield "pnm-pf-big.pfm", b"Pf\n" + size + b"\n1.0\n" + level.astype(">f4").tobytes()
    yield "pnm-pf-color.pfm", b"PF\n" + size + b"\n-1.0\n" + picture[::-1].astype("<f4").tobytes()
    yield (
        "pnm-p7.pam",
        b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" % (WIDTH, HEIGHT) + picture.tobytes(),
    )


def raster() -> Iterator[tuple[str, bytes | None]]:
    """The formats of games, scanners and workstations."""
    for mode, options in itertools.product(
        ("1", "L", "LA", "P", "RGB", "RGBA"), ({}, {"compression": "tga_rle"}, {"orientation": 1})
    ):
        yield f"tga-{mode}-{'-'.join(options)}.tga", saved(mode, "TGA", **options)
    five = photo().astype(np.uint16) >> 3
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 16, 0x20)
    yield (
        "tga-16bit.tga",
        header + ((five[:, :, 0] << 10) | (five[:, :, 1] << 5) | five[:, :, 2]).astype("<u2").tobytes(),
    )
    mirrored = bytearray(saved("RGB", "TGA"))
    mirrored[17] |= 0x10
    yield "tga-mirrored.tga", bytes(mirrored)
    for mode, sizes, kind in itertools.product(("L", "P", "RGB", "RGBA"), (((16, 16),), ((16, 16), (20, 20))), ("png", "bmp")):
        yield f"ico-{mode}-{len(sizes)}-{kind}.ico", saved(mode, "ICO", sizes=sizes, bitmap_format=kind)
    for mode in ("1", "L", "P", "RGB"):
        yield f"pcx-{mode}.pcx", saved(mode, "PCX")
    for mode, bpc in itertools.product(("L", "RGB", "RGBA"), (1, 2)):
        yield f"sgi-{mode}-{bpc}.sgi", saved(mode, "SGI", bpc=bpc)
    for mode, squeeze in itertools.product(("L", "LA", "RGB", "RGBA"), (None, "DXT1", "DXT3", "DXT5", "BC2", "BC3", "BC5")):
        yield f"dds-{mode}-{squeeze}.dds", saved(mode, "DDS", **({"pixel_format": squeeze} if squeeze else {}))
    for mode in ("RGB", "RGBA"):
        yield f"qoi-{mode}.qoi", saved(mode, "QOI")


def jpeg2000() -> Iterator[tuple[str, bytes | None]]:
    for mode, kind in itertools.product(("L", "LA", "RGB", "RGBA", "I;16", "YCbCr", "CMYK", "P"), ("jp2", "j2k")):
        for options in (
            {},
            {"irreversible": True, "quality_layers": [20]},
            {"tile_size": (16, 16)},
            {"num_resolutions": 2, "mct": 0},
        ):
            name = "-".join(["jp2", mode.replace(";", ""), *options])
            yield f"{name}.{kind}", saved(mode, "JPEG2000", no_jp2=kind == "j2k", **options)


def avif() -> Iterator[tuple[str, bytes | None]]:
    for mode, subsampling, quality in itertools.product(
        ("L", "LA", "RGB", "RGBA"), ("4:2:0", "4:2:2", "4:4:4", "4:0:0"), (30, 90)
    ):
        for reach in ("full", "limited"):
            name = f"avif-{mode}-{subsampling.replace(':', '')}-{quality}-{reach}.avif"
            yield name, saved(mode, "AVIF", subsampling=subsampling, quality=quality, range=reach, speed=8)


def others() -> Iterator[tuple[str, bytes | None]]:
    """Formats that Pillow reads and hardly anybody has, and files that are no images."""
    for mode, kind in (
        ("1", "XBM"),
        ("1", "MSP"),
        ("RGB", "IM"),
        ("F", "SPIDER"),
        ("RGBA", "BLP"),
        ("P", "BLP"),
        ("RGBA", "ICNS"),
    ):
        yield f"other-{kind}-{mode}.{kind.lower()}", saved(mode, kind)
    yield "other-empty.png", b""
    yield "other-page.jpg", b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n"
    yield (
        "other-pointer.jpg",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    )
    yield "other-zeros.jpg", bytes(4096)
    yield "other-video.mp4", struct.pack(">I", 24) + b"ftypisom\0\0\2\0isomiso2" + bytes(500)
    yield "other-heic.heic", struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(500)
    yield "other-jxl.jxl", b"\xff\x0a" + bytes(200)
    yield "other-svg.svg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "other-pdf.pdf", b"%PDF-1.7\n" + bytes(200)
    yield "other-psd.psd", b"8BPS\0\1" + bytes(200)
    yield "other-numpy.npy", b"\x93NUMPY\1\0" + bytes(120)
