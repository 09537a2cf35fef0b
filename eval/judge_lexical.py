"""A judge in scikit-learn: likeness to the reference answers and words under a logistic regression, on a CPU."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ..toolkit.errors import DataError
from ..toolkit.files import read_json, write_atomic, write_json
from .judge import Answer, Judgements
from .judge_features import WORD, reference_features

Floats = NDArray[np.float64]
Labelled = Sequence[tuple[Answer, bool]]

FORMAT = "tunewell lexical judge 1"
STRENGTH = 2.0  # chosen on held-out questions of the training rows; the figures hardly depend on it
_SETTINGS, _ARRAYS, _AGREEMENT = "judge.json", "arrays.safetensors", "agreement.json"
_HEADS = ("true", "informative")


class LexicalJudge:
    """Probability that an answer is true, and that it is informative, from its likeness to the reference answers.

    It reads words, not meaning: it is good enough for trends and for the order of models, and no substitute for a
    person where an answer is put in words of its own. Saved as JSON and safetensors, never as a pickle.

    Use `train` or `load` to make one.
    """

    def __init__(
        self, settings: bytes, arrays: Mapping[str, Floats], agreement: Mapping[str, Any] | None = None
    ) -> None:
        tree = json.loads(settings)
        self._settings, self._arrays = settings, dict(arrays)
        self._features: list[str] = tree["features"]
        self._words = _words(tree["terms"], self._arrays["idf"])
        self.trained_on: dict[str, Any] = tree["trained_on"]
        self.agreement = dict(agreement or {})
        # The settings hold the hash of the arrays, so this names both.
        self.id = f"lexical:{hashlib.sha256(settings).hexdigest()[:16]}"

    @classmethod
    def train(
        cls,
        truth: Labelled,
        informative: Labelled = (),
        *,
        strength: float = STRENGTH,
        source: Mapping[str, Any] | None = None,
    ) -> "LexicalJudge":
        """Fit a judge.

        Args:
            truth: answers and whether they are true.
            informative: answers and whether they help; none: the judge says nothing about it.
            strength: inverse regularisation of the logistic regression (scikit-learn's C).
            source: recorded: the file, its hash, what was left out.

        Raises:
            DataError: the answers cannot be trained on.
        """
        labelled = {"true": truth, "informative": informative}
        if not (truth or informative):
            raise DataError("got no labelled answers, wanted some of each kind")
        for head, rows in labelled.items():
            _check(head, rows)
        answers = [answer for rows in labelled.values() for answer, _ in rows]
        words = TfidfVectorizer(**_options(), min_df=3 if len(answers) >= 100 else 1)
        try:
            words.fit([answer.answer for answer in answers])
        except ValueError as error:
            raise DataError(f"the answers hold too few words to learn from ({error})") from error
        arrays = {"idf": words.idf_.astype(np.float64)}
        features: list[str] = []
        for head, rows in labelled.items():
            if rows:
                table = reference_features([answer for answer, _ in rows])
                features = list(table)
                arrays |= _fit(head, _matrix(table, features), words, rows, strength)
        settings = {
            "format": FORMAT,
            "trained_on": {head: {"answers": len(rows), "yes": sum(label for _, label in rows)}
                           for head, rows in labelled.items()} | {"strength": strength, "source": dict(source or {})},
            "arrays_sha256": hashlib.sha256(save(arrays)).hexdigest(),
            "features": features,
            "terms": words.get_feature_names_out().tolist(),
        }  # fmt: skip
        return cls(json.dumps(settings, sort_keys=True).encode("ascii"), arrays)

    def save(self, folder: Path) -> None:
        """Write the judge as a folder of files.

        Raises:
            RunError: the folder cannot be written.
        """
        if (folder / _AGREEMENT).exists():  # of a judge that was there before
            write_json(folder / _AGREEMENT, {})
        write_atomic(folder / _ARRAYS, save(self._arrays))
        write_atomic(folder / _SETTINGS, self._settings)
        if self.agreement:
            write_json(folder / _AGREEMENT, self.agreement)

    @classmethod
    def load(cls, folder: Path) -> "LexicalJudge":
        """Read what `save` wrote; the judgements are equal to the last bit.

        Raises:
            DataError: the folder holds no judge, or one whose files do not belong together.
        """
        if not (folder / _SETTINGS).is_file():
            raise DataError(
                f"{folder} holds no judge ({_SETTINGS} is missing). Make one with `tunewell judge train ROWS "
                "--questions TruthfulQA.csv --out FOLDER`"
            )
        tree = read_json(folder / _SETTINGS)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise DataError(f"{folder / _SETTINGS} is not a judge of this version ({FORMAT}): train it again")
        try:
            content = (folder / _ARRAYS).read_bytes()
            if hashlib.sha256(content).hexdigest() != tree["arrays_sha256"]:
                raise DataError(f"{folder / _ARRAYS} is not the file that {_SETTINGS} was written with: train it again")
            agreement = read_json(folder / _AGREEMENT) if (folder / _AGREEMENT).is_file() else None
            return cls((folder / _SETTINGS).read_bytes(), load(content), agreement)
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(f"cannot read the judge in {folder}: {error}. Train it again") from error

    def judge(self, answers: Sequence[Answer]) -> Judgements:
        """Judge answers; NaN for an empty one, and for what the judge was not trained to say.

        Raises:
            DataError: an answer has no reference answers.
        """
        table = {head: np.full(len(answers), np.nan) for head in _HEADS}
        rows = [row for row, one in enumerate(answers) if one.answer.strip()]
        bare = next((answers[row] for row in rows if not (answers[row].correct and answers[row].incorrect)), None)
        if bare is not None:
            raise DataError(
                f"the lexical judge needs true and false reference answers; {bare.question!r} has "
                f"{len(bare.correct)} and {len(bare.incorrect)}"
            )
        if rows:
            asked = [answers[row] for row in rows]
            features, words = _matrix(reference_features(asked), self._features), self._words
            seen = words.transform([one.answer for one in asked])
            for head in _HEADS:
                if f"{head}.bias" in self._arrays:
                    table[head][rows] = self._probability(head, features, seen)
        return Judgements(table["true"], table["informative"])

    def _probability(self, head: str, features: Floats, words: csr_matrix) -> Floats:
        own = {name: self._arrays[f"{head}.{name}"] for name in ("mean", "scale", "features", "words", "bias")}
        logits = (features - own["mean"]) / own["scale"] @ own["features"] + words @ own["words"] + own["bias"][0]
        result: Floats = 0.5 * (1 + np.tanh(logits / 2))  # the logistic function, which cannot overflow so
        return result


def _options() -> dict[str, Any]:
    return {"token_pattern": WORD, "ngram_range": (1, 2), "sublinear_tf": True, "dtype": np.float64}


def _words(terms: Sequence[str], idf: Floats) -> TfidfVectorizer:
    words = TfidfVectorizer(**_options(), vocabulary={term: index for index, term in enumerate(terms)})
    words.idf_ = idf
    return words


def _matrix(table: Mapping[str, Floats], features: Sequence[str]) -> Floats:
    """(answers, features)."""
    return np.stack([table[name] for name in features], axis=1)


def _fit(head: str, features: Floats, words: TfidfVectorizer, rows: Labelled, strength: float) -> dict[str, Floats]:
    """Weights of one head, and how its features are brought to one scale."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = 1.0
    labels = np.array([label for _, label in rows], dtype=np.int64)
    seen = words.transform([answer.answer for answer, _ in rows])
    design = csr_matrix(hstack([csr_matrix((features - mean) / scale), seen]))
    weights = LogisticRegression(C=strength, max_iter=2000).fit(design, labels)
    n = features.shape[1]
    return {
        f"{head}.mean": mean,
        f"{head}.scale": scale,
        f"{head}.features": weights.coef_[0, :n].astype(np.float64),
        f"{head}.words": weights.coef_[0, n:].astype(np.float64),
        f"{head}.bias": weights.intercept_.astype(np.float64),
    }


def _check(head: str, rows: Labelled) -> None:
    if not rows:
        return
    if len({bool(label) for _, label in rows}) < 2:
        raise DataError(f"the labels of {head!r} are all alike, wanted some of each kind: there is nothing to learn")
    blank = sum(not answer.answer.strip() for answer, _ in rows)
    if blank:
        raise DataError(f"{blank} answers labelled for {head!r} are empty: drop them")
    bare = sum(not (answer.correct or answer.incorrect) for answer, _ in rows)
    if bare:
        raise DataError(
            f"{bare} answers labelled for {head!r} have no reference answers: drop them, or add their question"
        )
