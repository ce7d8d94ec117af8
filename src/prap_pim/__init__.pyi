from .api.model import Compression, compress, estimate
from .api.onnx import compress_onnx
from .api.own import Comparison, compare, explore, finetune
from .api.serving import ServingReport, serving
from .common.errors import UserError
from .cost import CostReport
from .crossbar import CrossbarModel, Device, MonteCarloReport, SimulationReport, measure, monte_carlo, zero_input_rates
from .frontend import Captured, capture
from .frontend.quantize import QuantizeConfig
from .hardware.chip import CHIPS, Chip, load_chip
from .hardware.components import COMPONENTS, ComponentTable, load_table
from .hardware.grain import Grain
from .ir.network import Layer, Network
from .ir.patterns import PatternSet, ReuseMap
from .ir.plan import LayerPlan, NetworkPlan
from .methods.config import Tune
from .methods.method import Calibrated, Dense, Identical, LowBit, Orc, Pattern, Prap, Similar, Structured
from .methods.prune.pattern import pattern_mask
from .methods.reuse.similar import similar_reuse
from .results.onnx import OnnxSummary
from .results.run import Results, SimulationResult
from .results.study import StudyResults, TrialResult
from .runs.finished import FinishedRun, reopen
from .runs.simulate import simulate
from .runs.study.explore import Study

__all__ = [
    "CHIPS",
    "COMPONENTS",
    "Calibrated",
    "Captured",
    "Chip",
    "Comparison",
    "ComponentTable",
    "Compression",
    "CostReport",
    "CrossbarModel",
    "Dense",
    "Device",
    "FinishedRun",
    "Grain",
    "Identical",
    "Layer",
    "LayerPlan",
    "LowBit",
    "MonteCarloReport",
    "Network",
    "NetworkPlan",
    "OnnxSummary",
    "Orc",
    "Pattern",
    "PatternSet",
    "Prap",
    "QuantizeConfig",
    "Results",
    "ReuseMap",
    "ServingReport",
    "Similar",
    "SimulationReport",
    "SimulationResult",
    "Structured",
    "Study",
    "StudyResults",
    "TrialResult",
    "Tune",
    "UserError",
    "capture",
    "compare",
    "compress",
    "compress_onnx",
    "estimate",
    "explore",
    "finetune",
    "load_chip",
    "load_table",
    "measure",
    "monte_carlo",
    "pattern_mask",
    "reopen",
    "serving",
    "similar_reuse",
    "simulate",
    "zero_input_rates",
]
