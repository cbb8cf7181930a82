"""`camflow run` and what a run leaves for those who were not there: job files, JSON lines, reports, metrics, silence."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
from datetime import datetime
from pathlib import Path

import fiftyone as fo
import growth
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_model(export):
    """Three convolutions for images of 32 x 32."""
    return export("scripts/lab/growth.py:tiny", inputs=(ROOT / "scripts" / "lab" / "growth.py",))


@pytest.fixture
def dataset(database, tmp_path, request):
    """Five images with masks: class `middle` (1) in four of them, of which one is no image."""
    rng = np.random.default_rng(0)
    dataset = fo.Dataset(request.node.name, persistent=True)
    dataset.default_mask_targets = growth.CLASSES
    for number in range(5):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        if number == 4:
            path.write_text("no image")
        mask = np.full((32, 32), int(number != 0), np.uint8)
        dataset.add_sample(fo.Sample(str(path), tags=["bad" if number == 4 else "good"], masks=fo.Segmentation(mask=mask)))
    yield dataset
    dataset.delete()


@pytest.fixture
def job_file(tmp_path, tiny_model, dataset):
    """Writes a job file whose jobs share a dataset and a model; its path."""
    folder = tmp_path / "jobs"
    folder.mkdir()

    def write(*jobs: str, defaults: str = "") -> Path:
        head = f"""
            version = 1
            [defaults]
            dataset = "{dataset.name}"
            model = "{tiny_model}"
            class = "middle"
            target = "labels:masks"
            layers = "1"
            device = "cpu"
            out = "maps"
            {defaults}
        """
        path = folder / "jobs.toml"
        path.write_text(head + "".join(f"\n[[job]]\n{job}\n" for job in jobs))
        return path

    return write


def event(done, name, job=None) -> dict:
    (found,) = [e for e in done.events if e["event"] == name and (job is None or e.get("job") == job)]
    return found


def test_the_quickstart_file_runs(camflow, quickstart, clone, standin_model, tmp_path):
    dataset = clone(fo.load_dataset(quickstart))
    flags = (f"dataset={dataset.name}", f"model={standin_model}", f"out={tmp_path / 'maps'}", "limit=3", "device=cpu")
    sets = [part for flag in flags for part in ("--set", flag)]
    done = camflow("run", ROOT / "pipelines" / "quickstart.toml", *sets, "--format", "json", cwd=tmp_path)
    counts = event(done, "run_finished", "quickstart")
    assert counts["num_read"] == 3 and counts["num_committed"] > 0
    dataset.reload()
    assert len(dataset.exists("person_grad_layer_4")) == counts["num_committed"]


def test_a_job_that_fails_does_not_stop_the_next(camflow, job_file, dataset, tmp_path):
    file = job_file(
        'name = "lost"\ndataset = "there-is-none"',
        'name = "good"\ntags = "good"',
        'name = "all"',
        defaults='report-file = "reports/{name}.json"',
    )
    done = camflow("run", file, "--format", "json", code=2, cwd="/")
    assert [(e["job"], e["exit_code"]) for e in done.events if e["event"] == "job_finished"] == [
        ("lost", 2),
        ("good", 0),
        ("all", 1),
    ]
    assert "there-is-none" in event(done, "error", "lost")["message"]
    assert "`lost` cannot start, `good` done, `all` some failed" in event(done, "warning")["message"]
    assert event(done, "run_finished", "good")["num_committed"] == 3

    # Relative paths are relative to the file, wherever it is started.
    assert (file.parent / "maps").is_dir()
    reports = {name: json.loads((file.parent / "reports" / f"{name}.json").read_text()) for name in ("lost", "good", "all")}
    assert [reports[name]["exit"] for name in reports] == ["cannot_start", "done", "some_failed"]
    assert "there-is-none" in reports["lost"]["error"] and reports["lost"]["counts"] is None
    counts = reports["all"]["counts"]
    assert (counts["num_read"], counts["num_committed"], counts["num_failed"]) == (5, 0, 1)
    assert counts["skipped"] == {"class not in label": 1, "up to date": 3}
    (failure,) = reports["all"]["failures"]
    bad = dataset.match_tags("bad").first()
    assert (failure["sample"], failure["media_path"], failure["stage"]) == (bad.id, bad.filepath, "decode")
    assert bad.filepath in failure["error"]
    assert reports["all"]["stages"]["device"]["num_threads"] == 1 and reports["all"]["config"]["layers"] == ["1"]
    assert datetime.fromisoformat(reports["all"]["started"]) <= datetime.fromisoformat(reports["all"]["finished"])

    only = camflow("run", file, "--only", "good", "--set", "overwrite=true", "--set", "good.limit=2", "--format", "json")
    assert {e.get("job") for e in only.events} == {"good"}
    assert event(only, "run_finished")["num_committed"] + event(only, "run_finished")["num_skipped"] == 2


def test_every_line_has_time_level_and_event(camflow, job_file, tiny_model):
    done = camflow("run", job_file('name = "all"'), "--format", "json", code=1)
    assert len(done.events) == len(done.stdout.splitlines()), "every line is an object"
    times = [datetime.fromisoformat(e["time"]) for e in done.events]
    assert times == sorted(times) and all(time.utcoffset().total_seconds() == 0 for time in times)
    levels = {e["event"]: e["level"] for e in done.events}
    assert levels["job_started"] == "info" and levels["sample_failed"] == "warn" and levels["run_finished"] == "warn"
    assert done.events[0]["event"] == "job_started" and done.events[-1]["event"] == "job_finished"
    # Wrong arguments come on the same stream.
    for arguments in (("run", "none.toml"), ("annotate", "--dataset", "none", "--model", tiny_model)):
        refused = camflow(*arguments, "--format", "json", code=2)
        assert event(refused, "error")["exit_code"] == 2 and event(refused, "error")["level"] == "error"
        assert "error: " in [line[:7] for line in refused.stderr.splitlines()]


def test_mistakes_are_found_before_anything_runs(camflow, job_file, dataset, tiny_model):
    file = job_file('name = "good"', 'name = "b"\nclas = "x"\nmax-failures = "150%"\nmatch = "${CAMFLOW_UNSET}"')
    refused = camflow("run", file, code=2)
    lines = [line.split("jobs.toml:")[-1] for line in refused.stderr.splitlines() if line.startswith("  ")]
    assert [line.split(": ", 1)[1].split(";")[0] for line in lines] == [
        "job `b`: there is no key `clas`",
        "job `b`: `max-failures` cannot be `150%`: it is a number of samples (`10`) or a share of them (`5%`, `0.05`)",
        "job `b`: `match` needs the environment variable `CAMFLOW_UNSET`, which is not set",
    ]
    text = file.read_text().splitlines()
    assert [text[int(line.split(":")[0]) - 1].split(" ")[0] for line in lines] == ["clas", "max-failures", "match"]
    dataset.reload()
    assert not any("grad" in field for field in dataset.get_field_schema())
    reference = camflow("run", "--print-default").stdout
    (file.parent / "reference.toml").write_text(reference)
    assert (
        "no dataset" in camflow("run", file.parent / "reference.toml", "--dry-run", "--set", f"model={tiny_model}", code=2).stderr
    )


def test_secrets_come_from_the_environment_and_stay_there(camflow, job_file, database):
    secret = "correct-horse"
    file = job_file(
        'name = "a"\ntags = "good"\ndatabase-uri = "${CAMFLOW_TEST_URI}"\nmatch = "{\\"x${CAMFLOW_TEST_SECRET}\\": null}"',
        defaults='report-file = "{name}.json"',
    )
    elsewhere = {
        "FIFTYONE_DATABASE_URI": "mongodb://127.0.0.1:9",
        "CAMFLOW_TEST_URI": database,
        "CAMFLOW_TEST_SECRET": secret,
    }
    done = camflow("run", file, "--format", "json", env=elsewhere)
    assert event(done, "run_finished")["num_committed"] == 3
    report = (file.parent / "a.json").read_text()
    config = json.loads(report)["config"]
    assert (config["database-uri"], config["match"]) == ("(hidden)", '{"x${CAMFLOW_TEST_SECRET}": null}')
    assert secret not in report + done.stdout + done.stderr
    refused = camflow("run", file, "--set", "limit=x", code=2, env={**elsewhere, "CAMFLOW_TEST_URI": secret})
    assert secret not in refused.stderr


def test_a_signal_ends_the_job_and_the_next_does_not_begin(binary, quickstart, clone, standin_model, tmp_path):
    dataset = clone(fo.load_dataset(quickstart))
    file = tmp_path / "two.toml"
    file.write_text(f"""
        version = 1
        [defaults]
        dataset = "{dataset.name}"
        model = "{standin_model}"
        class = "person"
        target = "labels:resnet50_seg"
        layers = "1-4"
        batch-size = 1
        out = "maps"
        device = "cpu"
        report-file = "{{name}}.json"
        [[job]]
        name = "first"
        [[job]]
        name = "second"
        field = "again_{{layer}}"
    """)
    process = subprocess.Popen(
        [binary, "run", file, "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if "sample_committed" in line:
            process.send_signal(signal.SIGTERM)
            break
    events = [json.loads(line) for line in process.communicate(timeout=120)[0].splitlines()]
    assert process.returncode == 130
    assert not any(e.get("job") == "second" for e in events)
    assert "`second` not begun" in events[-1]["message"]
    report = json.loads((tmp_path / "first.json").read_text())
    assert (report["exit"], report["exit_code"], report["counts"]["num_abandoned"]) == ("interrupted", 130, 0)
    assert not (tmp_path / "second.json").exists()
    dataset.reload()
    assert report["counts"]["num_committed"] == len(dataset.exists("person_grad_layer_1")) > 0


def samples(path: Path) -> dict:
    """Value by metric name and by the labels beyond the job's."""
    values = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation and family.type in ("counter", "gauge")
        for sample in family.samples:
            labels = {**sample.labels}
            assert labels.pop("job_name") == "night" and labels.pop("dataset")
            key = (sample.name.removeprefix("camflow_"), *labels.values())
            assert key not in values
            values[key] = sample.value
    return values


def test_metrics_add_up_over_runs(camflow, job_file, tmp_path):
    path = tmp_path / "textfile" / "camflow.prom"
    file = job_file('name = "night"', defaults=f'metrics-file = "{path}"')
    camflow("run", file, "--dry-run")
    assert not path.exists()
    camflow("run", file, code=1)
    first = samples(path)
    assert [first["samples_total", outcome] for outcome in ("annotated", "skipped", "failed", "abandoned")] == [3, 1, 1, 0]
    assert first["heatmaps_total",] == 3 and first["last_run_exit_code",] == 1 and first["runs_total", "some_failed"] == 1
    success = first["last_success_timestamp_seconds",]
    assert success == first["last_run_timestamp_seconds",] and first["last_run_duration_seconds",] > 0
    # A run that fails leaves the time of the last success. What failed before with the same inputs would be no news.
    (tmp_path / "images" / "4.png").write_text("no image either")
    camflow("run", file, "--set", "max-failures=0", code=3)
    second = samples(path)
    assert second["last_success_timestamp_seconds",] == success and second["last_run_exit_code",] == 3
    assert second["samples_total", "failed"] == 2 and second["last_run_samples", "failed"] == 1
    assert (second["runs_total", "some_failed"], second["runs_total", "aborted"]) == (1, 1)
    camflow("run", file, "--set", "class=none", code=2)
    third = samples(path)
    assert third["runs_total", "cannot_start"] == 1 and third["samples_total", "annotated"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["camflow.prom"] and path.stat().st_mode & 0o444 == 0o444


def test_a_share_of_failures_is_judged_at_the_end(camflow, job_file):
    # One of five fails, and one has no such class.
    file = job_file('name = "a"', defaults='report-file = "a.json"')
    done = camflow("run", file, "--set", "max-failures=0%", code=3)
    assert "1 of 5 samples failed, more than the 0 that `--max-failures 0%` allows" in done.stderr
    report = json.loads((file.parent / "a.json").read_text())
    assert report["exit"] == "aborted" and report["counts"]["num_committed"] == 3 and len(report["failures"]) == 1
    assert report["error"] in done.stderr


def test_nothing_to_do_is_one_line_or_none(camflow, job_file, dataset):
    file = job_file('name = "a"\ntags = "good"')
    first = camflow("run", file)
    assert "3 annotated" in first.stderr and "fields" in first.stderr and not first.stdout
    again = camflow("run", file)
    told = f"job `a`, dataset `{dataset.name}`, host `{platform.node()}`: nothing to do: 4 samples read: 0 annotated, class not in label: 1, up to date: 3\n"
    assert again.stderr == told
    assert "0 would be annotated" in camflow("run", file, "--dry-run").stderr
    for arguments in (("--quiet",), ("--quiet", "--format", "json"), ("--quiet", "--set", "overwrite=true")):
        quiet = camflow("run", file, *arguments)
        assert quiet.stdout + quiet.stderr == "", arguments
    loud = camflow("run", file, "--quiet", "--set", "tags=bad", code=1)
    assert "no image" not in loud.stdout and "\nfailed: sample " in loud.stderr and "1 failed" in loud.stderr


def test_a_report_that_cannot_be_written_is_said_before_the_work(camflow, job_file, tmp_path):
    (tmp_path / "file").write_text("")
    refused = camflow("run", job_file('name = "a"'), "--set", f"report-file={tmp_path / 'file' / 'r.json'}", code=2)
    assert "--report-file" in refused.stderr and "annotated" not in refused.stderr


def test_a_job_runs_from_rust(binary, dataset, tiny_model, tmp_path):
    example = binary.parent / "examples" / "annotate"
    arguments = [example, dataset.name, tiny_model, "middle", tmp_path / "maps"]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "heatmaps" in done.stderr.splitlines()[-1] and not done.stdout
    dataset.reload()
    fields = [field for field in dataset.get_field_schema() if field.startswith("middle_grad_layer_")]
    assert sum(len(dataset.exists(field)) for field in fields) == int(done.stderr.splitlines()[-1].split()[0]) > 0
    refused = subprocess.run([example, "none", *arguments[2:]], check=False, capture_output=True, text=True)
    assert refused.returncode != 0 and "no dataset `none`" in refused.stderr


def test_what_is_empty_is_no_default(camflow, job_file, monkeypatch):
    """A variable that is not filled would have a job run on the usual database, write no report, or take all samples."""
    monkeypatch.setenv("NOTHING", "")
    for key in ("database-uri", "database-name", "database-dir", "report-file", "html-file", "out", "model", "python", "match"):
        refused = camflow("run", job_file(f'name = "a"\n{key} = "${{NOTHING}}"'), "--dry-run", code=2)
        assert f"job `a`: `{key}` is empty: give it a " in refused.stderr, (key, refused.stderr)
    for flag in ("--database-uri", "--database-name", "--database-dir"):
        for command in (["runs"], ["annotate", "--class", "middle"]):
            refused = camflow(*command, "--dataset", "any", flag, "", code=2)
            assert f"a value is required for '{flag} <" in refused.stderr, refused.stderr
    assert "the name of the dataset is empty\nhint: " in camflow("annotate", "--dataset", "", "--class", "a", code=2).stderr
    for command in (["inspect"], ["annotate", "--dataset", "any", "--class", "a", "--model"]):
        assert "the name of the model is empty\nhint: " in camflow(*command, "", code=2).stderr


def test_no_file_is_written_over_another_that_the_job_has(camflow, job_file, dataset, tiny_model, tmp_path):
    ids = tmp_path / "ids"
    ids.write_text("\n".join(dataset.values("id")))
    for keys, said in {
        'report-file = "r.html"\nhtml-file = "./r.html"': "`report-file` and `html-file` are the same file",
        f'ids = "{ids}"\nreport-file = "{ids}"': "`report-file` and `ids` are the same file",
        'html-file = "a.html"\nnumbers-file = "{name}.json"\nreport-file = "a.json"': "`report-file` and `numbers-file` are the same",
    }.items():
        refused = camflow("run", job_file(f'name = "a"\n{keys}'), code=2)
        assert said in refused.stderr and "there is a mistake in" in refused.stderr, refused.stderr
    model = tmp_path / "model.pt2"
    model.write_bytes(tiny_model.read_bytes())
    flags = ("--class", "middle", "--target", "labels:masks", "--model", model, "--out", tmp_path / "maps")
    refused = camflow("annotate", "--dataset", dataset.name, *flags, "--report-file", model, code=2)
    assert "`report-file` and `model` are the same file" in refused.stderr
    refused = camflow("annotate", "--dataset", dataset.name, *flags, "--ids", ids, "--report-file", ids, code=2)
    assert "`report-file` and `ids` are the same file" in refused.stderr
    assert len(ids.read_text().split()) == 5 and model.read_bytes() == tiny_model.read_bytes()
    # A job may be compared with its own last run, and streams take what comes.
    keys = 'html-file = "/dev/null"\nreport-file = "/dev/null"\nnumbers-file = "n.json"\nbaseline = "n.json"'
    camflow("run", job_file(f'name = "a"\n{keys}'), "--dry-run")


def test_a_dry_run_says_what_could_not_be_written(camflow, job_file, tmp_path):
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    inside = tmp_path / "file" / "x"
    for flag in ("report-file", "html-file", "out"):
        refused = camflow("run", job_file('name = "a"'), "--dry-run", "--set", f"{flag}={inside}", code=2)
        assert f"`{inside}`" in refused.stderr and f"--{flag}`" in refused.stderr.splitlines()[-1], refused.stderr
    refused = camflow("run", job_file('name = "a"'), "--dry-run", "--set", f"report-file={tmp_path}", code=2)
    assert "a folder of that name exists" in refused.stderr
    new = tmp_path / "new" / "deep"
    camflow("run", job_file('name = "a"'), "--dry-run", "--set", f"report-file={new}/r.json", "--set", f"out={new}/maps")
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "jobs.toml") == [
        p for p in before if p.name != "jobs.toml"
    ]


def test_numbers_that_are_too_small_are_refused_in_words(camflow, job_file):
    for flag, least in {"--limit": 1, "--workers": 1, "--cam-batch-size": 1, "--seed": 0}.items():
        refused = camflow("annotate", "--dataset", "any", flag, "-1", code=2)
        assert f"invalid value '-1' for '{flag} <N>': it is a number from {least}" in refused.stderr, refused.stderr
        if least:
            refused = camflow("run", job_file(f'name = "a"\n{flag.strip("-")} = -1'), code=2)
            assert f"it is a number from {least}" in refused.stderr
    refused = camflow("run", job_file('name = "a"\nworkers = 0'), code=2)
    assert "job `a`: `workers` cannot be `0`: it is a number from 1\n" in refused.stderr
    assert "'--worst <N>': it is a number from 0" in camflow("report", "--dataset", "any", "--worst", "-1", code=2).stderr


def test_no_hint_writes_over_a_file_that_is_there(camflow, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for there in (tmp_path / "a.png", tmp_path):
        refused = camflow("run", there, code=2)
        assert "cannot read the job file" in refused.stderr and "hint: a job file is a text file" in refused.stderr
        assert "print-default >" not in refused.stderr
