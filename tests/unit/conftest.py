"""No event loop of its own accord: each async test has one, and what nobody made nobody has to close.

pytest-asyncio asks for the current loop before the first async test. Until someone has set one (or none), Python 3.11
makes one at that moment, which nobody closes; its ResourceWarning then fails whichever test the collector runs in.
"""

import asyncio

asyncio.set_event_loop(None)
