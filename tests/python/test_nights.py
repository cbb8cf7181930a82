"""Night after night: what fails again is no news, limits are shares of all samples, and whoever was not there learns who failed where."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
from pathlib import Path

import pymongo
import pytest

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"


@pytest.fixture
def night(camflow, tiny_dataset, tiny_model, database, tmp_path):
    """A job over fifteen pictures, of which two are none."""
    dataset = tiny_dataset(15)

    class Night:
        path = tmp_path / "night.toml"

        def images(self):
            return sorted(Path(path) for path in dataset.values("filepath"))

        def run(self, *flags, code=0, format="json", **keys):
            lines = [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in keys.items()]
            self.path.write_text(
                f"""
                version = 1
                [[job]]
                name = "people"
                dataset = {json.dumps(dataset.name)}
                model = "{tiny_model}"
                class = "light"
                target = "labels:ground_truth"
                layers = "1"
                device = "cpu"
                out = "maps"
                report-file = "people.json"
            """
                + "\n".join(lines)
            )
            done = camflow("run", self.path, "--format", format, *flags, code=code)
            done.counts = next((e for e in done.events if e["event"] == "run_finished"), None)
            return done

        def report(self):
            return json.loads((tmp_path / "people.json").read_text())

        def known(self):
            failures = pymongo.MongoClient(database)["fiftyone"]["camflow.failures"]
            return {Path(dataset[key["_id"].split("/")[-1]].filepath).name for key in failures.find({"dataset": dataset._doc.id})}

    night = Night()
    night.name, night.dataset = dataset.name, dataset
    for path in night.images()[:2]:
        path.write_text("no image")
    yield night


def test_what_fails_every_night_is_told_once(night, camflow, tmp_path):
    strict = {"max_failures": "20%", "accept_known_failures": True, "metrics_file": str(tmp_path / "people.prom")}
    first = night.run(code=1, **strict)
    assert (first.counts["num_committed"], first.counts["num_failed"], first.counts["num_known_failed"]) == (13, 2, 0)
    heading, said = first.stderr.splitlines()
    assert f"job `people`, dataset `{night.name}`, host `{platform.node()}`" in heading
    # Which of the two fails first is a matter of threads.
    assert said.startswith("2 of 15 samples failed; the first: sample `") and re.search(r"00[01]\.png`", said)
    assert night.known() == {"000.png", "001.png"}

    # All others are up to date, so that two of two that are due fail.
    second = night.run(**strict)
    assert (second.counts["num_failed"], second.counts["num_known_failed"], second.stderr) == (2, 2, "")
    failed = [e for e in second.events if e["event"] == "sample_failed"]
    assert [(e["known"], e["level"]) for e in failed] == [(True, "info")] * 2
    report = night.report()
    assert report["exit"] == "done" and [failure["known"] for failure in report["failures"]] == [True, True]
    work = report["last_work"]
    assert (work["exit"], work["counts"]["num_committed"], [f["known"] for f in work["failures"]]) == (
        "some_failed",
        13,
        [False] * 2,
    )
    assert "camflow_last_run_known_failed_samples{" in (tmp_path / "people.prom").read_text()
    assert night.run(**strict).returncode == 0 and night.report()["last_work"] == work
    quiet = night.run("--quiet", format="human", **strict)
    assert quiet.stdout + quiet.stderr == ""
    line = night.run(format="human", **strict).stderr
    assert (
        line.count("\n") == 1
        and "nothing to do: 15 samples read: 0 annotated, up to date: 13, failed as in an earlier run: 2" in line
    )
    # Nobody asked for that here; nor is it more than the limit.
    again = night.run(code=1, format="human", max_failures=0)
    assert again.stderr.count("failed again: sample `") == 2 and "with the same inputs: 2" in again.stderr

    # News is news: another file that is broken, and one that is broken in another way.
    night.images()[1].write_text("no image either")
    night.images()[2].unlink()
    third = night.run(code=1, **strict)
    assert (third.counts["num_failed"], third.counts["num_known_failed"]) == (3, 1)
    assert [failure["known"] for failure in night.report()["failures"]] == [False, False, True]
    # They are tried each time.
    night.images()[0].write_bytes(night.images()[3].read_bytes())
    fourth = night.run(**strict)
    assert (fourth.counts["num_committed"], fourth.counts["num_known_failed"]) == (1, 2)
    assert night.known() == {"001.png", "002.png"}
    camflow("remove", "--dataset", night.name, "camflow_people", "--apply", "--grace", "0")
    assert night.known() == set()


def test_a_limit_is_a_share_of_all_samples(night):
    # Of fifteen samples 5 % are one, every night.
    for _ in range(2):
        done = night.run(code=3, max_failures="5%", accept_known_failures=True)
        assert "2 of 15 samples failed, more than the 1 that `--max-failures 5%` allows" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("hint: ") and night.known() == set()
        assert done.counts["num_abandoned"] == 0, "all others are stored before"
    assert night.run(code=1, max_failures="10%").counts["num_failed"] == 2


def test_every_line_says_whose_it_is(night):
    done = night.run(code=1)
    whose = {(e["job"], e["dataset"], e["host"]) for e in done.events}
    assert whose == {("people", night.name, platform.node())} and len(done.events) > 15
    assert night.report()["host"] == platform.node()
    # A job that cannot start is no exception, nor one in words.
    for format in ("human", "json"):
        refused = night.run("--set", "class=nothing", code=2, format=format)
        heading, *_, error, _ = refused.stderr.splitlines()
        assert heading.endswith(f"job `people`, dataset `{night.name}`, host `{platform.node()}`") and error.startswith("error: ")


def test_a_night_ends_with_a_page_beside_the_last_one(night, tmp_path):
    keys = {"html_file": "{name}.html", "numbers_file": "{name}-numbers.json", "baseline": "{name}-numbers.json"}
    first = night.run(code=1, **keys)
    assert "this run writes it" in first.stdout
    numbers = json.loads((tmp_path / "people-numbers.json").read_text())
    page = (tmp_path / "people.html").read_text()
    assert numbers["num_samples"] == 13 and "<html" in page and "<h2>Since" not in page
    night.run(code=1, **keys)
    assert f"<h2>Since {numbers['created']}</h2>" in (tmp_path / "people.html").read_text()

    # A job's own numbers that are damaged stop it, and the way out is said.
    (tmp_path / "people-numbers.json").write_text("cut")
    refused = night.run(code=2, **keys)
    assert "is not an earlier report: it is not JSON" in refused.stderr and "\nhint: delete it, and this job" in refused.stderr
    (tmp_path / "people-numbers.json").unlink()
    night.run(code=1, **keys)

    refused = night.run(code=2, html_file="a.html", baseline="missing.json")
    assert "cannot read the earlier report" in refused.stderr and "run_started" not in refused.stdout
    (tmp_path / "file").write_text("")
    refused = night.run(code=2, html_file=str(tmp_path / "file" / "a.html"))
    assert "another `--html-file`" in refused.stderr and "run_started" not in refused.stdout
    for alone in ({"baseline": "a.json"}, {"numbers_file": "a.json"}, {"accept_known_failures": True}):
        refused = night.run(code=2, **alone)
        assert "night.toml:3: job `people`: `" in refused.stderr and "beside it" in refused.stderr
    shard = night.run("--set", "shard=1/2", "--dry-run", **keys)
    assert "no shard writes the page" in shard.stdout
    # The day in a name keeps each night's.
    night.run("--set", f"report-file={tmp_path}/nights/{{name}}-{{date}}.json", code=1)
    (dated,) = (tmp_path / "nights").iterdir()
    assert re.fullmatch(r"people-\d{4}-\d\d-\d\d\.json", dated.name)


def test_a_first_run_that_skips_everything_says_why(night):
    for sample in night.dataset:
        sample.ground_truth = None
        sample.save()
    said = night.run(format="human").stderr
    assert "15 samples read: 0 annotated" in said and "skipped, no label: 15" in said and "fields `light_grad_layer_1`" in said
    done = night.run("--set", "class=light,never", "--set", "tags=nosuchtag", format="human", code=2)
    assert "nosuchtag" in done.stderr


def test_commands_in_hints_can_be_copied(night, camflow, tiny_model, tmp_path):
    night.dataset.name = "it's ünï 犬"
    flags = (
        "--model",
        tiny_model,
        "--class",
        "light",
        "--target",
        "labels:ground_truth",
        "--layers",
        "1",
        "--out",
        tmp_path / "maps",
    )
    said = camflow("report", "--dataset", night.dataset.name, code=2).stderr
    (command,) = re.findall(r"make them with `(.*)`", said)
    assert shlex.split(command) == ["camflow", "annotate", "--dataset", night.dataset.name]
    said = camflow("annotate", "--dataset", night.dataset.name, *flags, code=1).stderr
    (command,) = re.findall(r"look at them with `(.*)`; a Python", said)
    assert shlex.split(command) == ["fiftyone", "app", "launch", night.dataset.name]


def test_an_error_ends_with_its_hint(night, camflow, tmp_path):
    nobody = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300"
    said = night.run("--set", f"database-uri={nobody}", code=3).stderr
    assert re.search(
        r"\nerror: no MongoDB server answers at .*\ncaused by: Connection refused \(os error 111\)\nhint: .*\n$", said
    )
    night.path.write_text("version = 1\n[[job]]\nname = 'a'\nlimit = 'x'\n[[job]]\nname = 'b'\n")
    said = camflow("run", night.path, code=2).stderr
    assert "error: there are 3 mistakes in the job file `" in said and said.count(str(night.path)) == 4
    missing = tmp_path / "my jobs.toml"
    said = camflow("run", missing, code=2).stderr.splitlines()
    assert (
        said[0].startswith("error: cannot read the job file")
        and said[1].startswith("caused by: ")
        and said[2].startswith("hint: ")
    )
    assert shlex.split(re.search(r"`(camflow run .*)`", said[2]).group(1))[-1] == str(missing)


def test_systemd_tells_of_a_night_that_failed(tmp_path):
    service = (PIPELINES / "camflow.service").read_text()
    assert re.search(r"^SuccessExitStatus=4$", service, re.MULTILINE), "1 means that samples failed"
    assert re.search(r"^OnFailure=camflow-failed@%n\.service$", service, re.MULTILINE)
    mail = (PIPELINES / "camflow-failed@.service").read_text()
    command = shlex.split(re.search(r"^ExecStart=(.*)$", mail, re.MULTILINE).group(1))
    # What systemd puts in, and programs that show what they are given.
    command = [word.replace("%i", "camflow.service").replace("%H", "gpu1").replace("$$", "$") for word in command]
    for name, body in {"systemctl": 'echo "systemctl $*"', "mail": 'echo "mail $*"; cat'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/bin:/usr/bin", "MAIL_TO": "me"}
    )
    assert done.stdout.splitlines() == [
        "mail -s camflow.service failed on gpu1 me",
        "systemctl --user status --full --lines=100 camflow.service",
    ]
