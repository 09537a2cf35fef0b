import json
import re
from pathlib import Path

import pytest
from micro_run import QUIET, call, libraries_as_before, micro_run
from tunewell.pipelines.chat import Conversation, printable
from tunewell.pipelines.model_source import find_model
from tunewell.pipelines.prompt_form import PromptForm, given_form
from tunewell.toolkit.errors import DataError, SettingsError
from tunewell.toolkit.model.generation import Sampling

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
CHAT = PromptForm(is_chat=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return micro_run(tmp_path_factory.getbasetemp()).folder


@pytest.fixture(scope="module")
def stack(run):
    return find_model(str(run)).load()


def talk(stack, form=CHAT, new_tokens=12, **more) -> Conversation:
    return Conversation(stack=stack, form=form, sampling=Sampling(max_new_tokens=new_tokens), **more)


def test_what_streams_is_the_answer(stack):
    for seed in range(5):
        pieces = []
        answer = talk(stack, seed=seed).ask("Who are you?", pieces.append)
        assert "".join(pieces).strip() == answer.text
        assert len(pieces) > 1


def test_a_seed_gives_the_same_answer_and_retry_another(stack):
    first, again = talk(stack, seed=3), talk(stack, seed=3)
    answer = first.ask("Who are you?")
    assert again.ask("Who are you?") == answer
    assert first.retry().text != answer.text
    assert [turn["role"] for turn in first.turns] == ["user", "assistant"]
    assert talk(stack).retry() is None


def test_the_model_sees_system_and_earlier_turns_until_the_window_is_full_and_the_oldest_go_first(stack):
    conversation = talk(stack, system="Be kind.")
    conversation.ask("One.")
    ids, forgotten = conversation._prompt("Two.")
    seen = stack.tokenizer.decode(ids)
    assert "Be kind." in seen and "One." in seen and "Two." in seen and forgotten == 0
    conversation.turns += [{"role": "user", "content": "long " * 150}, {"role": "assistant", "content": "Yes. " * 40}]
    conversation.turns += [{"role": "user", "content": "Late."}, {"role": "assistant", "content": "Yes."}]
    ids, forgotten = conversation._prompt("Three.")
    seen = stack.tokenizer.decode(ids)
    assert forgotten == 4 and "One." not in seen and "Be kind." in seen and "Late." in seen
    assert len(ids) + 12 <= 512
    assert conversation.ask("Three.").forgotten == 4


def test_what_cannot_fit_at_all_is_refused_and_the_conversation_stays(stack):
    conversation = talk(stack)
    with pytest.raises(DataError, match="more than the model's window of 512: say it in fewer words"):
        conversation.ask("long " * 600)
    assert conversation.turns == []


def test_plain_models_are_asked_in_the_form_of_their_run_without_memory(stack):
    conversation = talk(stack, PromptForm(is_chat=False, template="Question: {question}\nAnswer:"))
    conversation.ask("Who {are} you?")
    ids, _ = conversation._prompt("And I?")
    assert stack.tokenizer.decode(ids, skip_special_tokens=True) == "Question: And I?\nAnswer:"


def test_a_form_can_be_given():
    assert given_form("chat") == CHAT
    assert given_form("plain") == PromptForm(is_chat=False)
    assert given_form("Q: {question}").template == "Q: {question}"
    with pytest.raises(SettingsError, match=r"wanted chat, plain, or a text with \{question\}"):
        given_form("Q:")


def test_escape_sequences_of_a_model_never_reach_the_terminal():
    assert printable("a\x1b[31mb\x07\r\nc\td\u202e") == "a\ufffd[31mb\ufffd\nc\td"
    # A guard has judged the text before: what is left out may not make a word of two.
    assert printable("ki\x1bll ki\xa0ll ki\u2028ll ki\rll") == "ki\ufffdll ki ll ki\nll ki\ufffdll"
    assert printable("10\xa0km \U0001f469\u200d\U0001f680") == "10 km \U0001f469\U0001f680"


def test_say_prints_the_answers_and_json_all_about_them(run, monkeypatch, capsys):
    with libraries_as_before():
        common = ("chat", run, "--max-new-tokens", "6", "--seed", "1")
        plain = call(monkeypatch, capsys, *common, "--say", "Hello?")
        full = call(monkeypatch, capsys, *common, "--say", "Hello?", "--say", "And you?", "--json")
    turns = json.loads(full.out)["turns"]
    assert [turn["user"] for turn in turns] == ["Hello?", "And you?"]
    assert plain.out.strip() == turns[0]["assistant"]
    assert all(turn["is_cut"] in (True, False) and turn["forgotten"] == 0 for turn in turns)


def test_no_listed_word_is_in_an_answer_nor_on_the_way_to_it(run, monkeypatch, capsys, tmp_path):
    listed = tmp_path / "words.txt"
    with libraries_as_before():
        common = ("chat", run, "--max-new-tokens", "24", "--seed", "1", "--say", "Hello?")
        free = call(monkeypatch, capsys, *common).out
        words = sorted(set(re.findall("[a-z]{2,}", free.lower())))
        listed.write_text("\n".join(words))
        guarded = call(monkeypatch, capsys, *common, "--blocklist", listed).out
    assert words and not set(words) & set(re.findall("[a-z]{2,}", guarded.lower()))


def test_commands_of_the_terminal(run, monkeypatch, capsys):
    lines = iter(["/help", "/retry", "/what", "", "Hello?", "/retry", "/reset", "/retry", "/system x", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    with libraries_as_before():
        called = call(monkeypatch, capsys, "chat", run, "--max-new-tokens", "4")
    assert called.code == 0
    assert "take the last answer back" in called.err
    assert called.err.count("nothing was asked yet") == 2
    assert "/what is no command" in called.err
    assert "no place for a system message" in called.err
    assert "asked in plain text, 'Question: {question}" in called.err
    assert next(lines, None) is None


def test_the_end_of_input_ends_the_talk(run, monkeypatch, capsys):
    def closed(prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    with libraries_as_before():
        assert call(monkeypatch, capsys, "chat", run, "--role", "base").code == 0
