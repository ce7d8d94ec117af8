"""Calibrated reuse: donors chosen to keep each layer's output on calibration inputs. No labels, no training."""
