"""Speed and memory of the models on this machine: against the limit, against peers, over the resolution."""

from svp.bench.cases import Case
from svp.bench.measure import Timing, take_turns
from svp.bench.suite import SECTIONS, Row, run_suite

__all__ = ["SECTIONS", "Case", "Row", "Timing", "run_suite", "take_turns"]
