"""The Python package `camflow` beside what the program says and writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import typing
import zipfile

import pytest
from camflow import archive, events, process
from conftest import PACKAGES, ROOT


@pytest.fixture
def arguments(tiny_model, tiny_dataset, tmp_path):
    """A run over three pictures, of which one has no image."""
    dataset = tiny_dataset(3)
    sample = dataset.first()
    with open(sample.filepath, "wb"):
        pass
    made = ["annotate", f"--dataset={dataset.name}", f"--model={tiny_model}", "--class=light", "--layers=1", "--format=json"]
    return [*made, "--target=labels:ground_truth", f"--out={tmp_path / 'out'}"]


def kinds() -> dict[str, type]:
    """The type of each event, by the event's name."""
    found = {}
    for kind in typing.get_args(events.Event):
        for name in typing.get_args(typing.get_type_hints(kind)["event"]):
            found[name] = kind
    return found


def lines(run: process.Run) -> list:
    return [event for event in run.events(every=300) if event]


def test_every_line_of_a_run_has_the_names_of_its_type(binary, arguments):
    run = process.Run(str(binary), arguments)
    told = lines(run)
    assert run.code == 1 and "failed" in run.said
    dry = lines(process.Run(str(binary), [*arguments, "--overwrite", "--dry-run", "--explain-plan"]))
    refused = lines(process.Run(str(binary), [*arguments, "--class=nothing"]))
    seen = set()
    for event in (*told, *dry, *refused):
        kind = kinds()[event["event"]]
        assert kind.__required_keys__ <= event.keys() <= kind.__annotations__.keys(), (event, kind)
        seen.add(event["event"])
    wanted = {"job_started", "step", "run_started", "sample_committed", "sample_failed", "run_finished", "job_finished"}
    assert wanted | {"sample_stale", "dry_run_finished", "error"} <= seen, seen
    [finished] = [event for event in told if event["event"] == "run_finished"]
    assert finished["stages"].keys() >= {"decode", "encode"}
    for stage in finished["stages"].values():
        assert stage.keys() == events.Stage.__annotations__.keys()


def test_what_is_no_event_is_told_apart():
    assert events.parse("a library says something") is None
    assert events.parse("[1]") is None and events.parse('{"event": 3}') is None and events.parse("{}") is None
    assert events.parse('{"event": "of a later camflow"}') == {"event": "of a later camflow"}


def test_a_run_stops_when_it_is_closed(binary, arguments):
    run = process.Run(str(binary), arguments, files={"--ids": "".join(f"{n:024}\n" for n in range(3))})
    run.close()
    for _ in run.events(every=1):
        pass
    assert run.code != 0
    with pytest.raises(process.CamflowError, match="does not start"):
        process.Run("/nowhere/camflow", [])


def test_an_archive_says_what_its_metadata_says(tiny_model):
    model = archive.Model.read(tiny_model)
    with zipfile.ZipFile(tiny_model) as entries:
        [name] = [name for name in entries.namelist() if name.endswith("/extra/camflow.json")]
        content = json.loads(entries.read(name))
    assert (model.name, model.task) == (content["name"], content["task"])
    assert model.classes == list(content["classes"].values()) and model.numbered_layers == content["aliases"]


def test_importing_the_package_imports_no_library():
    """What reads archives and follows runs has to work where there is no torch, and quickly where there is."""
    modules = [path.relative_to(PACKAGES).with_suffix("") for path in sorted((PACKAGES / "camflow").rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in modules if path.name != "__main__"]
    program = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nprint(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(PACKAGES)})
    loaded = set(done.stdout.split())
    assert "camflow.export.loaders.timm" in loaded
    assert not loaded & {"torch", "torchvision", "timm", "fiftyone", "numpy"}


def test_a_program_looks_for_garbage_seldom_and_not_at_its_end():
    program = """
import atexit, gc
from camflow.garbage import collect_seldom

# What is registered first is called last.
atexit.register(lambda: print("spared", gc.get_freeze_count() > 90_000))
collect_seldom()
gc.callbacks.append(lambda phase, info: phase == "stop" and print("looked", flush=True))
stay = [[] for _ in range(90_000)]
gc.callbacks.clear()
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(PACKAGES)})
    # By the usual threshold of 700 it would have looked more than a hundred times.
    assert done.stdout.splitlines() == ["looked", "spared True"]


def test_the_plugin_has_the_packages_modules():
    copies = ROOT / "pipelines" / "fiftyone-plugin" / "_camflow"
    for copy in copies.glob("*.py"):
        if copy.name != "__init__.py":
            assert copy.read_bytes() == (PACKAGES / "camflow" / copy.name).read_bytes(), f"cp python/camflow/{copy.name} {copies}"


def test_an_export_that_is_interrupted_leaves_nothing(binary, tmp_path):
    (tmp_path / "slow.py").write_text("import time\ndef build():\n    open('begun', 'w').close()\n    time.sleep(300)\n")
    (tmp_path / "temporary").mkdir()
    command = [str(binary), "export", "slow.py:build", "--out", "m.pt2", "--python", sys.executable]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    try:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.1)
        [folder] = (tmp_path / "temporary").glob("camflow-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        # As a terminal does: to the program and its children.
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        # Python ends by itself.
        for _ in range(600):
            if not folder.exists():
                break
            time.sleep(0.1)
        assert not folder.exists()
    finally:
        process.kill()
    assert not (tmp_path / "m.pt2").exists()
