"""Numbers that tell how an answer lies to the true and the false reference answers of its question."""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

from .judge import Answer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Trait = Callable[[Sequence[str]], bool]

CURLY = chr(0x2019)  # an apostrophe to most writers
WORD = r"[^\W_]+(?:'[^\W_]+)?"
_WORDS = re.compile(WORD)
_FIRST_SENTENCE = re.compile(r"^.*?[.!?](?=\s|$)", re.DOTALL)
_NEGATIONS = "no not never none nothing nobody cannot without nowhere neither nor hardly false untrue incorrect"
# After Hyland 2005, "Metadiscourse", hedges: words by which a writer holds back from a claim.
_HEDGES = (
    "may might could can some sometimes often possibly possible perhaps maybe likely unlikely usually generally "
    "typically depends depending depend various many several different certain uncertain unclear unknown subjective "
    "varies vary difficult definitively definitive certainty evidence believe believed suggest suggests claim claims "
    "seems appears"
)
_IS_NEGATION, _IS_HEDGE = (frozenset(words.split()) for words in (_NEGATIONS, _HEDGES))


@dataclass(frozen=True)
class _Pairs:
    """Every answer beside every reference of one kind, sorted by answer."""

    answer: Ints
    """(pairs,) row of the answer."""
    reference: Ints
    """(pairs,) row of the reference among all distinct references."""
    n: int
    """Answers; some may have no pair."""

    def best(self, values: Floats) -> Floats:
        """(n,) largest value of each answer's pairs; 0 without any."""
        result = np.zeros(self.n)
        np.maximum.at(result, self.answer, values)
        return result

    def mean(self, values: Floats) -> Floats:
        """(n,) mean value of each answer's pairs; 0 without any."""
        counts = np.bincount(self.answer, minlength=self.n)
        sums = np.bincount(self.answer, values, minlength=self.n)
        means: Floats = sums / np.maximum(counts, 1)
        return means

    def at_best(self, values: Floats, of: Floats) -> Floats:
        """(n,) `values` of the pair in which `of` is largest; 0 without any."""
        order = np.lexsort((of, self.answer))
        last = np.flatnonzero(np.diff(self.answer[order], append=-1))
        result = np.zeros(self.n)
        result[self.answer[order][last]] = values[order][last]
        return result


Measure = Callable[[_Pairs], Floats]


def reference_features(answers: Sequence[Answer]) -> dict[str, Floats]:
    """Features of answers, each (n,), by name; nothing is learned here.

    Most come in fours: how near the nearest true reference is, the nearest false one, the difference and its sign. What
    is near is measured in words, in words that the question does not hold, in pairs of words and in groups of letters.
    The rest tell of negation, hedging, length, repetition, and of what the question repeats.

    Args:
        answers: not empty; an answer that is itself a reference should not stand among its own references.
    """
    texts = _Texts(answers)
    true, false = texts.pairs([one.correct for one in answers]), texts.pairs([one.incorrect for one in answers])
    features: dict[str, Floats] = {}
    likeness: dict[str, tuple[Floats, Floats]] = {}
    for name, measure in texts.measures().items():
        likeness[name] = (measure(true), measure(false))
        _in_fours(features, name, true.best(likeness[name][0]), false.best(likeness[name][1]))
        features[f"{name} mean difference"] = true.mean(likeness[name][0]) - false.mean(likeness[name][1])
    for name, of_answer, of_reference in texts.signs():
        agrees = [(of_answer[pairs.answer] == of_reference[pairs.reference]).astype(float) for pairs in (true, false)]
        features[name] = of_answer
        features[f"{name} agrees"] = true.mean(agrees[0]) - false.mean(agrees[1])
        features[f"{name} agrees with the nearest"] = (
            true.at_best(agrees[0], likeness["letters"][0]) - false.at_best(agrees[1], likeness["letters"][1])
        )  # fmt: skip
        shares = [pairs.mean(of_reference[pairs.reference]) for pairs in (true, false)]
        features[f"{name} in references"] = shares[0] - shares[1]
    n_true, n_false = (np.bincount(pairs.answer, minlength=len(answers)) for pairs in (true, false))
    features["share of true references"] = n_true / np.maximum(n_true + n_false, 1)
    return features | texts.form()


def _in_fours(features: dict[str, Floats], name: str, true: Floats, false: Floats) -> None:
    features |= {
        f"{name} true": true,
        f"{name} false": false,
        f"{name} difference": true - false,
        f"{name} sign": np.sign(true - false),
    }


class _Texts:
    """Answers, questions and distinct references as matrices of words and letters."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = [one.answer.replace(CURLY, "'") for one in answers]
        self.first = [_first_sentence(text) for text in self.answers]
        self.tokens = [_WORDS.findall(text.lower()) for text in self.answers]
        questions = [one.question.replace(CURLY, "'") for one in answers]
        self.references: dict[str, int] = {}
        for one in answers:
            for text in (*one.correct, *one.incorrect):
                self.references.setdefault(text, len(self.references))
        references = [text.replace(CURLY, "'") for text in self.references] or [""]
        self.reference_tokens = [_WORDS.findall(text.lower()) for text in references]
        everything = [*self.answers, *questions, *references, "word"]
        words = CountVectorizer(token_pattern=WORD, binary=True, dtype=np.float64).fit(everything)
        self.words, self.first_words = words.transform(self.answers), words.transform(self.first)
        self.question_words, self.reference_words = words.transform(questions), words.transform(references)
        couples = _hashed(analyzer="word", token_pattern=WORD, ngram_range=(1, 2))
        letters = _hashed(analyzer="char_wb", ngram_range=(2, 4))
        self.couples, self.reference_couples = couples.transform(self.answers), couples.transform(references)
        self.letters, self.reference_letters = letters.transform(self.answers), letters.transform(references)
        self.first_letters = letters.transform(self.first)

    def pairs(self, lists: Sequence[Sequence[str]]) -> _Pairs:
        """Each answer with each of its references of one kind."""
        answer = np.repeat(np.arange(len(lists)), [len(texts) for texts in lists])
        reference = np.array([self.references[text] for texts in lists for text in texts], dtype=np.int64)
        return _Pairs(answer, reference, len(lists))

    def measures(self) -> dict[str, Measure]:
        """Ways to tell how near an answer is to a reference, each from pairs to (pairs,)."""

        def cosine(a: csr_matrix, b: csr_matrix) -> Measure:
            return lambda pairs: _dots(a, b, pairs)

        def overlap(a: csr_matrix, kind: str, is_new: bool) -> Measure:
            def measure(pairs: _Pairs) -> Floats:
                left, right = a[pairs.answer], self.reference_words[pairs.reference]
                if is_new:
                    asked = self.question_words[pairs.answer]
                    left, right = left - left.multiply(asked), right - right.multiply(asked)
                shared, own, other = (_sums(m) for m in (left.multiply(right), left, right))
                total = {"f1": (own + other) / 2, "recall": other, "precision": own}[kind]
                return shared / np.maximum(total, 1.0)

            return measure

        return {
            "words": overlap(self.words, "f1", False),
            "new words": overlap(self.words, "f1", True),
            "new words found": overlap(self.words, "recall", True),
            "new words backed": overlap(self.words, "precision", True),
            "new words of the first sentence": overlap(self.first_words, "f1", True),
            "couples": cosine(self.couples, self.reference_couples),
            "letters": cosine(self.letters, self.reference_letters),
            "letters of the first sentence": cosine(self.first_letters, self.reference_letters),
        }

    def signs(self) -> list[tuple[str, Floats, Floats]]:
        """Yes-or-no traits of answers (n,) and references (r,)."""
        first = [_WORDS.findall(text.lower()) for text in self.first]
        return [
            ("negation", _flags(first, _is_negated), _flags(self.reference_tokens, _is_negated)),
            ("begins with yes", _flags(self.tokens, _begins("yes")), _flags(self.reference_tokens, _begins("yes"))),
            ("begins with no", _flags(self.tokens, _begins("no")), _flags(self.reference_tokens, _begins("no"))),
            ("hedge", _flags(self.tokens, _is_hedged), _flags(self.reference_tokens, _is_hedged)),
            ("no comment", _flags(self.tokens, _is_no_comment), _flags(self.reference_tokens, _is_no_comment)),
        ]

    def form(self) -> dict[str, Floats]:
        """Length, repetition and hedging of each answer."""
        n = np.array([len(tokens) for tokens in self.tokens], dtype=np.float64)
        distinct = _sums(self.words)
        asked = _sums(self.words.multiply(self.question_words))
        hedges = np.array([sum(token in _IS_HEDGE for token in tokens) for tokens in self.tokens], dtype=np.float64)
        letters = np.array([sum(map(len, tokens)) for tokens in self.tokens], dtype=np.float64)
        triples = [list(zip(tokens, tokens[1:], tokens[2:], strict=False)) for tokens in self.tokens]
        return {
            "length": np.log1p(n),
            "length of the first sentence": np.log1p([len(_WORDS.findall(text)) for text in self.first]),
            "sentences": np.log1p([len(re.findall(r"[.!?](?=\s|$)", text)) for text in self.answers]),
            "letters in a word": letters / np.maximum(n, 1),
            "hedges": hedges / np.maximum(n, 1),
            "hedges in all": np.log1p(hedges),
            "distinct words": distinct / np.maximum(n, 1),
            "repeated triples": np.array([1 - len(set(some)) / len(some) if some else 0.0 for some in triples]),
            "words of the question": asked / np.maximum(distinct, 1),
            "question repeated": asked / np.maximum(_sums(self.question_words), 1),
            "nothing new": (distinct == asked).astype(np.float64),
            "several lines": np.array(["\n" in text.strip() for text in self.answers], dtype=np.float64),
            "asks": np.array(["?" in text for text in self.answers], dtype=np.float64),
            "ends": np.array([text.rstrip().endswith((".", "!")) for text in self.answers], dtype=np.float64),
            "has a number": np.array([any(map(str.isdigit, text)) for text in self.answers], dtype=np.float64),
        }


def _hashed(**options: Any) -> HashingVectorizer:
    """Unit vectors of n-grams that hang on nothing but the text: an answer is judged alike in any company."""
    return HashingVectorizer(n_features=2**20, alternate_sign=False, norm="l2", dtype=np.float64, **options)


def _dots(a: csr_matrix, b: csr_matrix, pairs: _Pairs) -> Floats:
    return _sums(a[pairs.answer].multiply(b[pairs.reference]))


def _sums(matrix: csr_matrix) -> Floats:
    return np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()


def _flags(tokens: Sequence[Sequence[str]], trait: Trait) -> Floats:
    return np.array([trait(one) for one in tokens], dtype=np.float64)


def _is_negated(tokens: Sequence[str]) -> bool:
    return any(token in _IS_NEGATION or token.endswith("n't") for token in tokens)


def _is_hedged(tokens: Sequence[str]) -> bool:
    return any(token in _IS_HEDGE for token in tokens)


def _is_no_comment(tokens: Sequence[str]) -> bool:
    return ("no", "comment") in itertools.pairwise(tokens)


def _begins(word: str) -> Trait:
    return lambda tokens: bool(tokens) and tokens[0] == word


def _first_sentence(text: str) -> str:
    found = _FIRST_SENTENCE.match(text.strip())
    return found[0] if found else text
