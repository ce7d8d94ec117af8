"""Calibrated reuse: donors chosen to keep each layer's output on calibration inputs. No labels, no training."""

from prap_pim.methods.calibrate.config import CalibratedReuse
from prap_pim.methods.calibrate.network import Allocated, Calibration, calibrate, check_budget
from prap_pim.methods.calibrate.train_donors import tie, train_donors

__all__ = ["Allocated", "CalibratedReuse", "Calibration", "calibrate", "check_budget", "tie", "train_donors"]
