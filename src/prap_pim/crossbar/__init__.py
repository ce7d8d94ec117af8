"""The bit-true crossbar model: what a mapped plan computes, cell by cell, and how accurate a network is on it."""

from prap_pim.crossbar.adc import adc_codes
from prap_pim.crossbar.array import LayerCrossbars, check_fit, crossbar_matmul, integer_matmul
from prap_pim.crossbar.data_rates import data_rates
from prap_pim.crossbar.device import (
    PUBLISHED_VARIATIONS,
    Device,
    Drift,
    LognormalVariation,
    PolynomialVariation,
    WriteVerify,
)
from prap_pim.crossbar.exact import ExactProduct
from prap_pim.crossbar.layer import CrossbarLayer, ExactLayer
from prap_pim.crossbar.model import CrossbarModel, DonorCopies
from prap_pim.crossbar.montecarlo import (
    MonteCarloReport,
    OverDevices,
    Trial,
    device_seeds,
    measure_each,
    monte_carlo,
    over_devices,
)
from prap_pim.crossbar.network import (
    Evaluate,
    LayerCheck,
    Metrics,
    OnCrossbars,
    SimulationReport,
    compressed_model,
    exact_metrics,
    measure,
)
from prap_pim.crossbar.zero_inputs import zero_input_rates

__all__ = [
    "PUBLISHED_VARIATIONS",
    "CrossbarLayer",
    "CrossbarModel",
    "Device",
    "DonorCopies",
    "Drift",
    "Evaluate",
    "ExactLayer",
    "ExactProduct",
    "LayerCheck",
    "LayerCrossbars",
    "LognormalVariation",
    "Metrics",
    "MonteCarloReport",
    "OnCrossbars",
    "OverDevices",
    "PolynomialVariation",
    "SimulationReport",
    "Trial",
    "WriteVerify",
    "adc_codes",
    "check_fit",
    "compressed_model",
    "crossbar_matmul",
    "data_rates",
    "device_seeds",
    "exact_metrics",
    "integer_matmul",
    "measure",
    "measure_each",
    "monte_carlo",
    "over_devices",
    "zero_input_rates",
]
