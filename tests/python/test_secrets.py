"""What a job file takes from environment variables is never shown, whatever key it stands at."""

from __future__ import annotations

import json
import os
import subprocess

import fiftyone as fo
import pytest

SECRET = "S3cr3tValue"
KEYS = (
    *("class", "layers", "model", "dataset", "target", "method", "field", "out", "tags", "match", "view", "ids", "limit"),
    *("device", "batch-size", "workers", "database-uri", "database-name", "database-dir", "report-file", "metrics-file"),
    *("max-failures", "size", "seed", "shard", "nonsense", "npy", "store", "precision", "python", "slices"),
)


@pytest.fixture
def job(binary, tiny_model, tmp_path, monkeypatch):
    """Runs a job with some keys as given; all that it said and wrote, by where."""
    monkeypatch.setenv("SEC", SECRET)

    def run(name: str, code=None, forms=("human", "json"), **keys):
        settings = {"dataset": name, "model": str(tiny_model), "target": "labels:ground_truth", "class": "light", "layers": "1"}
        settings |= {"out": str(tmp_path / "out"), "report-file": str(tmp_path / "report.json")}
        settings |= {"metrics-file": str(tmp_path / "m.prom"), **keys}
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        (tmp_path / "job.toml").write_text("\n".join(["version = 1", "[[job]]", 'name = "a"', *lines]))
        told = {}
        for form in forms:
            command = [str(binary), "run", str(tmp_path / "job.toml"), "--format", form]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, cwd=tmp_path)
            assert code is None or done.returncode == code, done.stderr
            told |= {f"{form} stdout": done.stdout, f"{form} stderr": done.stderr}
            for file in ("report.json", "m.prom"):
                if (tmp_path / file).is_file():
                    told[f"{form} {file}"] = (tmp_path / file).read_text()
                    (tmp_path / file).unlink()
        return told

    return run


@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_value_is_not_shown(job, tiny_dataset, key):
    told = job(tiny_dataset(1).name, forms=("json",), **{key: "${SEC}"})
    for where, text in told.items():
        assert SECRET.lower() not in text.lower(), (where, text)


def test_a_right_value_is_not_shown_and_the_record_has_none(job, tiny_dataset, camflow, monkeypatch):
    dataset = tiny_dataset(2)
    dataset.name = f"of-{SECRET}"
    monkeypatch.setenv("CLASS", "light")
    monkeypatch.setenv("LAYER", "1")
    keys = {"dataset": "of-${SEC}", "class": "${CLASS}", "layers": "${LAYER}", "field": "x_${SEC}_{layer}"}
    told = job("", code=0, **keys)
    for where, text in told.items():
        assert SECRET.lower() not in text.lower(), (where, text)
    report = json.loads(told["json report.json"])
    assert (report["dataset"], report["config"]["layers"]) == ("of-${SEC}", "${LAYER}")
    # Numbers are no secrets because one layer's is.
    assert report["counts"]["num_read"] == 2 and '"num_read": 2' in told["json report.json"]
    assert 'dataset="of-${SEC}"' in told["human m.prom"]
    dataset.reload()
    assert f"x_{SECRET}_1" in dataset.get_field_schema()
    [key] = dataset.list_runs()
    settings = dataset.get_run_info(key).config.serialize()
    shown = json.dumps({name: value for name, value in settings.items() if name not in ("fields", "output_folders")}, default=str)
    assert SECRET not in shown and "${SEC}" in shown
    assert fo.dataset_exists(dataset.name)


def test_no_core_is_dumped_while_a_password_is_known(binary, tmp_path):
    """Other processes of the user cannot look into it, and it leaves no core file."""
    command = [str(binary), "worker", "annotate", "--dataset", "x", "--model", str(tmp_path / "fifo.pt2")]
    for uri, limit in (
        ("mongodb://ada:secret@127.0.0.1:1/?serverSelectionTimeoutMS=20000", "0"),
        ("mongodb://127.0.0.1:1", "unlimited"),
    ):
        env = {**os.environ, "FIFTYONE_DATABASE_URI": uri}
        shell = ["bash", "-c", 'ulimit -c unlimited; exec "$@"', "bash", *command]
        process = subprocess.Popen(shell, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            seen = set()
            while process.poll() is None and limit not in seen:
                try:
                    with open(f"/proc/{process.pid}/limits") as limits:
                        seen |= {line.split()[4] for line in limits if line.startswith("Max core file size")}
                except (OSError, IndexError):
                    break
            assert limit in seen, (uri, seen)
        finally:
            process.kill()
            process.wait()
