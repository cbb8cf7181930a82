"""The messages that people are most likely to meet, word for word: messages.txt has what each wrong command is answered with.

`CAMFLOW_WRITE_MESSAGES=1 pytest tests/python/test_messages.py` writes that file anew; read its changes as a user would.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fiftyone as fo
import pytest
from PIL import Image

EXPECTED = Path(__file__).with_name("messages.txt")
NOBODY = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300"

# Commands in the folder that `place` makes.
WITHOUT_DATABASE = """
annotate
annotate --dataset flowers --clas car
annotate --dataset flowers --method gradcan
annotate --dataset flowers --precision fp8
annotate --dataset flowers --counterfactuals inpaint
annotate --dataset flowers --limit 0
annotate --dataset flowers --limit -1
annotate --dataset flowers --report-file a.json --html-file a.json
annotate --dataset flowers --map car=bus --map car=cat
annotate --dataset flowers --shard 4/3
annotate --dataset flowers --max-failures 200%
annotate --dataset flowers --target pixel=1
annotate --dataset flowers --seed 3
annotate --dataset flowers --field {klass}
annotat
run no-such.toml
run a.png
run broken.toml
run mistakes.toml
run two.toml --only thrid
run two.toml --set limi=3
worker run two.toml
compare --dataset flowers v1_dog
compare --dataset flowers v1_dog v2_dog --max-drop energy=0.1
compare --dataset flowers v1_dog v2_dog --max-drop energy_inside
explain a.png --model good.pt2 --out maps --layers 9
explain a.png --model good.pt2 --out maps --layers 1-90
explain a.png --model good.pt2 --out maps --layers 2-1
explain a.png --model good.pt2 --out maps --layers layer4
explain a.png --model good.pt2 --out maps --layers feature
explain a.png --model good.pt2 --out maps --layers 9,layer4
explain a.png --model good.pt2 --out maps --class dgo
explain a.png --model good.pt2 --out maps --class dog --target pixel=1,1
explain a.png --model good.pt2 --out maps --class dog --target labels
explain a.png --model good.pt2 --out maps --class dog --method gradcam,chefer
explain a.png --model good.pt2 --out maps --target top --class dog
explain a.png --model good.pt2 --out maps --device gpu
explain a.png --model good.pt2 --out maps --device cpu --precision tf32
explain a.png --model good.pt2 --out maps --device cpu,cpu
explain a.png --model good.pt2 --out maps --exact --precision bf16
explain a.png --model good.pt2 --out maps --text "a red car"
explain a.png --model good.pt2 --out maps --text "a red car" --class dog
explain a.png --model good.pt2 --out maps --text ""
explain a.png --model good.pt2 --out maps --class dog --text-template "a photo"
explain a.png --model good.pt2 --out maps --text cat --text cat
explain no-such.png --model good.pt2 --out maps
explain a.png --model good.pt2 --out file
explain text.png --model good.pt2 --out maps
explain empty.png --model good.pt2 --out maps
explain a.png --model no-such.pt2 --out maps
explain a.png --model https://example.org/model.pt2 --out maps
check-model good.pt2
check-model no-such.pt2 a.png
check-model good.pt2 no-such.png
check-model good.pt2 a.png --layers 9
check-model good.pt2 a.png --layers auto
check-model good.pt2 a.png --class dgo
check-model good.pt2 a.png --threshold flop=0.8
check-model good.pt2 a.png --threshold flip=0.5,0.8
check-model good.pt2 a.png --noise 0
check-model good.pt2 a.png --target labels
check-model good.pt2 a.png --device cpu,cpu
inspect text.pt2
inspect empty.pt2
inspect cut.pt2
inspect state.pt2
inspect folder.pt2
export a.png --out no.pt2 --python no-such-python
runs --dataset flowers --database-uri 127.0.0.1:27017
runs --dataset flowers --database-uri mongodb://127.0.0.1:9 --database-dir here
runs --dataset flowers --database-uri {nobody}
annotate --dataset flowers --model good.pt2 --database-uri {nobody}
annotate --dataset flowers --model no-such.pt2 --database-uri {nobody}
run two.toml --only first --database-uri x
report --dataset flowers --baseline no-such.json
report --dataset flowers --out file/report.html
localize --dataset flowers --boxes found --threshold 0.155
localize --dataset flowers --truth truth --json file/numbers.json
check --dataset flowers
"""
WITH_DATABASE = """
annotate --dataset flower
annotate --dataset empty
annotate --dataset video
annotate --dataset flowers --class dog --target labels:truht
annotate --dataset flowers --class dog --target labels:score
annotate --dataset flowers --class dog --target labels:truth --attention-on truht
annotate --dataset flowers --class dog --target labels:truth --attention-on score
annotate --dataset flowers --class dog --target predicted --counterfactuals impute
annotate --dataset flowers --class dog --target labels:truth --predictions truth
annotate --dataset flowers --class dog --target predicted --predictions truth
annotate --dataset flowers --class dog --target labels:truth --per-detection --eval-key eval
annotate --dataset flowers --class dog --target labels:truth --eval-key eval
annotate --dataset flowers --class dgo --target predicted
annotate --dataset flowers --class person --target labels:truth
annotate --dataset flowers --text "a red car"
annotate --dataset flowers --text "a red car" --target pixel=1,2
annotate --dataset flowers --class dog --target predicted --layers 9
annotate --dataset flowers --class dog --target predicted --field truth
annotate --dataset flowers --class dog --target predicted --tags nigth
annotate --dataset flowers --class dog --target predicted --match {"a
annotate --dataset flowers --class dog --target predicted --view best
annotate --dataset flowers --class dog --target predicted --ids ids.txt
annotate --dataset flowers --class dog --target predicted --out file/maps
annotate --dataset flowers --class dog --target predicted --method finercam,gradcam --field {class}
check --dataset empty
check --dataset annotated --fields dog_grad_layer_2
compare --dataset flowers v1_dog v2_dog
compare --dataset annotated dog_grad_layer_1 dog_grad_layer_2
compare --dataset annotated dog_grad_layer_1 v2_*
compare --dataset annotated dog_grad_layer_1 dog_grad_layer_1
check-model good.pt2 --dataset flower
check-model good.pt2 --dataset empty
clean --dataset flowers --out no-such-folder
clean --dataset flowers --out maps
remove --dataset flowers nightly
report --dataset flowers
report --dataset annotated --tags nigth
localize --dataset flowers --truth truth
localize --dataset annotated --boxes found
localize --dataset annotated --threshold 0.2
localize --dataset annotated --truth truht
localize --dataset annotated --threshold 0.2 --boxes dog_grad_layer_1
localize --dataset annotated --threshold 0.2 --boxes _found
localize --dataset annotated --threshold 0.2 --boxes found
runs --dataset flowrs
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, classifier) -> Path:
    """A folder with files that are right and files that are not."""
    folder = tmp_path_factory.mktemp("messages")
    (folder / "good.pt2").symlink_to(classifier)
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    (folder / "text.png").write_text("This is no picture.")
    (folder / "empty.png").touch()
    (folder / "file").touch()
    (folder / "maps").mkdir()
    (folder / "folder.pt2").mkdir()
    (folder / "empty.pt2").touch()
    (folder / "text.pt2").write_text("This is no model.")
    content = classifier.read_bytes()
    (folder / "cut.pt2").write_bytes(content[: len(content) // 2])
    (folder / "ids.txt").write_text("123456789012345678901234\n")
    import torch

    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "state.pt2")
    (folder / "broken.toml").write_text("version = 1\n[[job]\n")
    (folder / "mistakes.toml").write_text(
        "version = 1\n[[job]]\nname = 'night'\ndatset = 'flowers'\nlimit = 'many'\nexact = 'yes'\nmethod = ['gradcan']\n"
    )
    (folder / "two.toml").write_text(
        "version = 1\n[defaults]\ndataset = 'flowers'\n[[job]]\nname = 'first'\n[[job]]\nname = 'third'\nclass = 'dog'\n"
    )
    return folder


@pytest.fixture(scope="module")
def datasets(database, place):
    """Small datasets, most of them of one picture; which there were before."""
    made, others = [], fo.list_datasets()

    def dataset(name: str, **fields):
        made.append(fo.Dataset(name, persistent=True, overwrite=True))
        if fields:
            made[-1].add_sample(fo.Sample(str(place / "a.png"), **fields))
        return made[-1]

    box = fo.Detection(label="dog", bounding_box=[0, 0, 1, 1])
    dataset("flowers", truth=fo.Detections(detections=[box]), guess=fo.Classification(label="cat"), score=0.5, tags=["night"])
    dataset("annotated", dog_grad_layer_1=fo.Heatmap(map_path=str(place / "a.png")))
    dataset("empty")
    video = dataset("video")
    video.media_type = "video"
    yield others
    for one in made:
        one.delete()


@pytest.fixture(scope="module")
def answered(binary, place):
    """What a command is answered with: its exit code and standard error, without what differs from machine to machine."""

    def run(line: str, database: str = NOBODY, others: Iterable[str] = ()) -> str:
        arguments = shlex.split(line.replace("{nobody}", NOBODY).replace('{"a', "'{\"a'"))
        if arguments[0] == "annotate" and "--model" not in arguments and "--dataset" in arguments:
            arguments += ["--model", "good.pt2"]
        environment = {**os.environ, "FIFTYONE_DATABASE_URI": database, "COLUMNS": "120"}
        done = subprocess.run(
            [binary, *arguments], check=False, capture_output=True, text=True, cwd=place, env=environment, timeout=300
        )
        said = (
            done.stderr.replace(str(place.resolve()), "/here")
            .replace(str(place), "/here")
            .replace(database, "mongodb://DATABASE")
        )
        # What the tests before left in the database that all tests of a process share.
        for name in others:
            said = said.replace(f"`{name}`, ", "")
        said = re.sub(r"127\.0\.0\.1:\d{4,}", "127.0.0.1:PORT", said).replace(socket.gethostname(), "HOST")
        said = "".join(
            part for part in said.splitlines(keepends=True) if not re.match(r"note: (?!failed)|\d{4}-\d\d-\d\dT", part)
        )
        return f"$ camflow {line}\n{said.strip()}\n=> {done.returncode}\n"

    return run


@pytest.fixture(scope="module")
def expected():
    """The answers of messages.txt by their commands, or a file to be written."""
    if "CAMFLOW_WRITE_MESSAGES" in os.environ:
        written: dict[str, str] = {}
        yield written
        EXPECTED.write_text("\n".join(written.values()))
    else:
        blocks = re.split(r"\n(?=\$ camflow )", EXPECTED.read_text())
        yield {block.splitlines()[0]: block.rstrip("\n") + "\n" for block in blocks}


def asked(answered, commands: str) -> list[str]:
    """All answers; most of a command's time is the program's start."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(answered, filter(None, commands.split("\n"))))


def compare(said: list[str], expected: dict[str, str]) -> None:
    if "CAMFLOW_WRITE_MESSAGES" in os.environ:
        expected.update({one.splitlines()[0]: one for one in said})
    assert said == [expected.get(one.splitlines()[0]) for one in said]


def sound(said: str) -> None:
    """What holds of all messages."""
    _command, *lines, _ = said.splitlines()
    text = "\n".join(lines)
    assert not re.search(r"\b1 (files|samples|mistakes|jobs|classes|times)\b", text), said
    assert not re.search(r"Topology|labels: \{|Kind: |os error \d+\).*os error", text), said
    assert all(len(line) < 500 for line in lines), said
    assert all(line.count(name) < 2 for line in lines for name in re.findall(r"`(/[^`]+)`", line)), said


def test_mistakes_without_a_database(answered, expected):
    said = asked(answered, WITHOUT_DATABASE)
    for one in said:
        sound(one)
    compare(said, expected)


def test_mistakes_about_a_dataset(answered, datasets, database, expected):
    said = asked(lambda line: answered(line, database, datasets), WITH_DATABASE)
    for one in said:
        sound(one)
    compare(said, expected)
