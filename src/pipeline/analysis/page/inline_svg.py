"""A figure as SVG inside an HTML page: small, without anything from elsewhere, in the page's own colours."""

import html
import re
from collections.abc import Callable

from matplotlib.figure import Figure

from pipeline.analysis.figures.style import to_svg

# What `figures.style.plot_runs` makes: a group with the runs' numbers, in it a clipped group of markers.
_RUNS = re.compile(r'<g id="runs-([\d-]+)">\s*(<defs>.*?</defs>)?\s*<g (clip-path="[^"]*")>(.*?)</g>\s*</g>', re.DOTALL)
_MARKER = re.compile(r'<use xlink:href="(#\w+)" x="([-\d.]+)" y="([-\d.]+)" style="([^"]*)"/>')


def inline_svg(figure: Figure, name: str, label: str, link: Callable[[int], str | None] = lambda number: None) -> str:
    """An `<svg>` element.

    Each run's marker has the attribute `data-run`, its number in the table, and stands in a link where it has one.

    Args:
        figure: to draw.
        name: goes before each id, so that the figures of one page don't share any.
        label: what a screen reader says.
        link: from a run's number to the address that a click opens.
    """
    text = to_svg(figure)
    view = re.search(r'viewBox="([^"]*)"', text)
    assert view is not None
    body = text[text.index("</metadata>") + len("</metadata>") : text.rindex("</svg>")]
    body = _RUNS.sub(lambda match: _tag_runs(match, link), body).replace("xlink:href", "href")
    body = _own_ids(body, name)
    body = re.sub(r'style="[^"]*"', lambda match: _page_colors(match[0]), body)
    # A hundredth of a point is finer than any screen.
    body = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL))
    opening = f'<svg class="chart" viewBox="{view[1]}" role="group" aria-label="{html.escape(label)}">'
    return f"{opening}{body.strip()}</svg>"


def _tag_runs(match: re.Match[str], link: Callable[[int], str | None]) -> str:
    numbers, defs, clip, markers = match.groups()
    found = _MARKER.findall(markers)
    parts = [defs or "", f'<g {clip} style="{found[0][3]}">' if found else "<g>"]
    for number, (shape, x, y, _) in zip(numbers.split("-"), found, strict=True):
        marker = f'<use data-run="{number}" href="{shape}" x="{x}" y="{y}"/>'
        address = link(int(number))
        parts.append(marker if address is None else f'<a href="{html.escape(address)}">{marker}</a>')
    return "\n".join([*parts, "</g>"])


def _own_ids(body: str, name: str) -> str:
    """Put `name` before each id that something refers to, and drop the others."""
    used = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", body)
    return re.sub(r'(href="#|url\(#)(?=[\w.-])', rf"\g<1>{name}-", body)


def _page_colors(style: str) -> str:
    """`fill: #222222` to `fill: var(--c222222, #222222)`: the page has other colours when it is dark."""
    style = re.sub(r"#([0-9a-f]{6})\b", r"var(--c\1, #\1)", style)
    return re.sub(r"(font: [^;\"']*?px) [^;\"]*", r"\1 var(--font)", style)
