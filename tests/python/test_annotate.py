"""`camflow annotate` on a real FiftyOne dataset in a real MongoDB: what FiftyOne then finds, and what it finds untouched."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fiftyone as fo
import reference
from camflow import load
from fiftyone import ViewField as F

FIELDS = [f"person_grad_layer_{layer}" for layer in range(1, 5)]
PERSON = 15


@pytest.fixture
def dataset(quickstart, clone):
    """The stand-in dataset, to be changed."""
    return clone(fo.load_dataset(quickstart))


@pytest.fixture
def annotate(camflow, small_standin_model, tmp_path):
    def run(dataset, *flags, target="labels:resnet50_seg", model=small_standin_model, code=0, **more):
        return camflow(
            *("annotate", "--dataset", dataset.name, "--class", "person", "--layers", "1-4", "--model", model),
            *("--target", target, "--out", tmp_path / "maps", "--device", "cpu", "--format", "json", *flags),
            code=code,
            **more,
        )

    return run


def summary(done) -> dict:
    return next(event for event in done.events if event["event"] == "run_finished")


def with_person(dataset, field="resnet50_seg"):
    return {s.id for s in dataset if (s[field].get_mask() == PERSON).any()}


def test_fiftyone_finds_what_it_expects(dataset, annotate, tmp_path):
    before = {s.id: s.to_mongo_dict() for s in dataset}
    schema_before = dataset.get_field_schema()
    wanted = with_person(dataset)
    assert 0 < len(wanted) < len(dataset), "the dataset has samples of both kinds"
    done = annotate(dataset)
    counts = summary(done)
    assert counts["num_read"] == len(dataset) and counts["num_committed"] == len(wanted)
    assert counts["num_read"] == counts["num_committed"] + counts["num_skipped"] + counts["num_failed"]

    dataset.reload()
    # The schema is the one that FiftyOne itself would have made, plus the declared attributes.
    assert [field for field in dataset.get_field_schema() if field not in schema_before] == FIELDS
    own = fo.Dataset()
    own.add_sample(fo.Sample(filepath="/x.png", heat=fo.Heatmap(map=np.zeros((2, 2), np.float32))))
    ours = dataset.get_field_schema(flat=True)
    for path, field in own.get_field_schema(flat=True).items():
        if path.startswith("heat"):
            assert type(ours[path.replace("heat", FIELDS[3], 1)]) is type(field), path
    own.delete()
    for attribute in ("fingerprint", "npy_path", "target_class", "layer", "method", "model", "score"):
        assert f"{FIELDS[0]}.{attribute}" in ours

    for field in FIELDS:
        assert set(dataset.match(F(field).exists()).values("id")) == wanted, "on every sample with the class, on no other"
    sample = dataset[next(iter(wanted))]
    for layer, field in enumerate(FIELDS, 1):
        label = sample[field]
        assert (label.target_class, label.layer, label.method) == ("person", f"backbone.layer{layer}", "gradcam")
        exact = load(label)
        assert exact.dtype == np.float32 and exact.min() >= 0 and exact.max() <= 1
        picture = label.get_map()
        # The App draws nothing where a picture is 0.
        assert picture.dtype == np.uint8 and picture.min() >= 1
        assert np.abs(picture - np.maximum(255 * exact, 1)).max() <= 0.5 + 1e-3
        assert Path(label.map_path).is_absolute()
    for view in (dataset.sort_by(f"{FIELDS[3]}.score"), dataset.match(F(f"{FIELDS[3]}.score") > 0)):
        assert view.first()[FIELDS[3]] is not None or len(view) == len(dataset)
    dataset.validate_field_type(FIELDS[0], fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)

    # The network looks at people where people are: layer 4's energy inside them, against their share of the area.
    ratios = []
    for s in dataset.exists(FIELDS[3]):
        heatmap, truth = load(s[FIELDS[3]]), s.ground_truth.mask
        if truth.any():
            people = np.asarray(Image.fromarray((truth > 0).astype(np.uint8)).resize(heatmap.shape[::-1], Image.NEAREST))
            ratios.append((heatmap * people).sum() / heatmap.sum() / people.mean())
    print(f"layer 4: {np.mean(ratios):.2f} times the area's share, {len(ratios)} images")
    assert np.mean(ratios) > 2

    # Everything else is as it was.
    for s in dataset:
        after = {k: v for k, v in s.to_mongo_dict().items() if k not in FIELDS and k != "last_modified_at"}
        assert after == {k: v for k, v in before[s.id].items() if k != "last_modified_at"}

    # Export and import bring the heatmaps along.
    dataset.export(export_dir=str(tmp_path / "export"), dataset_type=fo.types.FiftyOneDataset, export_media=True)
    again = fo.Dataset.from_dir(str(tmp_path / "export"), dataset_type=fo.types.FiftyOneDataset)
    twin = again.match(F(f"{FIELDS[3]}.fingerprint") == sample[FIELDS[3]].fingerprint).first()
    assert np.array_equal(twin[FIELDS[3]].get_map(), sample[FIELDS[3]].get_map())
    again.delete()


def test_a_second_run_has_nothing_to_do_until_a_label_changes(dataset, annotate):
    first = summary(annotate(dataset, "--limit", 8))
    stamps = dict(zip(*dataset.values(["id", "last_modified_at"]), strict=True))
    second = summary(annotate(dataset, "--limit", 8))
    assert second["num_committed"] == 0 and second["skipped"]["up to date"] == first["num_committed"]
    dataset.reload()
    assert dict(zip(*dataset.values(["id", "last_modified_at"]), strict=True)) == stamps

    sample = dataset.match(F(FIELDS[0]).exists()).first()
    old = sample[FIELDS[0]].map_path
    tagged = sample[FIELDS[0]]
    tagged.tags.append("looked-at")
    mask = sample.resnet50_seg.mask.copy()
    mask[: mask.shape[0] // 2] = 0
    mask[-4:] = PERSON
    sample.resnet50_seg = fo.Segmentation(mask=mask)
    sample.save()
    third = summary(annotate(dataset, "--limit", 8))
    assert third["num_committed"] == 1
    sample.reload()
    # The old file stays for its grace period.
    assert sample[FIELDS[0]].map_path != old and Path(old).exists() and Path(sample[FIELDS[0]].map_path).exists()
    assert sample[FIELDS[0]].tags == ["looked-at"], "what people wrote on the label stays"


def test_from_the_file_on_it_follows_fiftyones_transforms(dataset, annotate, standin_model):
    """Heatmaps of image files against pytorch_grad_cam fed by FiftyOne's own loader and transforms."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
    import quickstart_data

    model = quickstart_data.standin_model()
    # One of each kind that images come in: JPEG, PNG, grayscale, EXIF-rotated.
    paths = dataset.values("filepath")
    chosen = [paths[index] for index in (0, 6, 10, 15)]
    view = dataset.match(F("filepath").is_in(chosen))
    (ids := Path(dataset.name + ".ids")).write_text("\n".join(view.values("id")))
    try:
        annotate(dataset, "--ids", ids, "--exact", model=standin_model)
    finally:
        ids.unlink()
    dataset.reload()
    compared = 0
    for sample in dataset.match(F(FIELDS[0]).exists()):
        pixels = model.transforms(Image.open(sample.filepath).convert("RGB"))[None]
        mask = (sample.resnet50_seg.mask == PERSON).astype(np.uint8)
        assert mask.shape == tuple(pixels.shape[2:])
        maps = reference.grad_cam(model._model.cpu(), pixels, mask[None], PERSON)
        for layer, wanted in maps.items():
            ours = load(sample[f"person_grad_{layer.replace('layer', 'layer_')}"])
            difference = np.abs(ours - wanted[0])
            print(f"{Path(sample.filepath).name} {layer}: mean {difference.mean():.1e}, max {difference.max():.1e}")
            assert difference.mean() <= 1e-3
            compared += 1
    assert compared >= 12
    assert torch.is_grad_enabled()


def test_a_concurrent_edit_of_another_field_survives(dataset, annotate, database):
    """A Python process writes a field of its own all the while."""
    code = f"""
import time, fiftyone as fo
dataset = fo.load_dataset({dataset.name!r})
dataset.add_sample_field("note", fo.StringField)
print("ready", flush=True)
end = time.time() + 6
while time.time() < end:
    for sample in dataset.iter_samples():
        sample["note"] = "seen"
        sample.save()
"""
    editor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while "ready" not in editor.stdout.readline():
        assert editor.poll() is None, "the editor stopped"
    wanted = with_person(dataset)
    annotate(dataset)
    assert editor.wait(60) == 0
    dataset.reload()
    assert set(dataset.values("note")) == {"seen"}
    for field in FIELDS:
        assert set(dataset.match(F(field).exists()).values("id")) == wanted


def test_bad_samples_cost_only_themselves(dataset, annotate, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    samples = list(dataset.select(sorted(with_person(dataset))[:8]))
    good = Path(samples[0].filepath).read_bytes()
    broken = {
        "truncated.jpg": good[: len(good) // 2],
        "empty.jpg": b"",
        "text.jpg": b"no picture at all",
    }
    expected_failures = {}
    for sample, (name, content) in zip(samples, broken.items(), strict=False):
        (folder / name).write_bytes(content)
        sample.filepath = str(folder / name)
        expected_failures[sample.id] = name
    samples[3].filepath = str(folder / "missing.png")
    expected_failures[samples[3].id] = "missing.png"
    samples[4].resnet50_seg = fo.Segmentation(mask=np.zeros((3, 3), np.complex64))
    expected_failures[samples[4].id] = ""
    samples[5].resnet50_seg = None
    # A mask of another shape and type is no fault.
    odd = np.zeros((31, 77), np.int16)
    odd[5:20, 10:60] = PERSON
    samples[6].resnet50_seg = fo.Segmentation(mask=odd)
    for sample in samples:
        sample.save()
    wanted = with_person(dataset.exclude(list(expected_failures)).exists("resnet50_seg"))
    done = annotate(dataset, code=1)
    failed = {event["sample"]: event for event in done.events if event["event"] == "sample_failed"}
    assert set(failed) == set(expected_failures)
    for sample_id, name in expected_failures.items():
        assert name in failed[sample_id]["error"], failed[sample_id]
    assert summary(done)["skipped"]["no label"] == 1
    dataset.reload()
    assert set(dataset.match(F(FIELDS[0]).exists()).values("id")) == wanted


def test_kinds_of_pictures(database, annotate, tmp_path):
    """CMYK, grayscale, 16-bit, alpha, palette, animated and EXIF-rotated pictures all get their maps."""
    rng = np.random.default_rng(0)
    pixels = np.asarray(Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((96, 64), Image.BICUBIC))
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "cmyk.jpg": lambda path: picture.convert("CMYK").save(path),
        "gray.jpg": lambda path: picture.convert("L").save(path),
        "sixteen.png": lambda path: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path),
        "alpha.png": lambda path: picture.convert("RGBA").save(path),
        "palette.png": lambda path: picture.convert("P").save(path),
        "animated.gif": lambda path: picture.save(path, save_all=True, append_images=[picture.rotate(180)]),
        "rotated.jpg": lambda path: picture.save(path, exif=exif),
        "picture.webp": lambda path: picture.save(path),
        "picture.tiff": lambda path: picture.save(path),
    }
    dataset = fo.Dataset("kinds", overwrite=True, persistent=True)
    mask = np.zeros((64, 96), np.uint8)
    mask[10:50, 20:60] = PERSON
    for name, save in kinds.items():
        save(tmp_path / name)
        dataset.add_sample(fo.Sample(filepath=str(tmp_path / name), seg=fo.Segmentation(mask=mask)))
    # The only Segmentation field is found without its name; without mask targets the model's numbers hold.
    done = annotate(dataset, target="labels")
    assert summary(done)["num_committed"] == len(kinds)
    dataset.reload()
    for sample in dataset:
        heatmap = load(sample[FIELDS[3]])
        assert heatmap.shape == (260, 390), sample.filepath
        assert heatmap.max() > 0.9, sample.filepath
    dataset.delete()


def test_masks_on_disk_predictions_and_inline_maps(dataset, annotate):
    assert summary(annotate(dataset, "--limit", 3, target="labels:ground_truth_path"))["num_committed"] == 3
    dataset.reload()
    by_file = load(dataset.first()[FIELDS[3]])
    annotate(dataset, "--limit", 3, "--replace", target="labels:ground_truth")
    dataset.reload()
    assert np.array_equal(by_file, load(dataset.first()[FIELDS[3]])), "the same mask, the same map"

    annotate(dataset, "--limit", 3, "--store", "inline", "--npy", "none", "--replace", target="predicted")
    dataset.reload()
    label = dataset.first()[FIELDS[3]]
    assert label.map_path is None and label.npy_path is None
    assert label.get_map().dtype == np.float32 and label.get_map().shape == by_file.shape
    # The model's own prediction is what `resnet50_seg` holds, so its maps are those of that label.
    annotate(dataset, "--limit", 3, "--store", "inline", "--npy", "none", "--replace")
    inline = dataset.reload() or dataset.first()[FIELDS[3]].get_map()
    assert np.abs(inline - label.get_map()).mean() < 1e-2


def test_mistakes_are_named_before_anything_runs(dataset, annotate, camflow, standin_model, database):
    def told(*flags, code=2, **more):
        return annotate(dataset, *flags, code=code, **more).stderr

    text = told("--layers", "5", "--target", "labels:ground_trut")
    assert "`5`" in text and "`ground_trut`" in text and "hint" in text, "both mistakes at once"
    assert "`person`" in told("--class", "persn")
    assert "resnet50_seg" in told(target="labels"), "several label fields: all are named"
    text = camflow("annotate", "--dataset", "standn", "--class", "person", "--model", standin_model, code=2).stderr
    assert "`standin`" in text
    missing = camflow("annotate", "--dataset", "standin", "--class", "person", "--model", "no.pt2", code=2).stderr
    assert "no.pt2" in missing
    secret = "mongodb://someone:s3cret-word@127.0.0.1:1/?serverSelectionTimeoutMS=500"
    text = told(env={"FIFTYONE_DATABASE_URI": secret}, code=3)
    assert "s3cret-word" not in text and "127.0.0.1" in text
    video = fo.Dataset("a-video", overwrite=True)
    video.media_type = "video"
    video.persistent = True
    text = camflow("annotate", "--dataset", "a-video", "--class", "person", "--model", standin_model, code=2).stderr
    assert "video" in text
    video.delete()


def test_damaged_models_are_refused_with_a_reason(camflow, standin_model, tmp_path):
    content = standin_model.read_bytes()
    (tmp_path / "cut.pt2").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.pt2").write_text("no model")
    (tmp_path / "empty.pt2").write_bytes(b"")
    foreign = content.replace(b'"major": 8', b'"major": 7').replace(b'"major":8', b'"major":7')
    (tmp_path / "foreign.pt2").write_bytes(foreign)
    unknown = content.replace(b"torch.ops.aten.relu_.default", b"torch.ops.aten.rely_.default")
    (tmp_path / "unknown.pt2").write_bytes(unknown)
    for name, word in {
        "cut.pt2": "cut off",
        "text.pt2": "not a zip archive",
        "empty.pt2": "empty",
        "foreign.pt2": "schema version",
        "unknown.pt2": "rely_",
    }.items():
        text = camflow("inspect", tmp_path / name, code=2).stderr
        assert word in text and name in text, text


def test_grouped_datasets_give_their_images(quickstart, annotate, tmp_path):
    source = fo.load_dataset(quickstart)
    picture = source.match_tags("person").first()
    grouped = fo.Dataset("grouped", overwrite=True, persistent=True)
    grouped.add_group_field("group", default="left")
    group = fo.Group()
    copy = tmp_path / "right.jpg"
    shutil.copy(picture.filepath, copy)
    grouped.add_samples(
        [
            fo.Sample(filepath=picture.filepath, group=group.element("left"), seg=picture.resnet50_seg.copy()),
            fo.Sample(filepath=str(copy), group=group.element("right"), seg=picture.resnet50_seg.copy()),
            fo.Sample(filepath=str(tmp_path / "film.mp4"), group=group.element("film")),
        ]
    )
    assert summary(annotate(grouped, target="labels"))["num_committed"] == 2
    assert summary(annotate(grouped, "--slices", "left", "--overwrite", target="labels"))["num_committed"] == 1
    grouped.delete()


def test_interrupting_commits_what_is_in_flight(dataset, binary, standin_model, tmp_path):
    import signal

    command = [binary, "annotate", "--dataset", dataset.name, "--class", "person", "--layers", "1-4", "--device", "cpu"]
    command += ["--model", standin_model, "--target", "labels:resnet50_seg", "--out", tmp_path / "maps", "--format", "json"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "sample_committed" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(60) == 130
    assert '"interrupted":true' in rest
    dataset.reload()
    time.sleep(0.1)
    done = dataset.match(F(FIELDS[0]).exists())
    assert 0 < len(done) < len(dataset)
    for sample in done:
        for field in FIELDS:
            assert sample[field].get_map().shape == load(sample[field]).shape


def test_the_second_signal_stops_what_libtorch_is_at(dataset, binary, standin_model, tmp_path):
    import signal

    # One sample takes minutes: a pass for each channel of each layer, six times.
    command = [binary, "annotate", "--dataset", dataset.name, "--class", "person", "--layers", "1-4", "--device", "cpu"]
    command += ["--method", "scorecam", "--aug-smooth", "--model", standin_model, "--target", "labels:resnet50_seg"]
    command += ["--out", tmp_path / "maps", "--format", "json"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "run_started" in line:
            break
    # By now the network is running.
    time.sleep(2)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    assert process.wait(60) == 130
