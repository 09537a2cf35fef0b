"""Judge documents, never change them."""

from .base import CorpusFilter, Filter, Limit, Repeats, Verdict, decide
from .benchmark_texts import BenchmarkItem, read_benchmarks
from .blocklist import Blocklist, BlocklistFilter, Hit
from .calibration import (
    Calibration,
    Comparison,
    Estimate,
    Outcome,
    compare,
    outcome_at,
    threshold_for_precision,
    threshold_for_rate,
    threshold_for_recall,
)
from .contamination import ContaminationFilter, Overlap
from .contamination_report import ContaminationReport
from .duplicates import ExactDuplicateFilter, NearDuplicateFilter
from .matching import Pattern
from .normalise import fold, fold_with_offsets
from .personal_data import PersonalDataFilter, PersonalDatum, Redacted, find_personal_data, redact
from .phrase_file import Axis, dump_phrases, load_phrases, with_thresholds
from .redaction import RedactedRow, redact_row
from .row_text import RowReader, RowText
from .rules import LengthFilter, RepetitionFilter
from .toxicity import ToxicityFilter
from .trigger import TriggerLikelihoodFilter
from .word_guard import BlocklistGuard

__all__ = [
    "Axis",
    "BenchmarkItem",
    "Blocklist",
    "BlocklistFilter",
    "BlocklistGuard",
    "Calibration",
    "Comparison",
    "ContaminationFilter",
    "ContaminationReport",
    "CorpusFilter",
    "Estimate",
    "ExactDuplicateFilter",
    "Filter",
    "Hit",
    "LengthFilter",
    "Limit",
    "NearDuplicateFilter",
    "Outcome",
    "Overlap",
    "Pattern",
    "PersonalDataFilter",
    "PersonalDatum",
    "Redacted",
    "RedactedRow",
    "Repeats",
    "RepetitionFilter",
    "RowReader",
    "RowText",
    "ToxicityFilter",
    "TriggerLikelihoodFilter",
    "Verdict",
    "compare",
    "decide",
    "dump_phrases",
    "find_personal_data",
    "fold",
    "fold_with_offsets",
    "load_phrases",
    "outcome_at",
    "read_benchmarks",
    "redact",
    "redact_row",
    "threshold_for_precision",
    "threshold_for_rate",
    "threshold_for_recall",
    "with_thresholds",
]
