"""Station 7, comparison: all of a report as one page that needs nothing beside it, no network and no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

from drdg.comparison.chapters import Chapter, Part
from drdg.comparison.definitions import definitions
from drdg.comparison.pages import NONE, count, each_seed, facet_text, facets, printed, sections
from drdg.comparison.pictures import Picture
from drdg.comparison.remarks import about_print, about_spread, missing_rows, order_differences
from drdg.comparison.significance import Contrast, explanation
from drdg.comparison.table import MEANS, Column, Comparison, Line, is_best

# A page with the panels of a whole split would be tens of megabytes; those beyond lie beside it.
MOST_PANELS = 8
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; max-width: 1100px;
  padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.4rem; border-bottom: 2px solid #0072B2;
  margin-top: 2.5rem; padding-bottom: .2rem; } h3 { font-size: 1.15rem; margin-top: 2rem; }
h4 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
nav { margin-bottom: .8rem; } nav a { margin-right: 1.1rem; } a { color: #0072B2; }
.missing { border: 2px solid #D55E00; background: #fff4ec; padding: .6rem 1rem; border-radius: 4px;
  margin-bottom: .8rem; }
.missing h2 { border: 0; margin: 0; font-size: 1.1rem; } .missing li { overflow-wrap: anywhere; }
.facts { background: #f3f6f9; padding: .5rem 1rem; border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .3rem 0 .8rem; font-size: .9rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid #222; border-top: 2px solid #222; }
td.beside, td small { color: #555; } td small { display: block; }
th:first-child { white-space: normal; max-width: 13rem; }
td.said { text-align: left; white-space: normal; min-width: 16rem; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; border: 1px solid #eee; }
figcaption, .remarks { color: #444; font-size: .9rem; }
"""


def page(
    title: str, facts: Sequence[str], chapters: Sequence[Chapter], shown: Mapping[str, tuple[list[Picture], list[str]]]
) -> str:
    """The page. ``shown``: each direction's pictures, and what is said of those there are none of."""
    links = "".join(f'<a href="#{quote(chapter.direction)}">{escape(chapter.title)}</a>' for chapter in chapters)
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head><body>',
        f"<h1>{escape(title)}</h1>",
        f"<nav>{links}</nav>",
        _missing(chapters),
        f'<div class="facts">{_list(facts)}</div>',
        *(_chapter(chapter, *shown[chapter.direction]) for chapter in chapters),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _missing(chapters: Sequence[Chapter]) -> str:
    lost = [entry for chapter in chapters for entry in chapter.missing]
    if not lost:
        return "<p>Every cell of the sweep has scores.</p>"
    items = "".join(f"<li><b>{escape(key)}</b>: {escape(problem)}.</li>" for key, problem in lost)
    cells = sum(len(chapter.cells) for chapter in chapters)
    return f'<section class="missing"><h2>Missing: {len(lost)} of {cells} cells</h2><ul>{items}</ul></section>'


def _chapter(chapter: Chapter, pictures: Sequence[Picture], notes: Sequence[str]) -> str:
    parts = [f'<section id="{escape(chapter.direction)}"><h2>{escape(chapter.title)}</h2>']
    parts.append(f'<div class="facts"><h4>What the numbers are</h4>{_list(definitions(chapter.whole))}</div>')
    parts += [_part(chapter, part) for part in chapter.parts]
    parts.append(_significance(chapter, chapter.contrasts))
    parts.append(_pictures(pictures, notes, chapter))
    return "\n".join([*parts, "</section>"])


def _part(chapter: Chapter, part: Part) -> str:
    comparison = part.comparison
    text = [f'<h3 id="{escape(chapter.direction)}-{part.name}">{escape(part.title)}</h3>']
    text.append(_same(chapter, part.name, ("md", "tex", "csv")))
    text += [_table(comparison, heading, columns) for heading, columns in sections(comparison) if columns]
    text.append(_seeds(comparison))
    said = [
        "Bold: the best of a column.",
        *missing_rows(comparison),
        *about_spread(comparison),
        *about_print(comparison),
    ]
    return "\n".join([*text, f'<div class="remarks">{_list([*said, *order_differences(comparison)])}</div>'])


def _same(chapter: Chapter, name: str, kinds: Sequence[str]) -> str:
    """Where the same is for other programs."""
    links = (_link(f"{chapter.direction}/{name}.{kind}", kind) for kind in kinds)
    return f"<p>The same as {' · '.join(links)}.</p>"


def _table(comparison: Comparison, heading: str, columns: Sequence[Column]) -> str:
    """Ours; what is printed and the difference beside it, or, of classes, which are too many for that, below it."""
    is_beside = len(columns) <= len(MEANS)
    shown = facets(comparison, columns) if is_beside else [(column, "ours") for column in columns]
    heads = [column.heading if facet == "ours" else facet for column, facet in shown]
    lines = []
    for line in comparison.lines:
        cells = []
        for column, facet in shown:
            text = escape(facet_text(line, column, facet))
            is_bold = facet == "ours" and is_best(comparison, line, column)
            below = "" if is_beside else _below(line, column)
            kind = "" if facet == "ours" else ' class="beside"'
            cells.append(f"<td{kind}>{f'<b>{text}</b>' if is_bold else text}{below}</td>")
        lines.append(f"<tr><td>{escape(line.label)}</td><td>{count(comparison, line)}</td>{''.join(cells)}</tr>")
    is_printed = not is_beside and any(line.in_print(column) for line in comparison.lines for column in columns)
    rest = ", percent; below: printed (difference)" if is_printed else ", percent"
    return _html_table([f"{heading}{rest}", "seeds", *heads], lines)


def _below(line: Line, column: Column) -> str:
    text, points = printed(line, column), facet_text(line, column, "difference")
    return f"<small>{escape(text)}{f' ({points})' if points else ''}</small>" if text else ""


def _seeds(comparison: Comparison) -> str:
    lines = []
    for label, seed, scores, problem in each_seed(comparison):
        cells = [f"<td>{NONE if score is None else f'{score:.2f}'}</td>" for score in scores]
        if problem is not None:
            cells = [f'<td class="said" colspan="{len(scores)}">missing: {escape(problem)}</td>']
        lines.append(f"<tr><td>{escape(label)}</td><td>{NONE if seed is None else seed}</td>{''.join(cells)}</tr>")
    return _html_table(["each seed, percent", "seed", *(column.heading for column in MEANS)], lines)


def _significance(chapter: Chapter, found: Sequence[Contrast]) -> str:
    text = [f'<h3 id="{escape(chapter.direction)}-significance">Differences between rows</h3>']
    if not found:
        return "\n".join([*text, "<p>There are no two rows to compare.</p>"])
    text.append(_same(chapter, "significance", ("tex", "csv")))
    lines = []
    for one in found:
        start = f"<tr><td>{escape(one.label)}</td><td>{len(one.seeds)}</td><td>{len(one.tops)}</td>"
        if one.p is None:
            lines.append(f'{start}<td class="said" colspan="3">not tested: {escape(str(one.reason))}</td></tr>')
        else:
            interval = f"{one.low:+.2f} to {one.high:+.2f}"
            lines.append(f"{start}<td>{one.points:+.2f}</td><td>{interval}</td><td>{one.p:.4f}</td></tr>")
    text.append(_html_table(["difference of mIoU, points", "seeds", "TOPs", "difference", "95 % interval", "p"], lines))
    return "\n".join([*text, f'<div class="remarks">{_list(explanation(found))}</div>'])


def _pictures(pictures: Sequence[Picture], notes: Sequence[str], chapter: Chapter) -> str:
    text = [f'<h3 id="{escape(chapter.direction)}-pictures">Pictures</h3>', _list(notes) if notes else ""]
    panels = [picture for picture in pictures if picture.path.name.startswith("panel_")]
    for picture in pictures:
        if picture in panels[MOST_PANELS:]:
            continue
        data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
        text.append(
            f'<figure><h4>{escape(picture.heading)}</h4><img alt="{escape(picture.heading)}" '
            f'src="data:image/png;base64,{data}"><figcaption>{escape(picture.caption)}</figcaption></figure>'
        )
    if panels[MOST_PANELS:]:
        links = ", ".join(
            _link(f"{chapter.direction}/{picture.path.name}", picture.heading) for picture in panels[MOST_PANELS:]
        )
        text.append(f"<p>More panels, beside this page: {links}.</p>")
    return "\n".join(text)


def _link(path: str, text: str) -> str:
    return f'<a href="{quote(path)}">{escape(text)}</a>'


def _html_table(heads: Sequence[str], lines: Sequence[str]) -> str:
    first = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{first}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"
