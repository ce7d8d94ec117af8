"""The page of a run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from prap_pim.common.files import write_whole
from prap_pim.ir.plan import NetworkPlan
from prap_pim.report.allocation import HEADINGS, allocations
from prap_pim.report.html import occupancy, waterfall
from prap_pim.report.html.charts import allocation_chart, layer_chart, layer_names, method_charts
from prap_pim.report.html.frame import config_text, render_page
from prap_pim.report.html.reuse_map import ReuseMaps, reuse_maps, shares
from prap_pim.report.html.simulation import simulation_chart
from prap_pim.report.quantities import given, words
from prap_pim.report.simulation import HEADINGS as SIMULATION_HEADINGS
from prap_pim.report.simulation import QUANTITIES, row_cells, summary, value_text
from prap_pim.report.summary import caveat, comparisons, component_names, exactness, headline, sections
from prap_pim.results.folder import RunFolder
from prap_pim.results.run import Results

Progress = Callable[[str, int, int, str], object]  # phase, done, total, note
_PAGE = 5_800_000  # bytes of a page that reuse maps may fill
_ASKED = 24_000_000  # characters of maps that were asked for: the whole one of a layer of millions of uses


@dataclass(frozen=True)
class Evidence:
    """What a page shows beside the results.

    Attributes:
        config: the resolved configuration, YAML; empty: not known.
        plans: by method.
        missing: methods that have no plan there.
    """

    config: str = ""
    plans: Mapping[str, NetworkPlan] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @staticmethod
    def read(folder: RunFolder, results: Results, progress: Progress | None = None) -> "Evidence":
        """From a run folder; what is not there is left out.

        Raises:
            UserError: a plan is damaged, or is not that of the results.
        """
        plans, missing = {}, []
        for number, method in enumerate(results.methods, 1):
            plan = folder.load_plan(method)
            if plan is not None:
                plans[method.name] = plan
            else:
                missing.append(method.name)
            if progress is not None:
                progress("report: plans read", number, len(results.methods), method.name)
        return Evidence(config_text(folder.config), plans, tuple(missing))


def write_report(
    results: Results,
    folder: RunFolder,
    path: Path | None = None,
    progress: Progress | None = None,
    reuse: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the page of a run, whole or not at all.

    Args:
        results: of the run.
        folder: of the run; plans and configuration are read there, what is missing is left out.
        path: where to write; None: the folder's report.
        progress: called as the work proceeds.
        reuse: method and layer of the reuse maps that the page is to hold; empty: as much of all as there is room for.

    Raises:
        UserError: a reuse map is wanted whose plan there is not; the file cannot be written.
    """
    write_whole(path or folder.report, render(results, Evidence.read(folder, results, progress), reuse))


def render(results: Results, evidence: Evidence | None = None, reuse: Sequence[tuple[str, str]] = ()) -> str:
    """The page as text."""
    evidence = evidence or Evidence()
    methods = [each.method for each in comparisons(results)]
    by_method, by_layer, falls = method_charts(results), layer_chart(results), waterfall.waterfall_charts(results)
    occupied = occupancy.occupancies(results)
    filled = occupancy.occupancy_charts(occupied)
    charts = [simulation_chart(simulation, i) for i, simulation in enumerate(results.simulations)]
    layers = [{layer.name: layer for layer in method.layers} for method in methods]
    shared_out = allocations(results)
    by_budget = [allocation_chart(i, method) for i, method in enumerate(methods) if method.calibration is not None]
    parts = [
        ("methods", "Methods"),
        *([("saved", "Savings")] if falls else []),
        ("layers", "Layers"),
        *([("budgets", "Budgets")] if shared_out else []),
        ("reuse", "Reuse"),
        ("occupancy", "Crossbars"),
        ("exact", "Exactness"),
        *([("devices", "Noise")] if results.simulations else []),
        ("chip", "Chip"),
        ("run", "Run"),
    ]
    page = partial(
        render_page,
        "report.html",
        parts=parts,
        charts=[*by_method, *falls, by_layer, *by_budget, *filled, *filter(None, charts)],
        results=results,
        headline=headline(results),
        sections=sections(results, bottlenecks=True),
        caveats={method.name: caveat(results, method) for method in methods},
        exactness=exactness(results),
        method_charts=by_method,
        waterfalls=falls,
        waterfall_chooser=waterfall.CHOOSER,
        layer_chart=by_layer,
        occupancy_charts=filled,
        occupancy_chooser=occupancy.CHOOSER,
        occupancy_rows=occupancy.table(occupied),
        geometry=[_property(key, value) for key, value in results.chip.geometry.items()],
        missing_plans=evidence.missing,
        config=evidence.config,
        simulations=[
            {
                "result": simulation,
                "summary": summary(simulation),
                "quantity": QUANTITIES[simulation.sweep] if simulation.sweep is not None else "",
                "rows": [
                    (point.method, value_text(point), row_cells(simulation, point)) for point in simulation.points
                ],
                "chart": chart,
            }
            for simulation, chart in zip(results.simulations, charts, strict=True)
        ],
        simulation_headings=SIMULATION_HEADINGS,
        components=component_names(methods),
        allocations=shared_out,
        allocation_charts=by_budget,
        allocation_headings=HEADINGS,
        layer_rows=[
            (method.name, of_method[name])
            for name in layer_names(methods)
            for method, of_method in zip(methods, layers, strict=True)
            if name in of_method
        ],
    )
    room = _ASKED if reuse else _PAGE - len(_with_maps(page, ReuseMaps(), evidence, reuse).encode())
    return _with_maps(page, reuse_maps(evidence.plans, room, reuse), evidence, reuse)


def _with_maps(page: Callable[..., str], maps: ReuseMaps, evidence: Evidence, asked: Sequence[tuple[str, str]]) -> str:
    shown = {each.method for each in maps.maps}
    return page(
        data=[{"method": each.method, "layer": each.layer, "sharing": each.sharing} for each in maps.maps],
        scripts=["reuse.js"] if maps.maps else [],
        maps=maps,
        asked=asked,
        without_map=[name for name, plan in evidence.plans.items() if name not in shown and not shares(plan)],
    )


def _property(key: str, value: int | float | str) -> tuple[str, str]:
    """A property of the chip and its value, with the unit that the code has in the name."""
    for suffix, unit, factor in (("_bits_per_s", "B/s", 1 / 8), ("_hz", "Hz", 1.0)):
        if key.endswith(suffix):
            with suppress(ValueError):
                return words(key.removesuffix(suffix)), given(float(value) * factor, unit)
    return words(key), str(value)
