"""PRAP-PIM: pattern pruning and reuse on ReRAM processing-in-memory, from a trained network to cost and accuracy.

What is public is listed in ``__init__.pyi``. A name is loaded when it is first asked for: torch and numba take seconds
that ``--help`` need not wait.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
