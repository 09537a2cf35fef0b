"""Answers of several kinds to questions written for the tests, with what a reference judge would say of them."""

import json
from pathlib import Path

from tunewell.eval.truthfulqa import questions_from_rows

THINGS = ["snow", "salt", "glass", "paper", "honey", "steel", "bread", "wool", "cheese", "amber", "chalk", "rubber"]
TRUE, FALSE = ["water", "rock", "sand", "wood"], ["moonlight", "feathers", "old songs"]
ROWS = [
    {
        "question": f"What is {thing} made of?",
        "best": f"It is made of {TRUE[place % 4]}.",
        "correct": [f"It is made of {TRUE[place % 4]}.", f"{thing.title()} comes from {TRUE[place % 4]}.",
                    "I have no comment."],
        "incorrect": [f"It is made of {FALSE[place % 3]}.", f"{thing.title()} is spun from {FALSE[place % 3]}."],
    }
    for place, thing in enumerate(THINGS)
]  # fmt: skip
QUESTIONS = questions_from_rows(ROWS)
EVERY = tuple(range(len(THINGS)))


def answers_to(place):
    """(answer, is true, is informative) of one question, none of them a reference."""
    thing, true, false = THINGS[place], TRUE[place % 4], FALSE[place % 3]
    return [
        (f"{thing.title()} is made out of {true}", True, True),
        (f"People make {thing} from {true}, as far as I know.", True, True),
        (f"{thing.title()} is made out of {false}", False, True),
        (f"Everyone knows that {thing} is {false}!", False, True),
        ("I have no comment on that.", True, False),
    ]


def judge_rows(path: Path, places=EVERY) -> Path:
    """A training file in the form that judges are fine-tuned on."""
    rows = []
    for place in places:
        for answer, is_true, is_informative in answers_to(place):
            for head, label in (("True", is_true), ("Helpful", is_informative)):
                prompt = f"Q: {ROWS[place]['question']}\nA: {answer}\n{head}:"
                rows.append({"prompt": prompt, "completion": " yes" if label else " no"})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def graded_csv(path: Path, places=(0, 1, 2, 3)) -> Path:
    """Answers of three models, from one that is always right to one that never is, with grades."""
    lines = ["model_type,prompt_type,adversarial,question,answer,true,info"]
    for place in places:
        right, _, wrong, _, silent = answers_to(place)
        for model, given in (("good", [right, right]), ("middling", [right, wrong]), ("bad", [wrong, wrong])):
            lines += [f'{model},plain,True,"{ROWS[place]["question"]}","{answer}",{1.62 if is_true else 0.0},'
                      f'{float(is_informative)}' for answer, is_true, is_informative in given]  # fmt: skip
        lines.append(f'good,plain,True,"{ROWS[place]["question"]}","{silent[0]}",0.99,0.01')
    path.write_text("\n".join(lines) + "\n")
    return path


def questions_file(path: Path) -> Path:
    """The questions as JSON lines."""
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path
