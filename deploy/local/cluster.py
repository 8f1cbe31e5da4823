#!/usr/bin/env python3
"""Run this file: `python3 deploy/local/cluster.py --help`. It needs no installation and no environment."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python should be told, not shown a SyntaxError
        sys.exit("error: Python 3.11 or newer is needed; this is {}.{}".format(*sys.version_info))
    # The package is found from where this file lies, whatever the working directory.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from local.commands import main

    sys.exit(main())
