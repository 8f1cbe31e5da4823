"""Pictures of figures, drawn by a process of their own: :func:`png`.

matplotlib costs 80 MiB and a second to import, so it is imported by a process that is started when a picture is asked
for and ended when none was asked for during a minute. It sees nothing of our environment, has bounded memory,
draws one picture at a time, and is killed if one takes too long. Equal figures give equal bytes: what is sent again is
the same file.
"""

from pipetrail.targets.drawing.artist import png
from pipetrail.targets.drawing.sketch import CannotDraw

__all__ = ["CannotDraw", "png"]
