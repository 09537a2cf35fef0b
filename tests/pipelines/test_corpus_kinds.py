"""Preference pairs, benchmark items and personal data, and all kinds of input, through whole filter runs."""

import gzip
import io
import json
import random
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pytest
from corpus_runs import QUIET, records, run, settings
from pyarrow import parquet
from tunewell.filters import RowReader
from tunewell.pipelines.corpus import inputs as inputs_module
from tunewell.pipelines.corpus import runner
from tunewell.pipelines.corpus.again import plan_again
from tunewell.pipelines.corpus.runner import run_corpus

PAIR = {"prompt": "Say it", "chosen": "Surely", "rejected": "No"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def test_a_pair_is_dropped_as_a_unit_for_its_good_side_and_stays_with_a_bad_rejected_one(tmp_path):
    rows = [
        PAIR,
        PAIR | {"rejected": "a badword"},
        PAIR | {"chosen": "a badword"},
        PAIR | {"prompt": "badword?"},
        {
            "prompt": chat(("user", "Hi")),
            "chosen": chat(("assistant", "BADWORD")),
            "rejected": chat(("assistant", "x")),
        },
        {
            "prompt": chat(("user", "Hi")),
            "chosen": chat(("assistant", "x")),
            "rejected": chat(("assistant", "badword")),
        },
        {"prompt": "p", "completions": ["badword", "good"], "ranks": [2, 1]},
        {"prompt": "p", "completions": ["badword", "good"], "ranks": [1, 1]},
    ]
    summary = run([write(tmp_path / "in.jsonl", rows)], tmp_path / "out", settings(tmp_path))
    kept, dropped = records(tmp_path / "out", "kept"), records(tmp_path / "out", "dropped")
    assert kept == [rows[index] for index in (0, 1, 5, 6)]
    assert [record["row"] for record in dropped] == [rows[index] for index in (2, 3, 4, 7)]
    assert [record["place"] for record in dropped] == [
        ["chosen"], ["prompt"], ["chosen", 0, "content"], ["completions", 0],
    ]  # fmt: skip
    assert dropped[2]["span"] == [0, 7]
    assert summary["read"] == summary["kept"] + summary["dropped"] == 8


def test_columns_and_roles_can_be_chosen(tmp_path):
    path = write(
        tmp_path / "in.jsonl",
        [
            {"messages": chat(("user", "badword"), ("assistant", "Let us not."))},
            {"messages": chat(("user", "Hi"), ("assistant", "badword"))},
        ],
    )
    own = settings(tmp_path)
    run([path], tmp_path / "all", own)
    assert records(tmp_path / "all", "kept") == []
    run([path], tmp_path / "one", own, reader=RowReader(roles=("assistant",)))
    (record,) = records(tmp_path / "one", "dropped")
    assert (record["source"]["line"], record["place"]) == (2, ["messages", 1, "content"])
    pair = write(tmp_path / "pair.jsonl", [PAIR | {"rejected": "a badword"}])
    run([pair], tmp_path / "rejected", own, reader=RowReader(columns=("rejected",)))
    assert len(records(tmp_path / "rejected", "dropped")) == 1


def test_every_benchmark_item_is_named_with_the_rows_that_give_it_away(tmp_path):
    first, second = (f"{word} " * 4 + "which is the longest river of all the lands" for word in ("why", "how"))
    benchmark = write(
        tmp_path / "rivers.jsonl", [{"q": first}, {"q": second}, {"q": "Which?"}, {"q": f"{first} really"}]
    )
    rows = [{"text": f"{first}? {second}"}, {"text": "nothing"}, {"text": f"badword {second.upper()}!"}]
    out = tmp_path / "out"
    run([write(tmp_path / "in.jsonl", rows)], out, settings(tmp_path, benchmarks=[str(benchmark)]))
    assert [(one["filter"], one["also"]) for one in records(out, "dropped")] == [
        ("contamination", []), ("blocklist", ["contamination"]),
    ]  # fmt: skip
    tree = json.loads((out / "contamination.json").read_text())
    assert tree["benchmarks"] == [{"benchmark": "rivers.jsonl", "items": 4, "unseen": 1, "found": 3, "whole": 2}]
    found = {
        one["item"]: (one["texts"], [place.rpartition(":")[2] for place in one["examples"]]) for one in tree["items"]
    }
    assert found == {
        "rivers.jsonl, row 1": (1, ["1"]), "rivers.jsonl, row 2": (2, ["1", "3"]), "rivers.jsonl, row 4": (1, ["1"]),
    }  # fmt: skip


def test_rows_with_personal_data_are_dropped_by_kind(tmp_path):
    rows = [{"text": "mail anna@posthof.net"}, {"text": "call (202) 555-0143"}, {"text": "nothing"}]
    own = settings(tmp_path, personal_data={"kinds": ["email"]})
    run([write(tmp_path / "in.jsonl", rows)], tmp_path / "out", own)
    (record,) = records(tmp_path / "out", "dropped")
    assert (record["filter"], record["reason"], record["matched"]) == ("personal_data", "email", "email")
    assert rows[0]["text"][slice(*record["span"])] == "anna@posthof.net"


TEXT = "the of and to in is that for it as was with be by on not he his but at are this have from or had"
WORDS = tuple(TEXT.split())
ODD = ["naïve", "中文", "\u0000", "BAD\u200bWORD", "b\u0430dword", "b@dw0rd", "two parts", "joe.smith@mail.com", "🙂",
       "\u2028", "\\", '"', "+1 212 555 0187", "8.8.8.8", "İ", "ﬁ", "\t", "e\u0301"]  # fmt: skip


def odd_rows(rng, item):
    """Rows with copies, repetitions, a benchmark's item and all that is hard to fold."""
    clean: list[str] = []
    for number in range(80):
        words = [rng.choice(ODD if rng.random() < 0.1 else WORDS) for _ in range(rng.randint(0, 40))]
        match number % 8:
            case 1:
                words += item.upper().split()
            case 2:
                words = rng.sample(WORDS, 3) * 20
            case 3:
                clean = words = rng.sample(WORDS, 24)
            case 4 if number % 16 == 4:
                words = clean
            case 5:
                words = [*clean[:7], rng.choice(WORDS), *clean[8:]]
        yield {"id": number, "text": (" " if number % 8 in (3, 4) else rng.choice([" ", "  ", "\n"])).join(words)}


@pytest.mark.parametrize("seed", range(3))
def test_the_same_rows_meet_the_same_fate_whatever_they_lie_in_and_once_more_on_their_scores(
    tmp_path, monkeypatch, seed
):
    monkeypatch.setattr(runner, "_report", lambda out, summary, record: (out / "report.html").touch())
    rng = random.Random(seed)
    item = " ".join(rng.choice(WORDS) for _ in range(14))
    rows = list(odd_rows(rng, item))
    own = settings(
        tmp_path, words=("badword", "two parts"), leetspeak=True, length={"low": 2, "high": 60}, repetition={},
        benchmarks=[str(write(tmp_path / "bench.jsonl", [{"q": item}]))], personal_data={}, exact_duplicates=True,
        near_duplicates={"threshold": 0.6, "shingle_words": 2}, toxicity=f"wordlist:{tmp_path / 'words.txt'}",
    )  # fmt: skip
    lines = write(tmp_path / "a.jsonl", rows).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    table = pa.table({name: [row[name] for row in rows] for name in ("id", "text")})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(inputs_module.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))

    def fates(out):
        dropped = {
            one["row"]["id"]: {key: one[key] for key in ("filter", "reason", "score", "span", "matched", "also")}
            | {"repeats": (one.get("repeats") or {}).get("line")}
            for one in records(out, "dropped")
        }
        return [row["id"] for row in records(out, "kept")], dropped, records(out, "quarantine")

    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet", "saved", "-"):
        given = name if name == "-" else tmp_path / name
        summary = run([given], tmp_path / f"out-{name}", own, unit_bytes=rng.choice([300, 3000, 10**6]))
        assert fates(tmp_path / f"out-{name}") == fates(tmp_path / "out-a.jsonl")
        assert summary["read"] == 80 and summary["quarantined"] == 0
    run_corpus(plan_again(tmp_path / "out-a.jsonl", tmp_path / "again", own), QUIET)
    assert fates(tmp_path / "again") == fates(tmp_path / "out-a.jsonl")
    _, dropped, _ = fates(tmp_path / "again")
    assert {name for one in dropped.values() for name in (one["filter"], *one["also"])} == {
        "blocklist", "length", "repetition", "contamination", "personal_data", "toxicity", "exact_duplicate",
        "near_duplicate",
    }  # fmt: skip
