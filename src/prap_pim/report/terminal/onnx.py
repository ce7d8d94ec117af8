"""A compressed ONNX model on a terminal."""

from rich.console import Console
from rich.text import Text

from prap_pim.common.errors import printable, shown
from prap_pim.common.names import shortened
from prap_pim.ir.network import Share
from prap_pim.report.quantities import scale, significant
from prap_pim.report.terminal.tables import print_table
from prap_pim.results.onnx import CostSummary, OnnxSummary
from prap_pim.results.run import above_dense

_COSTS = (
    ("crossbars", "crossbars", "", False),
    ("area", "area_m2", "m2", False),
    ("energy", "energy_j", "J", False),
    ("latency, serial", "serial_latency_s", "s", False),
    ("latency, pipelined", "pipelined_latency_s", "s", False),
    ("throughput, pipelined", "pipelined_throughput_per_s", "/s", True),
)


def print_summary(summary: OnnxSummary, console: Console) -> None:
    """Print what became of every layer, what an inference costs, and how far the outputs are from the original's."""
    mapped = Share(summary.mapped_weights, summary.mapped_macs)
    what = f"{shown(summary.model)}: {summary.method} on {summary.chip} ({mapped} on crossbars), for one inference"
    console.print(Text(what, style="bold"))
    for line in summary.check.findings:
        console.print(Text(printable(line)))
    if summary.check.warning:
        console.print(Text(printable(summary.check.warning), style="yellow"))
    rows = []
    names = shortened([shown(layer.name, len(layer.name)) for layer in summary.layers])
    for name, layer in zip(names, summary.layers, strict=True):
        counts = (layer.rows, layer.filters, layer.groups, layer.calls)
        share = significant(layer.ou_steps / layer.dense_ou_steps)
        rows.append((name, *(f"{count:,}" for count in counts), share, f"{layer.error:.2%}"))
    headings = ("layer", "rows", "filters", "conv\ngroups", "calls", "OU steps\nof dense", "error")
    print_table(console, headings, rows, spare=(4, 3, 1, 2))
    for name, value in summary.once.items():
        console.print(Text(f"given once: {shown(name)} = {value}; the weights are compressed for this value"))
    for name, branch in summary.branches.items():
        console.print(Text(f"If {shown(name)}: its {shown(branch)} is compressed; the other branch keeps its weights"))
    for name, reason in summary.digital.items():
        console.print(Text(f"left digital: {shown(name)}: {reason}", style="yellow"))
        console.print(Text(f"  it has {summary.digital_shares[name]}", style="yellow"))
    console.print(f"{summary.compute_ratio:.4f} of the dense network's OU steps", highlight=False)
    above = above_dense(summary.method, {each.name: (each.ou_steps, each.dense_ou_steps) for each in summary.layers})
    if above:
        console.print(Text(f"warning: {printable(above)}", style="yellow"))
    if summary.limit:
        console.print(summary.limit, highlight=False)
    rows = []
    for label, key, unit, more_is_better in _COSTS:
        dense, now = (getattr(each, key) for each in (summary.dense, summary.compressed))
        how = scale([dense, now], unit)
        cells = [f"{significant(value * how.factor)} {how.unit}" if unit else f"{value:,}" for value in (dense, now)]
        rows.append((label, *cells, f"{significant(now / dense if more_is_better else dense / now)}x"))
    print_table(console, ("", "dense", summary.method, "gain"), rows)
    for output in summary.outputs:
        ratio = "no difference" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"
        most = f"{significant(output.largest_difference)} of {significant(output.largest_value)}"
        line = f"output {shown(output.name)}: {ratio} signal to noise, largest difference {most}"
        console.print(Text(f"{line}, on {summary.inputs:,} calibration inputs"))
    for output in summary.bit_true_outputs or []:
        ratio = "no difference" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"
        console.print(Text(f"bit-true file, output {shown(output.name)}: {ratio} against the bit-true network"))
    for file in summary.files:
        console.print(f"written: {file}", highlight=False, soft_wrap=True, markup=False)


assert {key for _, key, _, _ in _COSTS} == set(CostSummary.model_fields)
