"""What users wrote, made harmless: by a list of known attacks, and by what must stay."""

import re

import pytest

from pipetrail.targets import sanitise
from pipetrail.targets.sanitise import Sanitised, TooMuchMarkup

# After OWASP's cheat sheet on filter evasion and DOMPurify's list of mutations; none of it may do anything.
ATTACKS = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<img src=x onerror=alert(1)>",
    "<img src=`javascript:alert(1)`>",
    "<img src='https://evil.example/pixel.gif'>",
    "<img srcset='https://evil.example/a 1x'>",
    "<img src='data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+'>",
    "<img src='data:image/png;base64,AAAA' onload=alert(1)>",
    "<body onload=alert(1) background='https://evil.example/b'>",
    "<svg/onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x></svg>",
    "<svg><use href='data:image/svg+xml,<svg onload=alert(1)>'></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data='data:text/html,<script>alert(1)</script>'></object>",
    "<embed src='https://evil.example/x.swf'>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href=' &#14; javascript:alert(1)'>x</a>",
    "<a href='java\nscript:alert(1)'>x</a>",
    "<a href='jav&#x09;ascript:alert(1)'>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<a href='vbscript:msgbox(1)'>x</a>",
    "<a href='//evil.example'>x</a>",
    "<a href='/ajax-api/2.0/mlflow/runs/delete'>x</a>",
    "<form action='https://evil.example'><input name=password></form>",
    "<button formaction='javascript:alert(1)'>x</button>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href='https://evil.example/'>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<style>@import 'https://evil.example/x.css';</style>",
    "<p style='background-color:url(https://evil.example/x)'>x</p>",
    "<p style='background:url(https://evil.example/x)'>x</p>",
    "<p style='color:expression(alert(1))'>x</p>",
    "<p style='color:u\\72l(https://evil.example/x)'>x</p>",
    "<p style='position:fixed;top:0;left:0;width:100%;height:100%'>x</p>",
    "<video src='https://evil.example/v' poster='https://evil.example/p'></video><audio src='https://evil.example/a'>",
    "<picture><source srcset='https://evil.example/s'></picture>",
    "<table background='https://evil.example/t'><td background='https://evil.example/t'>x</table>",
    "<input type=image src='https://evil.example/i'><textarea autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>x</details>",
    "<marquee onstart=alert(1)>x</marquee>",
    "<template><script>alert(1)</script></template>",
    "<!--[if IE]><script>alert(1)</script><![endif]-->",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml-stylesheet href='javascript:alert(1)'?>",
    "<x-widget onclick=alert(1)>x</x-widget>",
    "<a id=location name=cookie>x</a>",
    "<p title='\"><script>alert(1)</script>'>x</p>",
    "</body></html><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
]
ALLOWED = re.compile(
    r"<(/?)(a|b|div|details|p|img|table|tbody|tr|td|h1|ul|li)((?: (?:href|rel|src|title|style|alt|width|height|border)"
    r'="[^"<>]*")*)>'
)
ADDRESS = re.compile(r' (?:href|src)="(?!https?://|mailto:|data:image/png;base64,)')


@pytest.mark.parametrize("attack", ATTACKS)
def test_html_has_nothing_left_that_runs_loads_or_lies_over_the_page(attack):
    clean = sanitise.html(attack).text
    markup = [m[0] for m in re.finditer(r"<[^<>]*>?", clean)]
    assert [tag for tag in markup if not ALLOWED.fullmatch(tag)] == []
    assert ADDRESS.search(clean) is None
    assert [word for word in ("evil.example", "url(", "expression", "position:") if word in "".join(markup)] == []


@pytest.mark.parametrize("attack", [a for a in ATTACKS if not a.startswith(("<!", "<?", "</", "<scr<", "<p title"))])
def test_what_was_taken_out_of_html_is_said(attack):
    assert sanitise.html(attack).removed != ()


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_harmless_stays_as_it_is(attack):
    for sanitised in (sanitise.html, sanitise.markdown):
        once = sanitised(attack).text
        assert sanitised(once) == Sanitised(text=once)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "<h1>Report</h1><p>ok &amp; <b>done</b></p>",
        '<table border="1"><tbody><tr><td colspan="2" style="color:red;text-align:right">1</td></tr></tbody></table>',
        '<img src="data:image/png;base64,iVBORw0KGgo=" alt="plot" width="10">',
        '<p style="background-color:rgb(1, 2, 3)">x</p>',
        '<a href="https://example.com/?a=1&amp;b=2" rel="noopener noreferrer">x</a>',
        "<details><summary>more</summary><pre><code>x = 1</code></pre></details>",
    ],
)
def test_harmless_html_is_kept(text):
    assert sanitise.html(text) == Sanitised(text=text)


def test_a_whole_page_loses_its_frame_alone():
    text = "<!doctype html><html><head><meta charset=utf-8><title>T</title></head><body><h1>R</h1></body></html>"
    assert sanitise.html(text) == Sanitised(text="<h1>R</h1>", removed=("<meta>", "charset"))


def test_each_kind_of_what_was_removed_is_named_once_and_a_long_list_is_cut():
    clean = sanitise.html(
        "<script>1</script><script>2</script><p onclick=1 class=a style='position:fixed;color:red'>x</p>"
    )
    assert clean == Sanitised(
        text='<p style="color:red">x</p>', removed=("<script>", "class", "onclick", "style position")
    )
    many = sanitise.html("".join(f"<x{n}>" for n in range(20)))
    assert many.said.endswith("<x19>, <x1> and 8 more")


def test_a_page_says_itself_that_it_runs_and_loads_nothing():
    page = sanitise.page("<T>", "<h1>R</h1>")
    assert "<title>&lt;T&gt;</title>" in page
    assert "default-src 'none'; img-src data:;" in page


@pytest.mark.parametrize("text", ["<p>" * (sanitise.TAGS_MOST + 1), "&" * (sanitise.ENTITIES_MOST + 1)])
def test_more_markup_than_can_be_parsed_in_time_is_refused(text):
    with pytest.raises(TooMuchMarkup):
        sanitise.html(text)


# --- markdown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS)
def test_markdown_has_no_html_left_but_plain_elements(attack):
    clean = sanitise.markdown(f"# Report\n\n{attack}\n").text
    assert re.findall(r"<(?!/?(?:b|br|details|p|code|h1)>)[A-Za-z/!?]", clean) == []


@pytest.mark.parametrize(
    ("text", "clean", "removed"),
    [
        ("a <script>x</script>", "a < script>x< /script>", ("<script>",)),
        ("[x](javascript:alert(1))", r"[x]\(javascript:alert(1))", ("link",)),
        ("[x](java&#115;cript:alert(1))", r"[x]\(java&#115;cript:alert(1))", ("link",)),
        ("[x](<javascript:alert(1)>)", r"[x]\(< javascript:alert(1)>)", ("<javascript:alert>", "link")),
        ("[x]( data:text/html,y)", r"[x]\( data:text/html,y)", ("link",)),
        ("[x](/logout)", r"[x]\(/logout)", ("link",)),
        ("[x][1]\n\n[1]: javascript:alert(1)", "[x][1]\n\n[1]\\: javascript:alert(1)", ("link",)),
        ("[x][1]\n\n[1]:\n javascript:alert(1)", "[x][1]\n\n[1]\\:\n javascript:alert(1)", ("link",)),
        ("![i](https://evil.example/p.png)", "[i](https://evil.example/p.png)", ("image",)),
        ("![i][1]\n\n[1]: https://evil.example/p.png", "[i][1]\n\n[1]: https://evil.example/p.png", ("image",)),
        ("![i](data:image/svg+xml;base64,AA)", r"[i]\(data:image/svg+xml;base64,AA)", ("image", "link")),
        ("[![i](x)](javascript:y)", r"[[i]\(x)]\(javascript:y)", ("image", "link")),
        ("<javascript:alert(1)>", "< javascript:alert(1)>", ("<javascript:alert>",)),
        ("<b onclick=x>y</b>", "< b onclick=x>y</b>", ("<b>",)),
        ("```\n<script>", "```\n< script>", ("<script>",)),
        ("    <script>", "    < script>", ("<script>",)),
        ("x\n```\n<script>\n```\n", "x\n```\n< script>\n```\n", ("<script>",)),
        ("<pre>\n\n```\n<script>\n```\n", "< pre>\n\n```\n<script>\n```\n", ("<pre>",)),
    ],
)
def test_of_markdown_what_is_not_allowed_is_left_as_text(text, clean, removed):
    found = sanitise.markdown(text)
    assert (found.text, found.removed) == (clean, removed)


@pytest.mark.parametrize(
    "text",
    [
        "# Report\n\n**ok** `x < y` a < b && c > d\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        "line<br>line <b>bold</b> <https://example.com> [x](https://example.com 'title') [y](#part) [z](mailto:a@b.c)",
        "![plot](data:image/png;base64,iVBORw0KGgo=)",
        "text\n\n```python\nf[0](x)  # <script>\n```\n\n> quote\n- item\n",
        "[1]: https://example.com\n",
    ],
)
def test_harmless_markdown_is_kept(text):
    assert sanitise.markdown(text) == Sanitised(text=text)
