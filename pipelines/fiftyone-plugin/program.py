"""The `camflow` program as the App runs it: which one, and with what of FiftyOne's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from ._camflow import process
from ._camflow.collection import environment
from ._camflow.process import CamflowError, NotFoundError

if TYPE_CHECKING:
    from fiftyone.operators.executor import ExecutionContext

__all__ = ["CamflowError", "find", "is_streamed", "start", "told"]


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


def is_streamed(ctx: ExecutionContext) -> bool:
    """Whether a page of the App reads what the operator yields: requests name the operator, calls from Python do not."""
    return "operator_uri" in ctx.request_params


def told(error: CamflowError) -> tuple[dict[str, Any], dict[str, str]]:
    """An error as `show_output` takes it, in place of a result: its hints stand on lines of their own."""
    outputs = types.Object()
    outputs.str("error", label="camflow has given up", view=types.MarkdownView())
    return types.Property(outputs).to_json(), {"error": str(error).replace("\n", "\n\n")}
