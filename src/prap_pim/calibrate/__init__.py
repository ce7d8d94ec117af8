"""Calibrated reuse: donors chosen to keep each layer's output on calibration inputs. No labels, no training."""

from prap_pim.calibrate.config import CalibratedReuse
from prap_pim.calibrate.network import Allocated, Calibration, calibrate, check_budget
from prap_pim.calibrate.training import tie, train_donors

__all__ = ["Allocated", "CalibratedReuse", "Calibration", "calibrate", "check_budget", "tie", "train_donors"]
