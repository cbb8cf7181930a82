"""The `camflow` program as the App runs it: which one, and with what of FiftyOne's settings."""

from __future__ import annotations

from ._camflow import process
from ._camflow.collection import environment
from ._camflow.process import CamflowError, NotFoundError

__all__ = ["CamflowError", "find", "start"]


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
