"""Workers that misbehave as a process may: one that hangs, falls silent, leaks, dies or talks nonsense.

They speak the protocol of targets/neptune/wire.py up to where they go wrong. Which one is asked for by the project's
name, as ``hang`` or ``leak``.
"""

import json
import os
import sys
import threading
import time

from pipetrail.targets.neptune import wire

MIB = 1 << 20


def say(word: wire.Word) -> None:
    sys.stdout.buffer.write(wire.encode(word) + b"\n")
    sys.stdout.buffer.flush()


def beat(held: list[int]) -> None:
    while True:
        say(wire.Beat(rss=held[0]))
        time.sleep(0.05)


def main() -> None:
    how = wire.SETUP.decode(sys.stdin.buffer.readline()).project
    held = [MIB]
    threading.Thread(target=beat, args=(held,), daemon=True).start()
    for line in sys.stdin.buffer:
        number = wire.REQUESTS.decode(line).number
        match how:
            case "hang":
                time.sleep(3600)
            case "silent":
                say(wire.Beat(rss=MIB))
                os.kill(os.getpid(), 19)  # SIGSTOP: not even its heart beats
            case "die":
                os._exit(3)
            case "nonsense":
                sys.stdout.buffer.write(b"Traceback (most recent call last):\n")
                sys.stdout.buffer.flush()
            case "leak":
                say(wire.Beat(rss=10_000 * MIB))
                time.sleep(3600)
            case "grow":
                held[0] = 1000 * MIB
                say(wire.Answer(number=number, result=wire.Project(version=str(os.getpid())), rss=held[0]))
            case "late":
                say(wire.Answer(number=number - 1, result=wire.Project(version="of the call before")))
                say(wire.Answer(number=number, result=wire.Project(version="its own")))
            case "environment":
                said = json.dumps({"environment": dict(os.environ), "folder": os.getcwd(), "arguments": sys.argv[1:]})
                say(wire.Answer(number=number, result=wire.Project(version=said)))
            case _:
                say(wire.Answer(number=number, result=wire.Project(version=str(os.getpid()))))


if __name__ == "__main__":
    main()
