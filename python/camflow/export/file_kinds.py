"""What a file is by its content, so that an error can say what to do with it."""

from __future__ import annotations

import zipfile

# What a file begins with; the text ends a sentence that begins with the file's name.
BEGINNINGS = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer and not the file itself",
        "`git lfs pull` fetches the file that it stands for",
    ),
    (b"\x89HDF", "is an HDF5 file, such as Keras writes, which has no PyTorch weights", None),
    (b"\x1f\x8b", "is compressed by gzip", "unpack it first"),
    (b"BZh", "is compressed by bzip2", "unpack it first"),
    (b"\xfd7zXZ", "is compressed by xz", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed by Zstandard", "unpack it first"),
    (b"Rar!", "is a RAR archive", "unpack it first"),
    (b"7z\xbc\xaf", "is a 7-Zip archive", "unpack it first"),
    (b"GGUF", "is a GGUF file of llama.cpp, which has no PyTorch weights", None),
    (b"\x93NUMPY", "is a NumPy array", None),
)
HTML = (
    "is an HTML page and not the file that it is named after: the server sent a page to log in or of an error",
    "download the file again, and look at it in a browser if that does not help",
)


def is_html(start: bytes) -> bool:
    """Whether a file that begins so is a page of the web."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body"))


def kind_of(path: str) -> str:
    """The kind of a file, by its content.

    "torch" (torch.save), "pickle", "safetensors", "export" (torch.export.save), "camflow", "torchscript", "onnx", "zip" (of
    something else), "empty", "cut" or "other".

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "empty"
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 27:
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        # what torch.save wrote before version 1.6 begins with a number of its own
        return "torch" if b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19" in start[:16] else "pickle"
    # ir_version, then the producer's name or the graph: the first fields of an ONNX model in protobuf
    if path.lower().endswith(".onnx") or (start[:1] == b"\x08" and start[1] < 32 and start[2:3] in b"\x12\x1a\x3a\x42"):
        return "onnx"
    return "other"


def _kind_of_zip(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "cut"
    names = [name.partition("/")[2] for name in entries]
    if "extra/camflow.json" in names:
        return "camflow"
    # As torch 2.6 wrote them, entries lie in no folder.
    if "serialized_exported_program.json" in entries or any(n.startswith("models/") and n.endswith(".json") for n in names):
        return "export"
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return "torchscript"
    return "torch" if "data.pkl" in names else "zip"


def is_of_ultralytics(path: str) -> bool:
    """Whether a file of "torch" holds a model of Ultralytics: code of its library, with weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            program = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return b"ultralytics." in archive.read(program)
    except (zipfile.BadZipFile, StopIteration, OSError):
        return False


def described(path: str) -> tuple[str, str | None]:
    """(what the file is, what to do or None) for one that is no weights and no model of PyTorch."""
    kind = kind_of(path)
    if kind in KINDS:
        return KINDS[kind]
    with open(path, "rb") as file:
        start = file.read(512)
    if is_html(start):
        return HTML
    for beginning, what, hint in BEGINNINGS:
        if start.startswith(beginning):
            return what, hint
    return "is no file that PyTorch writes", None


KINDS: dict[str, tuple[str, str | None]] = {
    "empty": ("is empty", "the download or copy failed: get it again"),
    "cut": (
        "begins like a zip archive but has no readable end: it was probably cut off",
        "the download or copy failed: get it again",
    ),
    "zip": ("is a zip archive of other files", "unpack it, and give the file of weights in it"),
    "onnx": (
        "is an ONNX model, whose graph has no modules that could be layers",
        "export the PyTorch model that it was made from: `camflow export file.py:function`",
    ),
    "torchscript": (
        "is a TorchScript model, whose graph `torch.export` does not take",
        "its weights can be had with the network: `camflow export --arch LIBRARY:NAME --checkpoint FILE`, or `file.py:function`",
    ),
    "export": ("is an exported program of `torch.export.save`", "`camflow export FILE.pt2` makes a camflow model of it"),
    "camflow": (
        "is a camflow model already",
        "give it to `camflow annotate --model`; to change it, export its PyTorch model again",
    ),
    "torch": (
        "is a checkpoint of `torch.save`, weights without a network",
        "export the network with it: `camflow export --arch LIBRARY:NAME --checkpoint FILE`, or `camflow export file.py:function --checkpoint FILE`",
    ),
    "safetensors": (
        "has weights without a network (safetensors)",
        "export the network with them: `camflow export --arch LIBRARY:NAME --checkpoint FILE`, or `camflow export file.py:function --checkpoint FILE`",
    ),
    "pickle": ("is a Python pickle", "load it in a function that returns the nn.Module: `camflow export file.py:function`"),
}
