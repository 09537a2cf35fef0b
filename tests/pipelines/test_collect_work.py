import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from collect_fakes import ROWS, good_answer, study
from tunewell.pipelines.collect import schema
from tunewell.pipelines.collect.answer_forms import FormError
from tunewell.pipelines.collect.items import items_of
from tunewell.pipelines.collect.store import Store, clean_name
from tunewell.pipelines.collect.work import ConflictError, Work
from tunewell.toolkit.errors import DataError, RunError


def answer(work, labeler, item, key, **changes):
    return work.submit(labeler, item.id, key, "answer", good_answer(item) | changes, 3.0)


def test_what_is_asked_depends_on_the_completions():
    assert [item.steps for item in items_of(ROWS, "auto", "rows")] == [
        ("demonstrate",), ("rate", "rank"), ("rate", "rank"), ("rate",)
    ]  # fmt: skip
    assert items_of([ROWS[1]], "rank", "rows")[0].steps == ("rank",)
    assert items_of([ROWS[3]], "compare", "rows")[0].steps == ("rate",)  # nothing to rank it against
    with pytest.raises(DataError, match=r"row 0 .* has 1 completions, wanted at least 2 to rank"):
        items_of([ROWS[3]], "rank", "rows")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "a"}, "has no 'prompt'; it has 'text'"),
        ({"prompt": "  "}, "empty prompt"),
        ({"prompt": 3}, "3 where text or a list of messages was wanted"),
        ({"prompt": "a", "completions": "b"}, "wanted a list of texts"),
        ({"prompt": "a", "completions": ["b"] * 17}, "17 completions, wanted at most 16"),
        ({"prompt": "a", "completions": ["b", None]}, "None where text"),
    ],
)
def test_rows_that_cannot_be_shown_are_refused_with_their_number(row, words):
    with pytest.raises(DataError, match=f"row 1 .*{words}"):
        items_of([ROWS[0], row], "auto", "rows")


def test_two_people_never_hold_the_same_item(tmp_path):
    store, work, _ = study(tmp_path)
    names = [store.join(name) for name in ("Ada", "Ben", "Cy", "Dee", "Eve")]
    held = [work.next(labeler) for labeler in names]
    assert [item and item.item for item in held] == [1, 2, 3, 4, None]
    assert work.next(names[0]).id == held[0].id  # asked again: the item that one is at


def test_with_overlap_an_item_goes_to_as_many_people_and_no_more(tmp_path):
    store, work, _ = study(tmp_path, overlap=2)
    ada, ben, cy = (store.join(name) for name in ("Ada", "Ben", "Cy"))
    assert [work.next(one).item for one in (ada, ben, cy)] == [1, 1, 2]
    answer(work, ada, work.next(ada), "key-ada-1")
    assert work.next(ada).item == 2
    assert work.left() == 4  # one of two answers is there
    assert [work.progress(one)["yours"] for one in (ada, ben, cy)] == [3, 4, 4]  # what one has done is not left for one


def test_many_at_once_get_different_items(tmp_path):
    store, work, _ = study(tmp_path, [{"prompt": f"Prompt {n}"} for n in range(24)])
    labelers = [store.join(f"labeler {n}") for n in range(12)]
    got: list[int] = []

    def two_items(labeler):
        for turn in range(2):
            item = work.next(labeler)
            got.append(item.item)
            answer(work, labeler, item, f"key-{labeler.id}-{turn}")

    threads = [threading.Thread(target=two_items, args=(one,)) for one in labelers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 25))
    assert store.count("standing") == 24


def test_the_same_key_twice_is_one_answer(tmp_path):
    store, work, _ = study(tmp_path)
    ada = store.join("Ada")
    item = work.next(ada)
    assert answer(work, ada, item, "one-click") == answer(work, ada, item, "one-click")
    assert store.count("answers") == 1
    with pytest.raises(ConflictError, match="belongs to another answer"):
        answer(work, ada, work.next(ada), "one-click")


def test_a_second_browser_of_the_same_name_cannot_overwrite_an_answer(tmp_path):
    store, work, _ = study(tmp_path)
    ada, again = store.join("Ada"), store.join("  Ada ")
    assert ada == again
    item = work.next(ada)
    assert work.next(again).id == item.id
    answer(work, ada, item, "first browser")
    with pytest.raises(ConflictError, match="answered already"):
        answer(work, again, item, "second browser", completion="Another text.")
    assert store.count("answers") == 1


def test_an_item_is_given_on_when_its_lease_runs_out_and_a_late_answer_is_kept_as_surplus(tmp_path):
    store, work, clock = study(tmp_path, ROWS[:1], lease_minutes=10)
    ada, ben = store.join("Ada"), store.join("Ben")
    item = work.next(ada)
    clock.now += 9 * 60
    work.renew(ada, item.id)
    clock.now += 9 * 60
    assert work.next(ben) is None  # renewed: still Ada's
    clock.now += 2 * 60
    mine = work.next(ben)
    assert mine.item == item.item
    with pytest.raises(ConflictError, match="went to somebody else"):
        work.renew(ada, item.id)
    answer(work, ada, item, "late from Ada")
    answer(work, ben, mine, "Ben in time")
    with store.read() as base:
        kept = base.execute("SELECT key, is_surplus FROM standing ORDER BY id").fetchall()
    assert [tuple(row) for row in kept] == [("late from Ada", 1), ("Ben in time", 0)]


def test_a_late_answer_counts_where_nobody_took_the_item(tmp_path):
    store, work, clock = study(tmp_path, ROWS[:1])
    ada = store.join("Ada")
    item = work.next(ada)
    clock.now += 24 * 3600
    answer(work, ada, item, "a day later")
    assert work.left() == 0


def test_undo_opens_the_last_answer_again_and_keeps_it_in_the_log(tmp_path):
    store, work, _ = study(tmp_path)
    ada = store.join("Ada")
    first = answer(work, ada, work.next(ada), "answer one")
    second_item = work.next(ada)
    second = answer(work, ada, second_item, "answer two", ratings=[7, 2, 2])
    third_item = work.next(ada)
    with pytest.raises(ConflictError, match="there is a later one"):
        work.undo(ada, first)
    again = work.undo(ada, second)
    assert again.id == second_item.id and again.earlier["ratings"] == [7, 2, 2]  # in the order shown
    assert work.undo(ada, second).id == again.id  # a double click undoes one
    assert work.progress(ada) == {"answered": 1, "skipped": 0, "last": first, "left": 3, "yours": 3}
    assert work.next(ada).id == again.id
    answer(work, ada, again, "answer two, better")
    assert work.next(ada).id == third_item.id
    assert (store.count("answers"), store.count("standing"), store.count("undone")) == (3, 2, 1)
    with pytest.raises(ConflictError, match="no such answer of yours"):
        work.undo(store.join("Ben"), first)


def test_what_was_undone_is_not_lost_to_others(tmp_path):
    store, work, clock = study(tmp_path, ROWS[:2])
    ada, ben = store.join("Ada"), store.join("Ben")
    first = answer(work, ada, work.next(ada), "answer one")
    answer(work, ben, work.next(ben), "answer two")
    work.undo(ada, first)
    clock.now += 3600  # Ada goes home
    assert work.next(ben).item == 1


def test_a_skipped_item_goes_to_others_until_it_is_set_aside(tmp_path):
    store, work, _ = study(tmp_path, ROWS[:1])
    ada, ben, cy = (store.join(name) for name in ("Ada", "Ben", "Cy"))
    for labeler in (ada, ben):
        item = work.next(labeler)
        work.submit(labeler, item.id, f"skip {labeler.name}", "skip", {"reason": "unclear"})
        assert work.next(labeler) is None
    assert work.next(cy) is None and work.left() == 0
    with pytest.raises(ConflictError):
        work.undo(cy, 1)
    assert work.undo(ben, 2).item == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ratings": [4, None, 4]}, "completion B has no rating"),
        ({"ratings": [4, 8, 0]}, "completion B has the rating 8, wanted 1 to 7"),
        ({"ratings": [4, True, 4]}, "the rating True"),
        ({"ratings": [4]}, "wanted a rating for each of 3"),
        ({"ranks": [1, 2, 4]}, "completion C has the rank 4, wanted 1 to 3"),
        ({"ranks": None}, "wanted a rank for each of 3"),
        ({"flags": [["rude"], [], []]}, "unknown flags of completion A"),
        ({"flags": [[]]}, "one list of flags for each"),
        ({"prompt_flags": "ambiguous"}, "unknown flags of the prompt"),
    ],
)
def test_a_half_answer_is_none(tmp_path, changes, words):
    store, work, _ = study(tmp_path, ROWS[1:2])
    ada = store.join("Ada")
    with pytest.raises(FormError, match=words):
        answer(work, ada, work.next(ada), "half answer", **changes)
    assert store.count("answers") == 0


def test_all_that_is_missing_is_told_at_once(tmp_path):
    store, work, _ = study(tmp_path, ROWS[1:2])
    ada = store.join("Ada")
    with pytest.raises(FormError) as caught:
        work.submit(ada, work.next(ada).id, "half answer", "answer", {"ratings": [1, None, None], "ranks": [None] * 3})
    assert len(caught.value.faults) == 5
    for body in ({"completion": " \n"}, {"completion": None}, [], None, {"completion": "x" * 1_000_001}):
        with pytest.raises(FormError):
            work.submit(ada, work.next(ada).id, "half answer", "answer", body)
    for reason in ({}, {"reason": "bored"}, {"reason": "other"}, {"reason": "other", "note": " "}, None):
        with pytest.raises(FormError):
            work.submit(ada, work.next(ada).id, "half answer", "skip", reason)


def test_answers_are_kept_in_the_order_of_the_row_with_dense_ranks(tmp_path):
    store, work, _ = study(tmp_path, ROWS[1:2], overlap=40)
    orders = set()
    for n in range(40):
        labeler = store.join(f"labeler {n}")
        item = work.next(labeler)
        orders.add(item.shown)
        page = item.as_page()
        assert [ROWS[1]["completions"][number] for number in item.shown] == page["completions"]
        assert "policies" not in str(page)  # blind
        best = page["completions"].index(" Scattering.")
        ranks = [1 if place == best else 3 for place in range(3)]
        answer(work, labeler, item, f"answer {n}", ranks=ranks)
    assert len(orders) == 6  # all orders occur; 40 draws of a study named at random miss one in every 240 runs
    with store.read() as base:
        bodies = {row[0] for row in base.execute("SELECT json_extract(body, '$.ranks') FROM answers")}
    assert bodies == {"[1,2,2]"}


@pytest.mark.parametrize("table", schema.TABLES)
def test_nothing_is_ever_changed_or_removed(tmp_path, table):
    store, work, _ = study(tmp_path)
    ada = store.join("Ada")
    work.undo(ada, answer(work, ada, work.next(ada), "answer one"))
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET at = 0"):
        with pytest.raises(RunError, match="a study only grows"), store.write() as base:
            base.execute(statement)
    assert store.count(table) > 0


def test_names_are_text_and_nothing_else(tmp_path):
    store, _, _ = study(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    for name in ("../../etc/passwd", "a/b", "<script>alert(1)</script>", "Zoë", "名前"):
        assert store.join(name).name == name
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert clean_name(" Ada \n Byron ") == "Ada Byron"
    assert clean_name("Zoe\u0308") == "Zoë"
    for name in ("", "   ", "x" * 61, "a\u202eb", "a\x00b", None, 3):
        with pytest.raises(DataError):
            clean_name(name)


def test_the_same_rows_again_add_nothing(tmp_path):
    store, _, _ = study(tmp_path)
    assert store.add(items_of(ROWS, "auto", "rows")) == 0
    assert store.add(items_of(ROWS[1:3], "rate", "rows")) == 2


def test_a_database_of_something_else_is_left_alone(tmp_path):
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as base:
        base.execute("CREATE TABLE t (a)")
    base.close()
    with pytest.raises(DataError, match="something else"):
        Store(other)
    text = tmp_path / "text.sqlite"
    text.write_text("This is no database. " * 100)
    with pytest.raises(DataError, match="no SQLite database"):
        Store(text)
    assert text.read_text().startswith("This is no database.")
    with pytest.raises(DataError, match="wanted the database of a study"):
        Store(tmp_path / "missing.sqlite", makes=False)
    assert not (tmp_path / "missing.sqlite").exists()


def test_a_later_version_is_refused_and_an_older_one_is_upgraded_after_a_copy(tmp_path, monkeypatch):
    store, work, _ = study(tmp_path)
    ada = store.join("Ada")
    answer(work, ada, work.next(ada), "answer one")
    store.close()
    monkeypatch.setattr(schema, "VERSION", 2)
    with pytest.raises(DataError, match="version 1, which no longer can be read"):
        Store(store.path)
    monkeypatch.setattr(schema, "UPGRADES", {1: "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\n"})
    upgraded = Store(store.path)
    assert upgraded.count("notes") == 0 and upgraded.count("standing") == 1
    upgraded.close()
    copy = tmp_path / "study.sqlite.version-1"
    monkeypatch.setattr(schema, "VERSION", 1)
    assert Store(copy).count("standing") == 1
    with pytest.raises(DataError, match=r"made by a later tunewell .*update tunewell"):
        Store(store.path)


def test_an_upgrade_that_fails_changes_nothing(tmp_path, monkeypatch):
    store, _, _ = study(tmp_path)
    store.close()
    monkeypatch.setattr(schema, "VERSION", 2)
    monkeypatch.setattr(schema, "UPGRADES", {1: "CREATE TABLE notes (id);\nCREATE TABLE items (id);\n"})
    with pytest.raises(RunError, match="items already exists"):
        Store(store.path)
    monkeypatch.setattr(schema, "VERSION", 1)
    assert Store(store.path).count("items") == len(ROWS)


def test_a_locked_database_is_told_as_such_and_loses_nothing(tmp_path, monkeypatch):
    store, work, _ = study(tmp_path)
    ada = store.join("Ada")
    item = work.next(ada)
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    store.close()
    other = sqlite3.connect(store.path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match="locked by another program"):
        answer(work, ada, item, "while locked")
    with pytest.raises(RunError, match="locked by another program"):
        Store(store.path)
    other.rollback()
    other.close()
    answer(work, ada, item, "while locked")
    assert store.count("answers") == 1


def test_only_the_owner_of_the_machine_account_can_read_a_study(tmp_path):
    store, _, _ = study(tmp_path)
    assert Path(store.path).stat().st_mode & 0o077 == 0


def test_a_copy_of_the_log_taken_at_any_moment_opens(tmp_path):
    store, work, _ = study(tmp_path)
    ada = store.join("Ada")
    answer(work, ada, work.next(ada), "answer one")
    for suffix in ("", "-wal"):  # what a power cut leaves: the file and its write-ahead log, no clean end
        shutil.copy(f"{store.path}{suffix}", f"{tmp_path / 'copy.sqlite'}{suffix}")
    assert Store(tmp_path / "copy.sqlite").count("standing") == 1


def test_a_hundred_thousand_characters_and_markup_come_back_as_they_were(tmp_path):
    text = '<script>alert(1)</script> & "quotes" \u202e ' + "long " * 20_000
    store, work, _ = study(tmp_path, [{"prompt": text, "completions": [text, "b"]}, {"prompt": "p"}])
    ada = store.join("Ada")
    item = work.next(ada)
    assert item.body["prompt"] == text
    answer(work, ada, item, "answer one")
    answer(work, ada, work.next(ada), "answer two", completion=text)
    with store.read() as base:
        assert base.execute("SELECT json_extract(body, '$.completion') FROM answers WHERE id = 2").fetchone()[0] == text


def test_settings_can_change_and_the_last_one_holds(tmp_path):
    store, _, _ = study(tmp_path, overlap=2)
    store.keep("overlap", 3)
    again = Store(store.path)
    assert again.number("overlap") == 3 and again.number("skips") == 2
    assert Work(again)._seed == store.setting("study")
