"""A dataset with its files in one archive, to be put into another database as it was: each process of the tests has its own."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import bson
import pymongo

ENTRY = ".documents.bson"


def moved(value: Any, old: str, new: str) -> Any:
    """With a folder, and all below it, somewhere else."""
    if isinstance(value, dict):
        return {key: moved(one, old, new) for key, one in value.items()}
    if isinstance(value, list):
        return [moved(one, old, new) for one in value]
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value.removeprefix(old)
    return value


def save(database: pymongo.database.Database, name: str, folder: Path, archive: Path) -> None:
    """Writes a dataset, whose files lie in `folder`, to an archive `*.zip`."""
    dataset = database.datasets.find_one({"name": name})
    samples = database[dataset["sample_collection_name"]]
    found = {"folder": str(folder), "dataset": dataset, "indexes": samples.index_information(), "samples": list(samples.find())}
    (folder / ENTRY).write_bytes(bson.encode(found))
    partial = archive.with_suffix(".partial")
    shutil.make_archive(str(partial), "zip", folder)
    (folder / ENTRY).unlink()
    Path(f"{partial}.zip").replace(archive)


def restore(database: pymongo.database.Database, folder: Path, archive: Path) -> None:
    """Makes the same dataset in another database, with its files in `folder`."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    found = bson.decode((folder / ENTRY).read_bytes())
    (folder / ENTRY).unlink()
    samples = database[found["dataset"]["sample_collection_name"]]
    for key, index in found["indexes"].items():
        if key != "_id_":
            samples.create_index([(path, direction) for path, direction in index["key"]], name=key)
    samples.insert_many(moved(found["samples"], found["folder"], str(folder)))
    # What people see comes last.
    database.datasets.insert_one(moved(found["dataset"], found["folder"], str(folder)))
