"""Runs as FiftyOne knows them, how the App is told of new fields, and how a run is taken away again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import fiftyone as fo
import numpy as np
import pymongo
import pytest
from bson import Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from fiftyone import ViewField as F
from fiftyone.core.plots.plotly import get_colormap

LIGHT, MIDDLE = "light_grad_layer_1", "middle_grad_layer_1"


@pytest.fixture
def db(database):
    with pymongo.MongoClient(database) as client:
        yield client[fo.config.database_name]


@pytest.fixture
def job(camflow, tiny_model, tmp_path):
    """Runs camflow on a dataset, with an output folder of its own."""

    class Job:
        out = tmp_path / "maps"

        def annotate(self, dataset, *flags, code=0, classes="light"):
            done = camflow(
                *(
                    "annotate",
                    "--dataset",
                    dataset.name,
                    "--class",
                    classes,
                    "--model",
                    tiny_model,
                    "--target",
                    "labels",
                ),
                *("--out", self.out, "--device", "cpu", "--format", "json", *flags),
                code=code,
            )
            dataset.reload()
            return done

        def remove(self, dataset, *flags, code=0):
            done = camflow("remove", "--dataset", dataset.name, *flags, code=code)
            dataset.reload()
            return done

        def files(self):
            return {path for path in self.out.rglob("*") if path.is_file() and ".camflow" not in path.parts}

    return Job()


def document(db, dataset):
    return db.datasets.find_one({"name": dataset.name})


def samples(dataset):
    return [{k: v for k, v in s.to_mongo_dict().items() if k != "last_modified_at"} for s in dataset]


def test_a_job_is_a_custom_run_of_fiftyones(tiny_dataset, job, camflow, db, database):
    dataset = tiny_dataset(4)
    job.annotate(dataset, "--dry-run", "--name", "people-2")
    assert not dataset.has_runs
    job.annotate(dataset, "--name", "people-2", "--limit", "3", "--database-uri", database)
    assert dataset.list_runs() == dataset.list_runs(method="camflow") == ["camflow_people_2"]
    key = "camflow_people_2"
    assert key.isidentifier() and dataset.list_runs(model="another") == []
    info = dataset.get_run_info(key)
    config = info.config
    assert (config.job, config.fields, config.layers, config.methods, config.classes) == (
        *("people-2", [LIGHT], ["0"], ["gradcam"], ["light"]),
    )
    assert (config.exit, config.exit_code, config.output_folders) == ("done", 0, [str(job.out)])
    assert (config.counts["num_committed"], config.settings["limit"]) == (3, "3")
    assert config.settings["database-uri"] == "(hidden)" and database not in str(config.serialize())
    assert len(config.model_digest) == 32 and config.started <= config.ended and config.camflow_version
    assert dataset.list_runs(model=config.model) == [key]
    assert len(dataset.load_run_view(key)) == 4 and dataset.load_run_results(key) is None

    # A night on which nothing is to be done leaves no trace; one on which something is, brings the record up to date.
    job.annotate(dataset, "--name", "people-2", "--limit", "3")
    assert dataset.get_run_info(key).timestamp == info.timestamp
    dataset.rename_run(key, "mine")
    job.annotate(dataset, "--name", "people-2", classes="light,middle")
    assert dataset.list_runs() == ["mine"] and db.runs.count_documents({"_dataset_id": document(db, dataset)["_id"]}) == 1
    again = dataset.get_run_info("mine")
    assert again.timestamp > info.timestamp and again.config.fields == [LIGHT, MIDDLE]
    assert again.config.first_started == config.first_started < again.config.started

    # A job without a name is known by its fields.
    job.annotate(dataset, "--overwrite")
    job.annotate(dataset, "--overwrite", classes="light,middle")
    unnamed = ["camflow_light_grad_layer_1", "camflow_light_grad_layer_1_and_1_more"]
    assert dataset.list_runs(method="camflow") == [*unnamed, "mine"]
    listed = camflow("runs", "--dataset", dataset.name, "--format", "json").events
    assert [run["key"] for run in listed] == [*unnamed, "mine"]
    assert listed[-1]["config"]["counts"]["num_committed"] == 4
    text = camflow("runs", "--dataset", dataset.name).stdout
    assert "mine  20" in text and f"fields `{LIGHT}`, `{MIDDLE}`" in text

    dataset.delete_run("mine")
    assert dataset.list_runs() == unnamed and dataset.has_sample_field(LIGHT)
    dataset.delete_runs()
    assert "has no runs" in camflow("runs", "--dataset", dataset.name).stdout


def test_a_record_that_was_cut_off_is_completed(tiny_dataset, job, db):
    dataset = tiny_dataset(2)
    # Somebody else's run has the key.
    dataset.register_run("camflow_night", dataset.init_run(method="other"))
    job.annotate(dataset, "--name", "night")
    assert dataset.list_runs(method="camflow") == ["camflow_night_2"]
    # Killed after the document, before the key.
    record = document(db, dataset)["runs"]["camflow_night_2"]
    db.datasets.update_one({"name": dataset.name}, {"$unset": {"runs.camflow_night_2": ""}})
    job.annotate(dataset, "--name", "night")
    assert document(db, dataset)["runs"]["camflow_night_2"] == record
    # A run that was aborted has done something, too.
    Path(dataset.first().filepath).write_bytes(b"no picture")
    job.annotate(dataset, "--name", "night", "--overwrite", "--max-failures", "0%", code=3)
    aborted = dataset.get_run_info("camflow_night_2").config
    assert (aborted.exit, aborted.exit_code, aborted.counts["num_failed"]) == ("aborted", 3, 1)
    # Killed before the document.
    dataset.delete_run("camflow_night_2")
    job.annotate(dataset, "--name", "night", code=1)
    assert dataset.get_run_info("camflow_night_2").config.counts["num_committed"] == 0
    assert dataset.get_run_info("camflow_night").config.method == "other"


def test_a_run_is_removed_without_a_trace(tiny_dataset, job, db):
    dataset = tiny_dataset(3)
    dataset.add_sample_field("box", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    before, fields, app = samples(dataset), document(db, dataset)["sample_fields"], document(db, dataset)["app_config"]
    job.annotate(dataset, classes="light,middle")
    files = job.files()
    assert len(files) == 12
    # A person has looked at one.
    sample = dataset.first()
    sample[LIGHT].tags.append("seen")
    sample.save()

    [key] = dataset.list_runs()
    dry = job.remove(dataset, key).stdout
    assert f"would remove field `{LIGHT}`: 3 heatmaps" in dry and "would remove 12 files" in dry and "--apply" in dry
    assert job.files() == files and dataset.list_runs() == [key]
    said = job.remove(dataset, key, "--apply").stdout
    kibibytes = sum(Path(file).stat().st_size for file in files) / 1024
    assert f"12 files, {kibibytes:.1f} KiB, stay in `{job.out}` until their grace period of 1d is over" in said
    assert job.files() == files
    # Until then a run finds them; without a grace period they go at once.
    job.annotate(dataset, classes="light,middle")
    assert job.files() == files
    assert "removed 12 files" in job.remove(dataset, key, "--apply", "--grace", "0").stdout
    after = document(db, dataset)
    assert samples(dataset) == before and after["sample_fields"] == fields and after["app_config"] == app
    assert not dataset.has_runs and not job.files()
    assert db.runs.count_documents({"_dataset_id": after["_id"]}) == 0
    refused = job.remove(dataset, key, "--apply", code=2).stderr
    assert f"no run `{key}`" in refused and "hint: " in refused


def test_what_others_have_or_use_stays(tiny_dataset, clone, job):
    dataset = tiny_dataset(3)
    job.annotate(dataset, "--name", "light")
    job.annotate(dataset, "--name", "both", classes="light,middle")
    twin = clone(dataset)
    mine = dataset.first()
    theirs = {Path(path) for s in twin for f in (LIGHT, MIDDLE) if s[f] for path in (s[f].map_path, s[f].npy_path)}
    mine[MIDDLE] = fo.Heatmap(map=np.zeros((4, 4), np.float32))
    mine.save()
    said = job.remove(dataset, "camflow_both", "--apply", "--grace", "0").stdout
    assert f"field `{LIGHT}` stays: run `camflow_light` writes it too" in said
    assert f"removed 2 heatmaps from field `{MIDDLE}`, which stays: 1 samples" in said
    assert "files stay: other labels refer to them" in said
    assert dataset.list_runs() == ["camflow_light"] and len(dataset.exists(LIGHT)) == 3
    assert dataset.exists(MIDDLE).values("id") == [mine.id] and dataset.first()[MIDDLE].map.shape == (4, 4)
    assert theirs <= job.files()

    # Fields may be named instead of runs.
    assert "no heatmap field `lihgt" in job.remove(dataset, "--fields", "lihgt_grad_layer_1", code=2).stderr
    job.remove(dataset, "--fields", LIGHT, "--apply", "--grace", "0")
    assert not dataset.has_sample_field(LIGHT) and not dataset.has_runs
    fo.delete_dataset(twin.name)
    assert theirs <= job.files()


def test_a_run_that_writes_the_fields_holds_them(tiny_dataset, job, db):
    dataset = tiny_dataset(1)
    job.annotate(dataset, "--name", "light")
    lease = {"lease": ObjectId(), "fields": [LIGHT], "expires_at": DatetimeMS(int(time.time() * 1000) + 60_000)}
    lease |= {"host": "elsewhere", "machine": "another", "process": Int64(7), "started": Int64(0)}
    db["camflow.locks"].insert_one({"_id": document(db, dataset)["_id"], "leases": [lease]})
    job.remove(dataset, "camflow_light")
    assert "another camflow run" in job.remove(dataset, "camflow_light", "--apply", code=4).stderr
    assert len(dataset.exists(LIGHT)) == 1


def test_a_removal_that_was_killed_is_finished_by_the_next(tiny_dataset, job, binary, db):
    dataset = tiny_dataset(1)
    job.annotate(dataset, "--name", "light")
    collection = db[dataset._sample_collection_name]
    one = collection.find_one()
    ids = [ObjectId() for _ in range(12_000)]
    collection.insert_many([{**one, "_id": id} for id in ids])
    folder = job.out / LIGHT
    for id in ids[:4000]:
        (bucket := folder / str(id)[-2:]).mkdir(exist_ok=True)
        (bucket / f"{id}.00000000.npy").touch()

    def killed(reached):
        """Runs it until something is reached, and kills it there."""
        command = [binary, "remove", "--dataset", dataset.name, "camflow_light", "--apply", "--grace", "0"]
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, env=os.environ)
        while not reached():
            assert process.poll() is None, "it was over before"
        process.send_signal(signal.SIGKILL)
        process.wait()
        # FiftyOne reads the dataset, its runs, and every sample.
        dataset.reload()
        assert dataset.list_runs() == ["camflow_light"] and dataset.has_sample_field(LIGHT)
        assert len(dataset.values(f"{LIGHT}.fingerprint")) == len(ids) + 1

    first = collection.find_one(sort=[("_id", 1)])["_id"]
    killed(lambda: LIGHT not in collection.find_one({"_id": first}))
    left = len(dataset.exists(LIGHT))
    assert 0 < left <= len(ids), left
    buckets = sorted(folder.iterdir())
    killed(lambda: not buckets[0].exists())
    assert len(dataset.exists(LIGHT)) == 0 and 0 < len(job.files()) < 4000
    job.remove(dataset, "camflow_light", "--apply", "--grace", "0")
    assert not dataset.has_runs and not dataset.has_sample_field(LIGHT) and not job.files()
    assert db["camflow.locks"].count_documents({"_id": document(db, dataset)["_id"]}) == 0


def test_the_app_is_told_of_new_fields_alone(tiny_dataset, job, db):
    dataset = tiny_dataset(2)
    dataset.add_sample_field("boxes", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    job.annotate(dataset, classes="middle,light")
    scheme = dataset.app_config.color_scheme
    assert isinstance(scheme, fo.ColorScheme) and scheme.color_by == "value" and scheme.color_pool is None
    scheme.validate()
    # The colours that FiftyOne would look up.
    scale = scheme.default_colorscale
    assert scale["name"] == "jet" and np.abs(np.array(scale["rgb"]) - get_colormap("jet")).max() <= 1
    # Of classes that as many pictures have, the first one's last layer is ticked; the other labels stay as they were.
    assert dataset.app_config.active_fields.paths == [MIDDLE, "boxes"]
    assert [entry["path"] for entry in scheme.fields] == [MIDDLE, LIGHT] and not scheme.colorscales
    assert [(group.name, group.paths) for group in dataset.app_config.sidebar_groups] == [("heatmaps", [MIDDLE, LIGHT])]
    assert len({entry["fieldColor"] for entry in scheme.fields}) == 2

    # What somebody has taken back is not set again, what somebody has changed is not touched.
    dataset.app_config.color_scheme = None
    dataset.app_config.active_fields = None
    dataset.app_config.sidebar_groups = None
    dataset.save()
    job.annotate(dataset, "--overwrite", classes="middle,light")
    assert dataset.app_config.color_scheme is None and dataset.app_config.active_fields is None
    assert dataset.app_config.sidebar_groups in (None, [])
    own = fo.ColorScheme(color_by="value", fields=[{"path": "boxes", "fieldColor": "#ffffff"}])
    dataset.app_config.color_scheme = own
    dataset.app_config.active_fields = fo.DatasetAppConfig.default_active_fields(dataset)
    dataset.app_config.sidebar_groups = fo.DatasetAppConfig.default_sidebar_groups(dataset)
    dataset.save()
    stored = document(db, dataset)["app_config"]
    job.annotate(dataset, "--field", "{class}_new")
    assert document(db, dataset)["app_config"] == stored
    job.remove(dataset, "--fields", f"light_new,{LIGHT},{MIDDLE}", "--out", job.out, "--apply")
    left = document(db, dataset)["app_config"]
    for group in stored["sidebar_groups"]:
        group["paths"] = [path for path in group["paths"] if path not in (LIGHT, MIDDLE)]
    assert left == stored

    untouched = tiny_dataset(1)
    job.annotate(untouched, "--no-app-config")
    assert untouched.app_config.color_scheme is None and untouched.app_config.active_fields is None
    assert untouched.app_config.sidebar_groups in (None, [])
    # Fields that come later join a scheme that is still camflow's.
    job.annotate(untouched, "--field", "{class}_a")
    job.annotate(untouched, "--field", "{class}_b")
    # Two maps over each other hide each other.
    assert untouched.app_config.active_fields.paths == ["light_b"]
    assert [entry["path"] for entry in untouched.app_config.color_scheme.fields] == ["light_a", "light_b"]
    job.remove(untouched, "--fields", "light_a", "--out", job.out, "--apply")
    assert [entry["path"] for entry in untouched.app_config.color_scheme.fields] == ["light_b"]
    assert untouched.app_config.active_fields.paths == ["light_b"]
    [group] = untouched.app_config.sidebar_groups
    assert (group.name, group.paths) == ("heatmaps", ["light_b"])
    assert len(untouched.match(F("light_b").exists())) == 1


def test_a_class_that_the_first_pictures_lack_is_not_ticked(tiny_dataset, job):
    dataset = tiny_dataset(2)
    for sample in dataset.iter_samples(autosave=True):
        sample.ground_truth.mask = np.where(sample.ground_truth.mask == 1, 0, sample.ground_truth.mask)
    job.annotate(dataset, classes="middle,light")
    assert not dataset.exists(MIDDLE) and len(dataset.exists(LIGHT)) == 2
    assert dataset.app_config.active_fields.paths == [LIGHT]
    assert [group.paths for group in dataset.app_config.sidebar_groups] == [[MIDDLE, LIGHT]]


def test_the_app_is_told_of_fields_after_python_deleted_the_earlier_ones(tiny_dataset, job, db):
    dataset = tiny_dataset(1)
    dataset.add_sample_field("boxes", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    job.annotate(dataset, "--field", "{class}_a")
    dataset.add_sample_field("later", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    dataset.delete_sample_field("light_a")
    # FiftyOne keeps the group and leaves its empty list out.
    [group] = document(db, dataset)["app_config"]["sidebar_groups"]
    assert group["name"] == "heatmaps" and "paths" not in group
    job.annotate(dataset, "--field", "{class}_b")
    assert [(group.name, group.paths) for group in dataset.app_config.sidebar_groups] == [("heatmaps", ["light_b"])]
    assert dataset.app_config.active_fields.paths == ["light_b", "boxes"]
    dataset.delete_sample_fields(["light_b", "boxes", "later"])
    assert document(db, dataset)["app_config"]["active_fields"] == {}
    job.annotate(dataset, "--field", "{class}_c")
    assert [(group.name, group.paths) for group in dataset.app_config.sidebar_groups] == [("heatmaps", ["light_c"])]
    assert dataset.app_config.active_fields.paths == ["light_c"]
