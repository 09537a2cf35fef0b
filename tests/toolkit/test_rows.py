"""Reading, checking and writing rows."""

# A table of messages reads best with one case a line.
# ruff: noqa: E501

import csv
import errno
import gzip
import json
import os
import sys
import types
from collections import Counter
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tunewell.toolkit.data.row_shapes import EXAMPLES
from tunewell.toolkit.data.rows import (
    RowShape,
    hash_rows,
    hh_pair,
    parse_hh,
    parse_hh_rows,
    read_rows,
    require_columns,
    write_rows,
)
from tunewell.toolkit.errors import DataError, RunError

ROWS = [{"text": "one"}, {"text": "zwei ü\u2028\n"}, {"text": "", "n": None}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
HH_FILE = Path(__file__).parents[2] / "../shared/data/hh-rlhf/harmless-dev.jsonl.gz"


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# ----------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.JSONL", JSONL.rstrip(b"\n")),
        ("a.ndjson", b"\xef\xbb\xbf" + JSONL.replace(b"}\n", b"}\r\n\r\n")),
        ("a.jsonl.gz", gzip.compress(JSONL[:20], mtime=0) + gzip.compress(JSONL[20:], mtime=0)),
        ("a.jsonl.zst", zstandard.compress(JSONL)),
        ("b.jsonl.zst", zstandard.compress(JSONL[:20]) + zstandard.compress(JSONL[20:])),
    ],
)
def test_jsonl_is_read_plain_and_compressed(tmp_path: Path, name: str, content: bytes) -> None:
    path = put(tmp_path / name, content)
    assert read_rows(path) == ROWS
    assert read_rows(str(path), limit=2) == ROWS[:2]


def test_zstd_lines_longer_than_a_chunk_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewell.toolkit.data.row_files.CHUNK", 7)
    content = zstandard.compress(JSONL) + zstandard.compress(JSONL)
    assert read_rows(put(tmp_path / "a.jsonl.zst", content)) == ROWS * 2


def test_tables_are_read_with_quotes_line_breaks_and_long_texts(tmp_path: Path) -> None:
    long = "x" * 200_000  # beyond the csv module's own limit
    put(tmp_path / "a.csv", f'\ufeffprompt,note\r\n"a, ""b""\nc",{long}\r\n\r\nü,\r\n'.encode())
    limit = csv.field_size_limit()
    assert read_rows(tmp_path / "a.csv") == [{"prompt": 'a, "b"\nc', "note": long}, {"prompt": "ü", "note": ""}]
    assert csv.field_size_limit() == limit
    put(tmp_path / "a.tsv.gz", gzip.compress(b"a\tb\n1\t2,3\n"))
    assert read_rows(tmp_path / "a.tsv.gz") == [{"a": "1", "b": "2,3"}]


def test_parquet_is_read(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": "a"}], "rating": index / 2} for index in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == rows
    assert read_rows(tmp_path / "a.parquet", limit=5) == rows[:5]


def test_a_folder_is_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "files").mkdir()
    put(tmp_path / "files" / "test.jsonl", b'{"text": "a"}\n{"text": "b"}\n')
    assert read_rows(tmp_path / "files", split="test", limit=1) == [{"text": "a"}]
    with pytest.raises(DataError, match=r"cannot read the split 'nope' of .*files"):
        read_rows(tmp_path / "files", split="nope")
    (tmp_path / "mixed").mkdir()
    put(tmp_path / "mixed" / "a.jsonl", b'{"text": "a"}\n')
    put(tmp_path / "mixed" / "b.jsonl", b'{"text": ["b"]}\n')
    with pytest.raises(DataError, match=r"of .*mixed \(TypeError: Couldn't cast .* to string\)"):
        read_rows(tmp_path / "mixed")
    datasets.Dataset.from_list([{"text": "saved"}]).save_to_disk(str(tmp_path / "saved"))
    assert read_rows(tmp_path / "saved") == [{"text": "saved"}]
    datasets.DatasetDict({"dev": datasets.Dataset.from_list([{"text": "d"}])}).save_to_disk(str(tmp_path / "splits"))
    assert read_rows(tmp_path / "splits", split="dev") == [{"text": "d"}]
    with pytest.raises(DataError, match="cannot read the split 'train'"):
        read_rows(tmp_path / "splits")


def test_a_folder_with_files_of_several_kinds_is_refused_unless_its_card_tells_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "rows"
    folder.mkdir()
    put(folder / "a.jsonl", b'{"text": "a"}\n')
    put(folder / "dataset_infos.json", b"{}")
    put(folder / ".b.csv", b"hidden")
    assert read_rows(folder) == [{"text": "a"}]
    put(folder / "b.csv", b"text\nb\n")
    put(folder / "c.csv", b"text\nc\n")
    with pytest.raises(DataError, match=r"rows holds files of several kinds \(2 CSV, 1 JSON\).* Name the files"):
        read_rows(folder)
    put(folder / "README.md", b"---\nconfigs:\n- config_name: default\n  data_files: a.jsonl\n---\n")
    assert read_rows(folder) == [{"text": "a"}]


def test_only_a_name_that_cannot_be_a_file_here_is_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load_dataset(name: str, split: str) -> list[dict[str, str]]:
        asked.append(f"{name}:{split}")
        if name == "someone/none":
            raise FileNotFoundError("no such data set")
        return [{"text": "hub"}, {"text": "two"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    put(tmp_path / "data" / "rows.jsonl", JSONL)
    assert read_rows("someone/data-set_1.0", split="test", limit=1) == [{"text": "hub"}]
    assert read_rows("imdb") == [{"text": "hub"}, {"text": "two"}]
    assert asked == ["someone/data-set_1.0:test", "imdb:train"]
    for local in ("data/rows", "rows.jsn", "./none/rows", "../x", "data/rows.jsonl2", "/abs/rows", "~/rows"):
        with pytest.raises(DataError, match="does not exist"):
            read_rows(local)
    with pytest.raises(DataError, match="does not exist"):
        read_rows(Path("someone/data"))
    assert len(asked) == 2
    with pytest.raises(DataError, match=r"someone/none \(FileNotFoundError: no such data set\).*If a file was meant"):
        read_rows("someone/none")


# ----------------------------------------------------------------------------- faults of reading


def test_a_missing_file_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    put(tmp_path / "harmless-dev.jsonl", JSONL)
    put(tmp_path / "notes.txt", b"x")
    with pytest.raises(DataError, match=r"harmles-dev\.jsonl does not exist\. Did you mean .*harmless-dev\.jsonl\?"):
        read_rows(tmp_path / "harmles-dev.jsonl")
    with pytest.raises(DataError, match=r"In its folder stand: harmless-dev\.jsonl\."):
        read_rows(tmp_path / "qqqqq.csv")
    with pytest.raises(DataError, match=f"the nearest one that does is {tmp_path}"):
        read_rows(tmp_path / "no" / "where" / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b"\n  \n", "holds no rows"),
        ("a.csv", b"", "holds no rows"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.jsonl.gz", b"", "holds no rows"),
        ("a.jsonl.zst", b"", "holds no rows"),
        ("a.jsonl", b'{"a": 1}\n{"a": }\n', r"a\.jsonl:2, column 7: bad JSON .*got '\{\"a\": \}'. Mend or remove"),
        ("a.jsonl", b'{"a": 1}\n{"a": "cut', r"a\.jsonl:2, column \d+: bad JSON"),
        ("a.jsonl", b'{"a": NaN}\n', "write null"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', r"a\.jsonl:1, column \d+: bad JSON"),
        ("a.jsonl", b'[\n{"a": 1}\n]\n', r"a\.jsonl:1.*several lines is not JSONL\. Convert it: jq"),
        ("a.jsonl", b'[{"a": 1}]\n', r"a\.jsonl:1: got '\[.*wanted one JSON object a line\. Convert a list"),
        ("a.jsonl", b'{"a": 1}\n"words"\n', r"a\.jsonl:2: got .*wanted one JSON object a line"),
        ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', r"a\.jsonl:2: byte 19 .*0xe9, which is not UTF-8.*\"caf'"),
        ("a.jsonl", b'\xef\xbb\xbf{"a": 1}\n{"\xff"}\n', r"a\.jsonl:2: byte 14 .*0xff"),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)[:-12], r"a\.jsonl\.gz is cut short or not gzip"),
        ("a.jsonl.gz", JSONL, "cut short or not gzip: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)[:12] + b"\xff" * 20, "cut short or not gzip"),
        ("a.jsonl.zst", zstandard.compress(JSONL)[:-3], r"a\.jsonl\.zst is cut short: its last zstd frame has no end"),
        ("a.jsonl.zst", zstandard.compress(JSONL) + zstandard.compress(JSONL)[:9], "cut short"),
        ("a.jsonl.zst", JSONL, "damaged or not zstd"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv:3: got 3 values; wanted 2"),
        ("a.csv", b"a,b\n1\n", r"a\.csv:2: got 1 values; wanted 2"),
        ("a.csv", b"a,b,a\n1,2,3\n", r"a\.csv:1: the columns \['a'\] stand there twice"),
        ("a.csv", b'a\n"never closed\n', r"a\.csv:2: unexpected end of data.*double"),
        ("a.csv", b'a,b\n"x"y,2\n', r"a\.csv:2: .*expected after"),
        ("a.csv", b"a\n\xff\n", r"a\.csv:2: byte 2 .*0xff"),
        ("a.parquet", b"PAR1 but no more", "damaged or not Parquet"),
        ("a.json", b'[{"a": 1}]', r"got a \.json file; wanted one of \.jsonl, .*Convert it: jq -c '\.\[\]' a\.json > a\.jsonl"),
        ("a.txt", b"words", r"got a \.txt file; wanted one of \.jsonl"),
        ("rows", b"words", "got a nameless file; wanted one of"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_told_with_its_place_and_cure(
    tmp_path: Path, name: str, content: bytes, wanted: str
) -> None:
    with pytest.raises(DataError, match=wanted):
        read_rows(put(tmp_path / name, content))


def test_a_value_of_parquet_that_cannot_be_read_is_told_with_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"good"] * 1500 + [b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"bad\.parquet, row 1501: .*0xe9.*`tunewell filter .* sets such rows aside"):
        read_rows(tmp_path / "bad.parquet")
    assert len(read_rows(tmp_path / "bad.parquet", limit=1000)) == 1000
    times = pa.array([5, 2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["a", "b"], "when": times}), tmp_path / "far.parquet")
    with pytest.raises(DataError, match="row 2: date value out of range"):
        read_rows(tmp_path / "far.parquet")


def test_a_parquet_file_that_is_damaged_inside_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    # Without its checksums this file would be read, with other texts.
    pq.write_table(pa.table({"text": [f"row {n}" * 5 for n in range(2000)]}), path, write_page_checksum=True)
    whole = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    whole[start + 100 : start + 200] = bytes(100)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"is damaged or not Parquet: .*Write or fetch it again"):
        read_rows(path)


def test_what_json_has_no_form_for_is_written_without_loss(tmp_path: Path) -> None:
    nanoseconds = pa.array([1704103200123456789], pa.timestamp("ns"))
    table = pa.table({
        "when": nanoseconds, "day": pa.array([date(2024, 1, 2)]), "at": pa.array([time(10, 30)]),
        "took": pa.array([timedelta(hours=1, milliseconds=5)]), "price": pa.array([Decimal("1.10")]),
        "hash": pa.array([b"\xff\x00"]),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet")
    write_rows(tmp_path / "a.jsonl", rows)
    assert read_rows(tmp_path / "a.jsonl") == [{
        "when": "2024-01-01T10:00:00.123456789", "day": "2024-01-02", "at": "10:30:00", "took": 3600.005,
        "price": "1.10", "hash": "/wA=",
    }]  # fmt: skip
    assert hash_rows(rows) == hash_rows(read_rows(tmp_path / "a.jsonl"))
    assert hash_rows([{"b": 1, "a": 2}]) == hash_rows([{"a": 2, "b": 1}]) != hash_rows([{"a": 2, "b": 3}])
    with pytest.raises(DataError, match=r"row 1 \(counting from 0\) cannot be written as JSON: own \(object: "):
        hash_rows([{"a": 1}, {"own": object()}])


def test_an_empty_parquet_file_an_empty_folder_and_a_limit_of_nothing_are_faults(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(tmp_path / "a.parquet")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(DataError, match=r"the folder .*folder holds no files"):
        read_rows(tmp_path / "folder")
    with pytest.raises(DataError, match="limit: got 0"):
        read_rows(tmp_path / "a.parquet", limit=0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_clear_fault(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", JSONL)
    path.chmod(0)
    with pytest.raises(DataError, match=r"cannot read .*Permission denied"):
        read_rows(path)


# ----------------------------------------------------------------------------- writing

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(rows=st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=3), min_size=1, max_size=4))
def test_rows_that_are_written_are_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.jsonl"
    assert write_rows(path, iter(rows)) == len(rows)
    assert read_rows(path) == rows


def test_a_row_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_rows(path, ROWS)
    with pytest.raises(DataError, match=r"row 1 \(counting from 0\) cannot be written to .*a\.jsonl"):
        write_rows(path, [{"a": 1}, {"a": object()}])
    with pytest.raises(DataError, match=r"ends in \.jsonl"):
        write_rows(tmp_path / "a.jsonl.gz", ROWS)
    assert read_rows(path) == ROWS
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_full_disk_while_writing_rows_is_one_clear_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"disk is full.*a\.jsonl"):
        write_rows(tmp_path / "a.jsonl", ROWS)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------- shapes

CHAT = [{"role": "user", "content": "hi"}]
ANSWER = [{"role": "assistant", "content": "hello"}]


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        *((shape, json.loads(EXAMPLES[shape])) for shape in get_args(RowShape)),
        ("text", {"text": "", "more": 1}),
        ("prompt", {"prompt": CHAT}),
        ("prompt_completion", {"prompt": CHAT, "completion": ANSWER}),
        ("preference", {"prompt": CHAT, "chosen": ANSWER, "rejected": ANSWER}),
        ("ranking", {"prompt": CHAT, "completions": [ANSWER, ANSWER], "ranks": [1, 1]}),
        ("rating", {"prompt": CHAT, "completion": ANSWER, "rating": -0.5}),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5}),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": None}),
    ],
)
def test_rows_of_a_shape_pass(shape: RowShape, row: dict[str, Any]) -> None:
    require_columns([row, row], shape, "here")


@pytest.mark.parametrize(
    ("shape", "row", "wanted"),
    [
        ("preference", {"chosen": "a", "rejected": "b"}, "has no column 'prompt'; it has columns 'chosen', 'rejected'.*tunewell data build FILE"),
        ("preference", {"x": "a"}, r"has no columns 'prompt', 'chosen', 'rejected'; it has column 'x'\. Wanted rows like"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}, "has 'x' where a number was wanted in 'margin'"),
        ("ranking", {"prompt": "a", "completions": ["b", "c"], "ranks": [1, 2], "margin": [1]}, r"has \[1\] where a number was wanted in 'margin'"),
        ("text", {}, "it has no columns at all"),
        ("text", {"text": None}, "has None where text was wanted in 'text'"),
        ("text", {"text": CHAT}, "where text was wanted"),
        ("prompt", {"prompt": 3}, "has 3 where text or a list of messages was wanted in 'prompt'"),
        ("prompt", {"prompt": []}, r"has \[\] where a list of messages was wanted"),
        ("messages", {"messages": "hi"}, "has 'hi' where a list of messages"),
        ("messages", {"messages": [{"from": "human", "value": "hi"}]}, "the message .*'from'.* where {'role'"),
        ("messages", {"messages": [{"role": "human", "content": "hi"}]}, "the role 'human' where one of system, developer, user"),
        ("messages", {"messages": [{"role": "user", "content": None}]}, "content None where text"),
        ("prompt_completion", {"prompt": CHAT, "completion": "a"}, "mixes text and lists of messages"),
        ("ranking", {"prompt": "a", "completions": ["b"], "ranks": [1]}, "two or more completions"),
        ("ranking", {"prompt": "a", "completions": ["b", 1], "ranks": [1, 2]}, "1 where text or a list"),
        ("ranking", {"prompt": "a", "completions": ["b", "c"], "ranks": [1]}, "2 completions and 1 ranks"),
        ("ranking", {"prompt": "a", "completions": ["b", "c"], "ranks": [0, 1]}, "1 is best"),
        ("ranking", {"prompt": "a", "completions": ["b", "c"], "ranks": [True, 1]}, "whole numbers from 1"),
        ("rating", {"prompt": "a", "completion": "b", "rating": "4"}, "has '4' where a number was wanted in 'rating'"),
        ("rating", {"prompt": "a", "completion": "b", "rating": float("nan")}, "where a number was wanted"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_told_with_an_example(shape: RowShape, row: dict[str, Any], wanted: str) -> None:
    good = json.loads(EXAMPLES[shape])
    with pytest.raises(DataError, match=wanted) as caught:
        require_columns([good, row, good, row], shape, "pairs.jsonl")
    assert str(caught.value).startswith("row 1 (counting from 0) of pairs.jsonl ")
    assert EXAMPLES[shape] in str(caught.value)
    assert str(caught.value).endswith("Rows that do not fit: 2 of 4.")


def test_text_and_chat_rows_in_one_data_set_are_a_fault() -> None:
    with pytest.raises(DataError, match=r"row 2 .* holds messages, but row 0 holds text; wanted all rows of one kind"):
        require_columns([{"prompt": "a"}, {"prompt": "b"}, {"prompt": CHAT}], "prompt", "here")


# ----------------------------------------------------------------------------- the HH corpus

HUMAN = "\n\nHuman: How do I start?\n\nAssistant: With a plan.\n\nHuman: And then?\n\nAssistant:"


def test_a_dialogue_becomes_messages_and_loses_only_the_space_around_turns() -> None:
    assert parse_hh("\n\nHuman:  a\n\nb \n\nAssistant: c Human: d\n\nAssistant:") == [
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "c Human: d"},
        {"role": "assistant", "content": ""},
    ]
    assert parse_hh("Human: a\n\nAssistant: b") == parse_hh("\n\nHuman: a\n\nAssistant: b")


@pytest.mark.parametrize("text", ["", "hello", "Once\n\nHuman: a\n\nAssistant: b", "Humane: a"])
def test_text_that_does_not_begin_with_a_speaker_is_no_dialogue(text: str) -> None:
    with pytest.raises(DataError, match=r"not_a_dialogue.*begins with 'Human:'"):
        parse_hh(text)


turns = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(
    lambda text: text and "Human:" not in text and "Assistant:" not in text
)  # fmt: skip


@given(st.lists(turns, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
def test_messages_written_as_a_dialogue_are_parsed_back(texts: list[str]) -> None:
    speakers = ["Human", "Assistant"] * (len(texts) // 2)
    dialogue = "".join(f"\n\n{speaker}: {text}" for speaker, text in zip(speakers, texts, strict=True))
    assert [message["content"] for message in parse_hh(dialogue)] == texts


def test_a_pair_shares_its_prompt_and_ends_in_two_answers() -> None:
    assert hh_pair({"chosen": f"{HUMAN} Begin.", "rejected": f"{HUMAN} Stop."}) == {
        "prompt": [
            {"role": "user", "content": "How do I start?"},
            {"role": "assistant", "content": "With a plan."},
            {"role": "user", "content": "And then?"},
        ],
        "chosen": [{"role": "assistant", "content": "Begin."}],
        "rejected": [{"role": "assistant", "content": "Stop."}],
    }


UNUSABLE = [
    ("not_a_dialogue", "hello", f"{HUMAN} b"),
    ("starts_with_assistant", "\n\nAssistant: a\n\nHuman: b\n\nAssistant: c", f"{HUMAN} b"),
    ("ends_with_human", "\n\nHuman: a", f"{HUMAN} b"),
    ("same_speaker_twice", "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", f"{HUMAN} b"),
    ("empty_turn", f"{HUMAN} ", f"{HUMAN} b"),
    ("empty_turn", f"{HUMAN} a", "\n\nHuman: \n\nAssistant: b"),
    ("speaker_label_inside_turn", f"{HUMAN} Human: I would", f"{HUMAN} b"),
    ("different_prompts", f"{HUMAN} a", "\n\nHuman: other\n\nAssistant: b"),
    ("same_answer", f"{HUMAN} a", f"{HUMAN} a "),
]


@pytest.mark.parametrize(("reason", "chosen", "rejected"), UNUSABLE)
def test_a_row_that_cannot_be_used_says_why(reason: str, chosen: str, rejected: str) -> None:
    with pytest.raises(DataError, match=f"^{reason}: "):
        hh_pair({"chosen": chosen, "rejected": rejected})


def test_rows_that_cannot_be_used_are_kept_with_number_and_reason() -> None:
    good = {"chosen": f"{HUMAN} a", "rejected": f"{HUMAN} b"}
    rows = [good, *({"chosen": chosen, "rejected": rejected} for _, chosen, rejected in UNUSABLE), good]
    pairs, rejected = parse_hh_rows(rows)
    assert len(pairs) == 2
    assert [(row["row"], row["reason"]) for row in rejected] == [
        (number, reason) for number, (reason, _, _) in enumerate(UNUSABLE, start=1)
    ]
    assert rejected[4]["detail"] == "turn 3 of chosen is empty"


def test_rows_of_another_kind_and_files_without_one_pair_are_faults() -> None:
    with pytest.raises(DataError, match=r"row 0 \(counting from 0\) is not of the HH corpus.*'text'"):
        parse_hh_rows([{"text": "a"}])
    with pytest.raises(DataError, match=r"none of 1 rows is a usable pair of HH dialogues: row 0 is not_a_dialogue"):
        parse_hh_rows([{"chosen": "a", "rejected": "b"}])


@pytest.mark.skipif(not HH_FILE.exists(), reason="the HH corpus is not here")
def test_the_real_corpus_is_accounted_for_row_by_row() -> None:
    rows = read_rows(HH_FILE)
    pairs, rejected = parse_hh_rows(rows)
    assert (len(rows), len(pairs), len(rejected)) == (1138, 1118, 20)
    assert Counter(row["reason"] for row in rejected) == {
        "speaker_label_inside_turn": 16,
        "same_speaker_twice": 2,
        "empty_turn": 2,
    }
    require_columns(pairs, "preference", str(HH_FILE))
    # Nothing is lost on the way: a pair written out again is the row it came from.
    names = {"user": "Human", "assistant": "Assistant"}
    used = [row for number, row in enumerate(rows) if number not in {bad["row"] for bad in rejected}]
    for pair, row in zip(pairs, used, strict=True):
        for side in ("chosen", "rejected"):
            turns_of_side = [*pair["prompt"], *pair[side]]
            text = "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in turns_of_side)
            assert text == row[side]
