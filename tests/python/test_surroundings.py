"""What a user names as output, and what a process is born into: pipes, links, full disks, limits, folders that are gone."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import threading

import pytest


@pytest.fixture
def command(binary, tiny_model, tiny_dataset, tmp_path):
    """The arguments of a run over three pictures, with more of them or others."""
    dataset = tiny_dataset(3)

    def make(*more, out=tmp_path / "out"):
        made = [binary, "annotate", "--dataset", dataset.name, "--model", tiny_model, "--class", "light", "--layers", "1"]
        return [os.fsencode(part) for part in (*made, "--target", "labels:ground_truth", "--out", out, *more)]

    return make


def ran(command, **more):
    done = subprocess.run(command, check=False, capture_output=True, timeout=300, **more)
    done.said = done.stderr.decode("utf-8", "replace")
    return done


def test_the_end_does_not_take_libtorch_apart(binary):
    """The loader of glibc says so when it calls the destructors of libraries."""
    apart = ran([binary, "--version"], env={**os.environ, "LD_DEBUG": "statistics"}).said
    assert "runtime linker statistics" in apart and "final number of relocations" not in apart


def test_reports_go_into_pipes_devices_and_behind_links(command, tmp_path):
    # As a run leaves it that is cut off while it writes.
    (tmp_path / "real.json").write_text('{\n  "camflow": "0.0",\n  "job": "')
    (tmp_path / "link.json").symlink_to("real.json")
    pipe = tmp_path / "pipe.prom"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    done = ran(command("--report-file", tmp_path / "link.json", "--metrics-file", pipe))
    reader.join(60)
    assert done.returncode == 0, done.said
    assert (tmp_path / "link.json").is_symlink() and json.loads((tmp_path / "real.json").read_text())["exit"] == "done"
    assert stat.S_ISFIFO(pipe.stat().st_mode) and "camflow_samples_total" in read[0]

    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    with log.open("ab") as file:
        done = subprocess.run(command("--overwrite", "--report-file", "/dev/stdout"), check=False, stdout=file, timeout=300)
    assert done.returncode == 0 and log.read_text().startswith('before\n{\n  "camflow"')
    done = ran(command("--report-file", "/dev/null"))
    assert done.returncode == 0 and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    for path, reason in ((tmp_path, "a folder of that name exists"), ("/proc/camflow/report.json", "No such file")):
        done = ran(command("--report-file", path))
        assert done.returncode == 2 and reason in done.said and "--report-file" in done.said, done.said


def test_what_is_no_report_is_not_replaced(command, tmp_path):
    files = {"notes.json": '{"mine": 1}', "node.prom": "# HELP node_load1 Load.\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "link").symlink_to("notes.json")
    for flag, name in (("--report-file", "notes.json"), ("--report-file", "link"), ("--metrics-file", "node.prom")):
        done = ran(command(flag, tmp_path / name))
        assert done.returncode == 2 and f"`{tmp_path / name}` holds something else" in done.said, done.said
        assert f"another `{flag}`" in done.said
    assert {name: (tmp_path / name).read_text() for name in files} == files
    for name in files:
        (tmp_path / name).write_text("")
    flags = ("--report-file", tmp_path / "link", "--metrics-file", tmp_path / "node.prom")
    # Empty, and then its own.
    for _ in range(2):
        assert ran(command(*flags)).returncode == 0
    assert json.loads((tmp_path / "notes.json").read_text())["exit"] == "done"


def test_what_cannot_be_named_is_known_before(command, tmp_path):
    done = ran(command(out=os.fsencode(tmp_path) + b"/\xff"))
    assert done.returncode == 2 and "is not UTF-8" in done.said and "--out" in done.said, done.said
    done = ran(command("--field", "a" * 300))
    assert done.returncode == 2 and "--field" in done.said and "too long" in done.said, done.said
    done = ran(command("--field", "a" * 300, "--dry-run"))
    assert done.returncode == 2, done.said
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "taken_1").write_text("a file")
    done = ran(command("--field", "taken_{layer}"))
    assert done.returncode == 2 and "`taken_1` cannot have a folder" in done.said, done.said
    # Nothing goes to disk, so that the name is nobody's business but the database's.
    done = ran(command("--field", "b" * 300, "--store", "inline", "--npy", "none"))
    assert done.returncode == 0, done.said


def test_a_limit_on_file_sizes_is_an_error(command):
    done = ran(command(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)))
    assert done.returncode == 3 and "File too large" in done.said and "ulimit -f" in done.said, (done.returncode, done.said)


def test_a_current_folder_that_is_gone_is_an_error(command, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    done = ran(["bash", "-c", 'rmdir "$PWD"; exec "$@"', "bash", *command()], cwd=gone)
    assert done.returncode == 2 and "the current folder is gone" in done.said and "`cd`" in done.said, done.said


def test_few_open_files_are_enough_or_an_error(command):
    done = ran(command(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 4096)))
    assert done.returncode == 0, done.said
    done = ran(command("--overwrite"), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12)))
    assert done.returncode in (1, 2, 3, 127) and done.said, done.returncode


def test_closed_and_full_streams(command):
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = ran(["bash", "-c", f'exec "$@" {closed}', "bash", *command("--overwrite")])
        assert done.returncode == 0, (closed, done.said)
    done = ran(["bash", "-c", 'exec "$@" --format json > /dev/full', "bash", *command("--overwrite")])
    assert done.returncode == 3 and "standard output could not be written" in done.said, done.said
    done = ran(["bash", "-c", '"$@" --format json | head -1; exit ${PIPESTATUS[0]}', "bash", *command("--overwrite")])
    assert done.returncode == 0, done.said


def test_without_temporary_folder_and_home(command):
    env = {**os.environ, "TMPDIR": "/nowhere/at/all"}
    env.pop("HOME", None)
    assert ran(command(), env=env).returncode == 0
