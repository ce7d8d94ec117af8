"""From a trained model to a ``Network``, and back to a model with other modules in the layers' places."""

from prap_pim.capture.export import Origin
from prap_pim.capture.inputs import Inputs, call, cut, of_arrays, outputs, tensors, without_labels
from prap_pim.capture.torch_fx import Captured, DigitalModule, capture

__all__ = [
    "Captured",
    "DigitalModule",
    "Inputs",
    "Origin",
    "call",
    "capture",
    "cut",
    "of_arrays",
    "outputs",
    "tensors",
    "without_labels",
]
