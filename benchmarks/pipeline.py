"""What the formula of pipelined times leaves out: a table of docs/cost.md.

    python benchmarks/pipeline.py [--chips isaac-32nm]

Networks with random weights, dense and by PRAP (an eighth of the filters are donors), each layer once and, with twice
the crossbars that dense takes, in copies. Each is timed by the formula and by a simulation, without and with messages
that wait for one another on the links between tiles. Needs prap-pim[events].
"""

import argparse
import time
from typing import Any

import torch
from pydantic import TypeAdapter

from prap_pim.cost import cost
from prap_pim.cost.events import simulate
from prap_pim.frontend import capture
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.network import Network
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.compress import assignments_of, changed_layers, plan_for_costs, planned
from prap_pim.methods.method import Dense, Prap, config_of
from prap_pim.training.models import ModelConfig, build

NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "ResNet-20, 32x32": ({"name": "resnet", "depth": 20}, 32),
    "VGG16, 32x32": ({"name": "vgg16"}, 32),
    "ResNet-18, 56x56": ({"name": "resnet18"}, 56),
}
METHODS = {"dense": Dense(), "prap 1/8": Prap(keep=0.125)}


def planned_by(model: dict[str, Any], size: int, method: str, chip: Chip) -> tuple[Network, NetworkPlan]:
    """A network of random weights, and its plan."""
    module = build(TypeAdapter[ModelConfig](ModelConfig).validate_python(model), 3, 10, seed=0)
    captured = capture(module, torch.zeros(2, 3, size, size), "network")
    config = config_of(METHODS[method], captured, chip, ())
    changed = changed_layers(config, captured.network)
    plans = planned(assignments_of(changed, captured.network, chip)) if method != "dense" else {}
    return captured.network, plan_for_costs(captured, chip, method, plans)


def row(name: str, method: str, chip: Chip, times_dense: int) -> str:
    """One line of the table; ``times_dense``: crossbars of dense that may be filled, 0: no copies."""
    network, plan = planned_by(*NETWORKS[name], method, chip)
    dense = cost(*planned_by(*NETWORKS[name], "dense", chip), chip).crossbars
    report = cost(network, plan, chip, crossbars=times_dense * dense or None)
    counts = {layer.name: layer.activity for layer in report.layers}
    formula, cells = report.pipelined, []
    begin = time.perf_counter()
    for contention in (False, True):
        found = simulate(network, report.mapping, counts, chip, load_table(chip.components), contention)
        cells += [f"{found.latency_s / formula.latency_s - 1:+.1%}"]
    seconds = time.perf_counter() - begin
    interval = f"{found.interval_s * formula.throughput_per_s - 1:+.1%}"
    built = f"copies, {times_dense}x" if times_dense else "once"
    values = name, method, built, f"{formula.latency_s * 1e3:.4g} ms", *cells, interval, f"{seconds / 2:.1f} s"
    return f"| {' | '.join(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", nargs="*", default=["isaac-32nm"])
    for chip in map(load_chip, parser.parse_args().chips):
        print(f"\n{chip.name}\n")
        print("| network | plan | built | latency, formula | events | with contention | interval | simulated in |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name in NETWORKS:
            for method in METHODS:
                for times_dense in (0, 2):
                    print(row(name, method, chip, times_dense), flush=True)


if __name__ == "__main__":
    main()
