"""`python -m camflow.export`."""

import sys

from .cli import main

sys.exit(main())
