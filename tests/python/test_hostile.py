"""What was made to hurt: images, masks and models that inflate, lie, block or lead elsewhere. Each costs one clear error.

Memory is what is measured, in processes of their own; a hang ends by the time limit of the fixture.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TINY = "scripts/lab/growth.py:tiny"

# Runs camflow and says what it took: the peak of a child begins with that of its parent, which is small here.
LAUNCHER = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
print(json.dumps({
    "code": done.returncode,
    "out": done.stdout.decode("utf-8", "replace"),
    "err": done.stderr.decode("utf-8", "replace"),
    "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
}))
"""


@pytest.fixture(scope="session")
def measured(binary):
    """Runs camflow in a process of its own."""

    def run(*arguments) -> dict:
        command = [sys.executable, "-c", LAUNCHER, str(binary), *map(os.fspath, arguments)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout)

    return run


@pytest.fixture(scope="session")
def tiny(export) -> Path:
    return export(TINY, inputs=(ROOT / "scripts" / "lab" / "growth.py",))


# ------------------------------------------------------------------------------------------------------ images and masks


def png(height: int, width: int, rows: int) -> bytes:
    """A gray PNG that says it has so many pixels, and holds so many black rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    deflate = zlib.compressobj(9)
    data = b"".join(deflate.compress(bytes(width + 1)) for _ in range(rows)) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(kind: str, **options) -> bytearray:
    content = io.BytesIO()
    Image.new("L", (64, 64)).save(content, kind, **options)
    return bytearray(content.getvalue())


def giants() -> dict[str, bytes]:
    """Files of a few hundred bytes that say they are 60,000 x 60,000."""
    side = 60_000
    jpeg = encoded("JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", side, side)
    gif = encoded("GIF")
    gif[6:10] = struct.pack("<HH", side, side)
    bmp = encoded("BMP")
    bmp[18:26] = struct.pack("<II", side, side)
    tiff = encoded("TIFF")
    for tag in (256, 257):
        entry = tiff.index(struct.pack("<HHI", tag, 4, 1))
        tiff[entry + 8 : entry + 12] = struct.pack("<I", side)
    return {"giant.png": png(side, side, 4), "giant.jpg": jpeg, "giant.gif": gif, "giant.bmp": bmp, "giant.tif": tiff}


def scans() -> bytes:
    """A progressive JPEG whose last scan is there 5,000 times more."""
    content = bytes(encoded("JPEG", progressive=True))
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * 5000 + content[-2:]


def npy(header: str, data: bytes = b"") -> bytes:
    header = header + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def array(descr: str, shape: str, data: bytes = b"") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", data)


def bad_masks(trap: Path) -> dict[str, tuple[bytes, str]]:
    """Masks in documents, with what is said of them."""

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    small = array("'|u1'", "(8, 8)", bytes(64))
    return {
        "honest bomb": (zlib.compress(array("'|u1'", "(40000, 40000)") + bytes(1 << 28), 9), "more than the"),
        "lying bomb": (zlib.compress(small + bytes(1 << 29), 9), "more than the"),
        "object": (zlib.compress(array("'|O'", "(1, 1)", pickle.dumps(np.array([[Trap()]], object)))), "Python objects"),
        "pickle": (zlib.compress(pickle.dumps(Trap())), "not a .npy file"),
        "huge": (zlib.compress(array("'<f8'", "(4294967296, 4294967296)", bytes(64))), "larger than any memory"),
        "truncated": (zlib.compress(array("'|u1'", "(5000, 5000)", bytes(64))), "truncated"),
        "negative": (zlib.compress(array("'|u1'", "(-8, 8)", bytes(64))), "header"),
        "header": (zlib.compress(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64)), "header claims"),
        "deep": (zlib.compress(npy("(" * 9000)), "nested"),
        "cut": (zlib.compress(small)[:-5], "zlib"),
        "no stream": (b"no zlib stream at all", "zlib"),
        "empty": (b"", "zlib"),
    }


@pytest.fixture
def hostile(database, clone, tmp_path):
    """A dataset with good samples and bad ones; the bad ones' ids with what is to be said of them."""
    import fiftyone as fo
    from bson import Binary

    folder = tmp_path / "media"
    folder.mkdir()
    good = folder / "good.png"
    Image.fromarray(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)).save(good)

    images = {}
    for name, content in giants().items():
        (folder / name).write_bytes(content)
        images[name] = "is too large: 60000 x 60000"
    (folder / "scans.jpg").write_bytes(scans())
    images["scans.jpg"] = "scans"
    (folder / "sparse.png").touch()
    os.truncate(folder / "sparse.png", 1 << 40)
    images["sparse.png"] = "is too large: 1099511627776 bytes"
    os.mkfifo(folder / "pipe.png")
    os.symlink(folder / "pipe.png", folder / "link.png")
    os.symlink("/dev/zero", folder / "zero.png")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(folder / "socket.png"))
    images |= {"pipe.png": "a pipe or device", "link.png": "a pipe or device", "zero.png": "a pipe or device"}
    images["socket.png"] = "a pipe or device"
    os.symlink(folder / "loop.png", folder / "loop.png")
    images["loop.png"] = "symbolic links"
    os.mkdir(folder / "folder.png")
    images["folder.png"] = "a folder"
    os.symlink("/proc/kmsg", folder / "kmsg.png")
    images["kmsg.png"] = "kmsg.png"
    (folder / "line\nfailed: forged\x1b[2J.png").write_bytes(b"no picture")
    images["line\nfailed: forged\x1b[2J.png"] = "line\\nfailed: forged\\u{1b}[2J.png` does not begin like an image"
    images["missing\n.png"] = "missing\\n.png"

    mask_files = {name: text for name, text in images.items() if name not in ("scans.jpg", "missing\n.png")}
    (folder / "mask.npy").write_bytes(array("'|u1'", "(8, 8)", bytes(64)))
    mask_files["mask.npy"] = "numpy array"
    masks = bad_masks(tmp_path / "trap")

    light = np.full((48, 64), 2, np.uint8)
    samples, expected = [], []
    for name, text in images.items():
        samples.append(fo.Sample(filepath=str(folder / name), ground_truth=fo.Segmentation(mask=light)))
        expected.append(text)
    for name, text in mask_files.items():
        samples.append(fo.Sample(filepath=str(good), ground_truth=fo.Segmentation(mask_path=str(folder / name))))
        expected.append(text)
    for _, text in masks.values():
        samples.append(fo.Sample(filepath=str(good), ground_truth=fo.Segmentation(mask=light)))
        expected.append(text)
    samples += [fo.Sample(filepath=str(good), ground_truth=fo.Segmentation(mask=light)) for _ in range(2)]
    dataset = fo.Dataset()
    dataset.add_samples(samples, progress=False)
    collection = dataset._sample_collection
    ids = dataset.values("_id")
    for sample_id, (content, _) in zip(ids[len(images) + len(mask_files) :], masks.values(), strict=False):
        collection.update_one({"_id": sample_id}, {"$set": {"ground_truth.mask": Binary(content)}})
    yield dataset, {str(sample_id): text for sample_id, text in zip(ids, expected, strict=False)}
    listener.close()
    dataset.delete()


def annotate(dataset, tiny: Path, out: Path, database: str, *flags) -> list:
    return [
        *("annotate", "--dataset", dataset.name, "--model", tiny, "--class", "2", "--layers", "1", "--out", out),
        *("--target", "labels:ground_truth", "--device", "cpu", "--workers", "2", "--database-uri", database, *flags),
    ]


def test_hostile_samples_cost_only_themselves(hostile, measured, tiny, database, tmp_path):
    dataset, expected = hostile
    harmless = dataset.exclude(list(expected)).clone()
    try:
        quiet = measured(*annotate(harmless, tiny, tmp_path / "quiet", database))
        assert quiet["code"] == 0, quiet
    finally:
        harmless.delete()
    done = measured(*annotate(dataset, tiny, tmp_path / "maps", database, "--format", "json"))
    events = [json.loads(line) for line in done["out"].splitlines()]
    failed = {event["sample"]: event["error"] for event in events if event["event"] == "sample_failed"}
    assert done["code"] == 1, done["err"]
    assert set(failed) == set(expected)
    for sample, text in expected.items():
        assert text in failed[sample], (text, failed[sample])
        assert "\n" not in failed[sample] and "\x1b" not in failed[sample], failed[sample]
    assert next(event for event in events if event["event"] == "run_finished")["num_committed"] == 2
    assert not (tmp_path / "trap").exists(), "a pickle was loaded"
    print(f"peak: {done['peak_mb']:.0f} MB, harmless {quiet['peak_mb']:.0f} MB")
    assert done["peak_mb"] < quiet["peak_mb"] + 100

    # Told to people, a name does not make lines of its own.
    told = measured(*annotate(dataset, tiny, tmp_path / "maps", database, "--overwrite"))
    assert told["code"] == 1 and not [line for line in told["err"].splitlines() if line.startswith("failed: forged")]


def test_an_image_too_large_for_the_model_is_refused(export, measured, tmp_path):
    """A file of some kilobytes asks for a terabyte of memory, which the system would promise."""
    model = export("tests/python/hostile_models.py:wide", inputs=(ROOT / "tests/python/hostile_models.py",))
    (tmp_path / "large.png").write_bytes(png(4000, 5000, 4000))
    (tmp_path / "small.png").write_bytes(png(40, 50, 40))
    (tmp_path / "beyond.png").write_bytes(png(8000, 5000, 8000))
    files = [tmp_path / name for name in ("large.png", "beyond.png", "small.png")]
    done = measured("explain", *files, "--model", model, "--layers", "1", "--class", "thing", "--target", "pixel=1,1",
                    "--out", tmp_path / "maps", "--device", "cpu")  # fmt: skip
    assert done["code"] == 1, done
    assert "large.png" in done["err"] and "4000 x 5000 pixels, which takes about" in done["err"], done["err"]
    assert "40000000" not in done["err"] and "at most 33554432 pixels are possible" in done["err"], done["err"]
    assert (tmp_path / "maps" / "small.thing.gradcam.layer_1.npy").exists()
    assert done["peak_mb"] < 8000, done["peak_mb"]


def test_names_that_are_no_text(measured, tiny, tmp_path):
    """A file name of any bytes works; JSON shows what is text of it."""
    name = os.fsencode(tmp_path) + b"/photo\xff\n.png"
    Path(os.fsdecode(name)).write_bytes(png(40, 50, 40))
    out = os.fsencode(tmp_path) + b"/maps\xfe"
    done = measured("explain", os.fsdecode(name), "--model", tiny, "--layers", "1", "--class", "light", "--target", "pixel=1,1",
                    "--out", os.fsdecode(out), "--device", "cpu", "--format", "json")  # fmt: skip
    assert done["code"] == 0, done
    (event,) = (event for event in map(json.loads, done["out"].splitlines()) if "files" in event)
    assert "photo\ufffd\n.png" in event["input"] and "maps\ufffd" in event["files"][0]
    assert len([name for name in os.listdir(out) if name != b".explained.json"]) == 4


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o027, 0o640, 0o750), (0o002, 0o664, 0o775), (0, 0o664, 0o775)])
def test_files_follow_the_umask_but_not_everyone_may_write(camflow, tiny, tmp_path, umask, file, folder):
    (tmp_path / "photo.png").write_bytes(png(40, 50, 40))
    out = tmp_path / "maps" / "below"
    camflow("explain", tmp_path / "photo.png", "--model", tiny, "--layers", "1", "--class", "light", "--target", "pixel=1,1",
            "--out", out, "--device", "cpu", umask=umask)  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {file}
    assert {path.stat().st_mode & 0o777 for path in (out, out.parent)} == {folder}


# ---------------------------------------------------------------------------------------------------------------- models


def rewritten(archive: Path, out: Path, change=None, compress=zipfile.ZIP_STORED, more=(), finish=None) -> Path:
    """A copy of an archive: entries changed by name, entries added, and the directory changed before it is written."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(out, "w", compress) as target:
        for entry in source.infolist():
            content = source.read(entry)
            below = entry.filename.split("/", 1)[1]
            info = zipfile.ZipInfo(entry.filename)
            info.compress_type = compress
            padding = -(target.fp.tell() + 34 + len(entry.filename)) % 64
            info.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
            target.writestr(info, change(below, content) if change else content)
        for name, content in more:
            target.writestr(name, content)
        if finish:
            finish({info.filename.split("/", 1)[1]: info for info in target.filelist})
    return out


def changed_json(entry: str, change):
    def apply(name: str, content: bytes) -> bytes:
        if name != entry:
            return content
        tree = json.loads(content)
        return json.dumps(change(tree) or tree).encode()

    return apply


def bad_models(tiny: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """Model files, with what is said of them."""
    root = zipfile.ZipFile(tiny).namelist()[0].split("/")[0]
    graph, weights, camflow = "models/model.json", "data/weights/model_weights_config.json", "extra/camflow.json"

    def overlap(entries):
        entries["data/weights/weight_1"].header_offset = entries["data/weights/weight_0"].header_offset

    def huge(entries):
        entries["data/weights/weight_0"].file_size = entries["data/weights/weight_0"].compress_size = 1 << 62

    def cycle(tree):
        nodes = tree["graph_module"]["graph"]["nodes"]
        nodes[0]["inputs"][0]["arg"]["as_tensor"]["name"] = nodes[-1]["outputs"][0]["as_tensor"]["name"]

    def from_file(tree):
        node = tree["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.ops.aten.from_file.default"
        arguments = {"filename": {"as_string": str(folder / "made")}, "shared": {"as_bool": True}, "size": {"as_int": 1 << 30}}
        node["inputs"] = [{"name": name, "arg": arg} for name, arg in arguments.items()]

    def foreign(tree):
        tree["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.inductor._alloc_from_pool.default"

    def long_name(tree):
        tree["graph_module"]["graph"]["nodes"][0]["name"] = "n" * (1 << 20)

    def many(tree):
        nodes = tree["graph_module"]["graph"]["nodes"]
        seed = nodes[0]["inputs"][0]["arg"]
        for number in range(60_000):
            inputs, outputs = [{"name": "self", "arg": seed}], [{"as_tensor": {"name": f"v{number}"}}]
            nodes.append({"target": "torch.ops.aten.relu.default", "inputs": inputs, "outputs": outputs, "name": f"n{number}"})

    def escapes(tree):
        tree["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.\x1b[2Jgone.default"

    def weight(**meta):
        def apply(tree):
            next(iter(tree["config"].values()))["tensor_meta"].update(meta)

        return apply

    def ints(*numbers):
        return [{"as_int": number} for number in numbers]

    def example(tree):
        tree["input"]["example"] = [1, 3, 1 << 20, 1 << 20]

    def deep(name, content):
        marked = changed_json(graph, lambda tree: tree["graph_module"]["graph"]["nodes"][0]["metadata"].update(deep="DEEP"))
        return marked(name, content).replace(b'"DEEP"', b"[" * 1_000_000 + b"]" * 1_000_000)

    whole = tiny.read_bytes()
    cases = {
        "overlap": ({"finish": overlap}, "lie over each other"),
        "huge": ({"finish": huge}, "beyond the end of the file"),
        "deflated": ({"compress": zipfile.ZIP_DEFLATED, "more": [(f"{root}/bomb", bytes(1 << 28))]}, "is compressed"),
        "outside": ({"more": [(f"{root}/../../outside", b"x")]}, "leads out of the archive"),
        "absolute": ({"more": [("/etc/camflow", b"x")]}, "leads out of the archive"),
        "twice": ({"more": [("other/extra/camflow.json", b"{}")]}, "is there twice"),
        "deep": ({"change": deep}, "recursion limit"),
        "cycle": ({"change": changed_json(graph, cycle)}, "which nothing before it defines"),
        "from_file": ({"change": changed_json(graph, from_file)}, "is not one that camflow runs"),
        "foreign": ({"change": changed_json(graph, foreign)}, "is not one that camflow runs"),
        "long": ({"change": changed_json(graph, long_name)}, "the name of a node has"),
        "escapes": ({"change": changed_json(graph, escapes)}, "operator `torch.ops.aten.\ufffd[2Jgone.default` is not one"),
        "many": ({"change": changed_json(graph, many)}, "more than 50000 nodes"),
        "stretched": ({"change": changed_json(weights, weight(sizes=ints(1 << 40), strides=ints(0)))}, "too large for the"),
        "endless": ({"change": changed_json(weights, weight(sizes=ints(1 << 62, 8), strides=ints(0, 0)))}, "too large for the"),
        "short": ({"change": changed_json(weights, weight(sizes=ints(1 << 20), strides=ints(1)))}, "too few for shape"),
        "minus": ({"change": changed_json(weights, weight(sizes=ints(-1), strides=ints(1)))}, "make no sense"),
        "offset": ({"change": changed_json(weights, weight(storage_offset={"as_int": 1 << 60}))}, "too few for shape"),
        "example": ({"change": changed_json(camflow, example)}, "not a batch of images"),
    }
    made = {}
    for name, (changes, text) in cases.items():
        made[name] = (rewritten(tiny, folder / f"{name}.pt2", **changes), text)
    os.mkfifo(folder / "pipe.pt2")
    os.symlink("/dev/zero", folder / "zero.pt2")
    (folder / "cut.pt2").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "empty.pt2").touch()
    made |= {name: (folder / f"{name}.pt2", text) for name, text in
             {"pipe": "a pipe or device", "zero": "a pipe or device", "cut": "cut off", "empty": "is empty"}.items()}  # fmt: skip
    return made


def test_models_built_to_hurt(measured, tiny, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    quiet = measured("inspect", rewritten(tiny, folder / "as_it_is.pt2"))
    assert quiet["code"] == 0, quiet
    before = set(tmp_path.rglob("*"))
    models = bad_models(tiny, folder)
    peak = 0
    for name, (path, text) in models.items():
        done = measured("inspect", path)
        assert done["code"] == 2, (name, done)
        assert text in done["err"] and str(path) in done["err"], (name, done["err"][:1000])
        assert len(done["err"]) < 20_000, (name, len(done["err"]))
        peak = max(peak, done["peak_mb"])
    print(f"peak: {peak:.0f} MB, harmless {quiet['peak_mb']:.0f} MB")
    # One of the files has 60,000 nodes, of which most are read.
    assert peak < quiet["peak_mb"] + 300
    made = set(tmp_path.rglob("*")) - before
    assert made == {path for path, _ in models.values() if path.is_relative_to(tmp_path)}, "a model wrote files"
    shutil.rmtree(folder)
