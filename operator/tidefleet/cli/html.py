"""What the HTML pages of commands share: one self-contained document, light and dark, that prints without scripts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape

_BASE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.3rem 0 .4rem; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .3rem; }
p { margin: .3rem 0; max-width: 80ch; }
.soft { color: var(--soft); }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--page); padding: .5rem; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .88rem; }
caption { text-align: left; color: var(--soft); padding: .3rem 0; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
svg { width: 100%; height: auto; display: block; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg .soft { fill: var(--soft); }
.key i { display: inline-block; width: .85rem; height: .85rem; margin: 0 .35rem 0 1rem; vertical-align: -1px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
@media print { main { max-width: none; padding: 0; } h2, h3 { break-after: avoid; } tr, svg { break-inside: avoid; }
  .scroll { overflow: visible; } table { font-size: .7rem; } .skip { display: none; } }
"""

SECTIONS_STYLE = """
th, td { text-align: left; vertical-align: top; }
.n { text-align: right; white-space: nowrap; }
td:first-child, th[scope=row] { overflow-wrap: anywhere; }
nav a { margin-right: 1rem; }
@media print { .n { white-space: normal; } th, td { padding: .2rem .25rem; } nav { display: none; } }
"""
"""Rules of a page of ``sections`` with tables."""

_COLOURS = {
    "ink": ("#16202a", "#e8edf2"),
    "soft": ("#566371", "#a3afbb"),
    "line": ("#d5dbe1", "#36424e"),
    "page": ("#fff", "#11171d"),
    "panel": ("#f5f7f9", "#1a222a"),
    "focus": ("#1d6fb8", "#5aa9ee"),
}


def document(
    title: str,
    parts: Iterable[str],
    *,
    colours: Mapping[str, tuple[str, str]],
    style: str,
    skip: tuple[str, str] | None,
) -> str:
    """One HTML document; nothing is loaded from elsewhere.

    Args:
        title: plain text.
        parts: what stands in ``main``, as HTML; empty ones are left out.
        colours: CSS variables of this page, each on a light and on a dark ground.
        style: its rules beside those that all pages have.
        skip: the address within the page, and the words, of a link past the pictures.
    """
    named = {**_COLOURS, **colours}
    light, dark = ("; ".join(f"--{name}: {pair[ground]}" for name, pair in named.items()) for ground in (0, 1))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n:root {{ color-scheme: light dark; {light} }}",
            f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}{_BASE}{style.strip()}\n</style>",
            "</head>",
            "<body>",
            *([f'<a class="skip" href="#{escape(skip[0])}">{escape(skip[1])}</a>'] if skip else []),
            "<main>",
            *(part for part in parts if part),
            "</main>",
            "</body>",
            "</html>",
        ]
    )


def sections(parts: Sequence[tuple[str, str, str]]) -> list[str]:
    """Parts of a page, each anchor, title and HTML: links to them, which are not printed, and then a section each."""
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in parts)
    return [
        f'<nav aria-label="Parts of this page">{links}</nav>',
        *(
            f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{body}</section>'
            for name, title, body in parts
        ),
    ]


def table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int] | None = None
) -> str:
    """A table that scrolls by itself.

    Args:
        numbers: columns that stand to the right; ``None`` = those after the first whose cells are all numbers.
    """

    def numeric(column: int) -> bool:
        if numbers is not None:
            return column in numbers
        return column > 0 and all(row[column][:1].isdigit() or row[column][:1] in "-$" for row in rows)

    right = [' class="n"' if numeric(index) else "" for index in range(len(heads))]
    head = "".join(f'<th scope="col"{mark}>{escape(one)}</th>' for one, mark in zip(heads, right, strict=True))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{mark}>{escape(one)}</td>" for one, mark in zip(row[1:], right[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return framed(caption, head, body)


def framed(caption: str, head: str, body: str) -> str:
    """A table that scrolls by itself, of the HTML of its head's cells and of its rows."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption, quote=True)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
