"""The pictures of the README: ``python scripts/front_page.py``, about a minute (`make test` installs what it needs).

MTCNN's O-Net, a face detector that others have trained, is compressed by several methods. docs/drawings/front.svg is
drawn from the plan and the costs of one of them; docs/drawings/report-light.png and report-dark.png are the first
screen of the comparison's own page, in the Chromium that is installed.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from drawing import COLOURS, framed, rectangle, text
from PIL import Image
from playwright.sync_api import sync_playwright
from torch import nn

import prap_pim

ROOT = Path(__file__).parents[1]
DRAWINGS = ROOT / "docs" / "drawings"
LAYER, FILTERS, GROUPS = "conv2", 14, 8  # what of the plan is drawn
METHOD = prap_pim.Calibrated(compute_ratio=0.125, bits=[8], uses=1)  # one donor a filter: what a drawing can show
WIDTH, HEIGHT = 960, 286
Bars = Sequence[tuple[str, float]]  # a figure and its share of the dense network's


def main() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from real_networks import network  # a folder beside this one, not a package
    from real_point import answers

    net = network("onet")
    given = net.data(net.calibration, net.test, 0)
    model, calibration = net.load(), torch.from_numpy(given.calibration["x"])

    def accuracy(module: nn.Module) -> float:
        found = answers(module, given, net.batch, threads=1)
        return net.score(found, found, given.truth)["accuracy"]

    found = prap_pim.compress(model, calibration, METHOD, name=net.name)
    kept = accuracy(found.bit_true)
    dense, costs = prap_pim.estimate(model, calibration), prap_pim.estimate(found)
    bars = [
        (name, getattr(costs, attribute) / getattr(dense, attribute))
        for name, attribute in (("OU steps", "ou_steps"), ("energy", "energy_j"), ("area", "area_m2"))
    ]
    bars.insert(1, ("latency", costs.serial.latency_s / dense.serial.latency_s))
    source, own = donors(found.plan.layers[LAYER])
    (DRAWINGS / "front.svg").write_text(drawing(source, own, bars, kept, accuracy(model)))
    with TemporaryDirectory() as folder:
        comparison = prap_pim.compare(
            model,
            calibration,
            evaluate=accuracy,
            methods=["dense", "similar", "calibrated"],
            compute_ratio=0.125,
            output=Path(folder, "run"),
            name=net.name,
        )
        page = Path(folder, "page.html")
        comparison.report(page)
        photograph(page)


def donors(layer: prap_pim.LayerPlan) -> tuple[np.ndarray, np.ndarray]:
    """Of some filters and row groups: [group, filter] the number of the donor in its group, and whether it serves
    several of these filters."""
    source = np.full((GROUPS, FILTERS), -1)
    for group in range(GROUPS):
        uses = slice(layer.use_start[group], layer.use_start[group + 1])
        for which, donor in zip(layer.use_filter[uses], layer.use_donor[uses], strict=True):
            if which < FILTERS:
                source[group, which] = donor - layer.donor_start[group]
    shared = np.array([[(row == value).sum() > 1 for value in row] for row in source])
    return source, shared


def drawing(source: np.ndarray, shared: np.ndarray, bars: Bars, accuracy: float, float_accuracy: float) -> str:
    """The SVG."""
    return framed(
        WIDTH,
        HEIGHT,
        "From a trained network to figures",
        "Filters of a trained network share weight patterns; only the patterns that are left are stored on crossbars; "
        "latency, energy and area follow, beside those of the dense network.",
        [
            *_network(24),
            *_arrow(158),
            *_patterns(206, source, shared),
            *_arrow(446),
            *_crossbar(494, source),
            *_arrow(674),
            *_figures(722, bars, accuracy, float_accuracy),
        ],
    )


def _arrow(x: float) -> Iterator[str]:
    yield f'  <line class="line" x1="{x}" y1="140" x2="{x + 30}" y2="140" marker-end="url(#tip)"/>'


def _network(x: float) -> Iterator[str]:
    yield text(x, 32, "Trained network", "head")
    for i, name in enumerate(("convolution", "convolution", "attention", "linear")):
        yield rectangle("box", x, 56 + 44 * i, 118, 32, 5)
        yield text(x + 59, 76 + 44 * i, name, "mid")
    yield text(x, 266, "PyTorch or ONNX")


def _patterns(x: float, source: np.ndarray, shared: np.ndarray) -> Iterator[str]:
    """A colour for each donor that serves several filters of a row group."""
    yield text(x, 32, "Weight patterns", "head")
    for row, (values, several) in enumerate(zip(source, shared, strict=True)):
        seen = list(dict.fromkeys(values[several].tolist()))
        for column, (value, many) in enumerate(zip(values, several, strict=True)):
            kind = f"c{seen.index(value) % len(COLOURS)}" if many else "dense" if value >= 0 else "free"
            yield rectangle(kind, x + 16 * column, 56 + 21.5 * row, 13, 18)
    yield text(x, 248, "a column: a filter; a colour: a donor")
    yield text(x, 266, "that filters take times ±2ᵏ")


def _crossbar(x: float, source: np.ndarray) -> Iterator[str]:
    """Donors of all row groups, one after another, in as many OUs as the dense layer would fill."""
    stored = sum(len(set(row.tolist()) - {-1}) for row in source)
    yield text(x, 32, "Crossbars", "head")
    yield rectangle("box", x, 52, 158, 176, 5)
    for number in range(source.size):
        row, column = divmod(number, FILTERS)
        kind = "c0" if number < stored else "free"
        yield rectangle(kind, x + 5 + 10.7 * column, 58 + 20.8 * row, 8.5, 17)
    yield text(x, 248, f"{stored} of {source.size} patterns are")
    yield text(x, 266, "stored and computed")


def _figures(x: float, bars: Bars, accuracy: float, float_accuracy: float) -> Iterator[str]:
    yield text(x, 32, "Figures", "head")
    for row, (name, share) in enumerate(bars):
        y = 56 + 44 * row
        yield text(x, y + 9, name)
        yield rectangle("free", x, y + 15, 150, 14)
        yield rectangle("c2", x, y + 15, round(150 * min(share, 1), 1), 14)
        yield text(x + 158, y + 27, f"{100 * share:.0f} %")
    yield text(x, 248, "of the dense network's;")
    yield text(x, 266, f"accuracy: {100 * accuracy:.1f} %, float {100 * float_accuracy:.1f} %")


def photograph(page: Path) -> None:
    """First screen, light and dark, sharp on dense screens; 128 colours are enough and need a quarter of the room."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": 1120, "height": 1480}, color_scheme=scheme, device_scale_factor=1.5
            )
            tab = context.new_page()
            tab.goto(page.as_uri())
            tab.wait_for_selector(".main-svg")
            picture = Image.open(BytesIO(tab.screenshot()))
            picture.convert("RGB").quantize(128).save(DRAWINGS / f"report-{scheme}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
