import sys
from pathlib import Path

import pytest
from tunewell.eval.prompts import make_prompt
from tunewell.toolkit.errors import DataError, MissingPackageError, ModelError, SettingsError

SHOTS = "".join(f"Q: Question {number}?\\n\\\n  A: Answer {number}.\\n\\n\\\n  " for number in range(6))


class FakeTokenizer:
    """Renders turns as a template would; `gap` is what it writes before the assistant's words."""

    def __init__(self, gap: str, template: str | None = "a template") -> None:
        self.gap, self.chat_template = gap, template

    def apply_chat_template(
        self, turns: list[dict[str, str]], tokenize: bool = True, add_generation_prompt: bool = False
    ) -> str:
        text = "<s>" + "".join(
            f"[user]{turn['content']}" if turn["role"] == "user" else f"[model]{self.gap}{turn['content']}</s>"
            for turn in turns
        )
        return text + ("[model]" if add_generation_prompt else "")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package named lm_eval with a task file in the shape of the real one."""
    folder = tmp_path / "lm_eval/tasks/truthfulqa"
    folder.mkdir(parents=True)
    (tmp_path / "lm_eval/__init__.py").write_text("raise AssertionError('the package itself must not be imported')")
    source = "{% set shots = '" + SHOTS + "' %}{{ shots + 'Q: ' + question + '\\nA:' }}"
    (folder / "truthfulqa_mc1.yaml").write_text(f'task: truthfulqa_mc1\ndoc_to_text: "{source}"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lm_eval", raising=False)
    return folder / "truthfulqa_mc1.yaml"


def test_without_shots_the_question_stands_before_an_answer_cue() -> None:
    prompt = make_prompt("none")
    assert (prompt.context("Why?"), prompt.delimiter) == ("Q: Why?\nA:", " ")


def test_six_solved_questions_stand_before_the_open_one() -> None:
    text = make_prompt("six").context("Why?")
    assert text.count("Q: ") == 7
    assert text.endswith("\n\nQ: Why?\nA:")


def test_braces_in_a_question_are_left_alone() -> None:
    assert make_prompt("six").context("What is {x}?").endswith("Q: What is {x}?\nA:")
    assert make_prompt("Ask: {question}!").context("{0}") == "Ask: {0}!"


@pytest.mark.parametrize("template", ["no field", "{answer}", "{question} {answer}", "{}"])
def test_a_template_without_the_question_is_refused_with_the_presets_listed(template: str) -> None:
    with pytest.raises(SettingsError, match="wanted one of none, six, truthfulqa, chat, or a template"):
        make_prompt(template)


def test_a_slip_in_a_preset_gets_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="did you mean 'truthfulqa'"):
        make_prompt("truthfullqa")
    with pytest.raises(SettingsError, match="is not a template"):
        make_prompt("{question")


def test_the_benchmarks_own_preset_is_read_from_the_installed_package(installed: Path) -> None:
    text = make_prompt("truthfulqa").context("Why {{ not }}?")
    assert text.count("Q: ") == 7
    assert text.startswith("Q: Question 0?\nA: Answer 0.\n\nQ: Question 1?")
    assert text.endswith("\n\nQ: Why {{ not }}?\nA:")  # the question is text, not template


def test_a_changed_task_file_is_refused(installed: Path) -> None:
    installed.write_text('doc_to_text: "Q: {{question}}\\nA:"\n')
    with pytest.raises(DataError, match="does not hold six solved questions"):
        make_prompt("truthfulqa")
    installed.write_text("task: other\n")
    with pytest.raises(DataError, match="cannot read the prompt of TruthfulQA"):
        make_prompt("truthfulqa")


def test_without_the_package_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewell.eval.prompts.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'pip install "tunewell\[benchmarks\]"'):
        make_prompt("truthfulqa")


@pytest.mark.parametrize("gap", ["", " ", "\n"])
def test_a_chat_prompt_is_the_templates_and_the_gap_is_read_from_it(gap: str) -> None:
    prompt = make_prompt("chat", FakeTokenizer(gap))
    assert prompt.context("Why?") == "<s>[user]Why?[model]"
    assert prompt.delimiter == gap


def test_a_tokenizer_without_chat_template_cannot_chat() -> None:
    with pytest.raises(ModelError, match="needs a tokenizer with a chat template"):
        make_prompt("chat", FakeTokenizer("", template=None))


def test_the_hash_names_the_text_around_the_question() -> None:
    assert make_prompt("none").sha256 == make_prompt("Q: {question}\nA:").sha256
    assert make_prompt("none").sha256 != make_prompt("six").sha256


def test_the_real_package_has_the_preset() -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra [benchmarks])")
    assert make_prompt("truthfulqa").context("Why?").endswith("Q: Why?\nA:")
