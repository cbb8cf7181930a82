"""How names are shown that others have chosen: of files, datasets, classes."""

from __future__ import annotations

import os
import re

# Characters that nobody sees, that begin lines, move a terminal's cursor or turn text around: camflow refuses them in names.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def shown(text: object) -> str:
    """A name on one line, with what nobody would see written as escapes."""
    text = os.fsencode(str(text)).decode(errors="replace")
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
