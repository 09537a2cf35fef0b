"""Small tasks with right answers, phrased as instructions: a mixture to train on, and others to measure on."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from . import language

Made = tuple[str, str, list[str]]
"""Instruction, right answer, and wrong ones."""
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")


@dataclass(frozen=True, kw_only=True)
class TaskItem:
    """One question of one task.

    Attributes:
        task: its name.
        prompt: ends where the answer begins.
        answer: the right one, with the space before it.
        wrong: answers of the same form that are wrong.
    """

    task: str
    prompt: str
    answer: str
    wrong: tuple[str, ...]


def task_items(task: str, count: int, seed: int, *, part: str = "train", instructed: bool = True) -> list[TaskItem]:
    """Draw items of a task, no prompt twice as long as there are enough.

    Args:
        task: a name in `TASKS`.
        count: items to draw.
        seed: decides the draws.
        part: items of another part are drawn anew.
        instructed: False leaves the instruction out, so that only the words of the item stand in the prompt.
    """
    rng = random.Random(f"tunewell task {task} {part} {seed}")
    found: dict[str, TaskItem] = {}
    for _ in range(20 * count):
        instruction, answer, wrong = TASKS[task](rng)
        asked = instruction if instructed else instruction.partition(": ")[2]
        prompt = language.QUESTION.format(question=asked)
        found.setdefault(prompt, TaskItem(task=task, prompt=prompt, answer=f" {answer}.",
                                          wrong=tuple(f" {text}." for text in wrong)))  # fmt: skip
        if len(found) == count:
            break
    return list(found.values())


def _words(rng: random.Random, low: int = 3, high: int = 5) -> list[str]:
    return rng.sample(language.THINGS, rng.randrange(low, high + 1))


def _pick(rng: random.Random, instruction: str, place: int) -> Made:
    words = _words(rng)
    answer = words[place]
    return f"{instruction}: {' '.join(words)}", answer, [word for word in words if word != answer]


def _first(rng: random.Random) -> Made:
    return _pick(rng, "Say the first word", 0)


def _last(rng: random.Random) -> Made:
    return _pick(rng, "Say the last word", -1)


def _second(rng: random.Random) -> Made:
    return _pick(rng, "Say the second word", 1)


def _longest(rng: random.Random) -> Made:
    words = _words(rng)
    while len({len(word) for word in words}) < len(words):
        words = _words(rng)
    answer = max(words, key=len)
    return f"Say the longest word: {' '.join(words)}", answer, [word for word in words if word != answer]


def _shortest(rng: random.Random) -> Made:
    words = _words(rng)
    while len({len(word) for word in words}) < len(words):
        words = _words(rng)
    answer = min(words, key=len)
    return f"Say the shortest word: {' '.join(words)}", answer, [word for word in words if word != answer]


def _count(rng: random.Random) -> Made:
    words = _words(rng, 2, 6)
    answer = NUMBERS[len(words) - 1]
    return f"Count the words: {' '.join(words)}", answer, [word for word in NUMBERS[1:6] if word != answer]


def _twice(rng: random.Random) -> Made:
    first, second = rng.sample(language.THINGS, 2)
    one, two = f"{first} {first}", f"{second} {second}"
    wrong = [f"{first} {second}", f"{two} {one}", f"{first} {second} {first} {second}"]
    return f"Say each word twice: {first} {second}", f"{one} {two}", wrong


def _backwards(rng: random.Random) -> Made:
    words = _words(rng, 3, 3)
    first, second, third = words
    wrong = [words, [second, first, third], [first, third, second], [third, first, second]]
    return f"Say the words backwards: {' '.join(words)}", " ".join(words[::-1]), [" ".join(one) for one in wrong]


def _opposite(rng: random.Random) -> Made:
    (word, first), (other, second) = (rng.sample(pair, 2) for pair in rng.sample(language.OPPOSITES, 2))
    wrong = [f"{word} {other}", f"{word} {second}", f"{first} {other}", f"{second} {first}"]
    return f"Say the opposites: {word} {other}", f"{first} {second}", wrong


def _person(rng: random.Random) -> Made:
    name, other, third = rng.sample(language.PEOPLE, 3)
    thing = rng.choice(language.THINGS)
    return f"Say who has it: {name} gave {other} the {thing}", other, [name, third]


def _thing(rng: random.Random) -> Made:
    name, other = rng.sample(language.PEOPLE, 2)
    thing, *wrong = rng.sample(language.THINGS, 4)
    return f"Say what was given: {name} gave {other} the {thing}", thing, wrong


def _without(rng: random.Random) -> Made:
    first, second, third = _words(rng, 3, 3)
    left = f"Say the words without {second}: {first} {second} {third}"
    return left, f"{first} {third}", [f"{first} {second}", f"{second} {third}", f"{third} {first}"]


TASKS: Mapping[str, Callable[[random.Random], Made]] = MappingProxyType({
    "first": _first, "last": _last, "longest": _longest, "count": _count, "twice": _twice,
    "backwards": _backwards, "opposite": _opposite, "person": _person, "without": _without,
    "second": _second, "shortest": _shortest, "thing": _thing,
})  # fmt: skip
HELD_OUT = ("second", "shortest", "thing")
"""Tasks that no mixture holds; each is akin to one that it holds."""
