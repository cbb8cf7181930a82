"""What `pip install .` goes by. Building the wheel takes minutes; scripts/check_wheel.sh does it, and looks into it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch_folder
import yaml
from conftest import ROOT

import torch


def test_the_versions_agree():
    torch_version = torch.__version__.partition("+")[0]
    assert torch_folder.wanted() == torch_version
    assert f"torch=={torch_version} " in (ROOT / "scripts" / "requirements.txt").read_text()
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    plugin = yaml.safe_load((ROOT / "pipelines" / "fiftyone-plugin" / "fiftyone.yml").read_text())
    assert plugin["version"] == version


def test_torch_is_found_from_inside_of_a_build_environment(tmp_path, monkeypatch):
    # pip hides the environment's packages so.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert torch_folder.find() == os.path.realpath(os.path.dirname(torch.__file__))

    monkeypatch.setattr(torch_folder, "wanted", lambda: "1.0.0")
    with pytest.raises(SystemExit, match=r"has torch 2\.\d+\.\d+\S*, and camflow needs 1\.0\.0"):
        torch_folder.find()
    # A Python without packages.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(SystemExit, match="has no torch.*\nhint: .*torch==1.0.0"):
        torch_folder.find(str(bare))


@pytest.fixture
def launch(tmp_path):
    """Runs the command of a wheel for torch 2.9 and 2.10 as a Python does that has this torch; the program says how it was started."""
    program = tmp_path / "site" / "camflow" / "_program" / "camflow"
    for version in ("2.9", "2.10"):
        (program.parent / f"torch-{version}").mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$LD_LIBRARY_PATH" "$CAMFLOW_LAUNCHER" "$@"\n')
    program.chmod(0o755)
    command = tmp_path / "bin" / "camflow"
    command.parent.mkdir()
    command.write_text((ROOT / "scripts" / "wheel" / "launcher.py").read_text())

    def run(version: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
        if version:
            (tmp_path / "site" / "torch").mkdir(exist_ok=True)
            (tmp_path / "site" / "torch" / "version.py").write_text(f"__all__ = ['__version__']\n__version__ = '{version}'\n")
        environment = {"PYTHONPATH": str(tmp_path / "site"), "LD_LIBRARY_PATH": "/opt/lib"}
        return subprocess.run(
            [sys.executable, "-S", command, *arguments], check=False, capture_output=True, text=True, env=environment
        )

    return run


def test_the_launcher_chooses_by_the_torch_that_is_there(launch, tmp_path):
    for version, folder in {"2.10.0+cu128": "torch-2.10", "2.9.1": "torch-2.9"}.items():
        started = launch(version, "explain", "a b.jpg")
        assert started.returncode == 0, started.stderr
        libraries, launcher, *arguments = started.stdout.splitlines()
        site = tmp_path / "site"
        assert libraries == f"{site}/camflow/_program/{folder}:{site}/torch/lib:/opt/lib"
        assert launcher == str(tmp_path / "bin" / "camflow") and arguments == ["explain", "a b.jpg"]


def test_the_launcher_says_what_is_missing(launch, tmp_path):
    bare = launch(None)
    assert bare.returncode == 2 and "has no torch" in bare.stderr and "pip install 'torch==2.10.*'" in bare.stderr
    newer = launch("2.11.0+cpu")
    assert newer.returncode == 2 and "has torch 2.11.0+cpu, and this camflow was built for torch 2.9, 2.10\n" in newer.stderr
    assert newer.stderr.endswith("bash scripts/build_wheel.sh --torch 2.11.0\n")
    (tmp_path / "site" / "camflow" / "_program" / "camflow").unlink()
    assert "install the wheel of camflow again" in launch("2.10.0").stderr
