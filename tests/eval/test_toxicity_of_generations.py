import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tunewell.eval import toxicity
from tunewell.eval.compare import compare
from tunewell.eval.statistics import wilson
from tunewell.eval.task import TaskResult
from tunewell.eval.toxicity import CONDITIONS, toxicity_of_generations
from tunewell.eval.toxicity_k import at_k
from tunewell.eval.toxicity_prompts import PromptSet, choose_prompts, read_prompts
from tunewell.eval.toxicity_task import ToxicityTask
from tunewell.toolkit.errors import DataError, ModelError, SettingsError
from tunewell.toolkit.model.generation import Completion, Sampling
from tunewell.toolkit.tiny import TinySettings, new_model, train_tokenizer
from tunewell.toolkit.toxicity.scorer import WordlistToxicity

DATA = Path(__file__).parents[2] / "../shared/data/real-toxicity-prompts/challenging_rtp.jsonl"
PROMPTS = ["The rat said", "A fine day", "Once upon"]


class Numbers:
    """Scores a text by the number written in it; `x` cannot be scored."""

    id = "numbers"

    def __init__(self) -> None:
        self.asked = list[str]()

    def score(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.array([math.nan if "x" in text else float(text) for text in texts])


class FakeModel:
    """Writes given texts, one after the other, and remembers what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.prompts, self.seeds = texts, list[list[int]](), list[int]()

    def write(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Completion]:
        self.prompts, self.seeds = [list(prompt) for prompt in prompts], list(seeds)
        texts = itertools.islice(itertools.cycle(self.texts), len(prompts))
        return [Completion([1] * len(text.split()), text, True) for text in texts]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(1)
    if "tiny" in request.fixturenames:
        return
    monkeypatch.setattr(
        toxicity, "generate", lambda model, _, prompts, *args, seeds, **rest: model.write(prompts, seeds)
    )
    monkeypatch.setattr(toxicity, "with_start", lambda _, ids: [0, *ids])
    monkeypatch.setattr(toxicity, "encode_plain", lambda _, text: [*map(ord, text)])


def run(model: FakeModel, prompts: Any = PROMPTS, scorer: Any = None, **options: Any) -> TaskResult:
    return toxicity_of_generations(model, None, prompts, scorer or Numbers(), **options)  # type: ignore[arg-type]


def values(result: TaskResult) -> dict[str, float | None]:
    return {name: score.value for name, score in result.scores.items()}


def test_the_figures_by_hand() -> None:
    result = run(FakeModel("0.1", "0.5", "0.3", "0.2", "0.9", "0.7"), samples_per_prompt=2)
    found = values(result)
    assert found["expected_maximum_toxicity"] == pytest.approx((0.5 + 0.3 + 0.9) / 3)
    assert found["toxicity_probability"] == pytest.approx(2 / 3)  # exactly one half is toxic
    assert found["toxic_fraction"] == pytest.approx(3 / 6)
    assert found["mean_toxicity"] == pytest.approx(2.7 / 6)
    assert (found["empty_rate"], found["mean_words"]) == (0.0, 1.0)
    assert (result.scores["expected_maximum_toxicity"].n, result.scores["mean_toxicity"].n) == (3, 6)
    assert not result.scores["mean_toxicity"].higher_is_better


def test_the_probability_of_any_has_wilsons_interval_over_prompts() -> None:
    score = run(FakeModel("0.9", "0.1", "0.1", "0.1", "0.1", "0.1"), samples_per_prompt=2).scores[
        "toxicity_probability"
    ]
    assert (score.low, score.high) == wilson(1, 3)


def test_the_interval_is_wider_where_the_samples_of_a_prompt_agree() -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    agreeing = [text for number in range(40) for text in ["0.9" if number % 2 else "0.1"] * 4]
    # Not all prompts alike: an interval of prompts that agree to the last digit is another matter.
    mixed = [text for number in range(40) for text in ["0.9", "0.1", "0.9", "0.1" if number % 2 else "0.11"]]
    together = run(FakeModel(*agreeing), prompts).scores["mean_toxicity"]
    apart = run(FakeModel(*mixed), prompts).scores["mean_toxicity"]
    assert together.value == pytest.approx(apart.value, abs=0.002)
    assert together.se > 0.05 and apart.se < 0.001


def test_no_toxic_sample_at_all_is_not_certainty() -> None:
    score = run(FakeModel("0.0"), samples_per_prompt=4).scores["mean_toxicity"]
    assert (score.low, score.high) == wilson(0, 3)  # three prompts, not twelve samples


def test_an_empty_continuation_is_counted_as_such_and_not_scored() -> None:
    scorer = Numbers()
    result = run(FakeModel("0.4", " \n", "0.2", "0.6"), ["a", "b"], scorer, samples_per_prompt=2)
    assert scorer.asked == ["0.4", "0.2", "0.6"]
    found = values(result)
    assert found["empty_rate"] == 0.25
    assert found["expected_maximum_toxicity"] == pytest.approx((0.4 + 0.6) / 2)
    assert found["mean_toxicity"] == pytest.approx(1.2 / 3)  # a zero for the empty one would give 0.3
    assert result.details["continuations"] == {"n": 4, "scored": 3, "empty": 1, "failed": 0}
    assert result.items[0]["samples"][1]["is_empty"] and result.items[0]["samples"][1]["toxicity"] is None


def test_a_prompt_with_nothing_but_empty_continuations_is_unscored() -> None:
    result = run(FakeModel("", "", "0.4", "0.5"), ["a", "b"], samples_per_prompt=2)
    score = result.scores["expected_maximum_toxicity"]
    assert (score.value, score.n, score.unscored) == (0.5, 1, 1)
    assert result.items[0]["values"]["expected_maximum_toxicity"] is None


def test_a_model_that_writes_nothing_has_no_toxicity_rather_than_none_at_all() -> None:
    found = values(run(FakeModel("")))
    assert found["empty_rate"] == 1.0
    assert found["expected_maximum_toxicity"] is None and found["mean_toxicity"] is None


def test_a_scorer_that_fails_stops_the_run_unless_forced() -> None:
    model = FakeModel("0.4", "x", "0.2")
    with pytest.raises(ModelError, match=r"4 of 12 continuations \(scorer numbers\) got no score"):
        run(model)
    result = run(model, force=True)
    assert result.details["continuations"] == {"n": 12, "scored": 8, "empty": 0, "failed": 4}
    assert result.scores["mean_toxicity"].unscored == 4
    assert values(result)["mean_toxicity"] == pytest.approx(0.3)


def test_scores_outside_zero_to_one_are_refused() -> None:
    with pytest.raises(ModelError, match="numbers: got scores of shape"):
        run(FakeModel("1.5"))


def test_only_the_continuation_is_scored() -> None:
    found = values(run(FakeModel("said hello"), scorer=WordlistToxicity(["rat"])))  # the first prompt holds a rat
    assert found["mean_toxicity"] == 0.0
    assert values(run(FakeModel("a rat"), scorer=WordlistToxicity(["rat"])))["mean_toxicity"] == 1.0  # control


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_the_condition_stands_before_every_prompt_and_in_the_record(condition: str) -> None:
    model = FakeModel("0.1")
    result = run(model, ["Hello"], samples_per_prompt=1, prefix_condition=condition)
    assert model.prompts == [[0, *map(ord, CONDITIONS[condition] + "Hello")]]
    assert (result.details["condition"], result.details["condition_text"]) == (condition, CONDITIONS[condition])


def task(folder: Path, **options: Any) -> ToxicityTask:
    (folder / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    return ToxicityTask(prompts=folder / "prompts.jsonl", scorer="tfidf:scorer", resamples=200, **options)


def opens(monkeypatch: pytest.MonkeyPatch, folder: Path, scorer: Any) -> None:
    monkeypatch.setattr("tunewell.toolkit.toxicity.scorer.open_scorer", lambda _: scorer)
    monkeypatch.setattr(toxicity, "generate_kept", None)
    monkeypatch.setenv("TUNEWELL_CACHE", str(folder / "cache"))


def test_three_instructions_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Obedient(FakeModel):
        """Writes 0.2 and 0.4 unasked, 0.1 and nothing when asked to be kind, 0.6 and 0.9 when asked to be spiteful."""

        def write(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Completion]:
            text = "".join(map(chr, prompts[0][1:]))
            asked = next(name for name in ("respectful", "biased", "none") if text.startswith(CONDITIONS[name]))
            self.texts = {"none": ("0.2", "0.4"), "respectful": ("0.1", ""), "biased": ("0.6", "0.9")}[asked]
            return super().write(prompts, seeds)

    opens(monkeypatch, tmp_path, Numbers())
    result = task(tmp_path, samples_per_prompt=2).prepare()(Obedient(), None)
    found = values(result)
    names = ("", ".respectful", ".biased")
    assert [found[f"expected_maximum_toxicity{name}"] for name in names] == [0.4, 0.1, 0.9]
    assert [found[f"toxicity_probability{name}"] for name in names] == [0, 0, 1]
    assert [found[f"mean_toxicity{name}"] for name in names] == pytest.approx([0.3, 0.1, 0.75])
    assert [found[f"empty_rate{name}"] for name in names] == [0, 0.5, 0]
    assert result.details["conditions"] == CONDITIONS
    one = at_k(result, 1, resamples=200)
    assert [one.scores[f"expected_maximum_toxicity{name}"].value for name in names] == pytest.approx([0.3, 0.1, 0.75])
    # One of two samples was empty: a maximum of two cannot be had, and is missing rather than that of one.
    assert at_k(result, 2, resamples=200).scores["expected_maximum_toxicity.respectful"].value is None


def test_scores_are_kept_by_text_and_by_what_the_scorer_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_of(scorer: Numbers) -> list[str]:
        opens(monkeypatch, tmp_path, scorer)
        task(tmp_path, samples_per_prompt=2, conditions=("none",)).prepare()(FakeModel("0.2", "0.4", "0.2"), None)
        return scorer.asked

    retrained = Numbers()
    retrained.id = "other weights"
    assert asked_of(Numbers()) == ["0.2", "0.4"]  # each text once
    assert asked_of(Numbers()) == []
    assert asked_of(retrained) == ["0.2", "0.4"]  # same description, other weights: nothing old is believed


def test_every_sample_has_a_stream_of_its_own_that_others_do_not_move() -> None:
    model = FakeModel("0.1")
    run(model, ["a", "b", "a"], samples_per_prompt=3)
    first = model.seeds
    assert len(set(first)) == 9  # equal prompts too
    run(model, ["b"], samples_per_prompt=2)
    assert model.seeds == first[3:5]
    run(model, ["b"], samples_per_prompt=2, seed=1)
    assert not set(model.seeds) & set(first)


def test_settings_that_mean_nothing_are_refused_together() -> None:
    with pytest.raises(SettingsError) as caught:
        run(FakeModel("0.1"), sampling=Sampling(temperature=0), prefix_condition="rude")
    assert "got 4 at temperature 0, where all samples are alike: wanted 1" in str(caught.value)
    assert "got 'rude', wanted one of none, respectful, biased" in str(caught.value)
    with pytest.raises(SettingsError, match="samples_per_prompt: got 0"):
        run(FakeModel("0.1"), samples_per_prompt=0)
    with pytest.raises(DataError, match="got no prompts"):
        run(FakeModel("0.1"), [])


def test_two_models_are_compared_prompt_by_prompt_and_different_k_is_refused() -> None:
    before = run(FakeModel("0.9", "0.8"), samples_per_prompt=2)
    after = run(FakeModel("0.1", "0.2"), samples_per_prompt=2)
    rows = {row.metric: row for row in compare(before, after)}
    assert rows["expected_maximum_toxicity"].delta == pytest.approx(-0.7)
    assert rows["toxicity_probability"].lost == tuple(item["id"] for item in before.items)
    with pytest.raises(DataError, match=r"decoding\.k: 2 and 3"):
        compare(before, run(FakeModel("0.1"), samples_per_prompt=3))


def test_prompts_with_scores_are_reported_apart() -> None:
    prompts = PromptSet(texts=("a", "b", "c"), toxicity=(0.5, 0.1, None), path="p", sha256="s", n_read=3)
    result = run(FakeModel("0.9", "0.1", "0.2"), prompts, samples_per_prompt=1)
    table = result.details["by"]["prompt_toxicity"]
    assert {kind: row["mean_toxicity"]["value"] for kind, row in table.items()} == {"toxic": 0.9, "innocent": 0.1}
    assert result.details["dataset"] == {"path": "p", "sha256": "s", "n": 3, "n_used": 3}


# With a real model.


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    torch.set_num_threads(1)
    settings = TinySettings(vocabulary=300, hidden_size=64, layers=2, heads=4, context=256)
    tokenizer = train_tokenizer(PROMPTS, settings)
    return new_model(tokenizer, settings, seed=0).eval(), tokenizer


def test_the_batch_size_changes_nothing(tiny: tuple[Any, Any]) -> None:
    options: dict[str, Any] = {"samples_per_prompt": 3, "sampling": Sampling(max_new_tokens=8), "seed": 5}
    scorer = WordlistToxicity(["a", "b", "c"])
    one, eight = (toxicity_of_generations(*tiny, PROMPTS, scorer, batch_size=size, **options) for size in (1, 8))
    assert one.items == eight.items
    assert one.scores == eight.scores
    texts = [sample["text"] for item in one.items for sample in item["samples"]]
    assert len(set(texts)) == 9  # control: the samples differ
    other = toxicity_of_generations(*tiny, PROMPTS, scorer, **options | {"seed": 6})
    assert other.items != one.items


# Reading prompts.


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_three_shapes_of_prompts_are_read(tmp_path: Path) -> None:
    published = {"filename": "f", "prompt": {"text": "One", "toxicity": 0.7}, "continuation": {"text": "x"}}
    prompts = read_prompts(
        write(tmp_path / "p.jsonl", published, {"text": "Two", "score": None}, "", {"prompt": "Three"})
    )
    assert prompts.texts == ("One", "Two", "Three")
    assert prompts.toxicity == (0.7, None, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is list, wanted an object"),
        ('{"score": 1}', "line 2: got None, wanted the text of a prompt"),
        ('{"text": "  "}', "line 2: got '  '"),
        ('{"text": "a", "score": "high"}', "line 2: got 'high' as the prompt's toxicity"),
    ],
)
def test_faulty_prompts_are_named_by_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_prompts(write(tmp_path / "p.jsonl", {"text": "a"}, line))


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no prompt"):
        read_prompts(write(tmp_path / "p.jsonl"))


def test_half_of_the_prompts_drawn_are_toxic() -> None:
    scores = [None, *[0.9] * 20, *[0.1] * 20]
    prompts = PromptSet(texts=tuple(map(str, range(41))), toxicity=tuple(scores), path="p", sha256="s", n_read=41)
    drawn = choose_prompts(prompts, 10)
    assert sum(score >= 0.5 for score in drawn.toxicity) == 5 and len(drawn.texts) == 10
    assert drawn == choose_prompts(prompts, 10) != choose_prompts(prompts, 10, seed=1)
    assert len(choose_prompts(prompts, 40).texts) == 40
    # RealToxicityPrompts has a hundred thousand rows: time that grows with their square takes minutes.
    many = replace(prompts, texts=prompts.texts * 1000, toxicity=prompts.toxicity * 1000)
    start = time.process_time()
    assert len(choose_prompts(many, 100).texts) == 100 and time.process_time() - start < 3
    assert sum(score >= 0.5 for score in choose_prompts(prompts, 30).toxicity) == 15
    with pytest.raises(DataError, match="has 40 prompts to draw, wanted 41"):
        choose_prompts(prompts, 41)


def test_the_published_hard_prompts_are_read() -> None:
    if not DATA.exists():
        pytest.skip(f"{DATA} is not here")
    prompts = read_prompts(DATA)
    assert len(prompts.texts) == 1196
    assert np.mean([score for score in prompts.toxicity if score is not None]) == pytest.approx(0.76, abs=0.01)
