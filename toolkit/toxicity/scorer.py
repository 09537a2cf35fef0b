"""Toxicity scorers behind one interface, opened by a short text such as `wordlist:words.txt`."""

import difflib
import hashlib
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, SettingsError

Floats = NDArray[np.float64]


class ToxicityScorer(Protocol):
    """Anything that says how toxic texts are."""

    @property
    def id(self) -> str:
        """Names the scorer and the hash of what it learned: equal ids give equal scores."""

    def score(self, texts: Sequence[str]) -> Floats:
        """Score texts.

        Returns:
            (n,) between 0 and 1, higher is more toxic; NaN where a text could not be scored (empty, for one).
        """


class WordlistToxicity:
    """1 where a text holds a listed word or phrase as whole words, case aside; else 0.

    Deterministic and blind to meaning: for tests, for baselines, and as a second opinion.

    Args:
        words: words or phrases.

    Raises:
        DataError: the list is empty.
    """

    def __init__(self, words: Iterable[str]) -> None:
        listed = sorted({_folded(word) for word in words if word.strip()})
        if not listed:
            raise DataError("the word list holds no word, wanted at least one")
        # The longest first: of two phrases with the same start, the regular expression takes the first that fits.
        phrases = (r"\s+".join(map(re.escape, word.split())) for word in sorted(listed, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)")
        self.id = f"wordlist:{hashlib.sha256(chr(10).join(listed).encode()).hexdigest()[:16]}"

    @classmethod
    def load(cls, path: Path) -> "WordlistToxicity":
        """Read a list with one word or phrase in each line.

        Raises:
            DataError: the file is missing, not UTF-8, or holds no word.
        """
        try:
            return cls(path.read_text(encoding="utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the word list {path}: {error}. Give a UTF-8 file, one word a line") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def score(self, texts: Sequence[str]) -> Floats:
        """Score texts: 1, 0, or NaN for an empty one."""
        return np.array([self._one(text) for text in texts], dtype=np.float64)

    def _one(self, text: str) -> float:
        return float(self._pattern.search(_folded(text)) is not None) if text.strip() else float("nan")


class CachedToxicity:
    """Another scorer's scores, kept in a file by the hash of the text and the id of the scorer.

    Args:
        scorer: asked for what the file lacks.
        path: a SQLite file, made if missing; several scorers may share it.
    """

    def __init__(self, scorer: ToxicityScorer, path: Path) -> None:
        self._scorer, self._path = scorer, path
        self.id = scorer.id
        path.parent.mkdir(parents=True, exist_ok=True)

    def score(self, texts: Sequence[str]) -> Floats:
        """Score texts, each distinct one at most once. A text without a score is asked again the next time."""
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
        with closing(sqlite3.connect(self._path)) as base, base:
            base.execute("CREATE TABLE IF NOT EXISTS scores (scorer TEXT, text TEXT, score REAL, "
                         "PRIMARY KEY (scorer, text))")  # fmt: skip
            known = self._known(base, keys)
            new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
            scores = self._scorer.score(list(new.values())) if new else np.zeros(0)
            fresh = dict(zip(new, scores.tolist(), strict=True))
            rows = [(self.id, key, score) for key, score in fresh.items() if score == score]
            base.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)
        known |= fresh
        return np.array([known[key] for key in keys], dtype=np.float64)

    def _known(self, base: sqlite3.Connection, keys: Sequence[str]) -> dict[str, float]:
        query = "SELECT score FROM scores WHERE scorer = ? AND text = ?"
        found = ((key, base.execute(query, (self.id, key)).fetchone()) for key in dict.fromkeys(keys))
        return {key: float(row[0]) for key, row in found if row is not None}


def open_scorer(spec: str) -> ToxicityScorer:
    """Open a scorer by its description.

    - `tfidf:FOLDER`: scikit-learn, trained and saved by `TfidfToxicity`;
    - `wordlist:FILE`: one word or phrase in each line;
    - `hf:FOLDER[#LABEL]`: a Hugging Face sequence classifier and the name of its toxic label;
    - `detoxify:CHECKPOINT[@SHA256]`: a checkpoint of the package detoxify, or the name of a released one; `@skip` in
      place of the hash takes the file unchecked.

    Raises:
        SettingsError: the description names no known scorer.
        TunewellError: what it names cannot be opened; the message says why.
    """
    if (fault := spec_fault(spec)) is not None:
        raise SettingsError([f"toxicity scorer: {fault}"])
    kind, _, rest = spec.partition(":")
    return _KINDS[kind](rest)


def spec_fault(spec: str) -> str | None:
    """Say what is wrong with the description of a scorer, without opening anything; None: it names a kind."""
    kind, _, rest = spec.partition(":")
    if kind in _KINDS and rest:
        return None
    near = difflib.get_close_matches(kind, _KINDS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near and near[0] != kind else ""
    known = "tfidf:FOLDER, wordlist:FILE, hf:FOLDER#LABEL, detoxify:CHECKPOINT@SHA256"
    return f"got {spec!r}{hint}, wanted one of {known}"


def scorer_place(spec: str) -> Path:
    """Where the files of a scorer lie, by its description; nothing need be there (an id of the hub, a release)."""
    kind, _, rest = spec.partition(":")
    mark = {"hf": "#", "detoxify": "@"}.get(kind)
    return Path(rest if mark is None else rest.partition(mark)[0])


def missing_place(spec: str) -> Path | None:
    """The file or folder of a scorer that has to be there and is not."""
    place = scorer_place(spec)
    return place if spec.startswith(("wordlist:", "tfidf:")) and not place.exists() else None


def is_blank(text: str) -> bool:
    """Whether there is nothing in `text` that a scorer could judge."""
    return not text.strip()


def _folded(text: str) -> str:
    """`text` without differences of case and of Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


# torch and scikit-learn are loaded with the scorer that needs them, not before.
def _open_tfidf(rest: str) -> ToxicityScorer:
    from .tfidf import TfidfToxicity

    return TfidfToxicity.load(Path(rest))


def _open_classifier(rest: str) -> ToxicityScorer:
    from .classifier import ClassifierToxicity

    folder, _, label = rest.partition("#")
    return ClassifierToxicity(folder, label or None)


def _open_detoxify(rest: str) -> ToxicityScorer:
    from .detoxify import DetoxifyToxicity

    checkpoint, _, sha256 = rest.partition("@")
    return DetoxifyToxicity(checkpoint, sha256 or None)


_KINDS: dict[str, Callable[[str], ToxicityScorer]] = {
    "tfidf": _open_tfidf,
    "wordlist": lambda rest: WordlistToxicity.load(Path(rest)),
    "hf": _open_classifier,
    "detoxify": _open_detoxify,
}
