"""A toxicity scorer in scikit-learn: TF-IDF of words and letters under a logistic regression, trained in seconds."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ..errors import DataError
from ..files import read_json, write_atomic
from .scorer import Floats, is_blank

FORMAT = "tunewell tfidf toxicity 1"
_BLOCKS: dict[str, dict[str, Any]] = {
    "words": {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    "letters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}
_SETTINGS, _ARRAYS = "scorer.json", "arrays.safetensors"


class TfidfToxicity:
    """Probability of the label "toxic" by a linear model over word and letter n-grams.

    It has learned words, not meaning: text in a language or jargon that it never saw gets about the share of toxic
    texts in its training set. Saved as JSON and safetensors, never as a pickle.

    Use `train` or `load` to make one.
    """

    def __init__(self, settings: bytes, arrays: dict[str, Floats]) -> None:
        tree = json.loads(settings)
        self._settings, self._arrays = settings, arrays
        self._vectorizers = [
            _vectorizer(name, tree["terms"][name], arrays[f"idf.{name}"]) for name in _BLOCKS if tree["terms"][name]
        ]
        # The settings hold the hash of the arrays, so this names both.
        self.id = f"tfidf:{hashlib.sha256(settings).hexdigest()[:16]}"

    @classmethod
    def train(
        cls,
        texts: Sequence[str],
        labels: Sequence[bool] | Sequence[int],
        *,
        strength: float = 10.0,
        most_terms: int = 100_000,
    ) -> "TfidfToxicity":
        """Fit a scorer.

        Args:
            texts: at least one of each kind; empty ones are refused.
            labels: 1 or True where the text is toxic.
            strength: inverse regularisation of the logistic regression (scikit-learn's C).
            most_terms: most n-grams kept, of words and of letters each, the commonest first.

        Raises:
            DataError: texts and labels cannot be trained on.
        """
        _check_training(texts, labels)
        # A term of a single text teaches little, but from a handful of texts every term is welcome.
        rare = 2 if len(texts) >= 100 else 1
        blocks = {
            name: TfidfVectorizer(**_options(name), min_df=rare, max_features=most_terms).fit(texts)
            for name in _BLOCKS
        }  # fmt: skip
        features = _features(list(blocks.values()), texts)
        model = LogisticRegression(C=strength, max_iter=1000).fit(features, np.asarray(labels, dtype=np.int64))
        arrays = {f"idf.{name}": block.idf_.astype(np.float64) for name, block in blocks.items()}
        arrays |= {"weights": model.coef_[0].astype(np.float64), "bias": model.intercept_.astype(np.float64)}
        settings = {
            "format": FORMAT,
            "trained_on": {"texts": len(texts), "toxic": int(sum(map(bool, labels))), "strength": strength},
            "arrays_sha256": hashlib.sha256(save(arrays)).hexdigest(),
            "terms": {name: block.get_feature_names_out().tolist() for name, block in blocks.items()},
        }
        return cls(json.dumps(settings, sort_keys=True).encode("ascii"), arrays)

    def save(self, folder: Path) -> None:
        """Write the scorer as a folder of two files.

        Raises:
            RunError: the folder cannot be written.
        """
        write_atomic(folder / _ARRAYS, save(self._arrays))
        write_atomic(folder / _SETTINGS, self._settings)

    @classmethod
    def load(cls, folder: Path) -> "TfidfToxicity":
        """Read what `save` wrote; the scores are equal to the last bit.

        Raises:
            DataError: the folder holds no scorer, or one whose files do not belong together.
        """
        tree = read_json(folder / _SETTINGS)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise DataError(f"{folder / _SETTINGS} is not a scorer of this version ({FORMAT}): train it again")
        try:
            content = (folder / _ARRAYS).read_bytes()
            if hashlib.sha256(content).hexdigest() != tree["arrays_sha256"]:
                raise DataError(f"{folder / _ARRAYS} is not the file that {_SETTINGS} was written with: train it again")
            return cls((folder / _SETTINGS).read_bytes(), load(content))
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(f"cannot read the scorer in {folder}: {error}. Train it again") from error

    def score(self, texts: Sequence[str]) -> Floats:
        """Score texts: the probability of being toxic, NaN for an empty one."""
        scores = np.full(len(texts), np.nan)
        rows = [row for row, text in enumerate(texts) if not is_blank(text)]
        if rows:
            logits = _features(self._vectorizers, [texts[row] for row in rows]) @ self._arrays["weights"]
            scores[rows] = _sigmoid(logits + self._arrays["bias"][0])
        return scores


def _options(name: str) -> dict[str, Any]:
    return {**_BLOCKS[name], "lowercase": True, "sublinear_tf": True, "dtype": np.float64}


def _vectorizer(name: str, terms: list[str], idf: Floats) -> TfidfVectorizer:
    vectorizer = TfidfVectorizer(**_options(name), vocabulary={term: index for index, term in enumerate(terms)})
    vectorizer.idf_ = idf
    return vectorizer


def _features(vectorizers: Sequence[TfidfVectorizer], texts: Sequence[str]) -> csr_matrix:
    """(texts, terms) of all blocks side by side."""
    return csr_matrix(hstack([vectorizer.transform(texts) for vectorizer in vectorizers]))


def _sigmoid(logits: Floats) -> Floats:
    # exp of a negative number cannot overflow
    small = np.exp(-np.abs(logits))
    result: Floats = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return result


def _check_training(texts: Sequence[str], labels: Sequence[bool] | Sequence[int]) -> None:
    if len(texts) != len(labels):
        raise DataError(f"got {len(texts)} texts and {len(labels)} labels, wanted one label per text")
    if not set(labels) <= {0, 1}:
        raise DataError(f"labels: got {sorted(set(labels))[:5]}, wanted 1 (toxic) and 0 (not): set a threshold first")
    if len(set(labels)) < 2:
        raise DataError("the labels are all alike, wanted toxic and innocent texts: there is nothing to learn")
    blank = [row for row, text in enumerate(texts) if is_blank(text)]
    if blank:
        raise DataError(f"{len(blank)} texts are empty (the first is number {blank[0]}): drop them")
    if not any(character.isalnum() for text in texts for character in text):
        raise DataError("the texts hold no words, wanted some to learn from")
