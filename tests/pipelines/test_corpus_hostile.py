import gzip
import json
from collections import Counter

import pytest
from corpus_runs import raw_lines, raw_of, records, run, settings
from tunewell.filters.row_text import RowReader
from tunewell.toolkit.errors import RunError, SettingsError

DEEP = b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}"
LONG = b'{"text": "' + b"long " * 10_000_000 + b'"}'
# Each line with what becomes of it: kept, dropped, blank, or the fault that it is set aside for.
LINES = [
    (b'{"text": "good"}', "kept"),
    (b'{"text": "a badword here"}', "dropped"),
    (b'{"text": "caf\xe9"}', "not_utf8"),
    (b'\xff\xfe{"text": "x"}', "not_utf8"),
    (b'\xef\xbb\xbf{"text": "a mark in the middle"}', "bad_json"),
    (b'{"text": "NUL \\u0000 escaped"}', "kept"),
    (b'{"text": "NUL \x00 raw"}', "bad_json"),
    (b'{"text": "lone \\ud800 surrogate"}', "bad_json"),
    (b'["a", "list"]', "not_an_object"),
    (b"42", "not_an_object"),
    (b'"text"', "not_an_object"),
    (b"null", "not_an_object"),
    (b'{"text": null}', "nothing_to_judge"),
    (b'{"text": 7}', "nothing_to_judge"),
    (b'{"other": "no text"}', "nothing_to_judge"),
    (b"{}", "nothing_to_judge"),
    (DEEP, "bad_json"),
    (b'{"text": "one", "text": "badword"}', "doubled_key"),
    (rb'{"text": "one", "\u0074e\u0058t": "other key", "n": 1}', "kept"),
    (rb'{"text": "one", "\u0074ex\u0074": "badword"}', "doubled_key"),
    (rb'{"te\u0078t": "badword"}', "dropped"),
    (b'{"text": "badword", "meta": {"text": "nested is no double"}}', "dropped"),
    (b'{"text": "one", "deep": %b"text"%b}' % (b"[" * 1010, b"]" * 1010), "too_deep"),
    (b'{"text": "half', "bad_json"),
    (b'{"text": NaN}', "bad_json"),
    (b"", "blank"),
    (b"   \t", "blank"),
    (b'{"text": ""}', "kept"),
    (b'{"text": "windows"}\r', "kept"),
    (b'{"text": "windows badword"}\r', "dropped"),
    (b"\r", "blank"),
    (b'  {"text":   "spaces stay",  "n": 1.50}  ', "kept"),
    (b'{"prompt": "p", "chosen": "c", "rejected": "a badword that is meant to be bad"}', "kept"),
    (b'{"prompt": "p", "chosen": "a badword", "rejected": "r"}', "dropped"),
    (b'{"messages": [{"role": "user", "content": "one", "content": "badword"}]}', "doubled_key"),
    (b'{"messages": [{"role": "user", "content": "hi badword"}]}', "dropped"),
    (LONG, "kept"),
]  # fmt: skip
TEXT = b"\xef\xbb\xbf" + b"\n".join(line for line, _ in LINES) + b'\n{"text": "the last, without an end"}'
LAST = b'{"text": "the last, without an end"}'


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    source = folder / "in"
    source.mkdir()
    (source / "a.jsonl").write_bytes(TEXT)
    (source / "empty.jsonl").write_bytes(b"")
    whole = gzip.compress(b"".join(b'{"text": "row %d"}\n' % number for number in range(50_000)))
    (source / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (source / "notes.md").write_text("not rows")
    out = folder / "out"
    summary = run([source], out, settings(folder), unit_bytes=3_000_000)
    return folder, out, summary


def test_every_line_is_accounted_for(hostile):
    _, _, summary = hostile
    by_file = {one["file"].rpartition("/")[2]: one for one in summary["files"]}
    wanted = Counter(fate if fate in ("kept", "dropped", "blank") else "quarantined" for _, fate in LINES)
    a = by_file["a.jsonl"]
    assert {name: a[name] for name in ("kept", "dropped", "quarantined", "blank")} == {
        **wanted, "kept": wanted["kept"] + 1,
    }  # fmt: skip
    assert a["lines"] == len(LINES) + 1
    assert by_file["empty.jsonl"]["lines"] == 0
    assert by_file["cut.jsonl.gz"]["quarantined"] == 1 and by_file["cut.jsonl.gz"]["kept"] > 1000
    for one in (*summary["files"], summary):
        assert one["read"] == one["kept"] + one["dropped"] + one["quarantined"]
        assert one["lines"] == one["read"] + one["blank"]
    assert "notes.md" not in by_file


def test_kept_rows_are_the_bytes_of_their_lines(hostile):
    _, out, _ = hostile
    kept = [line for line in raw_lines(out, "kept") if b'"row ' not in line]
    assert kept == [line for line, fate in LINES if fate == "kept"] + [LAST]


def test_what_cannot_be_read_is_set_aside_with_its_place_its_fault_and_its_bytes(hostile):
    _, out, _ = hostile
    found = [one for one in records(out, "quarantine") if one["source"]["file"].endswith("a.jsonl")]
    wanted = [
        (number, fate, line) for number, (line, fate) in enumerate(LINES, 1) if fate not in ("kept", "dropped", "blank")
    ]
    assert [(one["source"]["line"], one["error"], raw_of(one)) for one in found] == wanted
    for one in found:
        assert TEXT[one["source"]["offset"] :].startswith(raw_of(one)) and one["detail"]
    cut = [one for one in records(out, "quarantine") if one["source"]["file"].endswith(".gz")]
    assert [one["error"] for one in cut] == ["damaged_file"]


def test_dropped_rows_name_their_place_their_reason_and_where_in_the_row_it_lies(hostile):
    _, out, _ = hostile
    found = records(out, "dropped")
    wanted = [(number, line) for number, (line, fate) in enumerate(LINES, 1) if fate == "dropped"]
    assert [one["source"]["line"] for one in found] == [number for number, _ in wanted]
    for one, (_, line) in zip(found, wanted, strict=True):
        assert one["row"] == json.loads(line)
        assert TEXT[one["source"]["offset"] :].startswith(line)
        assert (one["filter"], one["reason"], one["score"]) == ("blocklist", "listed_phrase", 1.0)
        value = one["row"]
        for key in one["place"]:
            value = value[key]
        assert value[slice(*one["span"])] == "badword" == one["matched"]


def test_the_score_store_holds_every_row_that_was_judged(hostile):
    from pyarrow import dataset

    _, out, summary = hostile
    table = dataset.dataset(out / "scores").to_table().to_pandas()
    assert len(table) == summary["kept"] + summary["dropped"]
    assert table["kept"].sum() == summary["kept"]
    own = table[table["file"].str.endswith("a.jsonl")]
    assert own["line"].tolist() == [
        number for number, (_, fate) in enumerate([*LINES, (LAST, "kept")], 1) if fate in ("kept", "dropped")
    ]
    dropped = own[~own["kept"]]
    assert (dropped["blocklist.matches"] == 1).all() and (dropped["filter"] == "blocklist").all()
    assert (own[own["kept"]]["blocklist.matches"] == 0).all()


def test_the_run_fails_above_the_rate_and_goes_on_when_it_is_raised(tmp_path, capsys):
    rows = tmp_path / "a.jsonl"
    rows.write_bytes(b'{"text": "fine"}\nbroken\n{"text": "badword"}\n' + b'{"text": "x"}\n' * 7)
    own = settings(tmp_path)
    with pytest.raises(RunError, match=r"1 of 10 rows \(10.00%\)(?s:.*)a.jsonl, line 2: bad_json(?s:.*)--max-bad-rate"):
        run([rows], tmp_path / "out", own, max_bad_rate=0.05)
    assert [raw_of(one) for one in records(tmp_path / "out", "quarantine")] == [b"broken"]
    assert not (tmp_path / "out" / "summary.json").exists() and not (tmp_path / "out" / "kept").exists()
    assert run([rows], tmp_path / "out", own, max_bad_rate=0.1)["kept"] == 8


def test_a_wrong_file_is_told_after_its_first_part(tmp_path):
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"body": "no column that is judged"}\n' * 1000)
    for workers in (1, 2):
        with pytest.raises(RunError, match=r"first part of the input holds no usable row among its (?s:.*)it has body"):
            run([rows], tmp_path / "out", settings(tmp_path), unit_bytes=4000, max_bad_rate=0.9, workers=workers)
    # Nothing of it stays, so that another column can be named.
    own = {"unit_bytes": 4000, "reader": RowReader(columns=("body",))}
    assert run([rows], tmp_path / "out", settings(tmp_path), max_bad_rate=0.9, **own)["kept"] == 1000


def test_a_first_file_of_no_use_stops_no_run_that_allows_it(tmp_path):
    (tmp_path / "a.jsonl").write_text("{\n}x\n")
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n')
    files, own = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], settings(tmp_path)
    with pytest.raises(RunError, match="first part of the input holds no usable row"):
        run(files, tmp_path / "out", own, unit_bytes=4, max_bad_rate=0.99)
    summary = run(files, tmp_path / "out", own, unit_bytes=4, max_bad_rate=1.0)
    assert (summary["kept"], summary["quarantined"]) == (1, 2)


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
def test_an_input_without_rows_is_told(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(RunError, match="holds no rows"):
        run([tmp_path / "a.jsonl"], tmp_path / "out", settings(tmp_path))


def test_all_faults_of_the_inputs_are_told_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.csv").write_text("text\nx\n")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n')
    names = ["empty", "a.txt", "a.csv", "c.jsonl", "b.jsonl", "b.jsonl"]
    with pytest.raises(SettingsError) as error:
        run([*(tmp_path / name for name in names), "blocklist=words.txt"], tmp_path / "out", settings(tmp_path))
    assert len(error.value.faults) == 6
    for words in (
        "blocklist=words.txt does not exist. A setting is given with --set blocklist=words.txt",
        "holds no files",
        "got a .txt file",
        "{text: .}",
        "pandas.read_csv",
        "c.jsonl does not exist. Did you mean",
        "given twice",
    ):
        assert words in str(error.value)


def test_an_output_folder_inside_the_input_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(SettingsError, match="lies in the input folder"):
        run([tmp_path / "in"], tmp_path / "in" / "out", settings(tmp_path))
