"""Files that are written while a run goes on: models, images, lists of ids. What is recorded is what was read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FIELD = "light_grad_layer_1"


@pytest.fixture
def arguments(tmp_path):
    """The arguments of the job; one sample after the other, so that there is a middle of the run."""

    def of(dataset, model, *flags):
        made = ["annotate", "--dataset", dataset.name, "--class", "light", "--model", model, "--target", "labels"]
        made += ["--out", tmp_path / "maps", "--device", "cpu", "--batch-size", "1", "--workers", "1", "--format", "json"]
        return [str(argument) for argument in (*made, *flags)]

    return of


@pytest.fixture
def started(binary):
    """Starts camflow, and calls `then` when its run begins; the lines that it says."""

    def run(arguments, then):
        with subprocess.Popen([binary, *arguments], stdout=subprocess.PIPE, text=True) as process:
            events = []
            for line in process.stdout:
                events.append(json.loads(line))
                if events[-1]["event"] == "run_started":
                    then()
        assert process.returncode == 0, events[-3:]
        return events

    return run


def heatmaps(dataset) -> dict[str, bytes]:
    dataset.reload()
    return {sample.id: Path(sample[FIELD].npy_path).read_bytes() for sample in dataset}


def other_weights(model: Path) -> tuple[int, bytes]:
    """Where the weights of a model begin, and others of the same size."""
    with zipfile.ZipFile(model) as archive:
        entry = max((e for e in archive.infolist() if "/data/weights/weight_" in e.filename), key=lambda e: e.file_size)
        stored = archive.read(entry)
    values = np.random.default_rng(0).normal(0, 0.1, len(stored) // 4).astype(np.float32)
    return model.read_bytes().find(stored), values.tobytes()


def test_a_model_that_is_swapped_under_a_run_changes_nothing(tiny_dataset, tiny_model, arguments, started, camflow, tmp_path):
    dataset = tiny_dataset(60)
    model = tmp_path / "model.pt2"
    shutil.copy(tiny_model, model)
    camflow(*arguments(dataset, model))
    expected = heatmaps(dataset)
    place, values = other_weights(tiny_model)

    def write_into():
        with model.open("r+b") as file:
            file.seek(place)
            file.write(values)

    def replace():
        other = model.with_suffix(".new")
        shutil.copy(tiny_model, other)
        os.truncate(other, 1000)
        other.rename(model)

    for swap in (write_into, lambda: os.truncate(model, 0), replace, model.unlink):
        shutil.copy(tiny_model, model)
        started(arguments(dataset, model, "--overwrite"), swap)
        assert heatmaps(dataset) == expected
    # The model that the labels name is the one that made them.
    shutil.copy(tiny_model, model)
    assert [e for e in camflow(*arguments(dataset, model)).events if e["event"] == "sample_committed"] == []
    write_into()
    stale = [e["reasons"] for e in camflow(*arguments(dataset, model, "--explain-plan", "--replace")).events if "reasons" in e]
    assert stale == [["model changed"]] * 60


def test_images_that_move_are_not_up_to_date(tiny_dataset, tiny_model, arguments, started, camflow):
    dataset = tiny_dataset(50)
    paths = [Path(path).with_suffix(".bmp") for path in dataset.values("filepath")]
    dataset.set_values("filepath", [str(path) for path in paths])
    drawn = np.random.default_rng(7).integers(0, 255, (2, len(paths), 200, 300, 3), np.uint8)

    def replace(version: int) -> None:
        """Every picture by another one of the same size and time, each at once."""
        for path, pixels in zip(paths, drawn[version], strict=True):
            other = path.with_suffix(".new")
            Image.fromarray(pixels).save(other, "bmp")
            os.utime(other, ns=(1_700_000_000_123_456_789,) * 2)
            other.rename(path)

    replace(0)
    camflow(*arguments(dataset, tiny_model))
    first = heatmaps(dataset)
    moved = []
    for round_ in range(5):
        # Checked are they all at once when the run begins, read one after the other.
        events = started(arguments(dataset, tiny_model, "--overwrite"), lambda r=round_: replace(1 - r % 2))
        moved = [event["sample"] for event in events if event["event"] == "sample_moved"]
        assert next(e for e in events if e["event"] == "run_finished")["num_moved"] == len(moved)
        if moved:
            break
    assert moved, "a run in which pictures are replaced reads some of them after that"
    done = camflow(*arguments(dataset, tiny_model, "--explain-plan"))
    stale = {event["sample"]: event["reasons"] for event in done.events if event["event"] == "sample_stale"}
    assert stale == {sample: ["image changed"] for sample in moved}
    camflow(*arguments(dataset, tiny_model))
    again = heatmaps(dataset)
    done = camflow(*arguments(dataset, tiny_model))
    assert [event for event in done.events if event["event"] == "sample_committed"] == []
    # Whatever moved now shows what is in the file.
    camflow(*arguments(dataset, tiny_model, "--overwrite"))
    wanted = heatmaps(dataset)
    assert {sample: again[sample] for sample in moved} == {sample: wanted[sample] for sample in moved}
    assert first.keys() == again.keys()


def test_a_list_of_ids_is_read_once_for_all_shards(tiny_dataset, tiny_model, arguments, binary, tmp_path):
    dataset = tiny_dataset(12)
    ids = dataset.values("id")
    listed = tmp_path / "ids"
    listed.write_text("\n".join(ids[:8]))
    command = [binary, "worker", *arguments(dataset, tiny_model, "--ids", str(listed))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["event"] == "ready"
        read = 0
        for shard in ("1/2", "2/2"):
            listed.write_text("\n".join(ids[8:]))
            process.stdin.write(json.dumps({"shard": shard}) + "\n")
            process.stdin.flush()
            read += json.loads(process.stdout.readline())["counts"]["num_read"]
        process.stdin.close()
    assert read == 8
    dataset.reload()
    assert dataset.exists(FIELD).values("id") == ids[:8]
