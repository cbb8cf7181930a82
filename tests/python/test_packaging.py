"""What `pip install .` goes by. Building the wheel takes minutes; scripts/check_wheel.sh does it, and looks into it."""

from __future__ import annotations

import os
import re
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
