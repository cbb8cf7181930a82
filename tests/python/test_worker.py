"""`camflow worker`: one process, many shards, one line for each on standard input and standard output."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import fiftyone as fo
import pymongo
import pytest
from bson import Int64, ObjectId

FIELD = "light_grad_layer_1"


class Worker:
    """A running worker; `log` is a file with what it says on standard error."""

    def __init__(self, command: list[str], log: Path):
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)

    def hear(self) -> dict:
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)

    def say(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def do(self, shard: str) -> dict:
        self.say(json.dumps({"shard": shard}))
        return self.hear()

    def end(self) -> int:
        """Closes its input; its exit code, once there is nothing more to be read."""
        rest, _ = self.process.communicate(timeout=120)
        assert rest == ""
        return self.process.returncode


@pytest.fixture
def start(binary, tmp_path):
    """Starts workers, which end with the test."""
    started = []

    def run(*arguments) -> Worker:
        command = [str(binary), "worker", *map(str, arguments)]
        started.append(Worker(command, tmp_path / f"worker-{len(started)}.log"))
        return started[-1]

    yield run
    for worker in started:
        worker.process.kill()
        worker.process.wait()
        worker.process.stdin.close()
        worker.process.stdout.close()


@pytest.fixture
def flags(tiny_model, tmp_path):
    def of(dataset, *more):
        return [
            *("annotate", "--dataset", dataset.name, "--class", "light", "--model", str(tiny_model)),
            *("--out", str(tmp_path / "maps"), "--device", "cpu", *map(str, more)),
        ]

    return of


def test_a_worker_does_shard_after_shard(tiny_dataset, start, camflow, flags, tiny_model, tmp_path):
    dataset = tiny_dataset(30)
    model = tmp_path / "model.pt2"
    shutil.copy(tiny_model, model)
    worker = start(*flags(dataset, "--model", model, "--name", "light"))
    ready = worker.hear()
    assert (ready["event"], ready["protocol"], ready["dataset"], ready["job"]) == ("ready", 1, dataset.name, "light")
    assert (ready["devices"], ready["fields"], ready["out"]) == (["cpu"], [FIELD], str(tmp_path / "maps"))
    assert ready["process"] == worker.process.pid and ready["host"] and len(ready["model"]["digest"]) == 32
    assert Path(ready["media"]).parent == Path(dataset.first().filepath).parent
    # It is loaded once.
    model.unlink()

    answers = [worker.do(f"{index}/3") for index in (2, 3, 1)]
    assert [answer["shard"] for answer in answers] == ["2/3", "3/3", "1/3"]
    for answer in answers:
        assert (answer["event"], answer["exit"], answer["exit_code"]) == ("shard_finished", "done", 0)
        assert answer["error"] is None and answer["failures"] == [] and answer["counts"]["num_committed"] > 0
        assert answer["stages"]["device"]["busy_s"] > 0
    assert sum(answer["counts"]["num_committed"] for answer in answers) == 30
    again = worker.do("2/3")
    assert again["counts"]["skipped"] == {"up to date": answers[0]["counts"]["num_committed"]}

    # A line that is not a request costs nothing but its answer.
    for line in ("", "3/3", '{"shard": "4/3"}', '{"shard": "1/3", "limit": 2}', "\u00ff{"):
        worker.say(line)
        refused = worker.hear()
        assert (refused["event"], refused["shard"], refused["exit_code"]) == ("shard_finished", None, 2)
        assert refused["error"] and refused["counts"] is None
    # It looks at the dataset anew for each shard.
    dataset.reload()
    dataset.add_samples([fo.Sample(s.filepath, ground_truth=s.ground_truth) for s in dataset.limit(5)], progress=False)
    assert worker.do("1/1")["counts"]["num_committed"] == 5
    assert worker.end() == 0
    dataset.reload()
    assert len(dataset.exists(FIELD)) == 35
    [key] = dataset.list_runs(method="camflow")
    assert key == "camflow_light"
    # What it did is what `annotate` would have done.
    shutil.copy(tiny_model, model)
    camflow(*flags(dataset, "--model", model, "--name", "light", "--overwrite"))
    assert "35 samples read: 0 annotated" in camflow(*flags(dataset, "--model", model)).stderr


def test_what_goes_wrong_is_answered_and_the_worker_goes_on(tiny_dataset, start, flags, database):
    dataset = tiny_dataset(10)
    bad = dataset.skip(4).first()
    Path(bad.filepath).write_bytes(b"no picture")
    worker = start(*flags(dataset, "--format", "json"))
    assert worker.hear()["event"] == "ready"
    answer = worker.do("1/1")
    assert (answer["exit"], answer["exit_code"], answer["counts"]["num_committed"]) == ("some_failed", 1, 9)
    [failure] = answer["failures"]
    assert (failure["sample"], failure["stage"]) == (bad.id, "decode") and failure["error"]

    with pymongo.MongoClient(database) as client:
        db = client[fo.config.database_name]
        lease = {
            "lease": ObjectId(),
            "fields": [FIELD],
            "index": Int64(1),
            "count": Int64(2),
            "host": "elsewhere",
            "machine": "",
            "process": Int64(7),
            "started": Int64(0),
            "expires_at": datetime.now(timezone.utc) + timedelta(hours=1),
        }
        db["camflow.locks"].insert_one({"_id": dataset._doc.id, "dataset": dataset.name, "leases": [lease]})
        locked = worker.do("1/2")
        assert (locked["exit"], locked["exit_code"], locked["counts"]) == ("locked", 4, None)
        assert "in shard 1/2: process 7 on `elsewhere`" in locked["error"]
        assert worker.do("2/2")["exit_code"] in (0, 1)
        db["camflow.locks"].delete_one({"_id": dataset._doc.id})
        assert worker.do("1/2")["exit_code"] in (0, 1)

    fo.delete_dataset(dataset.name)
    gone = worker.do("1/2")
    assert (gone["exit"], gone["exit_code"]) == ("aborted", 3) and f"no dataset `{dataset.name}`" in gone["error"]
    assert worker.end() == 0
    # Everything but answers is on standard error.
    events = [json.loads(line)["event"] for line in worker.log.read_text().splitlines() if line.startswith("{")]
    assert events[0] == "job_started" and events[-1] == "job_finished" and events.count("run_finished") == 3


def test_a_worker_that_is_told_to_stop_answers_what_is_in_flight(tiny_dataset, start, flags, tmp_path):
    dataset = tiny_dataset(300)
    slow = ("--method", "scorecam,ablationcam", "--aug-smooth", "--size", "image", "--batch-size", 1, "--workers", 1)
    worker = start(*flags(dataset, *slow, "--format", "json"))
    assert worker.hear()["event"] == "ready"
    worker.say('{"shard": "1/1"}\n{"shard": "1/2"}')
    while not any((tmp_path / "maps").rglob("*.npy")):
        assert worker.process.poll() is None
        time.sleep(0.01)
    worker.process.send_signal(signal.SIGTERM)
    answer = worker.hear()
    assert (answer["shard"], answer["exit"], answer["exit_code"]) == ("1/1", "interrupted", 130)
    counts = answer["counts"]
    assert 0 < counts["num_read"] == counts["num_committed"] < 300
    assert worker.end() == 130
    # One that has nothing to do stops at once.
    idle = start(*flags(dataset))
    assert idle.hear()["event"] == "ready"
    idle.process.send_signal(signal.SIGTERM)
    assert idle.process.wait(timeout=60) == 130


def test_a_machine_that_lacks_something_says_so_at_once(tiny_dataset, start, flags, tmp_path):
    dataset = tiny_dataset(3)
    (tmp_path / "file").touch()
    images = Path(dataset.first().filepath).parent

    def refused(*arguments, exit: str = "cannot_start", code: int = 2) -> str:
        worker = start(*arguments)
        told = worker.hear()
        assert (told["event"], told["exit"], told["exit_code"]) == ("not_ready", exit, code)
        assert worker.end() == code and told["error"].splitlines()[0] in worker.log.read_text()
        return told["error"]

    assert "cannot make the folder" in refused(*flags(dataset, "--out", tmp_path / "file" / "maps"))
    assert "there is no model file" in refused(*flags(dataset, "--model", tmp_path / "none.pt2"))
    nowhere = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200"
    assert "no MongoDB server answers" in refused(*flags(dataset, "--database-uri", nowhere), exit="aborted", code=3)
    assert "standard input" in refused(*flags(dataset, "--shard", "1/2"))
    assert "`--dry-run`" in refused(*flags(dataset, "--dry-run"))
    images.rename(tmp_path / "moved")
    error = refused(*flags(dataset))
    assert "can be read here" in error and str(images) in error and "hint: " in error
    # One image that is missing is no fault of the machine.
    (tmp_path / "moved").rename(images)
    Path(dataset.first().filepath).unlink()
    worker = start(*flags(dataset))
    assert worker.hear()["media"] == dataset.skip(1).first().filepath
    assert worker.do("1/1")["counts"]["num_failed"] == 1
    assert worker.end() == 0


def test_a_job_of_a_file_has_workers_too(tiny_dataset, start, tiny_model, tmp_path):
    dataset = tiny_dataset(8)
    (tmp_path / "jobs.toml").write_text(f"""
version = 1
[defaults]
dataset = "{dataset.name}"
model = "{tiny_model}"
device = "cpu"
out = "maps"
report-file = "{{name}}-{{shard}}.json"
[[job]]
name = "light"
class = "light"
[[job]]
name = "middle"
class = "light"
""")
    several = start("run", tmp_path / "jobs.toml")
    told = several.hear()
    assert told["event"] == "not_ready" and "`light`, `middle`" in told["error"] and "--only" in told["error"]
    assert several.end() == 2
    worker = start("run", tmp_path / "jobs.toml", "--only", "middle", "--set", "class=middle")
    ready = worker.hear()
    assert (ready["job"], ready["fields"]) == ("middle", ["middle_grad_layer_1"])
    answers = [worker.do(f"{index}/2") for index in (1, 2)]
    reports = [json.loads((tmp_path / f"middle-{index}-of-2.json").read_text()) for index in (1, 2)]
    assert [report["counts"] for report in reports] == [answer["counts"] for answer in answers]
    assert [report["config"]["shard"] for report in reports] == ["1/2", "2/2"]
    assert worker.end() == 0
    assert os.listdir(tmp_path / "maps") and len(reports[0]["camflow"]) > 0
