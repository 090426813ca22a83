"""Run the command line: `python -m sarguard`."""

from __future__ import annotations

import sys

from sarguard.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
