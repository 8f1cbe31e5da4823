"""``python -m pipetrail.cli``."""

from pipetrail.cli import main

main()
