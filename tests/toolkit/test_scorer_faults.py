import numpy as np
import pytest
import torch
from scorer_fakes import WINDOW, WORDS, model, naive_table, out_of_memory_above, texts
from tunewell.toolkit.errors import DataError, DeviceError, ModelError, SettingsError
from tunewell.toolkit.model.memory_faults import is_out_of_memory
from tunewell.toolkit.scorer.continuation import ContinuationScorer

CONTINUATIONS = texts(6, 1, 8, seed=2)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scorer():
    return ContinuationScorer(model())


# ---- what is asked -------------------------------------------------------------------------------------------------


def test_an_empty_prefix_needs_a_preamble(scorer):
    with pytest.raises(DataError, match=r"prefix 1 has no tokens and there is no preamble.*start_ids"):
        scorer.score([[5], []], [[6]])
    assert np.isfinite(ContinuationScorer(model(), preamble=[1]).score([[]], [[6]])[0].total).all()


def test_no_prefixes_give_no_scores(scorer):
    assert scorer.score([], [[5]]) == scorer.score([], []) == []


@pytest.mark.parametrize(
    ("continuations", "message"),
    [
        ([], "got no continuations, wanted at least one"),
        ([[5], []], "continuation 1 has no tokens, wanted at least one: leave it out"),
        ([[], []], "continuation 0 has no tokens"),
        ([[[5]], []], "got no continuations of prefix 1"),
        ([[[5]], [[6], []]], "continuation 1 of prefix 1 has no tokens"),
        ([[[5]]], "got 1 lists of continuations for 2 prefixes"),
        ([[5, WORDS]], f"continuation 0 holds the token id {WORDS}, wanted 0 to {WORDS - 1}"),
        ([[5], [-1]], "continuation 1 holds the token id -1"),
        ([[5.5]], "wanted a list of token ids"),
        (["text"], "continuation 0 starts with 't', wanted a list of token ids: encode the text first"),
    ],
)
def test_unusable_continuations_are_named(scorer, continuations, message):
    with pytest.raises(DataError, match=message):
        scorer.score([[5], [6]], continuations)


@pytest.mark.parametrize("tokens", [[WORDS], [-1], [0.5], "text", [[5]]])
def test_an_unusable_prefix_is_named(scorer, tokens):
    with pytest.raises(DataError, match=r"prefix 1 .*wanted"):
        scorer.score([[5], tokens], [[6]])
    with pytest.raises(DataError, match=r"the preamble .*wanted"):
        ContinuationScorer(model(), preamble=tokens)


def test_a_continuation_that_leaves_no_room_for_a_prefix_is_named():
    scorer = ContinuationScorer(model(), preamble=[1, 2], max_length=20)
    assert scorer.score([[5] * 30], [[6], [7] * 17])[0].n_windows == 30  # one token of the prefix at a time
    with pytest.raises(DataError, match=r"continuation 1 of prefix 0 has 18 tokens, wanted at most 17.*Shorten it"):
        scorer.score([[5]], [[6], [7] * 18])


def test_all_positions_of_an_absolute_model_can_be_used_and_no_more():
    scorer = ContinuationScorer(model("gpt2"))
    assert scorer.score([texts(1, WINDOW - 3, WINDOW - 3)[0]], [[5, 6, 7]])[0].n_windows == 1
    assert scorer.score([texts(1, 5 * WINDOW, 5 * WINDOW)[0], [5]], [[5] * (WINDOW - 1)])[0].n_windows > 5


def test_numpy_rows_are_token_ids_too(scorer):
    rows = [np.array([5, 6]), np.array([7], dtype=np.int32)]
    assert (scorer.score(rows, rows)[0].total == scorer.score([[5, 6], [7]], [[5, 6], [7]])[0].total).all()


def test_all_faults_of_the_settings_come_at_once():
    with pytest.raises(SettingsError) as caught:
        ContinuationScorer(model(), max_length=WINDOW + 1, stride=0, tokens_per_batch=0, method="fast")
    message = str(caught.value)
    assert message.startswith("4 faults in the continuation scorer")
    for part in (
        f"max_length: got {WINDOW + 1}, wanted at least 8 and at most the model's {WINDOW} positions",
        "stride: got 0",
        "tokens_per_batch: got 0",
        "method: got 'fast', wanted one of auto, packed, cache",
    ):
        assert part in message


def test_a_model_without_a_longest_sequence_needs_one_from_the_caller():
    with pytest.raises(SettingsError, match="max_length: got none and the model names no limit"):
        ContinuationScorer(model("bloom"))


# ---- what the model does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_the_prefix(value):
    made = model()
    scorer = ContinuationScorer(made)
    poisoned = 13
    with torch.no_grad():
        made.get_input_embeddings().weight[poisoned] = value
    clean = [[5], [6, 7]]
    assert np.isfinite(scorer.score(clean, [[8]])[0].total).all()
    with pytest.raises(ModelError, match=r"NaN or infinite log-likelihoods after prefix 2 .*bfloat16 or float32"):
        scorer.score([*clean, [9, poisoned]], [[8]])


def test_a_model_that_gives_nan_everywhere_is_refused_at_once():
    made = model()
    with torch.no_grad():
        made.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="gives NaN or infinite logits on a plain forward pass"):
        ContinuationScorer(made)


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory(monkeypatch, scorer):
    def broken(**given):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(scorer._model.base_model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        scorer.score([[5]], [[6]])


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["packed", "cache"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_the_budget_halves_when_memory_runs_out_and_the_work_goes_on(method, error):
    made = model()
    prefixes = texts(12, 5, 20, seed=5)
    scorer = ContinuationScorer(made, method=method)
    with out_of_memory_above(made, 60, error) as sizes:
        results = scorer.score(prefixes, CONTINUATIONS)
    failed = [size for size in sizes if size > 60]
    assert failed and scorer.tokens_per_batch <= 60 * 2
    assert np.abs(np.stack([r.total for r in results]) - naive_table(made, prefixes, CONTINUATIONS)).max() < 1e-4
    with out_of_memory_above(made, 60, error) as sizes:  # what was learned is kept
        scorer.score(prefixes, CONTINUATIONS)
    assert len([size for size in sizes if size > 60]) <= 1


@pytest.mark.parametrize("method", ["packed", "cache"])
def test_even_one_continuation_at_a_time_gives_the_same_scores(method):
    made = model()
    prefixes = texts(3, 15, 20, seed=5)
    scorer = ContinuationScorer(made, method=method)
    with out_of_memory_above(made, 28, torch.OutOfMemoryError):
        results = scorer.score(prefixes, CONTINUATIONS)
    assert np.abs(np.stack([r.total for r in results]) - naive_table(made, prefixes, CONTINUATIONS)).max() < 1e-4


@pytest.mark.parametrize("method", ["packed", "cache"])
def test_a_prefix_that_fits_no_memory_ends_with_a_clear_error(method):
    made = model()
    scorer = ContinuationScorer(made, method=method)
    with (
        out_of_memory_above(made, 10),
        pytest.raises(DeviceError, match=r"no memory for prefix 1 \(20 tokens at once\), even by itself"),
    ):
        scorer.score([[5], [6] * 20], CONTINUATIONS)


def test_errors_of_memory_are_told_from_others():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
