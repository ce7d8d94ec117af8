"""The bit-true crossbar model: what a mapped plan computes, cell by cell, and how accurate a network is on it."""

from prap_pim.function.adc import adc_codes
from prap_pim.function.crossbar import crossbar_matmul, integer_matmul

__all__ = ["adc_codes", "crossbar_matmul", "integer_matmul"]
