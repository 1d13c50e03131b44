"""A figure as SVG inside the HTML page: small, self-contained, in the page's own colours."""

import html
import re
from collections.abc import Callable

from matplotlib.figure import Figure

from pipeline.analysis.figures.style import is_narrow, to_svg

# What matplotlib writes for the markers of `figures.marks.plot_runs`: a group whose id has the runs' numbers, and in it
# a clipped group of markers.
_RUNS = re.compile(r'<g id="runs-([\d-]+)">\s*(<defs>.*?</defs>)?\s*<g (clip-path="[^"]*")>(.*?)</g>\s*</g>', re.DOTALL)
_MARKER = re.compile(r'<use xlink:href="(#\w+)" x="([-\d.]+)" y="([-\d.]+)" style="([^"]*)"/>')


def inline_svg(figure: Figure, name: str, label: str, link: Callable[[int], str | None] | None = None) -> str:
    """Return the figure as an `<svg>` element.

    The marker of each run gets the attribute `data-run`, the run's number in the table.

    Args:
        name: put before each id, so that the figures of one page don't share any.
        label: read out by screen readers.
        link: from a run's number to the address that a click opens, or None.
    """
    text = to_svg(figure)
    view = re.search(r'viewBox="([^"]*)"', text)
    assert view is not None
    body = text[text.index("</metadata>") + len("</metadata>") : text.rindex("</svg>")]
    body = _RUNS.sub(lambda match: _tag_runs(match, link), body).replace("xlink:href", "href")
    body = _prefix_ids(body, name)
    body = re.sub(r'style="[^"]*"', lambda match: _use_page_colors(match[0]), body)
    # No screen shows more than a hundredth of a point.
    body = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL))
    classes = "chart narrow" if is_narrow(figure) else "chart"
    opening = f'<svg class="{classes}" viewBox="{view[1]}" role="group" aria-label="{html.escape(label)}">'
    return f"{opening}{body.strip()}</svg>"


def _tag_runs(match: re.Match[str], link: Callable[[int], str | None] | None) -> str:
    numbers, defs, clip, markers = match.groups()
    found = _MARKER.findall(markers)
    parts = [defs or "", f'<g {clip} style="{found[0][3]}">' if found else "<g>"]
    for number, (shape, x, y, _) in zip(numbers.split("-"), found, strict=True):
        marker = f'<use data-run="{number}" href="{shape}" x="{x}" y="{y}"/>'
        address = link(int(number)) if link else None
        parts.append(marker if address is None else f'<a href="{html.escape(address)}">{marker}</a>')
    return "\n".join([*parts, "</g>"])


def _prefix_ids(body: str, name: str) -> str:
    """Put `name` before each id that something refers to, and drop the other ids."""
    used = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", body)
    return re.sub(r'(href="#|url\(#)(?=[\w.-])', rf"\g<1>{name}-", body)


def _use_page_colors(style: str) -> str:
    """Turn `fill: #222222` into `fill: var(--c222222, #222222)`, which `page.css` sets in dark mode; fonts likewise."""
    style = re.sub(r"#([0-9a-f]{6})\b", r"var(--c\1, #\1)", style)
    return re.sub(r"(font: [^;\"']*?px) [^;\"]*", r"\1 var(--font)", style)
