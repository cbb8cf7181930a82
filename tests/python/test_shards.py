"""`--shard`: parts of one job, run at the same time by processes that know nothing of each other, and what comes of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import fiftyone as fo
import pymongo
import pytest
from fiftyone import ViewField as F

SHARDS = ("1/3", "2/3", "3/3")
FIELDS = ["light_grad_layer_1", "middle_grad_layer_1"]


@pytest.fixture
def db(database):
    with pymongo.MongoClient(database) as client:
        yield client[fo.config.database_name]


@pytest.fixture
def job(binary, camflow, tiny_model, tmp_path):
    """Runs camflow for two classes, on everything or on three shards at once."""

    class Job:
        out = tmp_path / "maps"

        def arguments(self, dataset, *flags):
            return [
                *("annotate", "--dataset", dataset.name, "--class", "light,middle", "--model", str(tiny_model)),
                *("--target", "labels", "--out", str(self.out), "--device", "cpu", "--format", "json"),
                # Sums of a convolution may differ in the last bit between a sample alone and the same in a batch.
                *("--batch-size", "1", *map(str, flags)),
            ]

        def whole(self, dataset, *flags, code=0):
            return camflow(*self.arguments(dataset, *flags), code=code).events

        def shards(self, dataset, *flags):
            """What each of them said; they begin at the same moment."""
            started = [
                subprocess.Popen(
                    [str(binary), *self.arguments(dataset, "--shard", shard, *flags)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for shard in SHARDS
            ]
            ends = [process.communicate(timeout=600) for process in started]
            assert [process.returncode for process in started] == [0, 0, 0], ends
            return [[json.loads(line) for line in out.splitlines()] for out, _ in ends]

        def files(self):
            """Names and contents, without which dataset it is of."""
            paths = (path for path in self.out.rglob("*") if path.is_file() and ".camflow" not in path.parts)
            return {str(path.relative_to(self.out)): path.read_bytes() for path in paths}

    return Job()


def finished(events) -> dict:
    [end] = [event for event in events if event["event"] == "run_finished"]
    return end


def planned(events) -> list[int]:
    return [int(Path(event["media_path"]).stem) for event in events if event["event"] == "sample_stale"]


def without(value, *keys):
    """The same without these keys, at any depth."""
    if isinstance(value, dict):
        return {key: without(item, *keys) for key, item in value.items() if key not in keys}
    return [without(item, *keys) for item in value] if isinstance(value, list) else value


def state(db, dataset) -> dict:
    """All that camflow has put into the database, but for moments and ids of its own."""
    stored = db.datasets.find_one({"name": dataset.name})
    samples = db[stored["sample_collection_name"]].find().sort("_id", 1)
    [run] = db.runs.find({"_dataset_id": stored["_id"]})
    return {
        "samples": [{"id": s["_id"], **{field: without(s.get(field), "_id") for field in FIELDS}} for s in samples],
        "schema": without(stored["sample_fields"], "created_at"),
        "app": without(stored["app_config"], "_id"),
        "run": without(run["config"], "started", "ended", "first_started", "shards"),
        "keys": list(stored["runs"]),
    }


def test_three_shards_at_once_are_one_run_bit_for_bit(tiny_dataset, job, camflow, db):
    # Some pictures have nothing of the second class.
    dataset = tiny_dataset(40)
    for sample in dataset.match(F("n") % 5 == 0):
        sample.ground_truth.mask[sample.ground_truth.mask == 1] = 0
        sample.save()
    whole = finished(job.whole(dataset))
    assert whole["num_committed"] == 40
    files, expected = job.files(), state(db, dataset)
    assert len(files) == 2 * whole["num_heatmaps"]
    dataset.reload()
    camflow("remove", "--dataset", dataset.name, *dataset.list_runs(), "--apply", "--grace", "0")
    assert not job.files()

    ends = [finished(events) for events in job.shards(dataset)]
    sizes = [end["num_read"] for end in ends]
    assert sum(sizes) == 40 and max(sizes) < 40, sizes
    for count in ("num_committed", "num_heatmaps", "num_failed"):
        assert sum(end[count] for end in ends) == whole[count]
    assert job.files() == files
    assert state(db, dataset) == expected
    [run] = db.runs.find({"_dataset_id": db.datasets.find_one({"name": dataset.name})["_id"]})
    assert run["config"]["shards"]["count"] == 3 and sorted(run["config"]["shards"]["done"]) == [1, 2, 3]
    dataset.reload()
    [key] = dataset.list_runs(method="camflow")
    assert dataset.get_run_info(key).config.counts["num_committed"] == 40
    assert db["camflow.locks"].count_documents({"_id": dataset._doc.id}) == 0

    # Which part of the work a process does is no setting that a heatmap depends on.
    again = finished(job.whole(dataset))
    assert (again["num_committed"], again["skipped"]) == (0, {"up to date": 40})
    # Samples that are added move nobody, and samples that are deleted neither.
    plan = ("--overwrite", "--explain-plan")
    before = [set(planned(events)) for events in job.shards(dataset, *plan)]
    gone = set(range(3, 40, 7))
    dataset.delete_samples(dataset.match(F("n").is_in(list(gone))).values("id"))
    more = [fo.Sample(s.filepath, ground_truth=s.ground_truth, n=s.n + 40) for s in dataset.limit(9)]
    dataset.add_samples(more, progress=False)
    again = [finished(events) for events in job.shards(dataset)]
    assert sum(end["num_committed"] for end in again) == 9
    assert sum(end["skipped"].get("up to date", 0) for end in again) == 40 - len(gone)
    dataset.reload()
    assert len(dataset.exists(FIELDS[0])) == 49 - len(gone)
    after = [job.whole(dataset, "--shard", shard, "--match", '{"n": {"$lt": 40}}', *plan) for shard in SHARDS]
    assert [set(planned(events)) for events in after] == [part - gone for part in before]


def test_a_limit_holds_for_all_shards_together(tiny_dataset, job, tmp_path):
    dataset = tiny_dataset(30, tags=lambda n: ["even"] if n % 2 == 0 else ["odd"])
    dataset.save_view("last first", dataset.match(F("n") > 2).sort_by("n", reverse=True))
    ids = dict(zip(*dataset.values(["n", "id"]), strict=True))
    (tmp_path / "ids").write_text("\n".join(ids[n] for n in range(20, 4, -1)))
    for flags in (
        ("--view", "last first", "--limit", 12),
        ("--ids", tmp_path / "ids", "--tags", "even"),
        ("--shuffle", "--seed", 3, "--limit", 11, "--match", '{"n": {"$gt": 5}}'),
    ):
        whole = planned(job.whole(dataset, *flags, "--explain-plan"))
        parts = [planned(events) for events in job.shards(dataset, *flags, "--explain-plan")]
        assert len(whole) >= 8 and sorted(n for part in parts for n in part) == sorted(whole)
        assert all(part == [n for n in whole if n in part] for part in parts)


def test_shards_say_what_is_wrong_with_them(tiny_dataset, job, camflow, tmp_path):
    dataset = tiny_dataset(4)
    for wrong, words in (
        ("0/3", "the shards are 1/3 to 3/3"),
        ("3", "`I/N`"),
        ("1/99999", "there are 1 to 10000 shards"),
    ):
        assert words in camflow(*job.arguments(dataset, "--shard", wrong), code=2).stderr
    # A shard in a job file, with a report of its own.
    text = f"""
version = 1
[[job]]
name = "night"
dataset = "{dataset.name}"
class = "light"
model = "{job.arguments(dataset)[6]}"
device = "cpu"
out = "maps"
shard = "1/2"
report-file = "{{name}}-{{shard}}.json"
"""
    (tmp_path / "job.toml").write_text(text)
    reports = []
    for shard in ("1/2", "2/2"):
        camflow("run", tmp_path / "job.toml", "--set", f"shard={shard}", "--set", f"report-file={tmp_path}/{{shard}}.json")
        reports.append(json.loads((tmp_path / f"{shard.replace('/', '-of-')}.json").read_text()))
    assert [report["config"]["shard"] for report in reports] == ["1/2", "2/2"]
    counts = [report["counts"] for report in reports]
    assert sum(count["num_read"] for count in counts if count) == 4
    assert "`shard` cannot be `2/1`" in camflow("run", tmp_path / "job.toml", "--set", "shard=2/1", code=2).stderr
