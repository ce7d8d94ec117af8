"""Hostile inputs of every format, each in a process of its own."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: OpenMP does not survive a fork once it has threads
