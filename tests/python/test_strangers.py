"""Programs in folders of others: what lies in the current folder is not run, and not imported, unless it is the user's."""

from __future__ import annotations

import os
import sys

import pytest

TRAP = "#!/bin/sh\necho run >> {mark}\nexit 1\n"
# Nobody's number in a container or on a usual machine.
STRANGER = 54321


@pytest.fixture
def folder(tmp_path):
    """A folder with an environment that leaves a mark when it is run."""
    place = tmp_path / "shared"
    (place / ".venv" / "bin").mkdir(parents=True)
    python = place / ".venv" / "bin" / "python"
    python.write_text(TRAP.format(mark=tmp_path / "mark"))
    python.chmod(0o755)
    return place


def environment() -> dict:
    gone = {"CAMFLOW_PYTHON", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    # The current folder by another name.
    return {**kept, "PATH": f".:{kept['PATH']}"}


@pytest.fixture
def run(binary, folder):
    import subprocess

    def run(*arguments, env=None):
        command = [str(binary), *map(str, arguments)]
        env = environment() | (env or {})
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=env, timeout=300)

    return run


def give_away(path) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test gives files to another user: run it as root, as in the container")
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


@pytest.mark.parametrize("theirs", [".", ".venv", ".venv/bin", ".venv/bin/python"])
def test_a_python_of_somebody_else_is_not_run(run, folder, tmp_path, theirs):
    give_away(folder / theirs)
    done = run("export", "resnet18", "--out", tmp_path / "m.pt2")
    assert done.returncode == 2
    assert f"`{folder / theirs if theirs != '.' else folder}` belongs to user {STRANGER}, not to you" in done.stderr
    assert "--python" in done.stderr and "CAMFLOW_PYTHON" in done.stderr
    assert not (tmp_path / "mark").exists()


def test_ones_own_is_run_and_a_named_one(run, folder, tmp_path):
    run("doctor")
    assert (tmp_path / "mark").exists(), "one's own environment in the current folder"
    (tmp_path / "mark").unlink()
    give_away(folder)
    done = run("doctor", "--python", folder / ".venv" / "bin" / "python")
    assert "belongs to" not in done.stderr and (tmp_path / "mark").exists(), "what is named is wanted"


def test_nothing_is_imported_from_the_current_folder(run, folder, tmp_path):
    for module in ("json", "importlib", "fiftyone", "torch", "argparse"):
        (folder / f"{module}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'a').write('{module}')\n")
    run("doctor", "--python", sys.executable)
    done = run("export", "--python", sys.executable, "--out", tmp_path / "m.pt2", "resnet18", "--", "--help")
    assert done.returncode == 0 and "usage: " in done.stdout + done.stderr
    assert not (tmp_path / "mark").exists(), (tmp_path / "mark").read_text()


def test_a_job_file_of_somebody_else_names_no_program(run, folder, tmp_path):
    job = folder / "job.toml"
    job.write_text('version = 1\n[[job]]\nname = "a"\ndataset = "d"\npython = ".venv/bin/python"\n')
    give_away(job)
    # The variable is for jobs that name none: it does not stand for the one that the file names.
    for variable in ({}, {"CAMFLOW_PYTHON": ""}, {"CAMFLOW_PYTHON": sys.executable}):
        done = run("run", "job.toml", env=variable)
        assert done.returncode == 2 and f"belongs to user {STRANGER}" in done.stderr and "--set 'python=" in done.stderr
        assert not (tmp_path / "mark").exists()


def test_a_variable_that_is_empty_is_not_set(run, folder, tmp_path):
    run("doctor", env={"CAMFLOW_PYTHON": ""})
    assert (tmp_path / "mark").exists(), "one's own environment in the current folder"
