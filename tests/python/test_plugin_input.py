"""What the plugin is given by others: archives that say anything of themselves, and requests that name any path."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import zipfile
from types import SimpleNamespace

import pytest
from conftest import ROOT

PLUGIN = ROOT / "pipelines" / "fiftyone-plugin"


@pytest.fixture(scope="module")
def plugin(database):
    spec = importlib.util.spec_from_file_location("camflow_plugin_input", PLUGIN / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


GOOD = {
    "camflow": 1,
    "name": "m",
    "task": "segmentation",
    "classes": {"0": "background", "1": "thing"},
    "aliases": {"1": "body"},
    "layers": [{"path": "body", "layout": "nchw"}],
    "default_layers": ["1"],
}


def archive(path, text: str, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as made:
        made.writestr("m/extra/camflow.json", text)
    return path


def changed(**more) -> str:
    return json.dumps({**GOOD, **more})


BAD = {
    "without a name": json.dumps({key: value for key, value in GOOD.items() if key != "name"}),
    "name is a number": changed(name=3),
    "forged line": changed(name="m\nerror: done"),
    "turned around": changed(classes={"0": "\u202eevil"}),
    "long name": changed(name="m" * 10_000),
    "no object": "[]",
    "null": "null",
    "not json": "{",
    "not text": "\x00\xff",
    "other format": changed(camflow=2),
    "NaN": changed(more=float("nan")),
    "huge number": changed().replace('"camflow": 1', '"camflow": 1' + "0" * 10_000),
    "deep": changed(deep="DEEP").replace('"DEEP"', "[" * 200_000),
    "twice": changed().replace('"name": "m"', '"name": "m", "name": "n"'),
    "classes are a list": changed(classes=["a"]),
    "class is null": changed(classes={"0": None}),
    "classes are not numbered": changed(classes={"zero": "a"}),
    "class number is huge": changed(classes={"9" * 5000: "a"}),
    "layers are text": changed(layers="body"),
    "layer is text": changed(layers=["body"]),
    "layer has no path": changed(layers=[{}]),
    "aliases are a list": changed(aliases=[1]),
    "default layers are a number": changed(default_layers=5),
    "default layer is a list": changed(default_layers=[[]]),
    "too large": changed(more=" " * (17 << 20)),
}


@pytest.mark.parametrize("name", BAD)
def test_an_archive_that_says_nonsense_is_no_model(plugin, tmp_path, name):
    with pytest.raises(plugin.models.NoModelError, match="is not a camflow model: ") as error:
        plugin.models.Model.read(archive(tmp_path / "m.pt2", BAD[name]))
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_files_that_are_no_archives_are_no_models(plugin, tmp_path):
    good = archive(tmp_path / "good.pt2", json.dumps(GOOD))
    assert plugin.models.Model.read(good).classes == ["background", "thing"]
    os.mkfifo(tmp_path / "pipe.pt2")
    (tmp_path / "zero.pt2").symlink_to("/dev/zero")
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "cut.pt2").write_bytes(good.read_bytes()[:-30])
    damaged = bytearray(good.read_bytes())
    damaged[60] ^= 1
    (tmp_path / "damaged.pt2").write_bytes(damaged)
    archive(tmp_path / "bomb.pt2", changed(more=" " * (1 << 28)), zipfile.ZIP_DEFLATED)
    archive(tmp_path / "lzma.pt2", json.dumps(GOOD), zipfile.ZIP_LZMA)
    strange = tmp_path / "a\x1b[31m\nerror: forged.pt2"
    strange.write_bytes(b"")
    for path in sorted(tmp_path.iterdir()):
        if path != good:
            with pytest.raises(plugin.models.NoModelError, match="is not a camflow model: ") as error:
                plugin.models.Model.read(path)
            assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.fixture
def folders(plugin, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("CAMFLOW_PLUGIN_OUT", os.pathsep.join((str(tmp_path / "more"), "", "relative")))
    return tmp_path


def request(**params):
    dataset = SimpleNamespace(name="--report-file=x")
    return SimpleNamespace(dataset=dataset, params={"target": "top", **params})


def test_paths_stay_below_the_folders_that_are_allowed(plugin, folders):
    model = folders / "cache" / "models" / "m.pt2"
    for out in (folders / "data" / "camflow" / "mine", folders / "more", folders / "more" / "deeper"):
        made = plugin.form.arguments(request(model=str(model), out=str(out)))
        assert f"--out={out}" in made and f"--model={model}" in made
    outs = (
        "/etc",
        "maps",
        "relative/maps",
        f"{folders}/more/../x",
        f"{folders}/more-not",
        f"{folders}/more/\0",
        "--report-file=/x",
        "~/x",
    )
    for out in outs:
        with pytest.raises(plugin.folders.NotAllowedError, match=r"(?s)does not allow the folder.*set CAMFLOW_PLUGIN_OUT"):
            plugin.form.arguments(request(model=str(model), out=out))
    for path in ("/etc/m.pt2", f"{folders}/more/m.pt2", f"{model.parent}/../m.pt2", "m.pt2", "", "resnet50"):
        for asked in ({"model": path}, {"model": "other", "model_path": path}):
            if asked == {"model": ""}:
                continue
            with pytest.raises(plugin.folders.NotAllowedError, match=r"(?s)model file.*set CAMFLOW_PLUGIN_MODELS"):
                plugin.form.arguments(request(**asked))


def test_no_value_is_taken_for_a_flag(plugin, folders):
    model = folders / "cache" / "models" / "m.pt2"
    asked = request(model=str(model), classes=["--overwrite"], layers=["--x"], field="--out=/x", device="-q", methods=["--y"])
    made = plugin.form.arguments(asked)
    assert made[1:] == [
        "--format=json",
        "--dataset=--report-file=x",
        f"--model={model}",
        "--target=top",
        "--method=--y",
        "--class=--overwrite",
        "--layers=--x",
        "--field=--out=/x",
        "--device=-q",
    ]
