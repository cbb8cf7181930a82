"""scripts/lab/scale.py: what is predicted follows from the costs, and the costs are measured on real runs. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import scale
import scale_model as model
from conftest import LAB

STAGES = {"read": 0.001, "decode": 0.008, "batch": 0.0, "device": 0.5, "encode": 0.03, "commit": 0.001}
PROFILE = {
    "machine": {"cores": 2},
    "jobs": {
        "full": {
            "busy_s": STAGES,
            "cpu_s": STAGES,
            "threads": dict.fromkeys(STAGES, 1),
            "heatmaps": 4,
            "image_bytes": 1e5,
            "write_bytes": 4e6,
            "files": 8,
        }
    },
    "database": {
        "read_cpu_s": 1e-4,
        "id_cpu_s": 1e-6,
        "id_client_cpu_s": 0.0,
        "update_cpu_s": 1e-4,
        "heatmap_cpu_s": 1e-4,
    },
    "disk": {"files_per_s": 8000, "write_bytes_per_s": 4e8, "read_bytes_per_s": 1e9},
}
JOB = PROFILE["jobs"]["full"]


def rows(changes: dict | None = None, device_ms: float = 20, gpus: tuple = (1, 2, 4, 8, 16, 32, 64)) -> list[dict]:
    return model.predict(PROFILE, JOB, model.site(PROFILE, changes), list(gpus), device_ms / 1e3)


def test_what_is_used_up_first_follows_from_the_costs():
    by_gpus = {row["gpus"]: row for row in rows({"shards_per_gpu": 1e-9})}
    # By hand: 50 images/s for each GPU, until 400 MB/s are written, at 4 MB an image.
    assert [by_gpus[count]["images_per_s"] for count in (1, 2)] == pytest.approx([50, 100])
    assert (by_gpus[1]["limit"], by_gpus[1]["gpu_use"]) == ("GPUs", pytest.approx(1))
    assert by_gpus[64]["images_per_s"] == pytest.approx(100) and by_gpus[64]["limit"] == "storage writes"
    assert by_gpus[64]["gpu_use"] == pytest.approx(100 * 0.02 / 64)
    assert by_gpus[64]["hours_per_million"] == pytest.approx(1e6 / 100 / 3600)
    # Next come 8000 files/s, at 8 an image.
    assert (by_gpus[64]["next"], by_gpus[64]["next_images_per_s"]) == ("flushed files", pytest.approx(1000))


@pytest.mark.parametrize(
    ("changes", "limit", "rate"),
    [
        # Each GPU's cores: 40 ms of read, decode, encode and commit.
        ({"cores_per_gpu": 1, "write_bytes_per_s": 1e12, "files_per_s": 1e9, "database_cores": 1e6}, "cores", 64 / 0.04),
        ({"write_bytes_per_s": 1e12}, "flushed files", 1000),
        ({"write_bytes_per_s": 1e12, "files_per_s": 1e9, "read_bytes_per_s": 5e7}, "storage reads", 500),
        # 601 µs for an image with one shard, on two cores.
        ({"write_bytes_per_s": 1e12, "files_per_s": 1e9}, "database", 2 / 601e-6),
        (
            {"write_bytes_per_s": 1e12, "files_per_s": 1e9, "database_cores": 64, "network_bytes_per_s": 4.1e6},
            "network",
            64,
        ),
    ],
)
def test_each_resource_can_be_the_first(changes, limit, rate):
    row = rows({"shards_per_gpu": 1e-9, **changes}, device_ms=5)[-1]
    assert (row["limit"], row["images_per_s"]) == (limit, pytest.approx(rate))
    assert limit in model.ADVICE


def test_more_gpus_never_do_less_until_their_shards_load_the_database():
    rates = [row["images_per_s"] for row in rows({"shards_per_gpu": 1e-9}, 20, tuple(range(1, 65)))]
    assert rates == sorted(rates) and rates[-1] == rates[-2] > rates[0]
    quick = {"write_bytes_per_s": 1e12, "files_per_s": 1e9, "read_bytes_per_s": 1e12, "shards_per_gpu": 100}
    last = rows(quick, 5, (32, 64))
    assert {row["limit"] for row in last} == {"database"} and last[1]["images_per_s"] < last[0]["images_per_s"]


def test_how_many_gpus_a_shared_resource_is_enough_for():
    there = model.site(PROFILE, {"shards_per_gpu": 1e-9})
    found = {row["resource"]: row for row in model.enough_for(PROFILE, JOB, there, 0.02)}
    # 100 images/s are two GPUs of 50.
    assert (found["storage writes"]["gpus"], found["storage writes"]["images_per_s"]) == (2, pytest.approx(100))
    assert found["flushed files"]["gpus"] == 20


def test_workers_of_one_machine_share_its_cores():
    slow = model.bound(model.one_machine(PROFILE, JOB, 1, 1, 2))
    assert (slow["limit"], slow["images_per_s"]) == ("device thread", pytest.approx(2))
    many = model.bound(model.one_machine(PROFILE, JOB, 64, 1, 2))
    assert (many["limit"], many["images_per_s"]) == ("cores", pytest.approx(2 / (sum(STAGES.values()) + 601e-6)))


def test_the_law_of_contention_is_found_again():
    law = (100.0, 0.05, 0.002)
    points = [(count, model.usl_rate(law, count)) for count in (1, 2, 4, 8, 16)]
    assert model.usl(points) == pytest.approx(law)
    assert model.usl([(1, 10.0), (2, 20.0), (4, 40.0)]) == pytest.approx((10, 0, 0))


def test_what_is_known_better_replaces_what_was_measured():
    assert model.site(PROFILE, {"database_cores": 16})["database_cores"] == 16
    with pytest.raises(KeyError, match="datbase"):
        model.site(PROFILE, {"datbase_cores": 16})


def run(*arguments, code: int = 0) -> subprocess.CompletedProcess:
    command = [str(part) for part in (sys.executable, LAB / "scale.py", *arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.long
def test_costs_are_measured_and_lead_to_tables_and_a_picture(binary, export, tmp_path):
    strided = export("scripts/lab/scale_measure.py:strided", inputs=(LAB / "scale_measure.py",))
    write_rate = binary.parent / "examples" / "write_rate"
    assert write_rate.is_file(), f"no {write_rate}: cargo build --example write_rate"
    profile, tables, picture = (tmp_path / name for name in ("profile.json", "tables.md", "plot.svg"))
    real = ("--camflow", binary, "--model", strided, "--images", 8, "--repeat", 1)
    little = ("--samples", 600, "--writers", 1, 2, "--seconds", 0.3, "--write-rate", write_rate)
    measured = run("measure", *real, *little, "--json", profile)
    found = json.loads(profile.read_text())
    jobs, database, disk = found["jobs"], found["database"], found["disk"]
    for job in jobs.values():
        assert set(job["busy_s"]) == set(job["cpu_s"]) == set(scale.STAGES)
        assert all(job["cpu_s"][stage] > 0 for stage in ("decode", "device", "encode", "commit")), job["cpu_s"]
    # A heatmap has the size of the input, 520x693, and one float for each of its pixels.
    npy = 4 * (128 + 4 * 520 * 693)
    assert jobs["full"]["write_bytes"] - jobs["pictures"]["write_bytes"] == pytest.approx(npy, abs=4 * 64)
    assert (jobs["full"]["files"], jobs["pictures"]["files"]) == (8, 4)
    assert jobs["small pictures"]["write_bytes"] < jobs["pictures"]["write_bytes"]
    assert jobs["full"]["image_bytes"] > 10_000
    assert [row["writers"] for row in database["updates"]] == [1, 2]
    for row in [*database["updates"], database["single"]]:
        assert 0 < row["server_cpu_s"] and row["per_s"] > 0
    assert len({row["per_s"] for row in [*database["updates"], *disk["files"]]}) == 6, "every rate is one of its own"
    assert disk["files_per_s"] > 0 and disk["read_bytes_per_s"] > 0
    assert "| encode: CPU ms (by the clock) |" in measured.stdout

    marks = [f"<!-- {at}: scripts/lab/scale.py predict -->\n" for at in ("begin", "end")]
    tables.write_text(f"Before\n{marks[0]}old\n{marks[1]}After\n")
    predicted = run("predict", "--profile", profile, "--plot", picture, "--markdown", tables, "--gpus", 1, 64)
    assert "| 64 |" in predicted.stdout and "What to do then" in predicted.stdout
    text = tables.read_text()
    # What was measured had no marks, and got its own at the end.
    assert text.startswith(f"Before\n{marks[0]}{predicted.stdout[:-1]}{marks[1]}After\n") and measured.stdout[:-1] in text
    assert picture.read_text().count("small pictures") == 3
    wrong = run("predict", "--profile", profile, "--set", "cores=4", code=1)
    assert "hint:" in wrong.stderr and "database_cores" in wrong.stderr

    checked = tmp_path / "check.json"
    run("check", *real, "--samples", 600, "--workers", 1, 2, "--jobs", "full", "--profile", profile, "--json", checked)
    for row in json.loads(checked.read_text()):
        assert row["predicted"] > 0 and row["images_per_s"] > 0 and row["cpu_s"] > 0
