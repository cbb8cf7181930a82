"""The `camflow` program as the App runs it: which one, and with what of FiftyOne's settings."""

from __future__ import annotations

import os
import sys

import fiftyone as fo

from ._camflow import process
from ._camflow.process import CamflowError, NotFoundError

__all__ = ["CamflowError", "environment", "find", "start"]


def find() -> str:
    """The program: `CAMFLOW_BIN`, else what the PATH or the folder of this Python holds.

    Raises:
        CamflowError: there is none.
    """
    try:
        return process.find()
    except NotFoundError:
        raise CamflowError(
            "no program `camflow` on the PATH of the FiftyOne App\n"
            "hint: install it into the App's environment with `pip install .` in camflow's folder,"
            " or set CAMFLOW_BIN to its path before the App is started"
        ) from None


def start(program: str, arguments: list[str], files: dict[str, str]) -> process.Run:
    """Starts a run; each of `files` is the content of a file for the flag that is its name.

    Raises:
        CamflowError: it does not start.
    """
    return process.Run(program, arguments, files, environment())


def environment() -> dict[str, str]:
    """This process's environment, with the database that FiftyOne uses here. Never as arguments: a URI may hold a password."""
    made = dict(os.environ)
    # Settings of a program win over the environment, and `fo.config` knows both. Without a URI, camflow finds the
    # database by FIFTYONE_PRIVATE_DATABASE_PORT, which FiftyOne sets.
    if fo.config.database_uri:
        made["FIFTYONE_DATABASE_URI"] = fo.config.database_uri
    if fo.config.database_dir:
        made["FIFTYONE_DATABASE_DIR"] = fo.config.database_dir
    made["FIFTYONE_DATABASE_NAME"] = fo.config.database_name
    # Should camflow have to export a model, this Python has what it takes.
    made.setdefault("CAMFLOW_PYTHON", sys.executable)
    return made
