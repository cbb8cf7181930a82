"""pipelines/slurm and pipelines/kubernetes: which shards they ask for, what follows from camflow's exit codes, and the manifest
against Kubernetes' schema. scripts/lab/slurm.sh runs the former on a real Slurm."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import fiftyone as fo
import kubernetes_validate
import pytest
import yaml
from conftest import ROOT

SCRIPT = ROOT / "pipelines" / "slurm" / "annotate.sbatch"
MANIFEST = ROOT / "pipelines" / "kubernetes" / "annotate.yaml"
# The releases that are looked after now, and the first that has all of it.
RELEASES = ("1.31", "1.34", "1.37")


def program(folder: Path, name: str, body: str) -> Path:
    """A program on the PATH that writes its arguments, a line a call, into `NAME.calls`."""
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$*" >>{folder}/{name}.calls\n{body}\n')
    path.chmod(0o755)
    return path


def calls(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.calls"
    return path.read_text().splitlines() if path.exists() else []


def shards(lines: list[str]) -> list[str]:
    return [found for line in lines for found in re.findall(r"--set shard=(\S+)", line)]


# -------------------------------------------------------------------------------------------------------------------- Slurm


@pytest.fixture
def slurm(tmp_path):
    """Runs the script as Slurm would, with a camflow and a scontrol that only write down how they were called."""

    class Slurm:
        # Exits with the codes of the file in turn, the last one for ever.
        camflow = f"code=$(head -n1 {tmp_path}/codes); sed -i '1{{$!d}}' {tmp_path}/codes; exit $code"

        def start(self, task: int, *arguments: str, of: range = range(64), codes=(0,), camflow: str = camflow, **more):
            (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
            # Requeueing a task sends SIGTERM to all of its processes, scontrol too.
            for name, body in (("camflow", camflow), ("scontrol", "kill -TERM $$ $PPID")):
                program(tmp_path, name, body)
            environment = {
                name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CAMFLOW", "FIFTYONE"))
            }
            environment |= {
                "PATH": f"{tmp_path}:{environment['PATH']}",
                "HOME": str(tmp_path),
                "FIFTYONE_DATABASE_URI": "mongodb://ada:secret@db.example.net",
                "CAMFLOW_LOCK_POLL": "0.1",
                "SLURM_ARRAY_JOB_ID": "70",
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_MIN": str(of[0]),
                "SLURM_ARRAY_TASK_MAX": str(of[-1]),
                "SLURM_ARRAY_TASK_COUNT": str(len(of)),
                # As Slurm has it for the last task of an array: the number of the whole array.
                "SLURM_JOB_ID": "70",
                **more,
            }
            # Slurm runs it in the folder of the submission.
            command = ["bash", SCRIPT, *(arguments or ("night.toml",))]
            environment = {name: value for name, value in environment.items() if value is not None}
            return subprocess.Popen(
                command, env=environment, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )

        def run(self, *arguments, **more):
            """Exit code, what it said, the calls of camflow and of scontrol."""
            for name in ("camflow", "scontrol"):
                (tmp_path / f"{name}.calls").unlink(missing_ok=True)
            process = self.start(*arguments, **more)
            said, _ = process.communicate(timeout=60)
            return process.returncode, said, calls(tmp_path, "camflow"), calls(tmp_path, "scontrol")

    return Slurm()


def test_every_task_of_the_array_does_its_shard(slurm, tmp_path):
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    [array] = re.findall(r"^#SBATCH --array=0-(\d+)", SCRIPT.read_text(), flags=re.MULTILINE)
    assert int(array) >= 1
    for count in (1, 3, 10):
        asked = []
        for task in range(count):
            code, said, camflow, scontrol = slurm.run(task, "night.toml", "--only", "people", of=range(count))
            assert (code, scontrol) == (0, []), said
            assert camflow[0].startswith("run night.toml --only people --set ")
            assert "report-file=" in camflow[0] and "{shard}.json" in camflow[0]
            # What everybody may see: arguments and logs.
            assert "secret" not in said + camflow[0]
            asked += shards(camflow)
        assert asked == [f"{index}/{count}" for index in range(1, count + 1)]
    # Some of them again: how many there are does not follow from how many are submitted.
    code, said, camflow, _ = slurm.run(3, of=range(3, 8, 4))
    assert (code, camflow) == (2, []) and "SHARDS=" in said
    assert shards(slurm.run(3, of=range(3, 8, 4), SHARDS="64")[2]) == ["4/64"]
    code, said, camflow, _ = slurm.run(9, of=range(9, 10), SHARDS="9")
    assert (code, camflow) == (2, []) and "task 9 has no shard" in said


def test_what_is_missing_is_said_before_anything_runs(slurm, tmp_path):
    for more, words in (
        ({"FIFTYONE_DATABASE_URI": None}, "FIFTYONE_DATABASE_URI is not set"),
        ({"SLURM_ARRAY_TASK_ID": None}, "this is no task of an array"),
        ({"CAMFLOW_BIN": "/nowhere/camflow"}, "there is no program /nowhere/camflow"),
    ):
        code, said, camflow, scontrol = slurm.run(0, **more)
        assert (code, camflow, scontrol) == (2, [], []) and words in said and "hint: " in said
    # A file of the user's has what is not in the environment, and no more than that.
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "camflow.env").write_text(
        "# mine\nthis is no=variable\nFIFTYONE_DATABASE_URI=mongodb://of-file/?a=b&c=d\nHOME=/elsewhere\n"
    )
    show = 'echo "$FIFTYONE_DATABASE_URI $HOME"'
    assert f"mongodb://of-file/?a=b&c=d {tmp_path}\n" in slurm.run(0, camflow=show, FIFTYONE_DATABASE_URI=None)[1]
    assert "mongodb://mine " in slurm.run(0, camflow=show, FIFTYONE_DATABASE_URI="mongodb://mine")[1]


def test_what_follows_from_an_exit_code(slurm):
    again = ["requeue 70_5"]
    for code, expected in ((0, []), (1, []), (2, []), (130, []), (3, again), (137, again), (139, again)):
        ended, said, camflow, scontrol = slurm.run(5, codes=(code,))
        assert (ended, scontrol, len(camflow)) == (code, expected, 1) and "requeue failed" not in said, said
    # Not for ever.
    for starts, expected in (("19", again), ("20", [])):
        code, said, _, scontrol = slurm.run(5, codes=(3,), SLURM_RESTART_COUNT=starts)
        assert (code, scontrol) == (3, expected), said
    # Another run holds the shard: it is waited for, and then the GPU is given back.
    code, said, camflow, scontrol = slurm.run(5, codes=(4, 4, 4, 0))
    assert (code, len(camflow), scontrol) == (0, 4, []) and shards(camflow) == 4 * ["6/64"]
    code, _, camflow, scontrol = slurm.run(5, codes=(4,), CAMFLOW_LOCK_WAIT="2")
    assert (code, scontrol) == (4, again) and len(camflow) > 1
    assert slurm.run(5, codes=(4, 1))[0::3] == (1, [])


def test_signals_reach_camflow_once_and_only_the_time_limit_requeues(slurm, tmp_path):
    # A camflow that ends when it was told to, and says how often that was.
    drains = (
        f'trap "echo told >>{tmp_path}/told" TERM; touch {tmp_path}/begun; for _ in $(seq 15); do sleep 0.1; done; exit $CODE'
    )

    def signalled(*numbers, code, camflow=drains):
        for name in ("told", "begun", "camflow.calls", "scontrol.calls"):
            (tmp_path / name).unlink(missing_ok=True)
        process = slurm.start(5, camflow=camflow, CODE=str(code))
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)
        said, _ = process.communicate(timeout=60)
        told = (tmp_path / "told").read_text().split() if (tmp_path / "told").exists() else []
        return process.returncode, len(told), calls(tmp_path, "scontrol"), said

    # Slurm sends USR1 to the script alone.
    assert signalled(signal.SIGUSR1, code=130)[:3] == (130, 1, ["requeue 70_5"])
    assert signalled(signal.SIGUSR1, signal.SIGUSR1, code=3)[:3] == (3, 1, ["requeue 70_5"])
    # It was done by then.
    assert signalled(signal.SIGUSR1, code=1)[:3] == (1, 1, [])
    # Slurm sends TERM to the script and to camflow: nothing is sent on, and a cancelled task stays cancelled.
    assert signalled(signal.SIGTERM, code=130)[:3] == (130, 0, [])
    assert signalled(signal.SIGUSR1, signal.SIGTERM, code=137)[:3] == (137, 1, [])
    # While a lock is waited for.
    program(tmp_path, "sleep", f"touch {tmp_path}/begun; exec {shutil.which('sleep')} 1")
    for number, expected in ((signal.SIGUSR1, ["requeue 70_5"]), (signal.SIGTERM, [])):
        code, _, scontrol, said = signalled(number, code=4, camflow="exit 4")
        assert (code, scontrol) == (4, expected) and len(calls(tmp_path, "camflow")) == 1, said


# --------------------------------------------------------------------------------------------------------------- Kubernetes


@pytest.fixture(scope="module")
def documents() -> dict:
    return {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture(scope="module")
def container(documents) -> dict:
    [container] = documents["Job"]["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("release", RELEASES)
def test_the_manifest_is_valid(documents, release):
    assert set(documents) == {"ConfigMap", "Job"}
    for document in documents.values():
        kubernetes_validate.validate(document, release, strict=True)
    # The validator knows the names of this part.
    documents["Job"]["spec"]["podFailurePolicy"]["rule"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="rule"):
        kubernetes_validate.validate(documents["Job"], release, strict=True)
    del documents["Job"]["spec"]["podFailurePolicy"]["rule"]


def test_what_kubernetes_asks_for_beyond_its_schema(documents, container):
    spec = documents["Job"]["spec"]
    pod = spec["template"]["spec"]
    # A policy for failures needs pods that are not restarted in place, and FailIndex a limit for each index.
    assert (spec["completionMode"], pod["restartPolicy"], spec["podReplacementPolicy"]) == ("Indexed", "Never", "Failed")
    assert spec["backoffLimitPerIndex"] > 0 and "backoffLimit" not in spec
    rules = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "FailJob", "FailIndex"], "the first that fits counts"
    codes = {rule["action"]: rule["onExitCodes"] for rule in rules if "onExitCodes" in rule}
    assert {action: (one["operator"], one["values"]) for action, one in codes.items()} == {
        "FailJob": ("In", [2]),
        "FailIndex": ("In", [1]),
    }
    assert {one["containerName"] for one in codes.values()} == {container["name"]}
    # Waiting for the lock of a dead run, with the delays of Kubernetes.
    assert sum(10 * 2**n for n in range(spec["backoffLimitPerIndex"])) > 90
    # Every mount has its volume; what is written to is not read only, and all else is.
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert {name for name, mount in mounts.items() if not mount.get("readOnly")} == {"heatmaps", "tmp"}
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
    environment = {one["name"]: one for one in container["env"]}
    for name in ("HOME", "CAMFLOW_CACHE"):
        assert Path(environment[name]["value"]).is_relative_to(mounts["tmp"]["mountPath"])
    job = documents["ConfigMap"]["data"]["job.toml"]
    [out] = re.findall(r'^out = "(.*)"', job, flags=re.MULTILINE)
    assert Path(out).is_relative_to(mounts["heatmaps"]["mountPath"])
    # The database's address is in the secret alone.
    assert set(environment["FIFTYONE_DATABASE_URI"]["valueFrom"]) == {"secretKeyRef"}
    assert "DATABASE" not in " ".join(container["command"]) and "database-uri" not in job
    # No rights to grow, of the cluster or of the node.
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1 and not pod["automountServiceAccountToken"]


def test_every_index_does_its_shard(documents, container, tmp_path):
    spec = documents["Job"]["spec"]
    [count] = [int(one["value"]) for one in container["env"] if one["name"] == "SHARDS"]
    assert count == spec["completions"] >= spec["parallelism"]
    program(tmp_path, "camflow", "exit 3")
    for index in range(count):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SHARDS": str(count), "JOB_COMPLETION_INDEX": str(index)}
        assert subprocess.run(container["command"], check=False, env=environment).returncode == 3
    assert shards(calls(tmp_path, "camflow")) == [f"{index}/{count}" for index in range(1, count + 1)]
    assert subprocess.run(container["command"], check=False, env={"PATH": str(tmp_path) + ":/bin:/usr/bin"}).returncode != 3


def test_the_job_file_and_the_command_of_the_manifest_do_the_whole_dataset(
    documents, container, binary, tiny_dataset, tiny_model, tmp_path
):
    """camflow itself, started as the pods would, one after the other."""
    dataset = tiny_dataset(12)
    folder = tmp_path / "job"
    folder.mkdir()
    # What is the user's own, and where it lies.
    text = documents["ConfigMap"]["data"]["job.toml"]
    for key, value in (("dataset", dataset.name), ("class", "light"), ("model", tiny_model), ("layers", "1")):
        text, replaced = re.subn(rf'^{key} = ".*"$', f'{key} = "{value}"', text, flags=re.MULTILINE)
        assert replaced == 1
    text = text.replace("/heatmaps/", f"{tmp_path}/heatmaps/")
    (folder / "job.toml").write_text(text)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "camflow").symlink_to(binary)
    command = [part.replace("/etc/camflow", str(folder)) for part in container["command"]]
    for index in range(3):
        environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(tmp_path)}
        environment |= {"SHARDS": "3", "JOB_COMPLETION_INDEX": str(index)}
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    dataset.reload()
    assert len(dataset.exists("light_grad_layer_1")) == 12
    assert sorted(path.name for path in (tmp_path / "heatmaps" / "reports").iterdir()) == [
        f"people-{n}-of-3.json" for n in (1, 2, 3)
    ]
    assert fo.dataset_exists(dataset.name)


def test_the_image_is_made_of_files_that_are_there(tmp_path):
    """No container engine is needed for so much: cargo finds all it needs among what the image copies."""
    lines = (MANIFEST.parent / "Containerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", lines, flags=re.MULTILINE) for name in line.split()]
    for name in copied:
        (tmp_path / name).symlink_to(ROOT / name)
        assert (tmp_path / name).exists()
    subprocess.run(
        ["cargo", "metadata", "--no-deps", "--offline", "--locked", "--format-version=1"],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    [torch] = re.findall(r"torch==[\d.]+", lines)
    assert f'"{torch}"' in (ROOT / "pyproject.toml").read_text()
