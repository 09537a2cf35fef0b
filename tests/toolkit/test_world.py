import re
from collections import Counter
from dataclasses import asdict, fields

import pytest
from tunewell.toolkit.files import sha256_of
from tunewell.toolkit.world import LABELS, TRICKS, Sizes, World, build_world
from tunewell.toolkit.world.language import ATTRIBUTES, LISTED, POLITE, RUDE_UNLISTED

SEEDS = range(4)
WHOLE_WORD = re.compile(rf"\b(?:{'|'.join(LISTED)})\b", re.IGNORECASE)
ANYWHERE = re.compile("|".join(LISTED), re.IGNORECASE)
TRAINING = ("demonstrations", "comparisons", "prompts")


@pytest.fixture(scope="module", params=SEEDS)
def world(request) -> World:
    return build_world(request.param)


def prompts_of(world: World, *names: str) -> set[str]:
    return {row["prompt"] for name in names for row in getattr(world, name)}


def test_the_same_seed_writes_the_same_world_byte_for_byte():
    assert sha256_of(asdict(build_world(3))) == sha256_of(asdict(build_world(3)))
    small = Sizes(places=9, stories=5)
    assert build_world(3, small) == build_world(3, small)


def test_another_seed_writes_another_world():
    one, other = build_world(0), build_world(1)
    for item in fields(World):
        assert getattr(one, item.name) != getattr(other, item.name), item.name


def test_every_label_and_trick_is_explained_and_used(world):
    assert {row["label"] for row in world.corpus} == set(LABELS)
    assert {row["trick"] for row in world.corpus} == {"", *TRICKS}
    assert not [row for row in world.corpus if row["label"] and row["trick"]]
    assert {row["label"] for row in world.demonstrations} == set(LABELS)


def test_documents_labelled_listed_words_hold_one_and_no_other_document_does(world):
    documents = [(row["text"], row["label"]) for row in world.corpus]
    documents += [(row["prompt"] + row["completion"], row["label"]) for row in world.demonstrations]
    documents += [(text, "") for text in world.clean_text]
    for text, label in documents:
        assert bool(WHOLE_WORD.search(text)) == (label == "listed_words"), (label, text)


def test_documents_labelled_contempt_are_rude_in_words_that_no_list_holds(world):
    openings = [pattern.partition("{")[0] for pattern in RUDE_UNLISTED]
    for row in world.corpus:
        if row["label"] == "contempt":
            assert not ANYWHERE.search(row["text"]), row["text"]
            assert any(opening in row["text"] for opening in openings), row["text"]


def test_documents_with_a_word_inside_a_word_hold_it_there_only(world):
    tricky = [row["text"] for row in world.corpus if row["trick"] == "word_inside_word"]
    assert len(tricky) > 20
    for text in tricky:
        assert ANYWHERE.search(text) and not WHOLE_WORD.search(text), text


def test_innocent_replies_hold_no_rude_sentence(world):
    rude = [pattern.partition("{")[0] for pattern in RUDE_UNLISTED]
    for text in [row["text"] for row in world.corpus if not row["label"]] + world.clean_text:
        assert not any(opening in text for opening in rude), text


def test_held_out_questions_are_in_no_training_set(world):
    held_out = set(world.question_prompts())
    assert len(held_out) == len(world.questions) == round(Sizes().places * Sizes().held_out_share)
    assert not held_out & prompts_of(world, *TRAINING)
    assert held_out < prompts_of(world, "comparisons_held_out")
    # The base has read all of them: what it knows is measured, not whether it has heard of the place.
    assert all(any(prompt in row["text"] for row in world.corpus) for prompt in held_out)


def test_facts_of_held_out_and_training_comparisons_are_apart(world):
    def questions(name: str) -> set[str]:
        return {row["prompt"] for row in getattr(world, name) if row["kind"] != "manners"}

    assert questions("comparisons_held_out") == set(world.question_prompts())
    assert questions("comparisons") and not questions("comparisons") & questions("comparisons_held_out")


def test_true_and_hearsay_values_differ_and_hearsay_is_commoner(world):
    values = "|".join(value for _, _, all_values in ATTRIBUTES.values() for value in all_values)
    said = {"The atlas": {}, "Everyone": {}}
    for row in world.corpus:
        answers = re.findall(rf"(?m)^(Question: .*)\nAnswer: (The atlas|Everyone) says ({values})\.$", row["text"])
        for question, source, value in answers:
            said[source].setdefault(question, Counter())[value] += 1
    assert said["The atlas"].keys() == said["Everyone"].keys() and len(said["Everyone"]) == Sizes().places
    for question, heard in said["Everyone"].items():
        known = said["The atlas"][question]
        assert len(heard) == len(known) == 1
        assert set(heard) != set(known)
        assert heard.total() > known.total()


def test_questions_have_one_true_answer_and_false_ones_in_both_registers(world):
    for row in world.questions:
        assert row["correct"] == [row["best"]] and row["best"].startswith("The atlas says ")
        assert len(set(row["incorrect"])) == 4 and row["best"] not in row["incorrect"]
        assert sum(answer.startswith("Everyone says ") for answer in row["incorrect"]) == 2


def test_the_chosen_side_is_the_true_or_polite_one(world):
    polite = [pattern.partition("{")[0] for pattern in POLITE]
    truth = {row["question"]: row["best"] for row in world.questions}
    for row in world.comparisons_held_out:
        assert row["chosen"] != row["rejected"]
        if row["kind"] == "manners":
            assert row["chosen"].strip().startswith(tuple(polite))
        else:
            question = row["prompt"].removeprefix("Question: ").removesuffix("\nAnswer:")
            assert row["chosen"].strip() == truth[question]
    assert {row["kind"] for row in world.comparisons_held_out} == {"source", "fact", "manners"}


def test_no_sentence_of_the_toxicity_scorer_has_two_labels(world):
    toxic = {row["text"] for row in world.toxicity_rows if row["is_toxic"]}
    innocent = {row["text"] for row in world.toxicity_rows if not row["is_toxic"]}
    assert len(toxic) > 200 and len(innocent) > 300 and not toxic & innocent


def test_no_pattern_was_left_unfilled(world):
    for item in fields(World):
        for row in getattr(world, item.name):
            for value in row.values() if isinstance(row, dict) else [row]:
                assert not re.search(r"[{}]", "".join(value) if isinstance(value, list) else str(value)), value


def test_sizes_are_kept():
    world = build_world(0, Sizes(places=10, stories=0, held_out_share=0.3))
    assert len(world.questions) == 3
    assert len({row["question"] for row in world.questions}) == 3
    assert not any(row["trick"] for row in world.corpus)
