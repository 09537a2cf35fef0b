import gzip
import io
import json
import os
from dataclasses import dataclass, replace

import datasets
import pyarrow as pa
import pytest
from corpus_runs import QUIET, outputs, raw_lines, raw_of, records, run, settings
from pyarrow import parquet
from tunewell.filters.base import Limit, decide
from tunewell.filters.row_text import RowReader
from tunewell.pipelines.corpus import inputs as inputs_module
from tunewell.pipelines.corpus import plan as plan_module
from tunewell.pipelines.corpus import runner
from tunewell.pipelines.corpus.again import plan_again, settings_of
from tunewell.pipelines.corpus.dry_run import estimate
from tunewell.pipelines.corpus.engines import LocalPool
from tunewell.pipelines.corpus.runner import make_plan, run_corpus
from tunewell.pipelines.corpus.units import Source, cut
from tunewell.pipelines.filter_settings import FilterSettings
from tunewell.toolkit.errors import DataError, RunError, SettingsError
from tunewell.toolkit.model import loading
from tunewell.toolkit.settings.reading import build


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """The page has its own tests, and drawing takes longer than these runs."""
    monkeypatch.setattr(runner, "_report", lambda out, summary, record: (out / "report.html").touch())


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(n):
    return [{"id": number, "text": f"row {number}" + " badword" * (number % 5 == 0)} for number in range(n)]


def test_the_outputs_do_not_depend_on_workers_or_on_the_cut(tmp_path):
    rows = write(tmp_path / "a.jsonl", texts(3000))
    own = settings(tmp_path, exact_duplicates=True)
    one = run([rows], tmp_path / "one", own, unit_bytes=10_000)
    run([rows], tmp_path / "pool", own, unit_bytes=10_000, engine=LocalPool(2))
    assert outputs(tmp_path / "one") == outputs(tmp_path / "pool")
    whole = run([rows], tmp_path / "whole", own)
    for kind in ("kept", "dropped"):
        assert raw_lines(tmp_path / "one", kind) == raw_lines(tmp_path / "whole", kind)
    same = ("read", "kept", "dropped", "steps", "files", "scores", "examples")
    assert {name: one[name] for name in same} == {name: whole[name] for name in same}
    assert whole["dropped"] == 600


def test_examples_stand_in_one_order_whatever_the_cut(tmp_path):
    rows = [{"text": "short"}, {"text": "a badword in it"}, {"text": "brief"}]
    for number, row in enumerate(rows):
        write(tmp_path / "in" / f"{number}.jsonl", [row])
    own = settings(tmp_path, length={"low": 2})
    shown = [run([tmp_path / "in"], tmp_path / f"{size}", own, unit_bytes=size)["examples"] for size in (10, 10_000)]
    assert shown[0] == shown[1] and [one["filter"] for one in shown[0]] == ["blocklist", "length", "length"]


def test_units_are_as_large_as_the_filters_are_quick(tmp_path):
    def sizes(own, megabytes):
        source = Source(name="a", path="a", kind="jsonl", size=megabytes * 10**6)
        units = cut([source], pace=own.pace)
        assert sum(unit.weight for unit in units) == source.size
        return len(units), max(unit.weight for unit in units) / 1e6

    quick = settings(tmp_path, length={"low": 3}, exact_duplicates=True)
    slow = settings(tmp_path, repetition={})
    model = settings(tmp_path, toxicity="hf:somewhere#toxic")
    assert [one.pace for one in (quick, slow, model)] == ["quick", "slow", "model"]
    for own, megabytes, expected in (
        (quick, 10, (1, 10)), (quick, 90, (6, 16)), (quick, 2048, (64, 32)), (quick, 9600, (150, 64)),
        (slow, 10, (10, 1)), (slow, 2048, (64, 32)), (model, 100, (64, 1.5625)), (model, 1000, (250, 4)),
    ):  # fmt: skip
        assert sizes(own, megabytes) == expected


def test_a_rerun_does_nothing_and_a_changed_setting_list_or_input_does_not_mix(tmp_path):
    rows = write(tmp_path / "a.jsonl", texts(20))
    run([rows], tmp_path / "out", settings(tmp_path))
    before = outputs(tmp_path / "out")
    modified = (tmp_path / "out" / "kept" / "part-00000.jsonl").stat().st_mtime_ns
    run([rows], tmp_path / "out", settings(tmp_path))
    assert (tmp_path / "out" / "kept" / "part-00000.jsonl").stat().st_mtime_ns == modified

    for change, words in (
        (lambda: settings(tmp_path, max_matches=3), "filter.max_matches was 0, now 3"),
        (lambda: settings(tmp_path, words=("otherword",)), "words.txt has changed"),
        (lambda: (write(rows, texts(21)), settings(tmp_path))[1], "the input .*a.jsonl has changed"),
    ):
        with pytest.raises(RunError, match=f"{words}(?s:.*)--set-aside"):
            run([rows], tmp_path / "out", change())
    assert outputs(tmp_path / "out") == before

    summary = run([rows], tmp_path / "out", settings(tmp_path), sets_aside=True)
    assert summary["read"] == 21
    assert outputs(tmp_path / "out" / "set-aside" / "1") == before


def test_half_done_work_of_other_settings_is_not_gone_on_with(tmp_path, monkeypatch):
    rows = write(tmp_path / "a.jsonl", texts(2000))
    monkeypatch.setattr(runner, "summarise", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run([rows], tmp_path / "out", settings(tmp_path), unit_bytes=10_000)
    monkeypatch.undo()
    with pytest.raises(RunError, match="max_matches"):
        run([rows], tmp_path / "out", settings(tmp_path, max_matches=1), unit_bytes=10_000)


def test_a_fault_that_stops_a_run_before_it_judges_can_be_mended(tmp_path):
    rows = write(tmp_path / "a.jsonl", [])
    own = settings(tmp_path, words=("badword", "x"))
    with pytest.raises(SettingsError, match="a single character"):
        run([rows], tmp_path / "out", own)
    with pytest.raises(RunError, match="holds no rows"):
        run([rows], tmp_path / "out", settings(tmp_path))
    write(rows, texts(5))
    assert run([rows], tmp_path / "out", settings(tmp_path))["dropped"] == 1


def test_an_output_folder_with_files_of_someone_else_is_left_alone(tmp_path):
    rows = write(tmp_path / "a.jsonl", texts(5))
    theirs = tmp_path / "out" / "kept"
    theirs.mkdir(parents=True)
    (theirs / "precious.jsonl").write_text("mine")
    with pytest.raises(RunError, match="holds the outputs of another"):
        run([rows], tmp_path / "out", settings(tmp_path))
    assert (theirs / "precious.jsonl").read_text() == "mine"


def test_two_runs_in_one_folder_are_refused(tmp_path):
    from tunewell.toolkit.stage import lock

    rows = write(tmp_path / "a.jsonl", texts(5))
    with lock(tmp_path / "out"), pytest.raises(RunError, match="in use"):
        run([rows], tmp_path / "out", settings(tmp_path))


def test_repeats_go_over_the_whole_corpus_and_name_the_row_that_stays(tmp_path):
    first = "a sentence of quite a few words that somebody once wrote down for others to read"
    rows = [first, "something else entirely", first, f"{first} badword", "third", f"{first}!", f"{first}, now"]
    write(tmp_path / "in" / "a.jsonl", [{"text": text} for text in rows[:3]])
    write(tmp_path / "in" / "b.jsonl", [{"text": text} for text in rows[3:]])
    own = settings(tmp_path, exact_duplicates=True, near_duplicates={"threshold": 0.7, "shingle_words": 3})
    summary = run([tmp_path / "in"], tmp_path / "out", own, unit_bytes=60)
    assert len(list((tmp_path / "out" / "kept").iterdir())) > 2
    found = [(one["source"]["file"][-7:], one["source"]["line"], one["reason"], one.get("repeats"))
             for one in records(tmp_path / "out", "dropped")]  # fmt: skip
    at = {"file": str(tmp_path / "in" / "a.jsonl"), "line": 1, "offset": 0}
    assert found == [
        ("a.jsonl", 3, "exact_duplicate", at),
        ("b.jsonl", 1, "listed_phrase", None),
        ("b.jsonl", 3, "near_duplicate", at),
        ("b.jsonl", 4, "near_duplicate", at),
    ]
    assert summary["kept"] == 3
    table = parquet.read_table(tmp_path / "out" / "scores").to_pydict()
    assert table["filter"] == [None, None, "exact_duplicate", "blocklist", None, "near_duplicate", "near_duplicate"]
    assert table["exact_duplicate.score"] == [0, 0, 1, None, 0, 0, 0]
    assert table["near_duplicate.score"][5] == 1.0


def test_a_finished_run_is_decided_again_as_a_new_run_would(tmp_path):
    rows = write(tmp_path / "a.jsonl", [{"text": "badword " * (number % 4) + f"row {number}"} for number in range(900)])
    with rows.open("a") as file:
        file.write("broken\n")
    write(
        tmp_path / "b.jsonl", [{"prompt": f"row {number}", "chosen": "fine", "rejected": "x"} for number in range(40)]
    )
    inputs = [rows, tmp_path / "b.jsonl"]
    more = {"length": {"low": 3}, "exact_duplicates": True}
    run(inputs, tmp_path / "one", settings(tmp_path, **more), unit_bytes=15_000)
    for changes in ({"max_matches": 1, "exact_duplicates": False}, {"max_matches": 2, "length": {"low": 4}}):
        new = settings(tmp_path, **(more | changes))
        out = tmp_path / f"again-{len(list(tmp_path.iterdir()))}"
        again = run_corpus(plan_again(tmp_path / "one", out, new), QUIET)
        fresh_out = tmp_path / f"fresh-{len(list(tmp_path.iterdir()))}"
        fresh = run(inputs, fresh_out, new, unit_bytes=15_000)
        assert again["dropped"] > 0
        for name in ("read", "kept", "dropped", "quarantined", "steps", "errors"):
            assert again[name] == fresh[name]
        for kind in ("kept", "dropped", "quarantine"):
            assert raw_lines(out, kind) == raw_lines(fresh_out, kind)
        assert parquet.read_table(out / "scores").equals(parquet.read_table(fresh_out / "scores"))


def test_a_run_that_has_taken_the_place_of_another_is_decided_on_its_own_rows(tmp_path):
    own = settings(tmp_path)
    for word in ("first", "second"):
        rows = write(tmp_path / "a.jsonl", [{"text": f"{word} row"}])
        run([rows], tmp_path / "one", own, sets_aside=True)
        run_corpus(plan_again(tmp_path / "one", tmp_path / word, own), QUIET)
        assert records(tmp_path / word, "kept") == [{"text": f"{word} row"}]


def test_a_list_that_has_changed_since_the_rows_were_scored_is_told(tmp_path):
    own = settings(tmp_path)
    run([write(tmp_path / "a.jsonl", texts(9))], tmp_path / "one", own)
    run_corpus(plan_again(tmp_path / "one", tmp_path / "two", own), QUIET)
    (tmp_path / "words.txt").write_text("row")
    for earlier in ("one", "two"):  # one that was decided again remembers too
        with pytest.raises(SettingsError, match=r"words\.txt has changed since the rows were scored with it"):
            plan_again(tmp_path / earlier, tmp_path / "three", own)
    (tmp_path / "words.txt").write_text("badword")
    assert run_corpus(plan_again(tmp_path / "two", tmp_path / "three", own), QUIET)["kept"] == 7


def test_a_run_that_is_decided_again_allows_as_many_bad_rows_as_before_unless_told(tmp_path):
    rows = write(tmp_path / "a.jsonl", texts(9))
    with rows.open("a") as file:
        file.write("broken\n")
    own = settings(tmp_path)
    with pytest.raises(RunError, match=r"allows \(0.01\)"):
        run([rows], tmp_path / "one", own, max_bad_rate=None)
    run([rows], tmp_path / "one", own, max_bad_rate=0.2)
    assert run_corpus(plan_again(tmp_path / "one", tmp_path / "two", own), QUIET)["quarantined"] == 1
    assert json.loads((tmp_path / "two" / "run.json").read_text())["max_bad_rate"] == 0.2
    with pytest.raises(RunError, match=r"allows \(0.05\)"):
        run_corpus(plan_again(tmp_path / "one", tmp_path / "three", own), QUIET, max_bad_rate=0.05)


def test_deciding_again_refuses_what_needs_new_scores(tmp_path):
    rows = write(tmp_path / "a.jsonl", texts(20))
    run([rows], tmp_path / "one", settings(tmp_path))
    tree = settings_of(tmp_path / "one")
    for change, words in (({"leetspeak": True}, "leetspeak: was False"), ({"length": {"low": 1}}, "length: was None")):
        with pytest.raises(SettingsError, match=words):
            plan_again(tmp_path / "one", tmp_path / "two", build(FilterSettings, tree | change))
    with pytest.raises(SettingsError, match="folder of the run itself"):
        plan_again(tmp_path / "one", tmp_path / "one", build(FilterSettings, tree))
    with pytest.raises(DataError, match="finished filter run"):
        settings_of(tmp_path)


@dataclass(frozen=True)
class Failing:
    """Fails on some texts, as a bug would."""

    name: str = "failing"
    limits: tuple[Limit, ...] = (Limit("length", "above", 9.0, "long"),)

    def judge(self, texts):
        if any("cursed" in text for text in texts):
            raise ZeroDivisionError("by a cursed text")
        return [decide({"length": float(len(text))}, self.limits) for text in texts]


def test_rows_that_a_filter_fails_on_are_set_aside_and_not_dropped(tmp_path, monkeypatch):
    rows = write(tmp_path / "a.jsonl", [{"text": text} for text in ("fine", "cursed", "this is long", "ok")])
    monkeypatch.setattr(plan_module, "build_filters", lambda *args: {"failing": Failing()})
    summary = run([rows], tmp_path / "out", FilterSettings())
    assert (summary["kept"], summary["dropped"], summary["quarantined"]) == (2, 1, 1)
    (bad,) = records(tmp_path / "out", "quarantine")
    assert bad["error"] == "filter_failed" and "ZeroDivisionError: by a cursed text" in bad["detail"]
    assert bad["source"]["line"] == 2 and raw_of(bad) == b'{"text": "cursed"}'


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes() * 2), r"written to .* had 6,300 bytes, now 12,600\)"),
        (lambda path: os.truncate(path, 100), r"now 100\)"),
        (lambda path: path.write_bytes(path.read_bytes().upper()), r"a\.jsonl was written to while the run read it"),
        (lambda path: path.unlink(), r"cannot be read any more: No such file"),
    ],
)
def test_an_input_that_is_written_to_while_it_is_read_stops_the_run(tmp_path, monkeypatch, happens, message):
    rows = write(tmp_path / "a.jsonl", texts(200))
    seen = []

    class Watching(Failing):
        def judge(self, texts):
            seen.append(len(texts))
            if len(seen) == 1:
                happens(rows)
            return super().judge(texts)

    monkeypatch.setattr(plan_module, "build_filters", lambda *args: {"watching": Watching()})
    with pytest.raises(RunError, match=message):
        run([rows], tmp_path / "out", FilterSettings(), unit_bytes=2000)
    assert not (tmp_path / "out" / "kept").exists() and len(seen) == 1
    write(rows, texts(200))
    assert run([rows], tmp_path / "out", FilterSettings())["read"] == 200  # nothing was judged of what it was then


def test_parquet_is_cut_at_row_groups_and_bytes_are_written_as_text(tmp_path):
    table = pa.table({"text": [row["text"] for row in texts(100)], "n": list(range(100))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    parquet.write_table(pa.table({"text": ["x", None], "raw": [b"\xff", b"a"]}), tmp_path / "b.parquet")
    parquet.write_table(table.slice(0, 0), tmp_path / "c.parquet")
    names = [tmp_path / f"{name}.parquet" for name in "abc"]
    summary = run(names, tmp_path / "out", settings(tmp_path), unit_bytes=400)
    assert [one["read"] for one in summary["files"]] == [100, 2, 0]
    assert (summary["kept"], summary["dropped"], summary["errors"]) == (81, 20, {"nothing_to_judge": 1})
    assert records(tmp_path / "out", "kept")[-1] == {"text": "x", "raw": "/w=="}
    found = records(tmp_path / "out", "dropped")
    assert [one["source"]["line"] for one in found] == list(range(1, 101, 5))
    assert found[1]["row"] == {"text": "row 5 badword", "n": 5} and found[0]["source"]["offset"] is None


def not_utf8(*values):
    return pa.array(values, pa.binary()).view(pa.string())


def test_a_value_of_parquet_that_cannot_be_read_costs_its_row_alone(tmp_path):
    parts = [not_utf8(b"user", b"user"), not_utf8(b"caf\xe9", b"hello")]
    turns = pa.StructArray.from_arrays(parts, ["role", "content"])
    chats = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), turns)
    parquet.write_table(pa.table({"messages": chats, "n": [1, 2]}), tmp_path / "a.parquet")
    times = pa.array([2**62, 0], pa.timestamp("us"))
    parquet.write_table(pa.table({"text": ["x", "y"], "when": times}), tmp_path / "b.parquet")
    datasets.Dataset(pa.table({"text": not_utf8(b"good", b"\xff")})).save_to_disk(tmp_path / "c")
    summary = run([tmp_path / name for name in ("a.parquet", "b.parquet", "c")], tmp_path / "out", settings(tmp_path))
    assert records(tmp_path / "out", "kept") == [
        {"messages": [{"role": "user", "content": "hello"}], "n": 2}, {"text": "y", "when": "1970-01-01T00:00:00"},
        {"text": "good"},
    ]  # fmt: skip
    assert summary["errors"] == {"not_utf8": 2, "bad_value": 1} and summary["read"] == 6
    chat, far, text = sorted(records(tmp_path / "out", "quarantine"), key=lambda bad: bad["source"]["file"])
    assert [bad["source"]["line"] for bad in (chat, far, text)] == [1, 1, 2]
    assert raw_of(chat) == b"{'messages': [{'role': 'user', 'content': b'caf\\xe9'}], 'n': 1}"
    assert far["detail"] == "column 'when': date value out of range"
    assert raw_of(far) == b"{'text': 'x', 'when': 4611686018427387904}" and raw_of(text) == b"{'text': b'\\xff'}"


def test_a_damaged_row_group_is_set_aside_row_by_row_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.parquet"
    rows = texts(400)
    table = pa.table({name: [row[name] for row in rows] for name in ("id", "text")})
    parquet.write_table(table, path, row_group_size=100, write_page_checksum=True)
    whole = bytearray(path.read_bytes())
    start = parquet.read_metadata(path).row_group(1).column(1).data_page_offset
    whole[start + 30 : start + 60] = bytes(30)
    path.write_bytes(whole)
    summary = run([path], tmp_path / "out", settings(tmp_path), unit_bytes=1000)
    assert (summary["read"], summary["quarantined"], summary["errors"]) == (400, 100, {"damaged_file": 100})
    bad = records(tmp_path / "out", "quarantine")
    assert [one["source"]["line"] for one in bad] == list(range(101, 201))
    assert bad[4]["detail"].startswith("row 5 of 100 in row group 1 cannot be read: ")
    kept = {row["id"] for row in records(tmp_path / "out", "kept")}
    assert kept == {row["id"] for row in rows if "badword" not in row["text"] and not 100 <= row["id"] < 200}
    with pytest.raises(RunError, match=r"100 of 400 rows \(25.00%\) could not be read"):
        run([path], tmp_path / "strict", settings(tmp_path), max_bad_rate=0.2)


def test_a_damaged_parquet_file_is_told_before_anything_starts(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SettingsError, match="damaged or not Parquet"):
        run([tmp_path / "a.parquet"], tmp_path / "out", settings(tmp_path))


def test_a_folder_saved_by_datasets_is_read_by_rows(tmp_path):
    datasets.Dataset.from_list(texts(50)).save_to_disk(tmp_path / "saved")
    summary = run([tmp_path / "saved"], tmp_path / "out", settings(tmp_path))
    assert (summary["read"], summary["dropped"]) == (50, 10)
    assert records(tmp_path / "out", "dropped")[1]["source"]["line"] == 6


def test_standard_input_is_kept_until_the_run_is_done(tmp_path, monkeypatch):
    class Stdin:
        def __init__(self):
            self.buffer = io.BytesIO(b"".join(json.dumps(row).encode() + b"\n" for row in texts(30)))

    monkeypatch.setattr(inputs_module.sys, "stdin", Stdin())
    summary = run(["-"], tmp_path / "out", settings(tmp_path))
    assert summary["files"][0]["file"] == "stdin" and summary["kept"] == 24
    assert not (tmp_path / "out" / ".work").exists()
    monkeypatch.setattr(inputs_module.sys, "stdin", Stdin())
    assert run(["-"], tmp_path / "out", settings(tmp_path)) == summary


def test_of_a_pair_only_prompt_and_chosen_are_judged_unless_columns_are_chosen(tmp_path):
    rows = write(tmp_path / "a.jsonl", [
        {"prompt": "p", "chosen": "c", "rejected": "badword"}, {"prompt": "p", "chosen": "badword", "rejected": "r"},
    ])  # fmt: skip
    assert run([rows], tmp_path / "one", settings(tmp_path))["dropped"] == 1
    reader = RowReader(columns=("rejected",))
    run([rows], tmp_path / "two", settings(tmp_path), reader=reader)
    assert [one["source"]["line"] for one in records(tmp_path / "two", "dropped")] == [1]


def test_a_column_of_any_name_can_be_judged(tmp_path):
    rows = write(tmp_path / "a.jsonl", [{"body": "badword"}, {"body": "fine"}, {"text": "no body"}])
    summary = run([rows], tmp_path / "out", settings(tmp_path), reader=RowReader(columns=("body",)))
    assert (summary["kept"], summary["dropped"], summary["quarantined"]) == (1, 1, 1)
    (one,) = records(tmp_path / "out", "dropped")
    assert one["place"] == ["body"]


def test_a_dry_run_takes_no_row_twice(tmp_path):
    rows = tmp_path / "rows.jsonl.gz"
    texts = ["badword", "fine", "fine too"]
    rows.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode() + b"broken\n"))
    plan = make_plan([str(rows)], tmp_path / "out", settings(tmp_path))
    found = estimate(plan, 100, QUIET)
    assert (found.rows, found.unreadable, found.rows_in_all) == (3, 1, 4)
    assert found.dropped.value == pytest.approx(1 / 3)
    assert estimate(plan, 1, QUIET).rows == 1


def test_a_dry_run_estimates_what_a_run_removes_and_writes_nothing(tmp_path):
    rows = write(tmp_path / "a.jsonl", texts(5000))
    plan = make_plan([str(rows)], tmp_path / "out", settings(tmp_path))
    found = estimate(plan, 1000, QUIET)
    assert found.rows == 1000 and not (tmp_path / "out").exists()
    assert found.dropped.low <= 0.2 <= found.dropped.high
    assert 4000 < found.rows_in_all < 6000
    assert found.by_reason.keys() == {("blocklist", "listed_phrase")} and "would drop 2" in found.as_text()


def test_trigger_phrases_without_a_model_are_refused(tmp_path):
    rows = write(tmp_path / "a.jsonl", texts(5))
    with pytest.raises(SettingsError, match="--model"):
        make_plan([str(rows)], tmp_path / "out", FilterSettings(phrases="world"))


def test_a_model_held_in_another_type_is_another_run_even_where_the_settings_say_auto(tmp_path, monkeypatch):
    rows = write(tmp_path / "a.jsonl", texts(5))
    plan = replace(make_plan([str(rows)], tmp_path / "out", FilterSettings()), model="somewhere/a-model")
    here = plan.tree()
    monkeypatch.setattr(loading, "device_of", lambda base: "cuda")
    with pytest.raises(RunError, match=r"model.dtype was 'float32', now 'bfloat16'"):
        plan_module.check_same(here, plan.tree(), plan.out)


def test_without_a_filter_every_row_stays(tmp_path):
    rows = write(tmp_path / "a.jsonl", texts(5))
    assert run([rows], tmp_path / "out", FilterSettings())["kept"] == 5
    assert (tmp_path / "out" / "kept" / "part-00000.jsonl").read_bytes() == rows.read_bytes()
