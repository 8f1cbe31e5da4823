"""HTML and markdown that users' code wrote, made harmless to whoever opens it in a tracker. Pure.

A tracker serves such a page from its own address, to people who are logged in there. So what remains is text,
structure, plain looks and links: no script, handler, frame, form, embedded object, style sheet or page-wide element;
links lead to http, https and mailto alone; and nothing is fetched when the page is opened (an image elsewhere tells its
owner who looked, and when). Pictures that stand in the page itself as PNG, JPEG, GIF or WebP are kept.

HTML is parsed as browsers do and written anew by ammonia (nh3) from a list of what is allowed. Its time grows with the
square of hostile markup (20 000 elements in each other take half a second), so :func:`html` is for a process that may
be killed: :func:`pipetrail.targets.drawing.page`. :func:`markdown` is linear.

What is sanitised stays as it is if that is done again.
"""

import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Final

import nh3

from pipetrail.record import Frozen

TAGS_MOST: Final = 20_000  #: elements of a page, about
ENTITIES_MOST: Final = 100_000  #: ampersands of a page
NAMED_MOST: Final = 12  #: kinds of what was removed that are named

_ALLOWED: Final = """
    a abbr b blockquote br caption center cite code col colgroup dd del details dfn div dl dt em figcaption figure
    h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td
    tfoot th thead tr u ul var
"""
_TAGS: Final = frozenset(_ALLOWED.split())
_WITH_CONTENT: Final = {"script", "style", "title", "template", "noscript", "textarea", "select", "object", "iframe"}
_ATTRIBUTES: Final = {
    "*": {"align", "style", "title"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
    "ol": {"start"},
    "table": {"border"},
}
# Looks that stay within their element: nothing that loads, or lies over the page around it.
_STYLES: Final = {
    "background-color", "border", "border-collapse", "color", "font-family", "font-size", "font-style", "font-weight",
    "padding", "text-align", "text-decoration", "vertical-align", "white-space",
}  # fmt: skip
_FUNCTION: Final = re.compile(r"(?i)[\\@]|(?<!rgb)(?<!rgba)(?<!hsl)(?<!hsla)\(")  # url(), image-set(), escapes
_PICTURE: Final = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*")
_LINK: Final = re.compile(r"(?i)(?:https?://|mailto:)\S")
_OPENED: Final = re.compile(r"<([A-Za-z][A-Za-z0-9:-]{0,30})")
_ELEMENT: Final = re.compile(r"<([a-z][a-z0-9:-]*)((?: [^\s=\"<>]+=\"[^\"]*\")*)>")
_ATTRIBUTE: Final = re.compile(r" ([^\s=\"<>]+)=\"([^\"]*)\"")
_HREF: Final = re.compile(r"(?i)<[^<>]*\shref\s*=")
_FRAME: Final = re.compile(r"(?i)<(?:html|body)\s([^<>]*)")
_FRAMED: Final = re.compile(r"(?i)(?<![\w-])(on\w+|background|style)\s*=")
_RAW: Final = re.compile(r"(<(script|style)\b[^>]*>).*?</\2>", re.DOTALL)

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_LOOKS: Final = (
    "body{font-family:sans-serif;margin:1.5em;line-height:1.4}table{border-collapse:collapse}td,th{padding:.2em .6em}"
)


class Sanitised(Frozen, frozen=True):
    """What is left, and the kinds of what was taken away (``<script>``, ``onclick``); none if the text was harmless."""

    text: str
    removed: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """What was taken away, for a :class:`~pipetrail.targets.target.Change`."""
        more = len(self.removed) - NAMED_MOST
        return "removed: " + ", ".join(self.removed[:NAMED_MOST]) + (f" and {more} more" if more > 0 else "")


class TooMuchMarkup(ValueError):
    """More markup than can be parsed in bounded time."""


# --- HTML -------------------------------------------------------------------------------------------------------------


def html(text: str) -> Sanitised:
    """`text` (a page or a part of one) as a harmless part of a page. Raises :class:`TooMuchMarkup`."""
    if text.count("<") > TAGS_MOST or text.count("&") > ENTITIES_MOST:
        raise TooMuchMarkup(f"more than {TAGS_MOST} elements or {ENTITIES_MOST} ampersands")
    clean = nh3.clean(
        text,
        tags=set(_TAGS),
        clean_content_tags=_WITH_CONTENT,
        attributes=_ATTRIBUTES,
        attribute_filter=_kept,
        url_schemes={"http", "https", "mailto", "data"},
        url_relative="deny",
        filter_style_properties=_STYLES,
        link_rel="noopener noreferrer",
    )
    return Sanitised(text=clean, removed=tuple(_removed(text, clean)))


def page(title: str, part: str) -> str:
    """A whole page around a harmless part, which by its own word runs and loads nothing, should anything be left."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{_LOOKS}</style>"
    )
    return f"<!doctype html>\n<html><head>{head}</head><body>\n{part}\n</body></html>\n"


def _kept(tag: str, attribute: str, value: str) -> str | None:
    """What the lists cannot say: addresses by tag, and no functions in styles."""
    match tag, attribute:
        case _, "style":
            return None if _FUNCTION.search(value) else value
        case "img", "src":
            return value if _PICTURE.fullmatch(value) else None
        case "a", "href":
            return value if _LINK.match(value) else None
        case _:
            return value


def _removed(text: str, clean: str) -> Iterator[str]:
    """Kinds of elements and attributes that are in `text` and not in `clean`, both as the same parser reads them."""
    names = {name.lower() for name in _OPENED.findall(text)}
    everything = nh3.clean(
        text,
        tags=(set(sorted(names)[:1_000]) | _TAGS) - {"title"},
        clean_content_tags={"title"},
        generic_attribute_prefixes={""},
        attributes={},
        url_schemes=set(re.findall(r"([a-z][a-z0-9+.-]{0,20})(?=:)", text.lower())) | {"http"},
        link_rel=None,
    )
    left, there = _kinds(clean), _kinds(_RAW.sub(r"\1", everything))
    there["href"] = max(there["href"], len(_HREF.findall(text)))  # ammonia drops schemes that are written in disguise
    # What parsers of parts of a page never see:
    there.update(name.lower() for frame in _FRAME.findall(text) for name in _FRAMED.findall(frame))
    for kind, times in sorted(there.items()):
        if left[kind] < times and kind not in ("rel", "<html>", "<head>", "<body>"):
            yield kind


def _kinds(markup: str) -> Counter[str]:
    """How often each element, attribute and property of a style occurs in what ammonia has written."""
    found: Counter[str] = Counter()
    for tag, attributes in _ELEMENT.findall(markup):
        found[f"<{tag}>"] += 1
        for name, value in _ATTRIBUTE.findall(attributes):
            found[name] += 1
            if name == "style":
                found.update(
                    f"style {part.partition(':')[0].strip().lower()}" for part in value.split(";") if ":" in part
                )
    return found


# --- markdown ---------------------------------------------------------------------------------------------------------

# Elements that mean no harm while they have no attribute, and that leave markdown's rules as they are around them.
_PLAIN: Final = re.compile(
    r"</?(?:b|br|code|dd|del|details|dl|dt|em|h[1-6]|hr|i|ins|kbd|li|mark|ol|p|s|small|strong|sub|sup"
    r"|summary|u|ul) ?/?>"
)
_BRACKETED: Final = r"<(?:https?://|mailto:)[^\s<>\"'`]*>"
_ADDRESS: Final = re.compile(_BRACKETED, re.IGNORECASE)
_FENCED: Final = re.compile(r"(?:\A|(?<=\n\n))```[\w+-]*\n(?:(?!```|~~~).*\n)*?```(?:\n|\Z)")
_INLINED: Final = re.compile(r"!\[[^\[\]]*\]\(data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]*\)")
_SUSPECT: Final = re.compile(r"<(?=[A-Za-z/!?])|!\[|\]\(|\]:")
_TARGET: Final = re.compile(rf"\s*(?:https?://|mailto:|<?#|{_BRACKETED})", re.IGNORECASE)


def markdown(text: str) -> Sanitised:
    """`text` without HTML other than plain elements, without images elsewhere, with links to harmless addresses.

    What is taken away stays readable: a tag gets a space behind its ``<``, a link's address stands beside its words, an
    image is a link. Blocks fenced by ``` are code and left alone.
    """
    parts: list[str] = []
    removed: set[str] = set()
    at = 0
    for block in _FENCED.finditer(text):
        parts += [_harmless(text[at : block.start()], removed), block[0]]
        at = block.end()
    parts.append(_harmless(text[at:], removed))
    return Sanitised(text="".join(parts), removed=tuple(sorted(removed)))


def _harmless(text: str, removed: set[str]) -> str:
    parts: list[str] = []
    at = 0
    while (found := _SUSPECT.search(text, at)) is not None:
        parts.append(text[at : found.start()])
        sign, at = found[0], found.end()
        match sign:
            case "<":
                whole = _PLAIN.match(text, found.start()) or _ADDRESS.match(text, found.start())
                if whole is not None:
                    sign, at = whole[0], whole.end()
                else:
                    name = _OPENED.match(text, found.start())
                    if name is not None:
                        removed.add(f"<{name[1].lower()}>")
                    sign = "< "
            case "![":
                whole = _INLINED.match(text, found.start())
                if whole is not None:
                    sign, at = whole[0], whole.end()
                else:
                    removed.add("image")
                    sign = "["
            case _ if not _TARGET.match(text, at):
                removed.add("link")
                sign = sign[0] + "\\" + sign[1]
        parts.append(sign)
    parts.append(text[at:])
    return "".join(parts)
