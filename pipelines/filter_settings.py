"""Which filters are on, and how they are set: the `filter` section of a recipe and of `tunewell filter`."""

from dataclasses import dataclass
from pathlib import Path

from ..filters.duplicates import NearDuplicateFilter
from ..filters.personal_data import PersonalDataFilter
from ..filters.rules import LengthFilter, RepetitionFilter
from ..toolkit.settings.reading import setting
from .corpus.units import Pace

FILTERS = Path(__file__).parents[1] / "filters"
LISTS = {"blocklist": ("lists", ".txt"), "phrases": ("phrases", ".yaml")}
"""Settings that name a file of the user's or a bundled one: folder and suffix of the bundled ones."""


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """Which rows are dropped. A section that is given, even empty (`repetition={}`), switches its filter on."""

    blocklist: str | None = None
    """File of words and phrases, one a line, or the name of a bundled list (`world`); null: no word list."""
    max_matches: int = setting(0, low=0, unit="matches")
    """A text with more matches of the list is dropped."""
    leetspeak: bool = False
    """Also find listed words spelled with digits and symbols (`k1ll`)."""
    length: LengthFilter | None = None
    """Rows that are too short or too long; needs `low`, `high` or both."""
    repetition: RepetitionFilter | None = None
    """Rows that say the same again and again."""
    benchmarks: tuple[str, ...] = ()
    """Files of benchmarks (JSONL, CSV, TSV, Parquet): rows that give away one of their items are dropped."""
    benchmark_ngram: int = setting(13, low=1, unit="words")
    """A row that shares so many words in a row with an item gives it away; shorter texts of an item, down to 8 words,
    do when they are there whole."""
    personal_data: PersonalDataFilter | None = None
    """Rows with e-mail addresses, phone, card or IP numbers."""
    toxicity: str | None = None
    """A toxicity scorer: `tfidf:FOLDER`, `wordlist:FILE`, `hf:FOLDER#LABEL` or `detoxify:CHECKPOINT@SHA256`."""
    toxicity_threshold: float = setting(0.5, low=0, high=1, unit="score")
    """A text with a higher score is dropped."""
    phrases: str | None = None
    """YAML file of trigger phrases by axis, or the name of a bundled one (`default`, `world`); null: no such filter."""
    thresholds: dict[str, float] = setting(factory=dict, unit="nats per token")
    """Threshold of each axis of trigger phrases; wins over the one in the phrase file."""
    removal_rate: float | None = setting(None, above=0, below=1, unit="share of documents")
    """Where an axis has no threshold: set it so that it drops this share of a sample of the documents."""
    tokens_per_batch: int = setting(8192, low=64, unit="tokens")
    """Bound on the memory of one forward pass of the trigger-phrase filter."""
    exact_duplicates: bool = False
    """Drop texts that are, character for character, an earlier one."""
    near_duplicates: NearDuplicateFilter | None = None
    """Texts that share most of their word sequences with an earlier one."""

    def faults(self) -> list[str]:
        """Lists and scorers that are not there."""
        found = []
        for name, (folder, suffix) in LISTS.items():
            value = getattr(self, name)
            if value is not None and not resource(value, folder, suffix).is_file():
                known = ", ".join(sorted(path.stem for path in (FILTERS / folder).glob(f"*{suffix}")))
                found.append(f"{name}: got {value!r}, wanted a file or the name of a bundled one ({known})")
        found += [
            f"benchmarks: got {path!r}, wanted a file with the questions or documents of a benchmark"
            for path in self.benchmarks
            if not Path(path).is_file()
        ]
        if self.toxicity is not None:
            from ..toolkit.toxicity.scorer import spec_fault

            if (fault := spec_fault(self.toxicity)) is not None:
                found.append(f"toxicity: {fault}")
        return found

    def files(self) -> list[Path]:
        """The local files that the settings name; of a folder, every file in it."""
        paths = [
            resource(value, folder, suffix)
            for name, (folder, suffix) in LISTS.items()
            if (value := getattr(self, name)) is not None
        ]
        paths += map(Path, self.benchmarks)
        if self.toxicity is not None:
            from ..toolkit.toxicity.scorer import scorer_place

            paths.append(scorer_place(self.toxicity))
        every = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return [file for file in every if file.is_file()]

    @property
    def is_any_on(self) -> bool:
        """Whether any filter is on."""
        rules = (self.blocklist, self.length, self.repetition, self.benchmarks, self.personal_data, self.toxicity,
                 self.phrases, self.exact_duplicates, self.near_duplicates)  # fmt: skip
        return any(rules)

    @property
    def needs_model(self) -> bool:
        """Whether a filter loads a neural model, so that a row costs milliseconds and a GPU would help."""
        is_neural = self.toxicity is not None and self.toxicity.startswith(("hf:", "detoxify:"))
        return self.phrases is not None or is_neural

    @property
    def pace(self) -> Pace:
        """How long the filters take for a row."""
        if self.needs_model:
            return "model"
        slow = (self.repetition, self.personal_data, self.toxicity, self.near_duplicates, self.benchmarks or None)
        return "quick" if all(one is None for one in slow) else "slow"


def resource(name: str, folder: str, suffix: str) -> Path:
    """The file of a bundled list by its name, or the user's own by its path; a name with a slash is a path."""
    bundled = FILTERS / folder / f"{name}{suffix}"
    return bundled if "/" not in name and bundled.is_file() else Path(name)
