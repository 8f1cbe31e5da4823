#!/usr/bin/env python3
"""Run this file: `python3 deploy/local/cluster.py --help`. It needs no installation and no environment."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # The package is found from where this file lies, whatever the working directory.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from local.commands import main

    sys.exit(main())
