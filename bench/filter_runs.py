"""`tunewell filter` over real rows, as one would type it: labelled tweets and human preference pairs.

    python bench/filter_runs.py [--data FOLDER] [--out FOLDER]

Prints the commands, what they say, and tables. **Tweets** (Davidson et al. 2017): a scorer is trained on one half, the
other half is filtered; hate and offensive count as bad. **hh-rlhf** has no label of harm, so rows with a known answer
are hidden among its pairs: in 200 of them the last chosen answer is a tweet that people labelled hate or offensive, in
200 others an innocent one; the rest shows what a filter costs. Public data by default from ../shared/data; intervals
are Wilson's of 95 %. Two minutes on one CPU core.
"""

import argparse
import csv
import gzip
import json
import random
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tunewell.eval.statistics import share_score

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PLANTED = 200
LAST_ANSWER = re.compile(r"(.*\n\nAssistant:).*", re.DOTALL)

Row = dict[str, Any]


def say(folder: Path, command: str) -> None:
    """Run a command in a folder and print both."""
    print(f"\n    {command}", flush=True)
    run = [sys.executable, "-c", "from tunewell.pipelines.cli import main; main()", *shlex.split(command)[1:]]
    done = subprocess.run([*run, "--quiet"], cwd=folder, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    print("".join(f"    {line}\n" for line in done.stdout.splitlines()), flush=True)


def shown(hits: Iterable[bool]) -> str:
    """A share with its interval."""
    one = share_score([float(hit) for hit in hits], resamples=100)
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(out: Path, kind: str) -> list[Row]:
    return [json.loads(line) for path in sorted((out / kind).glob("*.jsonl")) for line in path.open(encoding="utf-8")]


def table(name: str, out: Path) -> None:
    """Precision and recall of a run over rows whose `label` is 1 where they are bad; other rows have none."""
    dropped, kept = read(out, "dropped"), read(out, "kept")
    print(f"| {name} | precision | recall | innocent rows dropped |\n|---|---|---|---|")
    ways: dict[str, Sequence[str]] = {
        one: [one] for one in sorted({name for row in dropped for name in filters_of(row)})
    }
    for way, filters in {**ways, "either": list(ways)}.items():
        hits = [(row["row"].get("label"), filters_of(row) & set(filters)) for row in dropped]
        rows = [(label, bool(found)) for label, found in hits] + [(row.get("label"), False) for row in kept]
        known = [(label == 1, is_hit) for label, is_hit in rows if label is not None]
        print(
            f"| {way} | {shown(is_bad for is_bad, is_hit in known if is_hit)} "
            f"| {shown(is_hit for is_bad, is_hit in known if is_bad)} "
            f"| {shown(is_hit for is_bad, is_hit in known if not is_bad)} |"
        )
    unlabelled = [False for row in kept if row.get("label") is None]
    unlabelled += [True for row in dropped if row["row"].get("label") is None]
    if unlabelled:
        print(f"\nOf the {len(unlabelled):,} untouched pairs {shown(unlabelled)} are dropped.")


def filters_of(row: Row) -> set[str]:
    """All filters that would drop a row: the one that did, and those after it."""
    return {row["filter"], *row["also"]}


def read_tweets(path: Path) -> list[tuple[str, int]]:
    """Tweets, each with 1 when it is labelled hate or offensive."""
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["tweet"], int(row["class"] != "2")) for row in csv.DictReader(file)]


def with_answer(row: Row, answer: str, label: int) -> Row:
    """Put an answer in the place of the last chosen one."""
    found = LAST_ANSWER.fullmatch(row["chosen"])
    return {**row, "chosen": f"{found.group(1) if found else ''} {answer}", "label": label}


def planted_pairs(path: Path, tweets: Sequence[tuple[str, int]], rng: random.Random) -> list[Row]:
    """The pairs, some with an answer that is known to be bad or innocent."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    answers = [(text, label) for wanted in (1, 0)
               for text, label in rng.sample([one for one in tweets if one[1] == wanted], PLANTED)]  # fmt: skip
    for place, (text, label) in zip(rng.sample(range(len(rows)), len(answers)), answers, strict=True):
        rows[place] = with_answer(rows[place], text, label)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data")
    parser.add_argument("--out", type=Path, help="where rows and runs are kept; default: nowhere")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"skipped: no public data at {arguments.data}; --data names another folder")
        return
    if arguments.out:
        arguments.out.mkdir(parents=True)
        show(arguments.data, arguments.out)
        return
    with tempfile.TemporaryDirectory() as made:
        show(arguments.data, Path(made))


def show(data: Path, folder: Path) -> None:
    rng = random.Random(0)
    tweets = read_tweets(data / "hate-speech" / "labeled_data-dev.csv")
    rng.shuffle(tweets)
    half = len(tweets) // 2
    write(folder / "train.jsonl", ({"text": text, "label": label} for text, label in tweets[:half]))
    write(folder / "tweets.jsonl", ({"text": text, "label": label} for text, label in tweets[half:]))
    names = data / "real-toxicity-prompts" / "list_of_naughty_and_bad_words.txt"
    (folder / "words.txt").write_bytes(names.read_bytes())
    say(folder, "tunewell toxicity train train.jsonl --out scorer")
    say(folder, "tunewell filter tweets.jsonl --out tweets-clean --blocklist words.txt --toxicity tfidf:scorer")
    table("tweets", folder / "tweets-clean")
    write(folder / "pairs.jsonl", planted_pairs(data / "hh-rlhf" / "harmless-dev.jsonl.gz", tweets[half:], rng))
    say(folder, "tunewell filter pairs.jsonl --out pairs-clean --blocklist words.txt --toxicity tfidf:scorer "
                "--near-duplicates 0.8")  # fmt: skip
    table("pairs", folder / "pairs-clean")
    say(folder, "tunewell filter --again pairs-clean --out pairs-milder --toxicity-threshold 0.9")
    table("pairs, threshold 0.9", folder / "pairs-milder")


if __name__ == "__main__":
    main()
