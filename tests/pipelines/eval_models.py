"""Two micro models in folders, with the files that evaluation tasks read."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tunewell.toolkit.settings.base import TinySettings
from tunewell.toolkit.tiny import new_model, train_tokenizer

TEXTS = [
    "the cat sat on the mat and was rude",
    "a kind word for the dog by the door",
    "what is rude is not kind at all",
]
QUESTIONS = [
    {"question": f"What colour is the {thing}?", "best": "It is red.", "correct": ["It is red."],
     "incorrect": ["It is blue.", "It has none."], "best_incorrect": "It is blue."}
    for thing in ("door", "mat", "cat", "dog")
]  # fmt: skip
PROMPTS = [("the cat", 0.1), ("a rude", 0.9), ("the door", 0.2), ("what is rude", 0.7)]


def make_model(folder: Path, seed: int) -> Path:
    settings = TinySettings(vocabulary=300, hidden_size=64, layers=1, heads=2, context=128)
    tokenizer = train_tokenizer(TEXTS, settings)
    new_model(tokenizer, settings, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def break_model(source: Path, folder: Path) -> Path:
    """A copy whose output is NaN: a training that diverged."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("norm.weight"))
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_inputs(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    rows = {
        "questions.jsonl": QUESTIONS,
        "prompts.jsonl": [{"prompt": {"text": text, "toxicity": toxicity}} for text, toxicity in PROMPTS],
        "texts.jsonl": [{"text": text} for text in TEXTS],
    }
    for name, lines in rows.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "words.txt").write_text("rude\nthe\n")
    (folder / "lacking.csv").write_text("Question,Correct Answers,Incorrect Answers\nWhat?,This,That\n")
