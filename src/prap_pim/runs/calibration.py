"""What calibrated reuse found, as results that are saved, and back."""

from collections.abc import Mapping
from typing import Any

from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.plan import LayerWeights
from prap_pim.methods.calibrate.config import Budgeted
from prap_pim.methods.calibrate.layer import Setting
from prap_pim.methods.calibrate.network import Allocated, Calibration
from prap_pim.methods.config import MethodConfig
from prap_pim.results.run import AllocationResult, CalibrationResult


def result_of_calibration(calibration: Calibration, method: MethodConfig, inputs: int, bits: int) -> CalibrationResult:
    assert isinstance(method.reuse, Budgeted)
    layers = [
        AllocationResult(
            name=layer.name,
            sensitivity_nats=layer.sensitivity,
            donors=layer.setting.donors if layer.setting else None,
            kept_positions=layer.setting.positions if layer.setting else None,
            bits=layer.setting.bits if layer.setting else bits,
            uses=layer.setting.uses if layer.setting else 1,
            output_error=layer.error,
        )
        for layer in calibration.layers
    ]
    share = method.reuse.share
    limits: dict[str, Any] = {"limit": method.reuse.max_drop}
    if share is not None:
        limits |= {"asked": share[1]} if share[0] == "compute" else {"budget": dict([share])}
    return CalibrationResult(inputs=inputs, changed=calibration.drop, layers=layers, share=calibration.share, **limits)


def prices_of_budget(method: MethodConfig, chip: Chip) -> dict[str, Any]:
    """What the energies and times depend on that a budget shares out; nothing where it shares out no such."""
    if not isinstance(method.reuse, Budgeted) or method.reuse.share is None or method.reuse.share[0] == "compute":
        return {}
    figures = load_table(chip.components).figures.values()
    values = chip.model_dump(mode="json", exclude={"name", "description", "components"})
    return {"prices": {"chip": values, "figures": [[x.component, x.quantity, x.value] for x in figures]}}


def calibration_of(result: CalibrationResult, plans: Mapping[str, LayerWeights]) -> Calibration:
    """What a result and plans tell of; which layers were held back they do not."""
    settings = [
        Setting(x.donors, x.kept_positions, x.bits, x.uses) if x.donors is not None else None for x in result.layers
    ]
    layers = tuple(
        Allocated(layer.name, layer.sensitivity_nats, setting, layer.name in plans, layer.output_error)
        for layer, setting in zip(result.layers, settings, strict=True)
    )
    return Calibration(plans, layers, result.changed, (), None, result.share)
