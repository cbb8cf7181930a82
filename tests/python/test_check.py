"""`camflow check` and what the next run does about what it found: every damaged file by name, and no other."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import fiftyone as fo
import pymongo
import pytest
from bson import DatetimeMS, Int64, ObjectId

FIELD = "light_grad_layer_1"
KINDS = {"map_path": "map_checksum", "npy_path": "npy_checksum"}


@pytest.fixture
def annotate(camflow, tiny_model, tmp_path):
    """Runs the job on a dataset; the events of the run."""

    def run(dataset, *flags, code=0):
        done = camflow(
            *("annotate", "--dataset", dataset.name, "--class", "light", "--model", tiny_model, "--target", "labels"),
            # In a batch with others the last bit may be another.
            *("--out", tmp_path / "maps", "--device", "cpu", "--batch-size", "1", "--format", "json", *flags),
            code=code,
        )
        dataset.reload()
        return done.events

    return run


@pytest.fixture
def check(camflow):
    """Checks a dataset: the damaged files as (sample, field, file name), and the last line."""

    def run(dataset, *flags, code=0):
        done = camflow("check", "--dataset", dataset.name, "--format", "json", *flags, code=code)
        assert all(event["dataset"] == dataset.name for event in done.events if event["event"] == "file_damaged")
        found = [event for event in done.events if event["event"] == "file_damaged"]
        named = {(event["sample"], event["field"], Path(event["file"]).name) for event in found if event["file"]}
        assert len(named) == sum(bool(event["file"]) for event in found)
        counts = next((event for event in done.events if event["event"] == "check_finished"), {})
        return named, counts

    return run


@pytest.fixture
def samples(database):
    """The collection of a dataset's samples."""

    def of(dataset):
        return pymongo.MongoClient(database)[fo.config.database_name][dataset._sample_collection_name]

    return of


def files(dataset) -> list[tuple[str, str, Path]]:
    """Sample, kind and path of every heatmap file."""
    return [(s.id, kind, Path(s[FIELD][kind])) for s in dataset.exists(FIELD) for kind in KINDS]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << (position % 8)
    path.write_bytes(bytes(content))


def committed(events) -> set[str]:
    return {event["sample"] for event in events if event["event"] == "sample_committed"}


def reasons(events) -> dict[str, list[str]]:
    return {event["sample"]: event["reasons"] for event in events if event["event"] == "sample_stale"}


def test_single_flipped_bytes_are_found_and_made_again(tiny_dataset, annotate, check, samples):
    dataset = tiny_dataset(8)
    annotate(dataset)
    every = files(dataset)
    contents = {path: path.read_bytes() for _, _, path in every}
    assert check(dataset, "--read-data")[0] == set()

    # A byte in the header, in the middle and at the end of files of either kind.
    chosen = [every[0], every[3], every[6], every[9], every[12], every[13]]
    for share, (_, _, path) in zip((0, 0.01, 0.4, 0.6, 0.99, 1), chosen, strict=True):
        flip(path, round(share * (len(contents[path]) - 1)))
    assert check(dataset)[0] == set(), "the sizes are right"
    assert committed(annotate(dataset)) == set(), "and a run looks at no more"
    expected = {(sample, FIELD, path.name) for sample, _, path in chosen}
    named, counts = check(dataset, "--read-data", code=1)
    assert named == expected and (counts["num_damaged"], counts["num_files"]) == (6, 16)
    # The second time the answer is the same, and nothing is written.
    before = list(samples(dataset).find())
    assert check(dataset, "--read-data", code=1)[0] == expected
    assert check(dataset, code=1)[0] == expected, "now the labels say so"
    assert list(samples(dataset).find()) == before

    damaged = {sample for sample, _, _ in chosen}
    assert reasons(annotate(dataset, "--explain-plan")) == {sample: ["file damaged"] for sample in damaged}
    assert committed(annotate(dataset)) == damaged
    assert {path: path.read_bytes() for _, _, path in files(dataset)} == contents
    assert check(dataset, "--read-data")[1]["num_unrecorded"] == 0


def test_other_sizes_are_noticed_by_every_run(tiny_dataset, annotate, check):
    dataset = tiny_dataset(8)
    annotate(dataset)
    every = files(dataset)
    contents = {path: path.read_bytes() for _, _, path in every}
    emptied, cut, grown, gone, folder = (every[index] for index in (1, 2, 5, 8, 11))
    emptied[2].write_bytes(b"")
    os.truncate(cut[2], 50)
    with grown[2].open("ab") as file:
        file.write(b"\0")
    gone[2].unlink()
    folder[2].unlink()
    folder[2].mkdir()
    chosen = [emptied, cut, grown, gone, folder]
    for flags in ((), ("--read-data",)):
        assert check(dataset, *flags, code=1)[0] == {(sample, FIELD, path.name) for sample, _, path in chosen}
    expected = {sample: ["file damaged"] for sample, _, _ in chosen} | {gone[0]: ["file missing"]}
    assert reasons(annotate(dataset, "--explain-plan")) == expected
    folder[2].rmdir()
    assert committed(annotate(dataset)) == set(expected)
    assert {path: path.read_bytes() for _, _, path in files(dataset)} == contents
    assert check(dataset)[0] == set()


def test_a_file_that_came_back_whole_is_believed(tiny_dataset, annotate, check):
    dataset = tiny_dataset(3)
    annotate(dataset)
    _, _, path = files(dataset)[2]
    whole = path.read_bytes()
    flip(path, 20)
    check(dataset, "--read-data", code=1)
    path.write_bytes(whole)
    assert check(dataset, "--read-data")[1]["num_restored"] == 1
    assert check(dataset, "--read-data")[1]["num_restored"] == 0
    assert committed(annotate(dataset)) == set()


def test_labels_of_earlier_versions_have_no_checksums(tiny_dataset, annotate, check, samples):
    dataset = tiny_dataset(6)
    annotate(dataset)
    keys = [f"{FIELD}.{key}" for key in KINDS.values()]
    samples(dataset).update_many({}, {"$unset": dict.fromkeys(keys, "")})
    # FiftyOne reads such labels all the same.
    dataset.reload()
    assert [dataset.values(key) for key in keys] == [[None] * 6] * 2
    for sample in dataset:
        assert "fingerprint" in str(sample) and sample[FIELD].copy().npy_path == sample[FIELD].npy_path
    assert dataset.clone().count(FIELD) == 6

    assert check(dataset)[1]["num_unrecorded"] == 12
    assert check(dataset, "--read-data")[1]["num_unrecorded"] == 12
    assert committed(annotate(dataset)) == set(), "they are up to date"
    every = files(dataset)
    cut_map, cut_npy, empty, flipped_map = every[0], every[3], every[5], every[8]
    os.truncate(cut_map[2], cut_map[2].stat().st_size - 1)
    os.truncate(cut_npy[2], 200)
    empty[2].write_bytes(b"")
    flip(flipped_map[2], 60)
    by_form = {(sample, FIELD, path.name) for sample, _, path in (cut_map, cut_npy, empty)}
    assert check(dataset, code=1)[0] == by_form
    by_reading = by_form | {(flipped_map[0], FIELD, flipped_map[2].name)}
    assert check(dataset, "--read-data", code=1)[0] == by_reading
    damaged = {sample for sample, _, _ in by_reading}
    assert committed(annotate(dataset)) == damaged
    assert check(dataset, "--read-data")[1]["num_unrecorded"] == 12 - 2 * len(damaged)


def test_a_folder_that_is_not_there_is_no_damage(tiny_dataset, annotate, check, samples, camflow, tmp_path):
    dataset = tiny_dataset(3)
    annotate(dataset)
    before = list(samples(dataset).find())
    maps, away = tmp_path / "maps", tmp_path / "away"
    maps.rename(away)
    for make in (
        lambda: None,
        maps.mkdir,
        lambda: (maps.rmdir(), maps.symlink_to(maps)),
        lambda: (maps.unlink(), maps.write_text("")),
    ):
        make()
        for flags in ((), ("--read-data",)):
            named, counts = check(dataset, *flags, code=3)
            assert named == set() and (counts["num_damaged"], counts["num_unseen"]) == (0, 6)
        assert "hint: mount the folder" in camflow("check", "--dataset", dataset.name, code=3).stdout
    maps.unlink()
    away.rename(maps)
    assert list(samples(dataset).find()) == before
    # In the folder itself what is not there is gone.
    shutil.rmtree(maps / FIELD)
    assert check(dataset, code=1)[1]["num_damaged"] == 6


def test_maps_in_documents_are_inflated(tiny_dataset, annotate, check, samples):
    dataset = tiny_dataset(4)
    annotate(dataset, "--store", "inline", "--npy", "none")
    assert check(dataset)[1]["num_inline"] == 4
    assert check(dataset, "--read-data")[1]["num_inline"] == 4
    collection = samples(dataset)
    first, second = collection.find().limit(2)
    damaged = bytearray(first[FIELD]["map"])
    damaged[len(damaged) // 2] ^= 1
    collection.update_one({"_id": first["_id"]}, {"$set": {f"{FIELD}.map": bytes(damaged)}})
    collection.update_one({"_id": second["_id"]}, {"$unset": {f"{FIELD}.map": ""}})
    assert check(dataset, code=1)[1]["num_damaged"] == 1, "a map that is nowhere"
    assert check(dataset, "--read-data", code=1)[1]["num_damaged"] == 2
    assert committed(annotate(dataset, "--store", "inline", "--npy", "none")) == {str(first["_id"]), str(second["_id"])}
    check(dataset, "--read-data")


def test_what_another_run_is_writing_is_left_alone(tiny_dataset, annotate, check, samples, database):
    dataset = tiny_dataset(2)
    annotate(dataset)
    _, _, path = files(dataset)[0]
    flip(path, 30)
    locks = pymongo.MongoClient(database)[fo.config.database_name]["camflow.locks"]
    before = list(samples(dataset).find())
    lease = {"lease": ObjectId(), "fields": [FIELD], "expires_at": DatetimeMS(int(time.time() * 1000) + 60_000)}
    lease |= {"host": "elsewhere", "machine": "another", "process": Int64(7), "started": Int64(0)}
    locks.insert_one({"_id": dataset._doc.id, "leases": [lease]})
    named, counts = check(dataset, "--read-data", code=4)
    assert named == set() and counts["num_unsettled"] == 1 and list(samples(dataset).find()) == before
    locks.delete_one({"_id": dataset._doc.id})
    assert len(check(dataset, "--read-data", code=1)[0]) == 1


def test_mistakes_say_what_to_do(tiny_dataset, annotate, camflow):
    dataset = tiny_dataset(1)
    said = camflow("check", "--dataset", dataset.name, code=2).stderr
    assert "has no heatmaps" in said and "hint: make them with" in said
    annotate(dataset)
    assert f"`{FIELD}`" in camflow("check", "--dataset", dataset.name, "--fields", "light_grad_layer_2", code=2).stderr
    said = camflow("check", "--dataset", dataset.name, "--fields", FIELD).stdout
    assert "1 heatmap with 2 files" in said and "0 damaged" in said
