"""From a trained model to a ``Network``, and back to a model with other modules in the layers' places."""

from prap_pim.frontend.compare import (
    Comparison,
    Difference,
    Output,
    Spread,
    as_values,
    classes_of,
    decibel,
    divergence,
    judged,
    losses,
)
from prap_pim.frontend.graph import LEFT_DIGITAL, Captured, DigitalModule, Origin
from prap_pim.frontend.inputs import (
    Inputs,
    call,
    constants,
    cut,
    filled,
    not_of_one_size,
    of_arrays,
    on_copies,
    one_of_each_size,
    outputs,
    padding_mask,
    sizes,
    tensors,
    without_labels,
)
from prap_pim.frontend.plain import plain_copy
from prap_pim.frontend.tokens import token_axes, with_tokens
from prap_pim.frontend.trace import capture, check_model
from prap_pim.frontend.walk import Pair, Probe, Walk

__all__ = [
    "LEFT_DIGITAL",
    "Captured",
    "Comparison",
    "Difference",
    "DigitalModule",
    "Inputs",
    "Origin",
    "Output",
    "Pair",
    "Probe",
    "Spread",
    "Walk",
    "as_values",
    "call",
    "capture",
    "check_model",
    "classes_of",
    "constants",
    "cut",
    "decibel",
    "divergence",
    "filled",
    "judged",
    "losses",
    "not_of_one_size",
    "of_arrays",
    "on_copies",
    "one_of_each_size",
    "outputs",
    "padding_mask",
    "plain_copy",
    "sizes",
    "tensors",
    "token_axes",
    "with_tokens",
    "without_labels",
]
