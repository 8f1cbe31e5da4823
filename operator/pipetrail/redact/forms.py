"""What a secret looks like: how texts may hold one that is known, and the shapes of those that are not."""

import base64
import html
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, quote_plus

REDACTED: Final = "<redacted>"
DIGITS: Final = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")

_PLACEHOLDERS: Final = frozenset({"true", "false", "none", "null", "default", "empty", "unset", "undefined"})
_SHORTEST: Final = 4
_SHORTEST_NUMBER: Final = 6
_SHORTEST_LINE: Final = 16

SHAPES: Final = re.compile(
    r"""
      -----BEGIN\ [A-Z0-9 ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z0-9 ]*PRIVATE\ KEY-----|\Z)
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
    | \bAIza[0-9A-Za-z_-]{35}
    | \b(?:gh[opsur]_[0-9A-Za-z]{20,}|github_pat_[0-9A-Za-z_]{20,}|glpat-[0-9A-Za-z_-]{16,})
    | \bxox[abeprs]-[0-9A-Za-z-]{10,}
    | \bhf_[0-9A-Za-z]{20,}
    | \bsk-[0-9A-Za-z_-]{20,}
    | \beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]*
    | (?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s/@:"'<>]*:[^\s/@"'<>]+(?=@)
    | (?P<auth>\b[Bb]earer\s+|\b[Aa]uthorization:\s*[Bb]asic\s+)[0-9A-Za-z._~+/=-]{8,}
    | (?P<assign>(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z0-9_.-]{3,60})["']?(?:=|:\s?(?=["']))["']?)(?P<value>[^\s"',;&]+)
    """,
    re.VERBOSE | re.DOTALL,
)


def forms(secret: str) -> Iterator[str]:
    """`secret` as texts may hold it; nothing if it is too common a text to be looked for."""
    for text in (secret, secret.strip(), *_long_lines(secret)):
        number = DIGITS.fullmatch(text)
        if len(text) < (_SHORTEST_NUMBER if number else _SHORTEST) or text.lower() in _PLACEHOLDERS or text == REDACTED:
            continue
        yield text
        if not number:
            for quoted in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
                yield quoted
                yield quoted.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")  # as Go does
            yield html.escape(text)
            yield html.escape(text, quote=False)
            yield quote(text, safe="", errors="surrogatepass")
            yield quote_plus(text, errors="surrogatepass")
            yield base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def _long_lines(secret: str) -> Iterator[str]:
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line.strip() for line in lines if len(line.strip()) >= _SHORTEST_LINE)


def pattern(secret: str) -> str:
    """The regular expression that finds `secret`."""
    escaped = re.escape(secret)
    # Digits inside longer numbers are not the secret: 123456 is no part of 0.81234567.
    return rf"(?<![\d.]){escaped}(?![\d.]*\d)" if DIGITS.fullmatch(secret) else escaped
