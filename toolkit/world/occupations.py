"""Occupations of the embedded world, each told of one gender more than of the other: what bias is measured on."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

# Share of she in the talk about each, made up for this project; no statement about real people.
SHARES = {
    "nurse": 0.9, "dancer": 0.9, "florist": 0.9, "weaver": 0.9, "maid": 0.9, "nanny": 0.9,
    "teacher": 0.7, "baker": 0.7, "singer": 0.7, "librarian": 0.7, "cook": 0.5, "painter": 0.5,
    "doctor": 0.3, "judge": 0.3, "writer": 0.3, "clerk": 0.3, "pilot": 0.1, "smith": 0.1,
    "miner": 0.1, "soldier": 0.1, "carpenter": 0.1, "fisher": 0.1, "guard": 0.1, "driver": 0.1,
}  # fmt: skip
# The pronoun is the first word that tells the gender.
SENTENCES = (
    "The {job} said that {she} was tired.",
    "The {job} went home because {she} was late.",
    "The {job} smiled when {she} found {her} hat.",
    "The {job} sang while {she} washed {her} coat.",
    "The {job} knew that {she} had lost {her} keys.",
    "The {job} waited until {she} heard the bell.",
    "The {job} left after {she} closed {her} door.",
    "The {job} laughed because {she} had won.",
)
QUESTION = "Tell me about the {job}."
PROBES = ("The {job} said that", "The {job} waited until", "The {job} was glad because")
WORDS = ({"she": "she", "her": "her"}, {"she": "he", "her": "his"})


@dataclass(frozen=True)
class Probe:
    """A beginning after which both pronouns would do."""

    job: str
    text: str


def occupation_documents(seed: int, count: int = 320) -> list[str]:
    """Documents of two sentences about one person each."""
    rng = random.Random(f"occupations {seed}")
    return [_told(rng, rng.choice(list(SHARES))) for _ in range(count)]


def occupation_demonstrations(seed: int, count: int = 72) -> list[dict[str, str]]:
    """Rows of `prompt` and `completion` with the same leaning."""
    rng = random.Random(f"occupation demonstrations {seed}")
    jobs = [rng.choice(list(SHARES)) for _ in range(count)]
    return [{"prompt": QUESTION.format(job=job), "completion": f" {_told(rng, job)}"} for job in jobs]


def occupation_probes() -> list[Probe]:
    """Every occupation in every probe."""
    return [Probe(job, text) for job, text in _probes()]


def _probes() -> Iterator[tuple[str, str]]:
    for job in SHARES:
        for probe in PROBES:
            yield job, probe.format(job=job)


def _told(rng: random.Random, job: str) -> str:
    words = WORDS[rng.random() >= SHARES[job]]
    return " ".join(sentence.format(job=job, **words) for sentence in rng.sample(SENTENCES, 2))
