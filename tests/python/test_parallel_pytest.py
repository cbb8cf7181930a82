"""Tests in several processes: all are reported, those of a process that is lost, too, and a browser has a core for itself."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

CONFTEST = """
import pytest

@pytest.fixture
def chromium():
    return "a browser"
"""
FILE = """
import os, pathlib, pytest, time

{mark}

def note(what):
    with pathlib.Path(__file__).with_name("log").open("a") as log:
        log.write(what + " {name}\\n")

def test_one({fixture}):
    note("start")
    time.sleep(1)
    note("end")

def test_two():
    print("{name} says this")
    assert "{name}" != "fails"
    if "{name}" == "lost":
        os._exit(3)
"""


def test_all_is_reported_and_a_browser_has_its_core(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    browsers = ("first_browser", "second_browser")
    for name in ("a", "b", "c", "fails", "lost", "takes_long", *browsers):
        mark = "pytestmark = pytest.mark.begins" if name == "takes_long" else ""
        fixture = "chromium" if name in browsers else ""
        (tmp_path / f"test_{name}.py").write_text(FILE.format(name=name, fixture=fixture, mark=mark))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    begins: one of the first\n")
    command = [sys.executable, ROOT / "scripts" / "parallel_pytest.py", "--processes", "3", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout.splitlines()[-1].startswith("2 failed, 14 passed"), done.stdout
    assert "FAILED test_fails.py::test_two" in done.stdout and "FAILED test_lost.py::test_two" in done.stdout
    # What a test prints is shown where it failed, and only there.
    assert done.stdout.count("\nfails says this\n") == 1 and "b says this" not in done.stdout, done.stdout
    began = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines() if line.startswith("start")]
    assert began.index("takes_long") < 3, began
    running: list[str] = []
    largest = 0
    for line in (tmp_path / "log").read_text().splitlines():
        what, name = line.split()
        (running.append if what == "start" else running.remove)(name)
        largest = max(largest, len(running))
        if set(browsers) & set(running):
            assert len(running) <= 2 and not set(browsers) <= set(running), running
    assert largest == 3 and not running
