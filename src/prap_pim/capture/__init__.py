"""From a trained model to a ``Network``, and back to a model with other modules in the layers' places."""

from prap_pim.capture.torch_fx import Captured, capture

__all__ = ["Captured", "capture"]
