import json

import pytest
from collect_fakes import good_answer, study
from micro_run import call
from tunewell.pipelines.collect.export import build_export, comparisons_of, export_study
from tunewell.pipelines.collect.log import Answer
from tunewell.pipelines.collect.results import agreement, alpha, results_of
from tunewell.pipelines.sets import FILES
from tunewell.toolkit.data.row_shapes import require_columns
from tunewell.toolkit.data.rows import read_rows
from tunewell.toolkit.errors import RunError, SettingsError

CHAT = [{"role": "user", "content": "Hello?"}]


def labelled(folder, rows=None, **settings):
    store, work, _ = study(folder, **({"rows": rows} if rows else {}), **settings)
    ada = store.join("Ada")
    while (item := work.next(ada)) is not None:
        work.submit(ada, item.id, f"answer-{item.item}-ada", "answer", good_answer(item), 2.0)
    return store, work


def test_the_export_holds_every_answer_in_the_shapes_that_trainers_read(tmp_path):
    store, _ = labelled(tmp_path)
    export_study(store, tmp_path / "out", held_out=0)
    rows = {name: read_rows(tmp_path / "out" / f"{name}.jsonl") for name in
            ("demonstrations", "comparisons", "rankings", "ratings", "prompts")}  # fmt: skip
    for name, shape in {**FILES, "rankings": "ranking", "ratings": "rating"}.items():
        if name in rows:
            require_columns(rows[name], shape, name)
    assert rows["demonstrations"][0]["completion"] == " Rain taps the roof."  # joined to its prompt by a space
    assert len(rows["comparisons"]) == 3 + 1 and len(rows["rankings"]) == 2 and len(rows["ratings"]) == 3 + 2 + 1
    for row in rows["rankings"]:
        best = row["completions"][row["ranks"].index(1)]
        assert sum(pair["chosen"] == best for pair in rows["comparisons"]) == len(row["ranks"]) - 1
    policy = {row["completion"]: row.get("policies") for row in rows["ratings"]}
    assert policy[" Scattering."] == "x" and policy[" Paint."] == "y" and policy[" Goodbye."] is None
    assert {row["labeler"] for row in rows["ratings"]} == {"labeler-1"}
    assert "Ada" not in "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    export_study(store, tmp_path / "out", held_out=0, shows_names=True)  # replaces the earlier one
    assert read_rows(tmp_path / "out" / "ratings.jsonl")[0]["labeler"] == "Ada"


def test_ties_give_no_pair_and_are_counted():
    assert comparisons_of("p", ["a", "b", "c"], [2, 1, 2]) == [
        {"prompt": "p", "chosen": "b", "rejected": "a"},
        {"prompt": "p", "chosen": "b", "rejected": "c"},
    ]
    assert comparisons_of("p", ["a", "b"], [1, 1]) == []


def test_tied_and_equal_pairs_are_left_out_by_count(tmp_path):
    rows = [{"prompt": "p", "completions": ["a", "a", "b"]}]
    store, work, _ = study(tmp_path, rows, overlap=2)
    for name, ranks in (("Ada", [1, 1, 1]), ("Ben", [1, 2, 3])):
        labeler = store.join(name)
        item = work.next(labeler)
        work.submit(labeler, item.id, f"answer-{name}", "answer", good_answer(item) | {"ranks": ranks})
    files, summary = build_export(store, 0)
    assert summary["left_out"]["tied_pairs"] == 3
    n_equal = summary["left_out"]["pairs_of_equal_texts"]
    assert n_equal == 1 and len(files["comparisons"]) == 2


def test_chat_prompts_get_chat_demonstrations(tmp_path):
    store, _ = labelled(tmp_path, [{"prompt": CHAT}])
    files, _ = build_export(store, 0)
    require_columns(files["demonstrations"], "prompt_completion", "the export")
    assert files["demonstrations"][0]["completion"] == [{"role": "assistant", "content": "Rain taps the roof."}]


def test_columns_of_a_row_cannot_take_the_place_of_what_was_answered(tmp_path):
    rows = [{"prompt": "p", "completions": ["a", "b"], "ranks": [9, 9], "labeler": "x", "rating": 9, "chosen": "z"}]
    store, _ = labelled(tmp_path, rows)
    files, _ = build_export(store, 0)
    assert sorted(files["rankings"][0]["ranks"]) == [1, 2]
    assert {row["rating"] for row in files["ratings"]} == {4}
    assert files["comparisons"][0]["chosen"] in ("a", "b")


def test_a_prompt_is_either_trained_on_or_held_out(tmp_path):
    rows = [{"prompt": f"p{n}", "completions": ["a", "b"]} for n in range(60)] + [
        {"prompt": f"p{n}"} for n in range(60)
    ]
    store, _ = labelled(tmp_path, rows)
    files, summary = build_export(store, 0.3)
    train = {row["prompt"] for name in ("demonstrations", "comparisons", "prompts", "rankings") for row in files[name]}
    held_out = {row["prompt"] for name in files if "held_out" in name for row in files[name]}
    assert not train & held_out and len(train | held_out) == 60
    assert 8 <= len(held_out) <= 28
    assert summary["files"]["demonstrations_held_out"] == len(held_out)
    assert summary["files"]["ratings_held_out"] == 2 * len(held_out)
    assert len(files["prompts"]) + len(files["held_out_prompts"]) == 60
    assert summary["left_out"]["repeated_prompts"] == 60
    with pytest.raises(SettingsError, match="--held-out: got 1"):
        build_export(store, 1)


def test_skips_are_written_with_their_reason_and_unusable_prompts_are_left_out(tmp_path):
    store, work, _ = study(tmp_path)
    ada = store.join("Ada")
    item = work.next(ada)
    work.submit(ada, item.id, "skip it now", "skip", {"reason": "unclear", "note": "Which rain?"})
    files, summary = build_export(store, 0)
    assert files["skipped"] == [{"prompt": item.body["prompt"], "reason": "unclear", "note": "Which rain?", "item": 1,
                                 "labeler": "labeler-1", "is_simulated": False}]  # fmt: skip
    assert item.body["prompt"] not in [row["prompt"] for row in files["prompts"]]
    assert summary["left_out"]["unusable_prompts"] == 1
    assert results_of(store)["skipped"] == [{"reason": "unclear", "label": "The prompt is unclear", "n": 1}]


def test_simulated_answers_are_marked_and_can_be_left_out(tmp_path):
    store, work, _ = study(tmp_path)
    robot = store.join("robot", is_simulated=True)
    while (item := work.next(robot)) is not None:
        work.submit(robot, item.id, f"answer-{item.item}-robot", "answer", good_answer(item))
    files, summary = build_export(store, 0)
    answered = [row for name in ("demonstrations", "comparisons", "rankings", "ratings") for row in files[name]]
    assert all(row["is_simulated"] for row in answered) and summary["simulated_rows"] == len(answered)
    files, summary = build_export(store, 0, takes_simulated=False)
    assert not files["comparisons"] and summary["left_out"]["simulated_answers"] == 3
    assert results_of(store)["simulated"] == 3


def test_an_export_never_replaces_a_folder_of_something_else(tmp_path, monkeypatch, capsys):
    store, _ = labelled(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is no export"):
        export_study(store, other)
    done = call(monkeypatch, capsys, "collect", "export", store.path, "--out", tmp_path / "out", "--json")
    files = json.loads(done.out)["files"]
    assert done.code == 0 and files["ratings"] + files["ratings_held_out"] == 6


def judged(labeler, ratings, ranks, item=1):
    body = {"ratings": ratings, "ranks": ranks, "flags": [[] for _ in ratings]}
    return Answer(id=0, item=item, labeler=labeler, name=str(labeler), is_simulated=False, kind="answer",
                  is_surplus=False, body=body, seconds=None, at=0.0)  # fmt: skip


def test_agreement_of_two_who_say_the_same_is_perfect():
    both = [judged(labeler, [1, 4, 7], [3, 2, 1]) for labeler in (1, 2)]
    ratings, rankings = agreement(both)
    assert (ratings["alpha"], ratings["agree"], ratings["n"]) == (1.0, 1.0, 3)
    assert (rankings["agree"], rankings["n"], rankings["alpha"]) == (1.0, 3, 1.0)


def test_agreement_counts_pairs_and_leaves_single_answers_out():
    answers = [judged(1, [5, 5], [1, 2]), judged(2, [5, 3], [2, 1]), judged(3, [1, 1], [1, 2], item=2)]
    ratings, rankings = agreement(answers)
    assert (ratings["agree"], ratings["n"], ratings["units"]) == (0.5, 2, 2)
    assert (rankings["agree"], rankings["n"]) == (0.0, 1)
    assert agreement(answers[2:])[0]["alpha"] is None and agreement([])[0]["agree"] is None


def test_which_completion_of_a_pair_stands_first_changes_nothing():
    # Ten pairs in rows that are sorted by quality; in one of them the second labeler says the opposite. Both ways
    # round: 40 values, 20 of each, 2 coincidences of unlike values, so 1 - 39 * 2 / (20 * 20).
    for best_first in (True, False):
        answers = [
            judged(labeler, [4, 4], [1, 2] if best_first != (labeler == 2 and item == 3) else [2, 1], item)
            for labeler in (1, 2)
            for item in range(10)
        ]
        assert agreement(answers)[1]["alpha"] == pytest.approx(0.805)
        assert agreement(answers)[1]["agree"] == 0.9


def test_alpha_is_that_of_krippendorffs_own_example():
    # Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C: 4 observers, 12 units, with gaps.
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = {
        unit: {row: float(values[unit]) for row, values in enumerate(table) if values[unit] is not None}
        for unit in range(12)
    }
    units = {unit: given for unit, given in units.items() if len(given) > 1}
    assert alpha(units, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert alpha(units, "ordinal") == pytest.approx(0.815, abs=5e-4)
