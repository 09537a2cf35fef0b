"""How often the pronoun rules of counterfactual text are right, on dialogues where the answer is known.

Object and possessive have words of their own in the masculine (him, his), and the two possessives in the feminine (her,
hers): each stands in a real sentence, is hidden, and the rule says which it was.

The rules were made with the misses of the dialogues of hh-rlhf in view; other texts say how well they carry over.

    python bench/pronoun_rules.py [FILE] [--json] [--misses]     default: web prompts, continued by several models
"""

import json
import re
import sys
from pathlib import Path

from tunewell.eval.statistics import wilson
from tunewell.toolkit.data.rows import read_rows
from tunewell.toolkit.mitigations.counterfactual import is_possessive


def known_answers(texts):
    """Pairs (is possessive, text behind) of him and his: what `her` would have to be told apart as."""
    for text in texts:
        for match in re.finditer(r"\b(him|his)\b", text, re.IGNORECASE):
            yield match.group().lower() == "his", text[match.end() :]


def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
    path = (
        path or Path(__file__).parents[1].parent / "shared" / "data" / "instructgpt" / "real_toxicity_samples-dev.csv"
    )
    texts = {part for row in read_rows(path) for value in row.values() if isinstance(value, str)
             for part in re.split(r"\n\n(?:Human|Assistant):", value)}  # fmt: skip
    answers = list(known_answers(sorted(texts)))
    table = {}
    for name, wanted in (("possessive", True), ("object", False)):
        right = [is_possessive(rest) == wanted for is_one, rest in answers if is_one == wanted]
        table[name] = (sum(right), len(right))
    table["both"] = tuple(map(sum, zip(*table.values(), strict=True)))
    for name, (right, n) in table.items():
        low, high = wilson(right, n)
        print(f"{name:<12} {right / n:6.1%}  [{low:.1%}, {high:.1%}]  n {n}", file=sys.stderr)
    if "--misses" in sys.argv:
        misses = sorted(rest[:40].split("\n")[0] for is_one, rest in answers if is_possessive(rest) != is_one)
        print("\n".join(misses), file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({name: {"ours": right / n, "n": n, "unit": "share"} for name, (right, n) in table.items()}))


if __name__ == "__main__":
    main()
