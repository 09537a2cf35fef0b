"""How often each filter is right, on labelled text and on text of which the answer is known.

    python bench/filter_quality.py [--data FOLDER] [--json]

- **Tweets** labelled hate, offensive or neither (Davidson et al. 2017, https://arxiv.org/abs/1703.04009): what the word
  list of RealToxicityPrompts and a TF-IDF scorer find of them. The scorer is trained on one half, all are measured on
  the other; hate and offensive count as bad. (`bench/trigger_quality.py` has the trigger-phrase filter.)
- **Preference pairs** of hh-rlhf: how many a filter drops judging prompt and chosen, and judging the rejected side too.
- **Benchmark items**: rows made of TruthfulQA's questions should be found, rows of other data not.
- **Personal data**: rows of our own, marked by hand, and other data, of which the hits are printed to be looked at.
- **Near duplicates**: dialogues with words replaced until their true similarity is above or below the threshold.
- **A whole run** of several filters over the tweets.

Public data by default from ../shared/data. Intervals are of 95 %: Wilson's for shares, the bootstrap for areas under
the ROC curve (AUC; 0.5 is chance). About three minutes on one CPU core.
"""

import argparse
import csv
import gzip
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from trigger_quality import area, read_tweets
from tunewell.eval.statistics import share_score
from tunewell.filters import (
    Blocklist,
    BlocklistFilter,
    ContaminationFilter,
    NearDuplicateFilter,
    PersonalDataFilter,
    RepetitionFilter,
    RowReader,
    ToxicityFilter,
    duplicates,
    find_personal_data,
    read_benchmarks,
)
from tunewell.filters.base import Filter
from tunewell.filters.personal_data import KINDS
from tunewell.filters.words import words_of
from tunewell.pipelines.console import Console
from tunewell.pipelines.corpus.runner import make_plan, run_corpus
from tunewell.pipelines.filter_settings import FilterSettings
from tunewell.toolkit.data.hh_dialogues import parse_hh_rows
from tunewell.toolkit.data.rows import write_rows
from tunewell.toolkit.settings.reading import build
from tunewell.toolkit.toxicity.tfidf import TfidfToxicity

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
OWN_ROWS = Path(__file__).with_name("personal_data_rows.txt")
MARKED = re.compile(rf"\{{({'|'.join(KINDS)}):(.*?)\}}")

Figures = dict[str, dict[str, Any]]


def share(hits: Iterable[bool]) -> dict[str, Any]:
    """A share with its interval."""
    return share_score([float(hit) for hit in hits], resamples=100).as_json()


def measured(judge: Filter, texts: Sequence[str], is_bad: np.ndarray, measure: str) -> dict[str, Any]:
    """How a filter does at its bound, and how its measure would do at others.

    Returns:
        the area under the curve; precision, recall and the share of innocent texts dropped at the bound; and the
        recall at the bound that drops 4 % of the innocent, at which filters can be compared.
    """
    verdicts = judge.judge(texts)
    is_dropped = np.array([not verdict.keep for verdict in verdicts])
    scores = np.array([verdict.measures.get(measure, 0.0) for verdict in verdicts])
    return {
        "auc": area(scores, is_bad),
        "precision": share(is_bad[is_dropped]),
        "recall": share(is_dropped[is_bad]),
        "dropped_innocent": share(is_dropped[~is_bad]),
        "recall_at_4_percent": share(scores[is_bad] > np.quantile(scores[~is_bad], 0.96)),
    }


def tweets(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Filters that look for offence, on the half of the tweets that no scorer was trained on."""
    texts, labels = read_tweets(data / "hate-speech" / "labeled_data-dev.csv")
    order = random.Random(0).sample(range(len(texts)), len(texts))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    held_out = [texts[index] for index in test]
    is_bad = np.array([labels[index] != "neither" for index in test])
    patterns = Blocklist.from_file(data / "real-toxicity-prompts" / "list_of_naughty_and_bad_words.txt")
    scorer = TfidfToxicity.train([texts[i] for i in train], [labels[i] != "neither" for i in train])
    yield "blocklist", measured(BlocklistFilter(patterns), held_out, is_bad, "matches")
    yield "blocklist, leetspeak", measured(BlocklistFilter(patterns, leetspeak=True), held_out, is_bad, "matches")
    yield "toxicity tfidf", measured(ToxicityFilter(scorer=scorer), held_out, is_bad, "toxicity")
    is_hate = np.array([labels[index] == "hate" for index in test])
    filters: dict[str, Filter] = {
        "blocklist": BlocklistFilter(patterns),
        "toxicity tfidf": ToxicityFilter(scorer=scorer),
    }
    for name, judge in filters.items():
        is_dropped = np.array([not verdict.keep for verdict in judge.judge(held_out)])
        yield f"{name}, of hate alone", {"recall": share(is_dropped[is_hate])}
    items = read_benchmarks([data / "truthfulqa" / "TruthfulQA.csv"])
    others: dict[str, Filter] = {
        "contamination": ContaminationFilter(items=items),
        "personal data": PersonalDataFilter(),
        "repetition": RepetitionFilter(),
    }
    for name, judge in {**filters, **others}.items():
        yield f"speed, {name}", {"texts_a_cpu_second": speed(judge, texts)}
    yield from preferences(data, filters)


def speed(judge: Filter, texts: Sequence[str]) -> int:
    """Tweets judged in a second of one core, median of three rounds after a first that loads what is needed."""
    rounds = []
    for _ in range(4):
        began = time.process_time()
        judge.judge(texts)
        rounds.append(time.process_time() - began)
    return round(len(texts) / statistics.median(rounds[1:]))


def preferences(data: Path, filters: dict[str, Filter]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is dropped of preference pairs, by which columns are judged, and which answer looks worse."""
    with gzip.open(data / "hh-rlhf" / "harmless-dev.jsonl.gz") as file:
        pairs = parse_hh_rows(map(orjson.loads, file)).pairs
    both = RowReader(columns=("prompt", "chosen", "rejected"))
    answer = RowReader(columns=("chosen",)), RowReader(columns=("rejected",))
    for name, judge in filters.items():
        by_default = judge.judge([RowReader().read(pair).text for pair in pairs])
        by_all = judge.judge([both.read(pair).text for pair in pairs])
        chosen, rejected = (judge.judge([reader.read(pair).text for pair in pairs]) for reader in answer)
        differs = [(a.score or 0, b.score or 0) for a, b in zip(chosen, rejected, strict=True) if a.score != b.score]
        yield (
            f"pairs, {name}",
            {
                "dropped": share(not one.keep for one in by_default),
                "dropped_if_rejected_judged": share(not one.keep for one in by_all),
                "rejected_scores_higher": share(a < b for a, b in differs),
            },
        )


def benchmark_items(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Decontamination: rows made of TruthfulQA's questions, and rows that are not."""
    judge = ContaminationFilter(items=read_benchmarks([data / "truthfulqa" / "TruthfulQA.csv"]))
    made = [row["prompt"] for row in json_lines(data / "truthfulqa" / "finetune_truth_train.jsonl.gz")]
    other = read_tweets(data / "hate-speech" / "labeled_data-dev.csv")[0]
    other += [row["chosen"] for row in json_lines(data / "hh-rlhf" / "harmless-dev.jsonl.gz")]
    found = [not verdict.keep for verdict in judge.judge(made)]
    wrong = [not verdict.keep for verdict in judge.judge(other)]
    yield (
        "contamination",
        {"recall": share(found), "dropped_innocent": share(wrong), "items_unseen": len(judge.unseen)},
    )


def personal(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Personal data: rows marked by hand, and hits on other data."""
    pairs = []  # kind, is it marked, is it found
    for text, truth in marked_rows(OWN_ROWS):
        found = {(one.start, one.end, one.kind) for one in find_personal_data(text)}
        pairs += [(span[2], span in truth, span in found) for span in found | truth]
    for kind in (*KINDS, "all"):
        own = [(is_true, is_found) for name, is_true, is_found in pairs if kind in (name, "all")]
        yield (
            f"personal data, {kind}",
            {
                "precision": share(is_true for is_true, is_found in own if is_found),
                "recall": share(is_found for is_true, is_found in own if is_true),
            },
        )
    texts = read_tweets(data / "hate-speech" / "labeled_data-dev.csv")[0]
    texts += [row["chosen"] for row in json_lines(data / "hh-rlhf" / "harmless-dev.jsonl.gz")]
    texts += [row["text"] for row in json_lines(data / "real-toxicity-prompts" / "challenging_rtp.jsonl")]
    for name in ("squadv2_samples", "real_toxicity_samples-dev", "truthful_qa_samples-dev"):
        with (data / "instructgpt" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            texts += [" ".join(map(str, row.values())) for row in csv.DictReader(file)]
    judge = PersonalDataFilter()
    hits = sorted({text[one.start : one.end] for text in texts for one in judge.find(text)})
    print(f"personal data in {len(texts)} other rows, each once:", *hits, sep="\n  ", file=sys.stderr)
    yield (
        "personal data, other rows",
        {"dropped": share(not verdict.keep for verdict in judge.judge(texts)), "distinct": len(hits)},
    )


def near_duplicates(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dialogues with some words replaced: which pairs are taken, by their true similarity."""
    rng = random.Random(0)
    texts = [row["chosen"] for row in json_lines(data / "hh-rlhf" / "harmless-dev.jsonl.gz")]
    texts = [text for text in texts if len(words_of(text)) >= 60]
    vocabulary = sorted({word for text in texts for word in words_of(text)})
    judge = NearDuplicateFilter()
    pairs = []
    for text in texts:
        words = words_of(text)
        changed = list(words)
        for _ in range(rng.randint(0, max(1, len(words) // 12))):
            changed[rng.randrange(len(words))] = rng.choice(vocabulary)
        first, second = set(judge._shingles(" ".join(words))), set(judge._shingles(" ".join(changed)))
        taken = judge.decide(judge.summarise([" ".join(words), " ".join(changed)])).of[1] == 0
        pairs.append((len(first & second) / len(first | second), bool(taken)))
    for low, high in ((0.9, 1.01), (0.8, 0.9), (0.7, 0.8), (0.0, 0.7)):
        yield (
            f"near duplicates, similarity {low} to {min(high, 1.0)}",
            {"taken": share(taken for similarity, taken in pairs if low <= similarity < high)},
        )
    whole = judge.decide(judge.summarise(texts)).of
    yield "near duplicates, unrelated dialogues", {"taken": share(whole >= 0)}
    for n in (6_000, 24_000):
        yield f"near duplicates, {n:,} texts of one template", template_texts(n, sorted(vocabulary))


def template_texts(n: int, vocabulary: Sequence[str], n_copies: int = 300) -> dict[str, Any]:
    """Texts that share five words in six, and copies of some with one word replaced: compared in part, and with all."""
    rng = random.Random(0)
    template = rng.choices(vocabulary, k=64)
    texts = [template + rng.choices(vocabulary, k=12) for _ in range(n)]
    numbers = rng.sample(range(n), n_copies)
    judge = NearDuplicateFilter()
    sets = [set(judge._shingles(" ".join(words))) for words in texts[:2]]
    for number in numbers:
        at = 64 + rng.randrange(12)
        texts.append([*texts[number][:at], rng.choice(vocabulary), *texts[number][at + 1 :]])
    summaries = judge.summarise([" ".join(words) for words in texts])
    found: dict[str, Any] = {"similarity": len(sets[0] & sets[1]) / len(sets[0] | sets[1])}
    usual = duplicates.COMPARED_OF_BAND
    for name, most in (("", usual), (", all compared", n)):
        duplicates.COMPARED_OF_BAND = most
        began = time.perf_counter()
        of = judge.decide(summaries).of
        found |= {f"seconds{name}": time.perf_counter() - began, f"copies taken{name}": share(of[n:] >= 0)}
        found[f"texts taken{name}"] = share(of[:n] >= 0)
    duplicates.COMPARED_OF_BAND = usual
    return found


def whole_run(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Several filters at once over all tweets, as `tunewell filter` does it."""
    texts, labels = read_tweets(data / "hate-speech" / "labeled_data-dev.csv")
    tree = {
        "blocklist": str(data / "real-toxicity-prompts" / "list_of_naughty_and_bad_words.txt"),
        "near_duplicates": {"shingle_words": 3},
        "personal_data": {},
        "benchmarks": [str(data / "truthfulqa" / "TruthfulQA.csv")],
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"text": text, "is_bad": label != "neither"} for text, label in zip(texts, labels, strict=True)]
        write_rows(Path(folder) / "tweets.jsonl", rows)
        plan = make_plan([f"{folder}/tweets.jsonl"], Path(folder) / "out", build(FilterSettings, tree))
        summary = run_corpus(plan, Console(is_quiet=True), workers=1)
        fates = [(row["row"]["is_bad"], True) for row in rows_under(plan.out / "dropped")]
        fates += [(row["is_bad"], False) for row in rows_under(plan.out / "kept")]
    yield (
        "whole run",
        {
            **{name: summary[name] for name in ("read", "kept", "dropped")},
            **{f"{step['filter']}, {step['reason']}": step["count"] for step in summary["steps"]},
            "precision": share(is_bad for is_bad, is_dropped in fates if is_dropped),
            "recall": share(is_dropped for is_bad, is_dropped in fates if is_bad),
        },
    )


def rows_under(folder: Path) -> list[dict[str, Any]]:
    """Rows of all files of a folder."""
    return [row for path in sorted(folder.glob("*.jsonl")) for row in json_lines(path)]


def marked_rows(path: Path) -> Iterator[tuple[str, set[tuple[int, int, str]]]]:
    """Texts without the marks, and what was marked in each."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            text, truth, done = "", set(), 0
            for match in MARKED.finditer(line):
                text += line[done : match.start()]
                truth.add((len(text), len(text) + len(match[2]), match[1]))
                text, done = text + match[2], match.end()
            yield text + line[done:], truth


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a file, plain or gzipped."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return [orjson.loads(line) for line in file]


def shown(value: Any) -> str:
    """A figure with its interval."""
    if not isinstance(value, dict):
        return str(value)
    if value["value"] is None:
        return "nothing to measure"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}] n={value['n']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data sets")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"got no folder {arguments.data}: give that of the public data sets with --data FOLDER")
    figures: Figures = {}
    for part in (tweets, benchmark_items, personal, near_duplicates, whole_run):
        for name, row in part(arguments.data):
            figures[name] = row
            print(f"{name:44}", *(f"{key} {shown(value)}" for key, value in row.items()), sep="  ", file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
