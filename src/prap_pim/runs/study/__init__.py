"""Studies: which chip and which compression to choose. A search by Optuna over the stages of a run."""

from prap_pim.runs.study.config import StudyConfig
from prap_pim.runs.study.explore import run_study

__all__ = ["StudyConfig", "run_study"]
