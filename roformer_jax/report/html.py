"""The parts every report is made of: elements, tables, bars, sections, the page and its style.

Text becomes markup only through `element`, which escapes it. The page holds its style and needs no script, font or
file from elsewhere; it follows the reader's light or dark theme, and prints on white.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from jaxtyping import Int

# (on paper, on a dark screen). The data colours are those of Okabe and Ito, which colour-blind readers tell apart, as
# dark as text must be to be read: a contrast of 4.5 or more with the page (WCAG 2.1, AA).
PALETTE = {
    "page": ("#ffffff", "#13171c"),
    "card": ("#f5f7f9", "#1c2229"),
    "line": ("#d8dee4", "#3a434d"),
    "ink": ("#1a1f24", "#e8ebee"),
    "muted": ("#59636e", "#a3adb8"),
    "blue": ("#0072b2", "#56b4e9"),
    "orange": ("#c25400", "#f0903c"),
    "green": ("#00795a", "#2fc79a"),
}

STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:17px/1.6 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:44rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:2.1rem;line-height:1.15;letter-spacing:-.02em;margin:0 0 .6rem}
h2{font-size:1.35rem;line-height:1.3;letter-spacing:-.01em;margin:3rem 0 .6rem}
h3{font-size:1rem;margin:0 0 .5rem}
p{margin:0 0 1rem}
small,.note,figcaption{color:var(--muted);font-size:.87rem;font-weight:400;line-height:1.5}
figure{margin:1.2rem 0}
figcaption{margin-top:.5rem}
svg{display:block;width:100%;max-width:36rem;height:auto;overflow:visible}
svg text{font-family:system-ui,-apple-system,"Segoe UI",sans-serif!important}
.card{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:1rem 1.15rem;margin:1rem 0}
.card :last-child{margin-bottom:0}
.bars{list-style:none;margin:0;padding:0;font-size:.92rem}
.bars li{display:grid;grid-template-columns:12.8rem 1fr 3.6rem;gap:.75rem;align-items:center;padding:.18rem 0}
.bars li{line-height:1.35;overflow-wrap:anywhere}
.bars b{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums;font-weight:600}
.bars i{height:.6rem;border-radius:.3rem;background:var(--line);overflow:hidden}
.bars u{display:block;height:100%}
.bars+.note{margin-top:.5rem}
blockquote{margin:0 0 .8rem}
.gap{border-bottom:2px solid;padding:0 1.6em}
.right{color:var(--green);font-weight:600}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .6rem .45rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
td{overflow-wrap:anywhere;white-space:pre-line}
.heat th,.heat td{text-align:center;vertical-align:middle;border:2px solid var(--page);padding:.5rem .3rem}
.heat td{width:11%;white-space:nowrap}
.heat tbody th{text-align:right}
.heat thead th{font-size:.84rem;vertical-align:bottom}
.heat .hit{font-weight:700}
.heat .zero,.heat .total{color:var(--muted);font-weight:400}
@media (max-width:34rem){
body{font-size:16px}
main{padding-top:1.5rem}
h1{font-size:1.75rem}
.bars li{grid-template-columns:7.7rem 1fr 3.6rem;gap:.5rem}
.heat th,.heat td{padding:.45rem .1rem;font-size:.78rem}
.heat thead span{writing-mode:vertical-rl;transform:rotate(180deg)}
}
@media print{
body{font-size:11pt}
main{max-width:none;padding:0}
svg{max-width:26rem}
h2{break-after:avoid}
figure,.card,tr{break-inside:avoid}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
"""


class Html(str):
    """Markup that is already safe. Any other string is escaped when it becomes part of an element."""


def element(name: str, *children: str, **attributes: str) -> Html:
    """Returns `<name attributes>children</name>`; values, and children that are not Html, are escaped.

    `class_` stands for `class`, which Python reserves.
    """
    opening = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    inner = "".join(child if isinstance(child, Html) else escape(child) for child in children)
    return Html(f"<{name}{opening}>{inner}</{name}>")


def strong(text: str) -> Html:
    """Returns text that stands out: the numbers and verdicts of a paragraph."""
    return element("strong", text)


def paragraph(*children: str) -> Html:
    """Returns a paragraph."""
    return element("p", *children)


def note(*children: str) -> Html:
    """Returns a paragraph in small print."""
    return element("p", *children, class_="note")


def card(title: str, remark: str, *body: Html) -> Html:
    """Returns a framed box with a title and a remark beside it in small print."""
    return element("div", element("h3", title, " ", element("small", remark)), *body, class_="card")


def section(title: str, *body: Html) -> Html:
    """Returns a titled section of the page."""
    return element("section", element("h2", title), *body)


def bars(*items: Html) -> Html:
    """Returns the list that holds the items made by `bar`."""
    return element("ul", *items, class_="bars")


def bar(label: str, share: float, value: str, colour: str) -> Html:
    """Returns a label, a bar that fills `share` (0 to 1) of its track in a colour of the palette, and the value."""
    fill = element("u", style=f"width:{share:.1%};background:var(--{colour})")
    return element("li", element("span", label), element("i", fill), element("b", value))


def percent(fraction: float) -> str:
    """Returns a fraction in percent, to one decimal, where a positive fraction never reads as nothing."""
    return "<0.1%" if 0 < fraction < 0.0005 else f"{fraction:.1%}"


def facts_table(facts: Mapping[str, str]) -> Html:
    """Returns a table of names and values, one pair a row."""
    rows = (element("tr", element("th", name, scope="row"), element("td", value)) for name, value in facts.items())
    return element("table", element("tbody", *rows))


def heat_table(names: Sequence[str], counts: Int[np.ndarray, "classes classes"]) -> Html:
    """Returns counts by (true, predicted) class as a heat map, with the total and the share of hits of each row."""
    headings = (*names, "total", "right")
    head = element("tr", element("td"), *(element("th", element("span", heading), scope="col") for heading in headings))
    body = (_heat_row(name, row, hit) for hit, (name, row) in enumerate(zip(names, counts, strict=True)))
    return element(
        "div", element("table", element("thead", head), element("tbody", *body), class_="heat"), class_="scroll"
    )


def _heat_row(name: str, counts: Int[np.ndarray, " classes"], hit: int) -> Html:
    total = max(int(counts.sum()), 1)
    blue = " ".join(str(int(PALETTE["blue"][0][start : start + 2], 16)) for start in (1, 3, 5))
    cells = (
        element(
            "td",
            f"{count}",
            class_="hit" if column == hit else "other" if count else "zero",
            # At most 60 % of the blue: the ink of either theme stays readable on it.
            style=f"background:rgb({blue}/{0.6 * count / total:.3f})",
        )
        for column, count in enumerate(counts)
    )
    ends = element("td", f"{counts.sum()}", class_="total"), element("td", percent(counts[hit] / total), class_="total")
    return element("tr", element("th", name, scope="row"), *cells, *ends)


def page(title: str, *body: Html, style: str = "") -> str:
    """Returns the whole document, with its style inside it, and more of it where the page has parts of its own."""
    light, dark = ("".join(f"--{name}:{both[theme]};" for name, both in PALETTE.items()) for theme in (0, 1))
    themes = f":root{{color-scheme:light dark;{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"{element('title', title)}<style>{themes}{STYLE}{style}</style></head>\n"
        f"<body>{element('main', element('h1', title), *body)}</body></html>\n"
    )
