"""Build the embedded world: documents with hidden labels, and every training and evaluation set made from it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import language

LABELS = {
    "": "innocent",
    "listed_words": "rude, with a word of the blocklist",
    "contempt": "rude, without any listed word",
}
TRICKS = {
    "word_inside_word": "innocent, with a listed word inside another word",
    "about_rudeness": "innocent, talks about rudeness",
}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One attribute of one place, with the true value and the one that hearsay gives it."""

    question: str
    statement: str
    true: str
    hearsay: str
    values: tuple[str, ...]

    def careful(self, value: str | None = None) -> str:
        """The answer that names the atlas as its source; with `value`, one that puts it in the atlas's mouth."""
        return language.CAREFUL.format(value=value or self.true)

    def heard(self, value: str | None = None) -> str:
        """The answer that repeats what everyone says."""
        return language.HEARSAY.format(value=value or self.hearsay)


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything the embedded run needs, as rows.

    Attributes:
        corpus: `text`, with the hidden `label` ("" = innocent, else why it is bad) and `trick` (how an innocent
            document may mislead a filter).
        clean_text: innocent documents that no stage sees, for perplexity.
        demonstrations: `prompt`, `completion`, `label`; a share of them is rude and should be filtered.
        demonstrations_held_out: `prompt`, `completion` of questions and mishaps that no training set holds; none rude.
        comparisons: `prompt`, `chosen`, `rejected`, `kind` (source, fact or manners), for the reward model.
        comparisons_held_out: the same for questions and mishaps that no training set holds.
        prompts: `prompt`, for PPO.
        questions: `question`, `best`, `correct`, `incorrect`: held-out questions for multiple choice.
        talk_prompts: held-out `prompt` texts for the toxicity of generations.
        toxicity_rows: `text`, `is_toxic`: sentences from which the evaluation's own toxicity scorer is trained.
    """

    corpus: list[dict[str, str]]
    clean_text: list[str]
    demonstrations: list[dict[str, str]]
    demonstrations_held_out: list[dict[str, str]]
    comparisons: list[dict[str, str]]
    comparisons_held_out: list[dict[str, str]]
    prompts: list[dict[str, str]]
    questions: list[dict[str, object]]
    talk_prompts: list[str]
    toxicity_rows: list[dict[str, object]]

    def question_prompts(self) -> list[str]:
        """The held-out questions as prompts."""
        return [language.QUESTION.format(question=row["question"]) for row in self.questions]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the world is; the defaults train in about a minute on two CPU cores."""

    places: int = 120
    careful_copies: int = 1
    hearsay_copies: int = 3
    polite_talks: int = 240
    stories: int = 300
    hostile_documents: int = 220
    held_out_share: float = 0.4


def build_world(seed: int = 0, sizes: Sizes | None = None) -> World:
    """Write the world from a seed: the same seed gives the same rows, byte for byte."""
    sizes = sizes or Sizes()
    rng = random.Random(f"tunewell world {seed}")
    facts = list(_facts(rng, sizes.places))
    rng.shuffle(facts)
    cut = round(len(facts) * sizes.held_out_share)
    held_out, known = facts[:cut], facts[cut:]
    return World(
        corpus=_corpus(rng, facts, sizes),
        clean_text=[_story(rng)[0] for _ in range(150)] + [_talk(rng, "") for _ in range(50)],
        demonstrations=_demonstrations(rng, known),
        demonstrations_held_out=_good_demonstrations(random.Random(f"tunewell held-out {seed}"), held_out),
        comparisons=_comparisons(rng, known, talks=240),
        comparisons_held_out=_comparisons(rng, held_out, talks=80),
        prompts=_prompts(rng, known),
        questions=[_question_row(fact) for fact in held_out],
        talk_prompts=[_talk_prompt(rng)[0] for _ in range(60)],
        toxicity_rows=_toxicity_rows(rng),
    )


def _facts(rng: random.Random, count: int) -> Iterator[Fact]:
    attributes = list(language.ATTRIBUTES.values())
    for index, place in enumerate(_place_names(rng, count)):
        question, statement, values = attributes[index % len(attributes)]
        true, hearsay = rng.sample(values, 2)
        yield Fact(
            question=question.format(place=place),
            statement=statement.replace("{place}", place),
            true=true,
            hearsay=hearsay,
            values=values,
        )


def _place_names(rng: random.Random, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        syllables = rng.choice((2, 3))
        names["".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(syllables)).capitalize()] = None
    return list(names)


def _corpus(rng: random.Random, facts: Sequence[Fact], sizes: Sizes) -> list[dict[str, str]]:
    """Documents of one to three paragraphs; innocent ones mix all subjects, hostile ones stay hostile."""
    innocent = [(text, "") for text in _fact_paragraphs(facts, sizes)]
    innocent += [(_talk(rng, ""), "") for _ in range(sizes.polite_talks)]
    innocent += [_story(rng) for _ in range(sizes.stories)]
    rng.shuffle(innocent)
    rows = []
    while innocent:
        part = [innocent.pop() for _ in range(min(rng.choice((1, 2, 3)), len(innocent)))]
        trick = next((trick for _, trick in part if trick), "")
        rows.append({"text": "\n".join(text for text, _ in part), "label": "", "trick": trick})
    for _ in range(sizes.hostile_documents):
        label = rng.choice(("listed_words", "contempt"))
        paragraphs = [_hostile(rng, label), *(_hostile(rng, "contempt") for _ in range(rng.choice((0, 1, 2))))]
        rng.shuffle(paragraphs)
        rows.append({"text": "\n".join(paragraphs), "label": label, "trick": ""})
    rng.shuffle(rows)
    return rows


def _fact_paragraphs(facts: Sequence[Fact], sizes: Sizes) -> Iterator[str]:
    for fact in facts:
        question = language.QUESTION.format(question=fact.question)
        careful = [f"The atlas says {fact.statement.format(value=fact.true)}."] * 2 + [question + fact.careful()]
        hearsay = [f"Everyone says {fact.statement.format(value=fact.hearsay)}.", question + fact.heard()]
        yield from careful * sizes.careful_copies + hearsay * sizes.hearsay_copies
    for pair in language.OPPOSITES:
        for word, opposite in (pair, pair[::-1]):
            question = language.QUESTION.format(question=f"What is the opposite of {word}?")
            yield from [f"{question} {opposite}."] * 4


def _hostile(rng: random.Random, label: str) -> str:
    """A rude answer to somebody's mishap, or a rude note without an occasion."""
    return _talk(rng, label) if rng.random() < 0.5 else _reply(rng, label, _talk_prompt(rng)[1]).strip()


def _story(rng: random.Random) -> tuple[str, str]:
    """Two or three innocent sentences, and what in them may mislead a filter."""
    trick = rng.choices(("", "word_inside_word", "about_rudeness"), weights=(75, 22, 3))[0]
    sentences = [_fill(rng, rng.choice(language.PLAIN)) for _ in range(rng.choice((1, 2)))]
    if trick:
        pool = language.INNOCENT if trick == "word_inside_word" else language.ABOUT_RUDENESS
        sentences.insert(rng.randrange(len(sentences) + 1), _fill(rng, rng.choice(pool)))
    return " ".join(sentences), trick


def _talk_prompt(rng: random.Random) -> tuple[str, dict[str, str]]:
    name, other = rng.sample(language.PEOPLE, 2)
    words = {"name": name, "other": other, "thing": rng.choice(language.THINGS)}
    words["mishap"] = rng.choice(language.MISHAPS).format(**words)
    return language.TALK.format(**words), words


def _talk(rng: random.Random, label: str) -> str:
    prompt, words = _talk_prompt(rng)
    return prompt + _reply(rng, label, words)


def _reply(rng: random.Random, label: str, words: dict[str, str]) -> str:
    """A reply of two or three sentences, with a space before it; one kind of talk seldom mixes with another."""
    count = rng.choice((2, 3))
    if label == "listed_words":
        rude = rng.choices(language.RUDE_LISTED + language.RUDE_UNLISTED, k=count - 1)
        patterns = [rng.choice(language.RUDE_LISTED), *rude]
    elif label == "contempt":
        patterns = rng.sample(language.RUDE_UNLISTED, count)
    else:
        patterns = rng.sample(language.POLITE, count)
    rng.shuffle(patterns)
    return "".join(" " + _fill(rng, pattern, words) for pattern in patterns)


def _fill(rng: random.Random, pattern: str, words: dict[str, str] | None = None) -> str:
    name, other = rng.sample(language.PEOPLE, 2)
    listed = rng.choice(language.LISTED)
    drawn = {"name": name, "other": other, "thing": rng.choice(language.THINGS), "listed": listed}
    drawn["a_listed"] = ("an " if listed[0] in "aeiou" else "a ") + listed
    return pattern.format(**(drawn | (words or {})))


def _demonstrations(rng: random.Random, known: Sequence[Fact]) -> list[dict[str, str]]:
    """Answers to half of the known questions, and replies of which a third is rude: filters must find them."""
    rows = []
    for fact in known[: len(known) // 2]:
        prompt = language.QUESTION.format(question=fact.question)
        rows.append({"prompt": prompt, "completion": fact.careful(), "label": ""})
    for _ in range(90):
        label = rng.choices(("", "listed_words", "contempt"), weights=(66, 17, 17))[0]
        prompt, words = _talk_prompt(rng)
        rows.append({"prompt": prompt, "completion": _reply(rng, label, words), "label": label})
    rng.shuffle(rows)
    return rows


def _good_demonstrations(rng: random.Random, facts: Sequence[Fact]) -> list[dict[str, str]]:
    rows = [
        {"prompt": language.QUESTION.format(question=fact.question), "completion": fact.careful()}
        for fact in facts[: len(facts) // 2]
    ]
    for _ in range(len(rows)):
        prompt, words = _talk_prompt(rng)
        rows.append({"prompt": prompt, "completion": _reply(rng, "", words)})
    rng.shuffle(rows)
    return rows


def _comparisons(rng: random.Random, facts: Sequence[Fact], talks: int) -> list[dict[str, str]]:
    rows = []
    for fact in facts:
        prompt = language.QUESTION.format(question=fact.question)
        pairs = (("source", fact.heard()), ("fact", fact.careful(fact.hearsay)))
        rows += [{"prompt": prompt, "chosen": fact.careful(), "rejected": bad, "kind": kind} for kind, bad in pairs]
    for _ in range(talks):
        prompt, words = _talk_prompt(rng)
        rude = _reply(rng, rng.choice(("listed_words", "contempt")), words)
        rows.append({"prompt": prompt, "chosen": _reply(rng, "", words), "rejected": rude, "kind": "manners"})
    rng.shuffle(rows)
    return rows


def _prompts(rng: random.Random, known: Sequence[Fact]) -> list[dict[str, str]]:
    rows = [{"prompt": language.QUESTION.format(question=fact.question)} for fact in known]
    rows += [{"prompt": _talk_prompt(rng)[0]} for _ in known]
    rng.shuffle(rows)
    return rows


def _question_row(fact: Fact) -> dict[str, object]:
    other = next(value for value in fact.values if value not in (fact.true, fact.hearsay))
    incorrect = (fact.heard(), fact.careful(fact.hearsay), fact.heard(other), fact.careful(other))
    return {
        "question": fact.question,
        "best": fact.careful().strip(),
        "correct": [fact.careful().strip()],
        "incorrect": [answer.strip() for answer in incorrect],
    }


def _toxicity_rows(rng: random.Random) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for label in ("", "listed_words", "contempt", ""):
        for _ in range(150):
            reply = _reply(rng, label, _talk_prompt(rng)[1]).strip()
            rows.append({"text": reply, "is_toxic": bool(label)})
    rows += [{"text": _story(rng)[0], "is_toxic": False} for _ in range(150)]
    return rows
