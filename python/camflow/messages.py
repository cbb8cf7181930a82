"""What camflow says beside its results: to Python's logging, and to people where nobody has set that up."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger("camflow")


class _Printer(logging.Handler):
    """Words alone, on whatever standard output is at the moment: a notebook puts a stream of its own there for each cell."""

    def emit(self, record: logging.LogRecord) -> None:
        label = "warning: " if record.levelno >= logging.WARNING else ""
        print(f"{label}{record.getMessage()}", file=sys.stdout, flush=True)


if not logger.handlers:
    logger.addHandler(_Printer())
    logger.setLevel(logging.INFO)
    logger.propagate = False


def tell(event: Mapping[str, Any]) -> None:
    """Passes on what an event says to people."""
    match event["event"]:
        case "notice":
            logger.info("note: %s", event["message"])
        case "warning":
            logger.warning("%s", event["message"])
