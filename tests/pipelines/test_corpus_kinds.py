"""Preference pairs, benchmark items and personal data, through a whole filter run."""

import json

from corpus_runs import records, run, settings
from tunewell.filters import RowReader

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
