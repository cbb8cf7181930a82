"""Nothing is lost that anything refers to, and nothing of somebody else's is touched: what takes no fault to try.

What takes one (a killed process, a sleeping holder, a disk that is gone) is tried by scripts/faults.sh.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import fiftyone as fo
import numpy as np
import pymongo
import pytest
from tcp_proxy import UPDATE, Gate

FIELD = "light_grad_layer_1"
# Everything that nothing refers to, at once.
NOW = ("--apply", "--force", "--grace", "0")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "maps"


@pytest.fixture
def command(binary, database, tiny_model, out):
    """The arguments of a subcommand for a dataset."""

    def make(subcommand, dataset, *flags, uri=database):
        arguments = [subcommand, "--dataset", dataset.name, "--out", out, "--database-uri", uri]
        if subcommand == "annotate":
            arguments += ["--model", tiny_model, "--layers", "1", "--class", "light", "--target", "labels:ground_truth"]
            arguments += ["--device", "cpu", "--format", "json"]
        return [*map(str, arguments), *map(str, flags)]

    return make


@pytest.fixture
def run(camflow, command):
    """Runs a subcommand on a dataset to its end."""

    def start(subcommand, dataset, *flags, code=0):
        done = camflow(*command(subcommand, dataset, *flags), code=code)
        dataset.reload()
        return done

    return start


def files(dataset, field=FIELD):
    """Those that the labels of a field name."""
    labels = [label for label in dataset.values(field) if label is not None]
    return {Path(path) for label in labels for path in (label.map_path, label.npy_path)}


def summary(done):
    return next(event for event in done.events if event["event"] == "run_finished")


def test_frames_that_name_a_file_keep_it(tiny_dataset, run, tmp_path):
    dataset = tiny_dataset(2)
    run("annotate", dataset)
    before = files(dataset)
    videos = fo.Dataset(f"{dataset.name}-videos", persistent=True)
    try:
        # No video needs to be there for its frames' labels to be.
        video = fo.Sample(str(tmp_path / "never read.mp4"))
        paths = sorted(map(str, before))
        video.frames[1] = fo.Frame(seen=fo.Heatmap(map_path=paths[0]), notes={"deep": [{"at": paths[1]}]})
        videos.add_sample(video)
        run("annotate", dataset, "--replace", "--eigen-smooth", "--grace", 0)
        run("clean", dataset, *NOW)
        assert {path for path in before if path.exists()} == set(map(Path, paths[:2]))
        run("remove", dataset, "--fields", FIELD, "--apply", "--grace", 0)
        assert all(Path(path).exists() for path in paths[:2])
    finally:
        fo.delete_dataset(videos.name)
    assert not files_below(Path(paths[0]).parents[2]) - set(map(Path, paths[:2]))


def files_below(folder):
    return {path for path in folder.rglob("*") if path.is_file() and ".camflow" not in path.parts}


def test_what_is_wanted_back_within_its_grace_period_stays(tiny_dataset, run):
    dataset = tiny_dataset(3)
    run("annotate", dataset)
    before = files(dataset)
    run("annotate", dataset, "--replace", "--eigen-smooth")
    replaced = files(dataset)
    assert replaced.isdisjoint(before) and all(path.exists() for path in before | replaced)
    # They were noted as replaced, and are referred to again.
    run("annotate", dataset, "--replace")
    assert files(dataset) == before
    run("clean", dataset, *NOW)
    assert all(path.exists() for path in before) and not any(path.exists() for path in replaced)
    assert summary(run("annotate", dataset, "--grace", 0))["num_skipped"] == 3


def test_files_of_removed_fields_have_a_grace_period(tiny_dataset, run, out):
    dataset = tiny_dataset(3)
    run("annotate", dataset)
    before = files(dataset)
    run("remove", dataset, "--fields", FIELD, "--apply")
    assert not dataset.has_sample_field(FIELD) and files_below(out) == before
    # Nobody has to make them again by hand: the next run writes the same names, and nothing takes them away under it.
    run("annotate", dataset, "--grace", 0)
    assert files(dataset) == before == files_below(out)
    run("remove", dataset, "--fields", FIELD, "--apply", "--grace", 0)
    assert not files_below(out)


@pytest.mark.parametrize("place", ["", "leases", "orphans"])
def test_what_a_killed_run_left_in_camflows_own_folder_is_in_nobodys_way(tiny_dataset, run, out, place):
    dataset = tiny_dataset(1)
    run("annotate", dataset)
    folder = out / ".camflow" / place
    folder.mkdir(exist_ok=True)
    # Never finished; somebody's own; left by a file manager.
    left = [".camflow-x7Qa1Z.tmp", "notes.txt", ".DS_Store"]
    for name in left:
        (folder / name).write_bytes(b"")
    before = files(dataset)
    run("clean", dataset, *NOW)
    run("annotate", dataset, "--overwrite", "--grace", 0)
    assert files(dataset) == before == files_below(out)
    assert all((folder / name).exists() for name in left[1:])
    run("remove", dataset, "--fields", FIELD, "--apply", "--grace", 0)
    assert not files_below(out)


def test_a_label_that_somebody_changed_meanwhile_is_left_as_it_is(tiny_dataset, run, command, binary, database, out):
    dataset = tiny_dataset(3)
    run("annotate", dataset)
    port = int(database.rpartition(":")[2])
    with Gate(port, *UPDATE) as gate:
        uri = f"mongodb://127.0.0.1:{gate.port}"
        arguments = [binary, *command("annotate", dataset, "--replace", "--eigen-smooth", "--grace", 0, uri=uri)]
        process = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert gate.reached.wait(60)
        # The update is on its way; another program's labels come first.
        sample = dataset.first()
        theirs = fo.Heatmap(map=np.ones((2, 2), np.float32))
        with pymongo.MongoClient(database) as client:
            collection = client[fo.config.database_name][dataset._sample_collection_name]
            collection.update_one({"_id": sample._id}, {"$set": {FIELD: theirs.to_mongo().to_dict()}})
        gate.open()
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 1, f"{said}\n{errors}"
    dataset.reload()
    assert '"num_committed":2' in said.replace(" ", "") and '"num_failed":1' in said.replace(" ", ""), said
    assert dataset[sample.id][FIELD].map.shape == (2, 2)
    assert sample.id in said + errors
    # The next run looks at it again.
    assert summary(run("annotate", dataset, "--replace", "--eigen-smooth"))["num_committed"] == 1
    assert all(path.exists() for path in files(dataset)) and len(files(dataset)) == 6
