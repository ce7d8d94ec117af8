"""What the drawings of the documentation share: frame, colours of both themes, text, rectangles."""

from collections.abc import Iterable

COLOURS = (("#0072b2", "#56b4e9"), ("#b87a00", "#e69f00"), ("#008060", "#2fc79b"), ("#a8487f", "#d98abb"))
_STYLE = (
    'text { font: 14px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1d2130 }'
    " .card { fill: #fafbfd; stroke: #c8ccd8 } .box { fill: #fff; stroke: #8a90a2 } .free { fill: #e9ebf1 }"
    " .tip { fill: #5b6275 } .line { stroke: #5b6275; stroke-width: 1.5 } .dense { fill: #a9aebd }"
    " .soft { fill: #5b6275; font-size: 12.5px } .head { font-weight: 600; font-size: 15px }"
    " .mid { text-anchor: middle } .tag { font-size: 11.5px }"
)
_DARK = (
    "text { fill: #e6e8f0 } .card { fill: #1e2230; stroke: #454b5e } .box { fill: #262b3b; stroke: #7c8398 }"
    " .free { fill: #2b3040 } .tip { fill: #a4abc0 } .line { stroke: #a4abc0 } .dense { fill: #666d82 }"
    " .soft { fill: #a4abc0 }"
)


def framed(width: int, height: int, title: str, description: str, parts: list[str]) -> str:
    """An SVG on a card of its own, light or dark as the reader's system is."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'role="img" aria-labelledby="title description">',
            f'  <title id="title">{title}</title>',
            f'  <desc id="description">{description}</desc>',
            f"  <style>{_STYLE} {_fills(0)} @media (prefers-color-scheme: dark) {{ {_DARK} {_fills(1)} }}</style>",
            '  <marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
            '<path class="tip" d="M0 0 L10 5 L0 10 z"/></marker>',
            f'  <rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _fills(theme: int) -> str:
    return " ".join(f".c{i} {{ fill: {pair[theme]} }}" for i, pair in enumerate(COLOURS))


def text(x: float, y: float, words: str, kind: str = "soft") -> str:
    return f'  <text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def rectangle(kind: str, x: float, y: float, width: float, height: float, round_: float = 2) -> str:
    return f'  <rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_:g}"/>'


def blocks(kind: str, corners: Iterable[tuple[float, float]], width: float, height: float) -> str:
    """Rectangles of one kind and size, as one path."""
    path = "".join(f"M{x:g} {y:g}h{width:g}v{height:g}h-{width:g}z" for x, y in corners)
    return f'  <path class="{kind}" d="{path}"/>'
