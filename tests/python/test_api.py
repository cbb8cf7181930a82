"""`import camflow`: what people call from Python, beside what the program writes."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path

import camflow as api
import fiftyone as fo
import numpy as np
import pytest
from camflow.settings import flags, names
from conftest import ROOT
from PIL import Image


@pytest.fixture(autouse=True)
def program(binary, monkeypatch):
    monkeypatch.setenv("CAMFLOW_BIN", str(binary))


def test_a_dataset_gets_heatmaps_once(tiny_model, tiny_dataset, tmp_path, capsys):
    dataset = tiny_dataset(3)
    with open(dataset.last().filepath, "wb"):
        pass
    shown = []
    call = {
        "layers": 1,
        "method": ["gradcam", "layercam"],
        "out": tmp_path / "out",
        "progress": lambda bar: shown.append(bar.iteration),
    }
    result = api.compute_heatmaps(dataset, tiny_model, "light", "ground_truth", **call)
    assert result.fields == ["light_grad_layer_1", "light_layercam_layer_1"]
    assert (result.num_read, result.num_annotated, result.num_heatmaps, result.num_failed) == (3, 2, 4, 1)
    assert shown[-1] == 3, "the bar comes to its end"
    [failure] = result.failures
    assert failure.filepath == dataset.last().filepath and failure.stage == "decode" and not failure.is_known
    assert "3 samples read: 2 annotated (4 heatmaps), 0 skipped, 1 failed" in str(result)
    # The dataset that is open here knows the fields.
    heatmap = dataset.first()["light_layercam_layer_1"]
    exact = api.load(heatmap)
    assert exact.dtype == np.float32 and exact.shape == heatmap.get_map().shape
    Path(heatmap.npy_path).unlink()
    off = np.abs(api.load(heatmap) - exact)
    assert off[exact > 1.5 / 255].max() <= 0.5 / 255 + 1e-6 and off.max() <= 1.5 / 255 and not api.load(heatmap)[exact == 0].any()
    Path(heatmap.map_path).unlink()
    with pytest.raises(api.CamflowError, match="there is no file"):
        api.load(heatmap)
    again = api.compute_heatmaps(dataset[:2], tiny_model, "light", "ground_truth", **{**call, "progress": False})
    assert (again.num_read, again.num_annotated) == (2, 1), "the one whose files are gone"
    with pytest.raises(api.CamflowError, match=re.escape(dataset.last().filepath)):
        api.compute_heatmaps(dataset, tiny_model, "light", "ground_truth", **call, skip_failures=False)


def test_what_a_view_shows_is_what_counts(tiny_model, tiny_dataset, tmp_path):
    import fiftyone as fo

    dataset = tiny_dataset(2)
    boxes = [fo.Detection(label=label, bounding_box=[0, 0, 0.5, 1]) for label in ("light", "dark")]
    dataset.set_values("boxes", [fo.Detections(detections=[box.copy() for box in boxes]) for _ in dataset])
    view = dataset.filter_labels("boxes", fo.ViewField("label") == "light").limit(1)
    result = api.compute_heatmaps(view, tiny_model, ["light"], "boxes", layers=1, out=tmp_path / "out", field="v_{class}")
    assert (result.num_read, result.num_annotated, result.fields) == (1, 1, ["v_light"])
    patches = dataset.match_labels(filter=fo.ViewField("label") == "light", fields="boxes").to_patches("boxes")
    result = api.compute_heatmaps(patches, tiny_model, "light", "boxes", layers=1, out=tmp_path / "out", field="p_{class}")
    assert (result.num_read, result.num_annotated) == (2, 2), "of the samples that the patches are cut from"
    # FiftyOne keeps patches in a dataset of their own.
    patches._patches_dataset.delete()


def test_errors_are_exceptions_with_the_programs_words(tiny_model, tiny_dataset, tmp_path):
    dataset = tiny_dataset(1)
    for wrong, said in {
        ("classes", "lihgt"): "there is no class `lihgt` in the model\nhint: ",
        ("label_field", "ground_thruth"): "there is no field `ground_thruth` in dataset",
        ("stoer", "inline"): "unexpected argument '--stoer' found",
        ("layers", 9): "it has no layer `9`\nhint: the only numbered layer is 1",
    }.items():
        call = {"classes": "light", "label_field": "ground_truth", "out": tmp_path / "out", **dict([wrong])}
        with pytest.raises(api.CamflowError) as error:
            api.compute_heatmaps(dataset, tiny_model, **call)
        assert said in str(error.value) and not str(error.value).startswith("error: ") and "Usage" not in str(error.value)
    with pytest.raises(ValueError, match="leave out `target`"):
        api.compute_heatmaps(dataset, tiny_model, "light", "ground_truth", target="predicted")
    assert not dataset.has_field("light_grad_layer_1")


def test_an_interruption_keeps_what_was_done(tiny_model, tiny_dataset, tmp_path):
    dataset = tiny_dataset(60)
    begun = threading.Event()

    def interrupt() -> None:
        begun.wait(120)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    call = {
        "classes": "light",
        "label_field": "ground_truth",
        "layers": 1,
        "out": tmp_path / "out",
        "workers": 1,
        "batch_size": 1,
        "cam_batch_size": 1,
    }
    try:
        with pytest.raises(KeyboardInterrupt):
            # Each image is asked about many times, one after the other, so that the run is not over before it is interrupted.
            api.compute_heatmaps(dataset, tiny_model, **call, faithfulness=True, progress=lambda bar: begun.set())
    finally:
        begun.set()
        thread.join()
    dataset.reload()
    done = [path for path in dataset.values("light_grad_layer_1.map_path") if path]
    assert 0 < len(done) < 60 and all(Path(path).is_file() for path in done)
    result = api.compute_heatmaps(dataset, tiny_model, **call, faithfulness=True, progress=False)
    assert (result.num_read, result.num_annotated) == (60, 60 - len(done))


def test_an_image_is_explained_as_arrays(tiny_model, tiny_dataset, camflow, tmp_path):
    dataset = tiny_dataset(2)
    first, second = dataset.values("filepath")
    camflow(
        "explain",
        first,
        "--model",
        tiny_model,
        "--class",
        "light",
        "--method",
        "gradcam,layercam",
        "--target=pixel=9,9",
        "--out",
        tmp_path / "out",
    )
    explained = api.explain(first, tiny_model, "light", method=["gradcam", "layercam"], target="pixel=9,9")
    assert [(found.class_name, found.method) for found in explained.heatmaps] == [("light", "gradcam"), ("light", "layercam")]
    for found in explained.heatmaps:
        [written] = (tmp_path / "out").glob(f"*.{found.method}.layer_1.npy")
        assert np.array_equal(found.values, np.load(written))
        assert found.overlay.shape == np.asarray(Image.open(first)).shape and found.overlay.dtype == np.uint8
    assert "<img src=" in explained._repr_html_()
    # As people hold images: a sample, an array, and one that is none.
    broken = tmp_path / "line\nbroken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    pixels = np.asarray(Image.open(first).convert("RGB"))
    several = api.explain([dataset.first(), pixels, broken, second], tiny_model, "light", target="pixel=9,9")
    for found in several[:2]:
        assert np.array_equal(found.heatmaps[0].values, explained.heatmaps[0].values)
    assert several[1].image == "image 1" and several[3].image == second
    assert "broken.png" in several[2].error and not several[2].heatmaps
    with pytest.raises(api.CamflowError, match=r"broken\.png"):
        api.explain(broken, tiny_model)


def test_a_report_is_a_page(tiny_model, tiny_dataset, tmp_path):
    dataset = tiny_dataset(4)
    with pytest.raises(api.CamflowError, match="has no heatmaps"):
        api.report(dataset)
    api.compute_heatmaps(dataset, tiny_model, "light", "ground_truth", layers=1, out=tmp_path / "out", progress=False)
    report = api.report(dataset[:2], fields="light_grad_layer_1")
    assert report.numbers["dataset"] == dataset.name and "<iframe" in report._repr_html_()
    report.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == report.page


def test_settings_are_flags():
    assert flags(
        {"store": "inline", "workers": 2, "faithfulness": True, "exact": False, "tags": ["a", "b,c"], "limit": None}
    ) == [
        "--store=inline",
        "--workers=2",
        "--faithfulness",
        "--tags=a",
        "--tags=b\\,c",
    ]
    assert flags({"map": {"a=b": "car", "lorry": 3}}) == ["--map=a\\=b=car", "--map=lorry=3"]
    assert names("crane, bird", "--class") == ["--class=crane\\, bird"] and names(None, "--class") == []
    assert names(["1-2", 4], "--layers") == ["--layers=1-2", "--layers=4"]
    with pytest.raises(TypeError, match="`field` is a object"):
        flags({"field": object()})


def test_the_documented_call_works(tiny_model, tiny_dataset, tmp_path, monkeypatch):
    """The first snippet of the page, with names of this test's in place of its own."""
    dataset = tiny_dataset(2)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "reference" / "python.md").read_text(), re.DOTALL)[1]
    for name, other in {
        '"quickstart"': json.dumps(dataset.name),
        'foz.load_zoo_model("resnet50-imagenet-torch")': json.dumps(str(tiny_model)),
        '"tabby"': '"light"',
        '"bus.jpg"': json.dumps(dataset.first().filepath),
    }.items():
        assert name in snippet, name
        snippet = snippet.replace(name, other)
    seen: dict = {}
    exec(snippet, seen)  # noqa: S102
    assert seen["result"].num_annotated == 2 and seen["values"].ndim == 2 and seen["explanation"].error is None


def test_an_empty_list_is_not_all(tiny_model, tiny_dataset, tmp_path):
    """`classes=[...]` that a filter has left empty means no class, and no flag at all would mean each sample's own, or every sample."""
    dataset = tiny_dataset(1, what=lambda n: fo.Classification(label="light"))
    call = {"classes": "light", "label_field": "what", "out": tmp_path / "out", "dry_run": True}
    for name, flag in {"classes": "class", "layers": "layers", "method": "method", "tags": "tags", "slices": "slices"}.items():
        with pytest.raises(ValueError, match=f"the list for `--{flag}` is empty"):
            api.compute_heatmaps(dataset, tiny_model, **{**call, name: []})
    with pytest.raises(ValueError, match="the list for `--class` is empty"):
        api.explain(dataset.first().filepath, tiny_model, classes=[])
    with pytest.raises(ValueError, match="the list for `--fields` is empty"):
        api.report(dataset, fields=[])
    assert flags({"map": {}, "tags": None}) == names(None, "--class") == []


def test_a_dry_run_says_what_would_be_done(tiny_model, tiny_dataset, tmp_path):
    dataset = tiny_dataset(3)
    call = {"classes": "light", "label_field": "ground_truth", "out": tmp_path / "out", "progress": False}
    foreseen = api.compute_heatmaps(dataset, tiny_model, **call, dry_run=True)
    assert (foreseen.num_read, foreseen.num_annotated, foreseen.num_heatmaps, foreseen.num_skipped) == (3, 0, 0, 0)
    assert str(foreseen).startswith(
        "dry run, nothing was changed; 3 samples read: 3 would be annotated (3 heatmaps), 0 skipped, 0 would fail"
    )
    assert api.compute_heatmaps(dataset, tiny_model, **call).num_annotated == 3
    again = api.compute_heatmaps(dataset, tiny_model, **call, dry_run=True)
    assert again.skipped == {"up to date": 3} and "0 would be annotated" in str(again)


def test_what_is_no_image_or_dataset_is_called_so(tiny_model, tiny_dataset, tmp_path):
    dataset = tiny_dataset(2)
    path = Path(dataset.first().filepath)
    for wrong in (dataset.name, list(dataset)):
        with pytest.raises(TypeError, match="`samples` is a (str|list), and has to be a dataset or a view"):
            api.compute_heatmaps(wrong, tiny_model, "light")
        with pytest.raises(TypeError, match="has to be a dataset or a view"):
            api.report(wrong)
    for wrong, said in (
        (path.parent, "is a folder\nhint: "),
        (f"{path.parent}/*.png", "hint: a pattern is for `glob.glob`"),
        ("", "the path of an image is empty"),
    ):
        with pytest.raises(api.CamflowError) as error:
            api.explain(wrong, tiny_model)
        assert said in str(error.value)
    # Pillow would show fractions as black, and levels above 255 as white.
    gray = np.asarray(Image.open(path).convert("L"))
    for wrong, said in (
        (gray / np.float32(255), "an array of float32 [30, 40]"),
        (gray.astype(np.int32) * 100, "an array of int32 [30, 40]"),
        (np.zeros((3, 40, 40), np.uint8), "an array of uint8 [3, 40, 40]"),
        (dataset.view(), "a DatasetView"),
        (iter([path]), "a list_iterator"),
        (None, "a NoneType"),
    ):
        with pytest.raises(TypeError) as error:
            api.explain(wrong, tiny_model)
        assert f"and not {said}; several are a list" in str(error.value)
    assert api.explain([], tiny_model) == []
    call = {"target": "pixel=9,9", "classes": "light"}
    of_gray = api.explain(gray, tiny_model, **call).heatmaps[0].values
    assert np.array_equal(api.explain(gray[..., None], tiny_model, **call).heatmaps[0].values, of_gray)
    # Deep ones are what a file of theirs is.
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    of_file = api.explain(tmp_path / "deep.png", tiny_model, **call).heatmaps[0].values
    assert np.array_equal(api.explain(deep, tiny_model, **call).heatmaps[0].values, of_file)


def test_a_report_is_of_what_a_view_holds(tiny_model, tiny_dataset, tmp_path, capsys):
    box = fo.Detection(label="light", bounding_box=[0, 0, 1, 1])
    dataset = tiny_dataset(4, tags=lambda n: ["day"], boxes=lambda n: fo.Detections(detections=[box.copy()] if n < 2 else []))
    api.compute_heatmaps(dataset, tiny_model, "light", "ground_truth", layers=1, out=tmp_path / "out", progress=False)
    patches = dataset.to_patches("boxes")
    assert api.report(patches).numbers["num_samples"] == 2, "of the samples that the patches are cut from"
    patches._patches_dataset.delete()
    capsys.readouterr()
    assert api.report(dataset, tags=["day", "dya"]).numbers["num_samples"] == 4
    assert "note: no sample of dataset" in (said := capsys.readouterr().out) and "has the tag `dya`" in said


def test_what_is_no_heatmap_is_not_loaded(tiny_model, tiny_dataset, tmp_path):
    dataset = tiny_dataset(1)
    api.compute_heatmaps(dataset, tiny_model, "light", "ground_truth", layers=1, out=tmp_path / "out", progress=False)
    sample = dataset.first()
    for wrong, what in ((sample, "SampleView|Sample"), (sample.ground_truth, "Segmentation"), ([], "list")):
        with pytest.raises(api.CamflowError, match=f"a ({what}) is no heatmap\nhint: "):
            api.load(wrong)
    path = Path(sample.light_grad_layer_1.npy_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(api.CamflowError) as error:
        api.load(sample.light_grad_layer_1)
    assert f"`{path}` of the heatmap cannot be read" in str(error.value) and "`camflow check`" in str(error.value)


def test_what_the_exporter_says_is_in_the_error(tiny_dataset, tmp_path, monkeypatch):
    dataset = tiny_dataset(1)
    monkeypatch.setenv("CAMFLOW_CACHE", str(tmp_path))
    (tmp_path / "nets.py").write_text("def build():\n    raise ValueError('no weights here')\n")
    with pytest.raises(api.CamflowError) as error:
        api.compute_heatmaps(dataset, f"{tmp_path}/nets.py:build", "light", "ground_truth", out=tmp_path / "out")
    assert "raised ValueError: no weights here" in str(error.value)
