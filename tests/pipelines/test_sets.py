import gzip
import json
from dataclasses import fields
from pathlib import Path

import pytest
from tunewell.pipelines.sets import (
    DataSettings,
    Sets,
    demonstration_text,
    input_hashes,
    load_sets,
    plain_text,
    read_set,
    save_sets,
)
from tunewell.toolkit.errors import DataError
from tunewell.toolkit.files import sha256_of

TRAINING = ("demonstrations", "comparisons", "prompts")
HELD_OUT = ("comparisons_held_out", "held_out_prompts")


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pairs(count: int) -> list[dict[str, str]]:
    return [
        {
            "chosen": f"\n\nHuman: Question {number}?\n\nAssistant: Yes, {number}.",
            "rejected": f"\n\nHuman: Question {number}?\n\nAssistant: No, {number}.",
        }
        for number in range(count)
    ]


def prompts(sets: Sets, *names: str) -> set[str]:
    return {json.dumps(row["prompt"]) for name in names for row in getattr(sets, name)}


# ---- the embedded world ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_nothing_that_is_held_out_of_the_world_was_trained_on(seed):
    sets = load_sets(DataSettings(), seed)
    assert not prompts(sets, *TRAINING) & prompts(sets, *HELD_OUT)
    read = "\n".join(row["text"] for row in sets.corpus)
    talk = [row["prompt"] for row in sets.held_out_prompts if row["kind"] == "talk"]
    manners = [row["prompt"] for row in sets.comparisons_held_out if row["kind"] == "manners"]
    clean = [row["text"] for row in sets.clean_text]
    assert not [text for text in (*talk, *manners, *clean) if text in read]
    asked = {row["question"] for row in sets.questions}
    assert not [row for row in (*sets.demonstrations, *sets.comparisons) if any(q in row["prompt"] for q in asked)]
    assert len(talk) >= 55 and len(manners) >= 70 and len(clean) >= 100  # hardly anything had to be left out


def test_the_world_is_the_same_for_the_same_seed():
    one, same, other = (load_sets(DataSettings(), seed) for seed in (1, 1, 2))
    for item in fields(Sets):
        if getattr(one, item.name):
            assert sha256_of(getattr(one, item.name)) == sha256_of(getattr(same, item.name))
            assert sha256_of(getattr(one, item.name)) != sha256_of(getattr(other, item.name))


def test_a_limit_takes_the_first_rows_and_leaves_the_toxicity_scorer_both_kinds():
    every, few = load_sets(DataSettings(), 0), load_sets(DataSettings(limit=5), 0)
    for item in fields(Sets):
        if item.name != "toxicity_rows":
            assert list(getattr(few, item.name)) == list(getattr(every, item.name))[:5]
    assert {row["is_toxic"] for row in few.toxicity_rows} == {True, False}


# ---- pairs of dialogues ------------------------------------------------------------------------------------------


def test_pairs_become_chat_rows_and_every_prompt_is_on_one_side(tmp_path):
    # every prompt comes twice: both of its pairs have to be on the same side
    path = write(tmp_path / "pairs.jsonl", pairs(40) + pairs(40))
    sets = load_sets(DataSettings(source="hh", path=path, held_out_share=0.3), 0)
    assert len(sets.comparisons) + len(sets.comparisons_held_out) == 80
    assert 10 < len(sets.comparisons_held_out) < 40
    assert not prompts(sets, *TRAINING) & prompts(sets, *HELD_OUT)
    row = sets.comparisons[0]
    assert row["prompt"][0]["role"] == "user" and row["chosen"][0]["role"] == "assistant"
    assert row["chosen"][0]["content"].startswith("Yes") and row["rejected"][0]["content"].startswith("No")
    assert len(sets.demonstrations) == len(sets.prompts) == len(sets.comparisons)
    assert sets.demonstrations[0] == {"prompt": row["prompt"], "completion": row["chosen"]}
    assert sets.clean_text[0]["text"].startswith("Human: Question ") and "Assistant: Yes" in sets.clean_text[0]["text"]


def test_the_seed_does_not_move_the_border_between_training_and_evaluation(tmp_path):
    settings = DataSettings(source="hh", path=write(tmp_path / "pairs.jsonl", pairs(40)))
    assert load_sets(settings, 0) == load_sets(settings, 1)


def test_rows_that_cannot_be_used_are_counted_with_their_reason(tmp_path):
    same = {"chosen": "\n\nHuman: A?\n\nAssistant: B.", "rejected": "\n\nHuman: A?\n\nAssistant: B."}
    path = write(tmp_path / "pairs.jsonl", [*pairs(40), same])
    sets = load_sets(DataSettings(source="hh", path=path), 0)
    assert len(sets.comparisons) + len(sets.comparisons_held_out) == 40
    assert [(row["row"], row["reason"]) for row in sets.unusable] == [(40, "same_answer")]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "holds no rows"),
        ([{"prompt": "a", "answer": "b"}], r"has the columns prompt, answer; wanted `chosen` and `rejected`"),
        ([{"chosen": "no speaker", "rejected": "none"}], "none of 1 rows is a usable pair.*not_a_dialogue"),
        ([{"chosen": 1, "rejected": 2}], "row 0 .*wanted the text 'chosen'"),
        (pairs(1), "1 usable pairs are too few to hold a part out"),
    ],
)
def test_pairs_that_cannot_be_used_are_refused_with_the_file(tmp_path, rows, fault):
    path = write(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(DataError, match=fault) as caught:
        load_sets(DataSettings(source="hh", path=path), 0)
    assert path in str(caught.value)


def test_real_preferences_are_read(shared_data):
    path = shared_data / "hh-rlhf" / "harmless-dev.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    sets = load_sets(DataSettings(source="hh", path=str(path), limit=300), 0)
    assert 200 < len(sets.comparisons) + len(sets.comparisons_held_out) <= 300
    assert len(sets.comparisons) + len(sets.comparisons_held_out) + len(sets.unusable) == 300
    assert not prompts(sets, *TRAINING) & prompts(sets, *HELD_OUT)


# ---- the user's own files ----------------------------------------------------------------------------------------


@pytest.fixture
def own_files(tmp_path) -> DataSettings:
    text = [{"text": f"document {number}"} for number in range(4)]
    preference = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3
    return DataSettings(
        source="files",
        corpus=write(tmp_path / "corpus.jsonl", text),
        demonstrations=write(tmp_path / "demonstrations.jsonl", [{"prompt": "a", "completion": "b"}] * 2),
        comparisons=write(tmp_path / "comparisons.jsonl", preference),
        comparisons_held_out=write(tmp_path / "held_out.jsonl", preference[:1]),
        prompts=write(tmp_path / "prompts.jsonl", [{"prompt": "a"}] * 5),
        held_out_prompts=write(tmp_path / "held_out_prompts.jsonl", [{"prompt": "z"}]),
    )


def test_files_of_the_user_are_read_as_they_are(own_files):
    assert own_files.faults() == []
    sets = load_sets(own_files, 0)
    lengths = {item.name: len(getattr(sets, item.name)) for item in fields(sets) if getattr(sets, item.name)}
    assert lengths == {
        "corpus": 4, "demonstrations": 2, "comparisons": 3, "comparisons_held_out": 1, "prompts": 5,
        "held_out_prompts": 1,
    }  # fmt: skip


def test_a_file_without_the_columns_that_its_use_needs_is_refused(own_files, tmp_path):
    write(tmp_path / "comparisons.jsonl", [{"prompt": "a", "chosen": "b"}])
    with pytest.raises(DataError, match=r"row 0 .*comparisons\.jsonl .*rejected.*Rows that do not fit: 1 of 1"):
        load_sets(own_files, 0)


def test_the_inputs_of_a_run_are_hashed_file_by_file_also_in_a_folder(own_files, tmp_path):
    hashes = input_hashes(own_files.files())
    assert [Path(path).name for path in hashes] == [
        "corpus.jsonl", "demonstrations.jsonl", "comparisons.jsonl", "held_out.jsonl", "prompts.jsonl",
        "held_out_prompts.jsonl",
    ]  # fmt: skip
    write(tmp_path / "prompts.jsonl", [{"prompt": "another"}])
    again = input_hashes(own_files.files())
    assert [path for path in hashes if hashes[path] != again[path]] == [str(tmp_path / "prompts.jsonl")]
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    write(folder / "deep" / "rows.jsonl", pairs(1))
    settings = DataSettings(source="hh", path=str(folder))
    assert settings.files() == [folder / "deep" / "rows.jsonl"]
    assert DataSettings(source="hh", path="owner/name-of-the-hub").files() == []
    assert DataSettings(path=str(folder)).files() == []  # the world reads no file


# ---- saving and text ---------------------------------------------------------------------------------------------


def test_sets_come_back_from_their_folder_as_they_were(own_files, tmp_path):
    sets = load_sets(own_files, 0)
    counts = save_sets(sets, tmp_path / "sets")
    assert counts["prompts"] == 5 and counts["questions"] == 0
    for item in fields(sets):
        assert read_set(tmp_path / "sets", item.name) == list(getattr(sets, item.name))


def test_messages_become_text_with_their_speakers():
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "tool", "content": "T"}]
    assert plain_text(chat) == "System: S\n\nHuman: U\n\ntool: T"
    assert plain_text("as it is") == "as it is"
    assert demonstration_text({"prompt": "Question:", "completion": " answer"}) == "Question: answer"
    row = {"prompt": chat[1:2], "completion": [{"role": "assistant", "content": "A"}]}
    assert demonstration_text(row) == "Human: U\n\nAssistant: A"


def test_compressed_pairs_are_read(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in pairs(20))
    assert len(load_sets(DataSettings(source="hh", path=str(path)), 0).comparisons) > 10
