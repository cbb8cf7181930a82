"""Defaults of flags from `config.toml` and `camflow.toml`."""

from __future__ import annotations

import subprocess

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from test_strangers import STRANGER, give_away


@pytest.fixture
def project(database, tmp_path, monkeypatch, export):
    """A project's folder with a dataset of three images, and a home of its own; files of defaults count here."""
    monkeypatch.delenv("CAMFLOW_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    dataset = fo.Dataset("street", persistent=True)
    rng = np.random.default_rng(0)
    (tmp_path / "project" / "data").mkdir(parents=True)
    for number in range(3):
        path = tmp_path / "project" / "data" / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        dataset.add_sample(fo.Sample(str(path)))
    model = export("scripts/lab/growth.py:tiny")
    (tmp_path / "config" / "camflow").mkdir(parents=True)
    (tmp_path / "config" / "camflow" / "config.toml").write_text('device = "cpu"\nlayers = "1"\n')
    (tmp_path / "project" / "camflow.toml").write_text(
        f'dataset = "street"\nmodel = "{model}"\nlayers = ["1"]\ntarget = "top"\nout = "maps"\n'
    )
    yield tmp_path / "project"
    dataset.delete()


@pytest.fixture
def doctor(binary):
    """What `doctor` says in a folder; whether the machine has everything is another matter."""
    return lambda folder: subprocess.run([binary, "doctor"], check=False, capture_output=True, text=True, cwd=folder).stdout


def test_a_project_says_once_what_its_commands_share(camflow, project, doctor):
    done = camflow("annotate", cwd=project / "data")
    assert f"note: defaults from `{project.parent}/config/camflow/config.toml`: `--device`\n" in done.stderr
    assert (
        f"note: defaults from `{project}/camflow.toml`: `--dataset`, `--layers`, `--model`, `--out`, `--target`\n" in done.stderr
    )
    dataset = fo.load_dataset("street")
    dataset.reload()
    [field] = [field for field in dataset.get_field_schema() if "grad_layer" in field]
    assert all(path.startswith(str(project / "maps")) for path in dataset.values(f"{field}.map_path"))
    # What is typed comes first, and is not said to come from a file.
    told = camflow("annotate", "--layers=1", "--dry-run", "--format=json", cwd=project).events
    notices = [event["message"] for event in told if event["event"] == "notice"]
    assert any("`--dataset`" in notice and "--layers" not in notice for notice in notices)
    # A night without work is quiet.
    assert camflow("annotate", cwd=project).stderr.count("\n") <= 1
    page = project / "page.html"
    camflow("report", f"--out={page}", "--fields", field, cwd=project)
    assert page.exists()
    assert f"ok   defaults     {project.parent}/config/camflow/config.toml, {project}/camflow.toml\n" in doctor(project)


def test_a_job_file_and_python_are_not_touched(camflow, project):
    job = project / "jobs.toml"
    job.write_text('version = 1\n[[job]]\nname = "a"\ndataset = "street"\ntarget = "top"\n')
    told = camflow(
        "run", "--dry-run", job, cwd=project, code=2, env={"CAMFLOW_CACHE": str(project), "CAMFLOW_PYTHON": "/nowhere"}
    )
    assert "camflow.toml" not in told.stderr and "deeplabv3-resnet50-coco-torch" in told.stderr


def test_mistakes_and_files_of_strangers_stop_a_command_before_it_begins(camflow, project, doctor):
    file = project / "camflow.toml"
    good = file.read_text()
    file.write_text(f'{good}layer = 3\nsize = "huge"\n')
    done = camflow("annotate", cwd=project, code=2)
    assert f"{file}:6: there is no key `layer`; the nearest: `layers`" in done.stderr
    assert f"{file}:7: `size` cannot be `huge`" in done.stderr
    camflow("--help", cwd=project)
    assert "FAIL defaults" in doctor(project)
    file.write_text(good)
    camflow("annotate", cwd=project, env={"CAMFLOW_CONFIG": ""}, code=2)
    assert "--dataset" in camflow("annotate", cwd=project, env={"CAMFLOW_CONFIG": ""}, code=2).stderr
    elsewhere = project.parent / "other.toml"
    elsewhere.write_text("dataset = 'nowhere'\n")
    done = camflow("annotate", cwd=project, env={"CAMFLOW_CONFIG": str(elsewhere)}, code=2)
    assert "`nowhere`" in done.stderr
    give_away(file)
    done = camflow("annotate", cwd=project, code=2)
    assert f"`{file}` holds defaults for camflow and belongs to user {STRANGER}" in done.stderr
    camflow("annotate", "--dry-run", cwd=project, env={"CAMFLOW_CONFIG": str(file)})
