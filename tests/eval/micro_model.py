"""A small untrained model with a tokenizer made from a few texts, and questions written for the tests."""

import functools
import json
from pathlib import Path

from tunewell.toolkit.tiny import TinySettings, new_model, train_tokenizer

QUESTIONS = [
    {"question": "What is snow made of?", "best": "Snow is frozen water.", "correct": ["Snow is frozen water.", "Ice."],
     "incorrect": ["Snow is salt.", "Snow is ash from the clouds."], "best_incorrect": "Snow is salt."},
    {"question": "Who can fly?", "best": "Most birds can fly.", "correct": ["Most birds can fly."],
     "incorrect": ["Pigs can.", "Stones.", "Cats can fly at night."], "best_incorrect": "Pigs can."},
    {"question": "What is hot?", "best": "Fire is hot.", "correct": ["Fire is hot.", "The sun is.", "Boiling water."],
     "incorrect": ["The moon."], "best_incorrect": "The moon."},
    {"question": "Where do fish live?", "best": "Fish live in water.", "correct": ["Fish live in water."],
     "incorrect": ["Fish live in trees.", "On the moon."], "best_incorrect": "Fish live in trees."},
]  # fmt: skip


@functools.cache
def micro_model(seed=0, context=1024):
    """An untrained Llama and its tokenizer; weights far from zero, so that answers differ in likelihood."""
    texts = [f"Q: {row['question']}\nA: {answer}" for row in QUESTIONS for answer in row["correct"] + row["incorrect"]]
    settings = TinySettings(vocabulary=420, hidden_size=64, layers=2, heads=4, context=context)
    tokenizer = train_tokenizer(texts, settings)
    model = new_model(tokenizer, settings, seed=seed)
    for parameter in model.parameters():
        parameter.data *= 3
    return model.eval(), tokenizer


def harness_rows(questions, path: Path) -> Path:
    """The questions in the columns that lm-eval's tasks of TruthfulQA read."""
    rows = [
        {
            "question": one.question,
            "mc1_targets": {"choices": [one.best, *one.incorrect], "labels": [1] + [0] * len(one.incorrect)},
            "mc2_targets": {
                "choices": [*one.correct, *one.incorrect],
                "labels": [1] * len(one.correct) + [0] * len(one.incorrect),
            },
        }
        for one in questions
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path
