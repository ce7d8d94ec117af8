"""The bit-true crossbar model: what a mapped plan computes, cell by cell, and how accurate a network is on it."""

from prap_pim.function.adc import adc_codes
from prap_pim.function.crossbar import crossbar_matmul, integer_matmul
from prap_pim.function.exact import ExactProduct
from prap_pim.function.im2col import im2col
from prap_pim.function.layer import CrossbarLayer, ExactLayer
from prap_pim.function.simulate import LayerCheck, SimulationReport, compressed_model, exact_accuracy, simulate
from prap_pim.function.zero_inputs import zero_input_rates

__all__ = [
    "CrossbarLayer",
    "ExactLayer",
    "ExactProduct",
    "LayerCheck",
    "SimulationReport",
    "adc_codes",
    "compressed_model",
    "crossbar_matmul",
    "exact_accuracy",
    "im2col",
    "integer_matmul",
    "simulate",
    "zero_input_rates",
]
