"""Pictures of figures (:func:`png`) and harmless pages of HTML (:func:`page`), made by a process of their own.

matplotlib costs 80 MiB and a second to import, and hostile HTML may keep a parser busy for minutes. So a process does
both: it is started when something is asked for and ended when nothing was during a minute, sees nothing of our
environment, has bounded memory, does one thing at a time, and is killed if that takes too long. Equal figures give
equal bytes: what is sent again is the same file.
"""

from pipetrail.targets.drawing.artist import page, png
from pipetrail.targets.drawing.sketch import CannotDraw

__all__ = ["CannotDraw", "page", "png"]
