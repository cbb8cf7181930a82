"""The second night: what is new or changed is computed, camflow can say why, and what is left over can be removed."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

FIELD = "person_grad_layer_4"


@pytest.fixture
def job(quickstart, clone, camflow, standin_model, tmp_path):
    """Six samples with a person in a dataset of their own, and what runs the job on them."""
    source = fo.load_dataset(quickstart)
    people = source.select([s.id for s in source if (s.ground_truth.mask == 15).any()][:6])
    images = tmp_path / "images"
    images.mkdir()
    dataset = clone(people)
    for number, sample in enumerate(dataset):
        path = images / f"{number}.png"
        Image.open(sample.filepath).convert("RGB").save(path)
        sample.filepath = str(path)
        sample.save()

    class Job:
        name, out = dataset.name, tmp_path / "maps"

        def run(self, *flags, code=0, dataset=dataset.name, layers="4"):
            done = camflow(
                *("annotate", "--dataset", dataset, "--class", "person", "--layers", layers, "--model", standin_model),
                *("--target", "labels:ground_truth", "--out", self.out, "--device", "cpu", "--format", "json", *flags),
                code=code,
            )
            return done.events

        def clean(self, *flags, code=0, dataset=dataset.name):
            return camflow("clean", "--dataset", dataset, "--out", self.out, *flags, code=code)

        def samples(self):
            dataset.reload()
            return list(dataset.sort_by("filepath"))

        def files(self):
            return {path for path in self.out.rglob("*") if path.is_file() and ".camflow" not in path.parts}

    return Job()


def last(events):
    return next(event for event in events if event["event"] in ("run_finished", "dry_run_finished"))


def reasons(events):
    return {event["media_path"][-5:]: event["reasons"] for event in events if event["event"] == "sample_stale"}


def test_each_change_is_found_and_named(job):
    survey = last(job.run("--dry-run"))
    assert (survey["num_read"], survey["stale"], survey["num_heatmaps"]) == (6, {"new": 6}, 6)
    assert not job.files()
    assert last(job.run())["num_committed"] == 6
    assert last(job.run("--explain-plan"))["skipped"] == {"up to date": 6}

    edited, replaced, lost, unlabelled, emptied, foreign = job.samples()
    mask = edited.ground_truth.mask.copy()
    mask[mask == 15] = 0
    mask[: mask.shape[0] // 2] = 15
    edited.ground_truth.mask = mask
    edited.save()
    image = Image.open(replaced.filepath)
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(replaced.filepath)
    Path(lost[FIELD].npy_path).unlink()
    unlabelled.ground_truth = None
    unlabelled.save()
    emptied.ground_truth.mask = np.zeros_like(emptied.ground_truth.mask)
    emptied.save()
    foreign[FIELD] = fo.Heatmap(map=np.zeros((4, 4), dtype=np.float32))
    foreign.save()

    events = job.run("--explain-plan", "--replace")
    assert reasons(events) == {
        "0.png": ["label changed"],
        "1.png": ["image changed"],
        "2.png": ["file missing"],
        "3.png": ["label changed"],
        "4.png": ["label changed"],
        "5.png": ["made by other means"],
    }
    assert (last(events)["num_heatmaps"], last(events)["num_withdrawn"]) == (4, 2)
    old = {sample.id: sample[FIELD].fingerprint for sample in (edited, replaced)}

    done = last(job.run("--replace"))
    assert (done["num_committed"], done["num_heatmaps"], done["num_withdrawn"]) == (6, 4, 2)
    after = job.samples()
    assert [sample[FIELD] is None for sample in after] == [False, False, False, True, True, False]
    # Of the four parts of a fingerprint - model, settings, image, label - the one that changed is another.
    for sample, part in ((after[0], 3), (after[1], 2)):
        pairs = zip(old[sample.id].split("-"), sample[FIELD].fingerprint.split("-"), strict=True)
        assert [index for index, (was, now) in enumerate(pairs) if was != now] == [part]
    named = {Path(path) for s in after if s[FIELD] for path in (s[FIELD].map_path, s[FIELD].npy_path)}
    # Of two samples the files were replaced, of two they were taken away; of the lost one they have the same names.
    assert len(job.files() - named) == 8 and job.files() > named
    assert last(job.run())["skipped"] == {"no label": 1, "class not in label": 1, "up to date": 4}
    assert last(job.run("--size", "layer", "--dry-run", "--replace"))["stale"] == {"settings changed": 4}
    # They go once their grace period is over, in a run that has nothing else to do.
    job.run("--grace", "1h")
    assert len(job.files() - named) == 8
    assert "removed 8 files" in str(job.run("--grace", "0"))
    assert job.files() == named


def test_what_is_left_over_is_listed_and_removed(job, clone):
    job.run()
    first, second, third, *_ = job.samples()
    dataset = fo.load_dataset(job.name)
    of_deleted = {Path(first[FIELD].map_path), Path(first[FIELD].npy_path)}
    dataset.delete_samples([first.id])
    unfinished = Path(second[FIELD].npy_path).with_name(".camflow-killed.tmp")
    unfinished.write_bytes(b"half")
    foreign = unfinished.with_name("notes.txt")
    foreign.write_text("mine")
    Path(third[FIELD].map_path).unlink()
    # Another dataset that refers to the same files: theirs stay, also those that the next run replaces here.
    twin = clone(dataset)
    job.run("--overwrite", "--npy", "f16")
    assert all(Path(sample[FIELD].npy_path).exists() for sample in twin)
    before = job.files()

    listed = job.clean("--grace", "0").stdout
    assert all(f"would remove {path}\n" in listed for path in (*of_deleted, unfinished))
    assert "2 of deleted samples, 1 never finished" in listed and "--apply" in listed
    assert job.files() == before, "without --apply nothing is removed"

    said = job.clean("--apply").stdout
    assert "removed 0 files" in said and "stay until their grace period of 1d is over" in said
    assert job.files() == before, "nobody's young files are taken"
    job.clean("--apply", "--grace", "0")
    assert before - job.files() == {*of_deleted, unfinished}
    assert foreign.exists()
    assert "would remove 0 files" in job.clean("--grace", "0").stdout

    fo.delete_dataset(twin.name)
    # One of five is more than a tenth.
    Path(job.samples()[0][FIELD].map_path).unlink()
    assert "1 of 5 heatmap labels of dataset" in job.clean("--apply", "--grace", "0", code=2).stderr
    listed = job.clean("--apply", "--grace", "0", "--force").stdout
    assert "removed `person_grad_layer_4` of sample" in listed
    assert sum(sample[FIELD] is None for sample in job.samples()) == 1
    named = {Path(path) for s in job.samples() if s[FIELD] for path in (s[FIELD].map_path, s[FIELD].npy_path)}
    # The other file of the label that lost its picture goes with the next call: now nothing refers to it.
    assert len(job.files() - named - {foreign}) == 1
    job.clean("--apply", "--grace", "0", "--force")
    assert job.files() == {*named, foreign}
    dataset.clear_sample_field(FIELD)
    assert f"empty fields `{FIELD}`" in job.clean("--apply", "--grace", "0", "--force").stdout
    dataset.reload()
    assert not dataset.has_sample_field(FIELD)
    assert job.files() == {foreign}


def test_clean_touches_no_folder_that_is_not_its_own(job, clone, tmp_path):
    job.run()
    other = clone(fo.load_dataset(job.name))
    before = job.files()
    assert "does not say that it holds heatmaps" in job.clean("--apply", code=2, dataset=other.name).stderr
    (job.out / ".camflow" / "0123456789abcdef01234567").touch()
    refused = job.clean("--apply", code=2).stderr
    assert "0123456789abcdef01234567" in refused and "hint: " in refused
    assert job.files() == before
