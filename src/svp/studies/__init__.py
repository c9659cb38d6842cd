"""Studies: methods x data sets x options x seeds as independent, resumable runs, and tables of what they found."""

from svp.studies.comparison import Comparison, Finding, collect, read_folder, run_study
from svp.studies.report import write_report
from svp.studies.search import Range, Search, Trial, make_search, run_search
from svp.studies.sets import SetSearch, make_set_search, run_set_search
from svp.studies.study import Cell, Job, Study, Tuning
from svp.studies.study_file import make_study, read_study
from svp.studies.variants import read_ablation, read_sensitivity

__all__ = [
    "Cell",
    "Comparison",
    "Finding",
    "Job",
    "Range",
    "Search",
    "SetSearch",
    "Study",
    "Trial",
    "Tuning",
    "collect",
    "make_search",
    "make_set_search",
    "make_study",
    "read_ablation",
    "read_folder",
    "read_sensitivity",
    "read_study",
    "run_search",
    "run_set_search",
    "run_study",
    "write_report",
]
