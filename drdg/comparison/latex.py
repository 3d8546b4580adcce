"""Station 7, comparison: the tables for a paper: LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from drdg.comparison.chapters import Chapter, Part
from drdg.comparison.pages import NONE, count, each_seed, facet_text, printed, sections
from drdg.comparison.remarks import remarks
from drdg.comparison.significance import Contrast, explanation
from drdg.comparison.table import MEANS, Column, Comparison, Line, is_best

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "’": "'",
    "“": "``",
    "”": "''",
    "λ": r"$\lambda$",
    "µ": r"$\mu$",
}
LATIN = range(0xA0, 0x180)  # what LaTeX's usual fonts have of what is beyond ASCII
PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{booktabs}
\usepackage[margin=2cm]{geometry}
\begin{document}
"""


def escape(text: str) -> str:
    """Text with what is special to LaTeX as itself."""
    return "".join(SPECIAL.get(sign, sign if sign.isascii() or ord(sign) in LATIN else "?") for sign in text)


def document(inputs: Sequence[str]) -> str:
    """A whole document of files that lie beside it; it can be compiled as it is."""
    parts = "".join(f"\\input{{{name}}}\n\\clearpage\n" for name in inputs)
    return f"{PREAMBLE}{parts}\\end{{document}}\n"


def tables(part: Part, chapter: Chapter) -> str:
    """One of the paper's tables as ``table`` environments: the means, the classes, and each seed."""
    comparison = part.comparison
    label = f"{chapter.direction}-{part.name}".replace("_", "-")
    heading = f"{part.title}, {chapter.title}"
    means, *classes = sections(comparison)
    text = ["% needs \\usepackage{booktabs}"]
    text += _table(_means(comparison, means[1]), f"{heading}: {means[0]}, percent", label, remarks(comparison))
    for name, columns in classes:
        if columns:
            short = name.split(maxsplit=1)[0].lower()
            text += _table(_classes(comparison, columns), f"{heading}: {name}, percent", f"{label}-{short}")
    text += _table(_seeds(comparison), f"{heading}: each seed, percent", f"{label}-seeds")
    return "\n".join([*text, ""])


def significance(found: Sequence[Contrast], chapter: Chapter) -> str:
    """The differences between rows as a table."""
    rows = ["Rows & seeds & TOPs & difference & 95\\,\\% interval & $p$ \\\\"]
    rows.append("\\midrule")
    for contrast in found:
        seeds, tops = len(contrast.seeds), len(contrast.tops)
        if contrast.p is None:
            reason = escape(f"not tested: {contrast.reason}")
            rows.append(rf"{escape(contrast.label)} & {seeds} & {tops} & \multicolumn{{3}}{{p{{7cm}}}}{{{reason}}} \\")
            continue
        interval = f"${contrast.low:+.2f}$ to ${contrast.high:+.2f}$"
        cells = [str(seeds), str(tops), f"${contrast.points:+.2f}$", interval, f"{contrast.p:.4f}"]
        rows.append(" & ".join([escape(contrast.label), *cells]) + r" \\")
    label = f"{chapter.direction}-significance".replace("_", "-")
    text = _table(("lrrrrr", rows), f"Differences of mIoU, {chapter.title}", label, explanation(found))
    return "\n".join(["% needs \\usepackage{booktabs}", *text, ""])


Body = tuple[str, list[str]]
"""The columns of a ``tabular``, and its lines."""


def _table(body: Body, caption: str, label: str, notes: Sequence[str] = ()) -> list[str]:
    columns, lines = body
    text = ["\\begin{table}[htbp]", "\\centering", f"\\caption{{{escape(caption)}}}", f"\\label{{tab:{label}}}"]
    # Narrow, as six classes with their spreads must go into the width of a page.
    text += ["\\footnotesize", "\\setlength{\\tabcolsep}{4pt}", f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    text += [*lines, "\\bottomrule", "\\end{tabular}"]
    if notes:
        text += ["\\par\\smallskip", "\\begin{minipage}{0.95\\linewidth}\\footnotesize"]
        text += [f"{escape(note)}\\par" for note in notes]
        text += ["\\end{minipage}"]
    return [*text, "\\end{table}", ""]


def _means(comparison: Comparison, columns: Sequence[Column]) -> Body:
    """Ours, and what is printed and the difference in columns of their own."""
    wide = [column for column in columns if any(line.in_print(column) for line in comparison.lines)]
    heads = [f"{escape(column.heading)}" + (" & printed & diff." if column in wide else "") for column in columns]
    lines = [" & ".join(["Method", "seeds", *heads]) + " \\\\", "\\midrule"]
    for line in comparison.lines:
        cells = []
        for column in columns:
            cells.append(_ours(comparison, line, column))
            if column in wide:
                cells += [escape(printed(line, column)), _number(facet_text(line, column, "difference"))]
        lines.append(" & ".join([escape(line.label), count(comparison, line), *cells]) + r" \\")
    return "lr" + "r" * (len(columns) + 2 * len(wide)), lines


def _classes(comparison: Comparison, columns: Sequence[Column]) -> Body:
    """Ours, and below it, as six classes leave no room beside, what is printed and the difference."""
    lines = [" & ".join(["Method", "seeds", *(_head(column) for column in columns)]) + r" \\", "\\midrule"]
    for line in comparison.lines:
        cells = [_ours(comparison, line, column) for column in columns]
        lines.append(" & ".join([escape(line.label), count(comparison, line), *cells]) + r" \\")
        if any(line.in_print(column) for column in columns):
            below = [_below(line, column) for column in columns]
            lines.append(r"\quad{\scriptsize printed (diff.)} & & " + " & ".join(below) + r" \\")
    return "lr" + "r" * len(columns), lines


def _seeds(comparison: Comparison) -> Body:
    heads = ["Method", "seed", *(escape(column.heading) for column in MEANS)]
    lines = [" & ".join(heads) + r" \\", "\\midrule"]
    for label, seed, scores, problem in each_seed(comparison):
        start = f"{escape(label)} & {'--' if seed is None else seed} & "
        if problem is not None:
            said = escape(" ".join(problem.split()))
            lines.append(rf"{start}\multicolumn{{{len(MEANS)}}}{{p{{8cm}}}}{{missing: {said}}} \\")
        else:
            lines.append(start + " & ".join("--" if score is None else f"{score:.2f}" for score in scores) + r" \\")
    return "lr" + "r" * len(MEANS), lines


def _ours(comparison: Comparison, line: Line, column: Column) -> str:
    text = facet_text(line, column, "ours")
    # \pm needs mathematics, in which \mathbf does what \textbf does outside.
    number = "--" if text == NONE else "$" + text.replace(" ±", r" \pm ") + "$"
    return number.replace("$", r"$\mathbf{", 1)[:-1] + "}$" if is_best(comparison, line, column) else number


def _below(line: Line, column: Column) -> str:
    number, points = printed(line, column), facet_text(line, column, "difference")
    text = escape(number) + (f" ({_number(points)})" if points else "")
    return rf"{{\scriptsize {text}}}" if text else ""


def _head(column: Column) -> str:
    """A class's name, its words one below the other."""
    words = escape(column.heading).split()
    return words[0] if len(words) == 1 else r"\shortstack[r]{" + r" \\ ".join(words) + "}"


def _number(text: str) -> str:
    return f"${text}$" if text else ""
