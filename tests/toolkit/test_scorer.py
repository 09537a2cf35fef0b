import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from scorer_fakes import WINDOW, WORDS, model, naive, naive_table, out_of_memory_above, texts
from transformers import AutoModelForCausalLM, BertConfig, BertModel, BitsAndBytesConfig
from tunewell.toolkit.errors import ModelError
from tunewell.toolkit.scorer import continuation as scorer_module
from tunewell.toolkit.scorer import line as scorer_line
from tunewell.toolkit.scorer import parts as scorer_parts
from tunewell.toolkit.scorer.check import unfit_for_packing
from tunewell.toolkit.scorer.continuation import ContinuationScorer
from tunewell.toolkit.scorer.packing import n_alike
from tunewell.toolkit.scorer.parts import take_apart

# peft 0.21 asks transformers 5.23 for a property that was renamed; the old name goes away with transformers 6
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

FIVE = ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox"]
EXACT = 1e-4

# Different lengths, one of a single token, and beginnings that several continuations have in common.
PREFIXES = [[5], *texts(6, 2, 30, seed=1)]
CONTINUATIONS = [[7], *texts(5, 2, 9, seed=2), [11, 12, 13], [11, 12, 14, 15], [11, 12], [11, 12, 13]]
PREAMBLE = [1, 40, 41, 42]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def totals(results):
    return np.stack([result.total for result in results])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FIVE)
def test_packed_cached_and_naive_scores_agree(name, attention):
    made = model(name, attention)
    expected = naive_table(made, PREFIXES, CONTINUATIONS)
    for method in ("packed", "cache"):
        for budget in (1, 50, 8192):
            scorer = ContinuationScorer(made, method=method, tokens_per_batch=budget)
            assert np.abs(totals(scorer.score(PREFIXES, CONTINUATIONS)) - expected).max() < EXACT


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("preamble", [[1], PREAMBLE])
def test_a_preamble_is_part_of_every_prefix(name, preamble):
    made = model(name)
    prefixes = [[], *PREFIXES]  # with a preamble even an empty prefix has something before it
    expected = naive_table(made, prefixes, CONTINUATIONS, preamble)
    for method in ("packed", "cache"):
        got = totals(ContinuationScorer(made, preamble=preamble, method=method).score(prefixes, CONTINUATIONS))
        assert np.abs(got - expected).max() < EXACT
    # A control: without it the scores are others.
    assert np.abs(totals(ContinuationScorer(made).score(PREFIXES, CONTINUATIONS)) - expected[1:]).max() > 0.1


@pytest.mark.parametrize("name", FIVE)
def test_every_prefix_may_have_continuations_of_its_own(name):
    made = model(name)
    sets = [CONTINUATIONS[: 1 + i] for i in range(len(PREFIXES))]
    for method in ("packed", "cache"):
        for budget in (1, 8192):
            results = ContinuationScorer(made, method=method, tokens_per_batch=budget).score(PREFIXES, sets)
            for prefix, own, result in zip(PREFIXES, sets, results, strict=True):
                assert np.abs(result.total - [naive(made, prefix, one) for one in own]).max() < EXACT


def test_packed_rows_are_taken_where_the_model_allows_them():
    for name in FIVE:
        scorer = ContinuationScorer(model(name))
        assert (scorer.method, scorer.method_reason) == ("packed", "packed scores are those of plain forward passes")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma2", "reaches back only 8 tokens"),
        ("mistral", "reaches back only 8 tokens"),
        ("bloom", "scores differ by"),
    ],
)
def test_models_whose_attention_is_not_ours_to_replace_fall_back_to_the_cache(name, reason):
    made = model(name)
    scorer = ContinuationScorer(made, max_length=WINDOW)
    assert scorer.method == "cache" and reason in scorer.method_reason
    expected = naive_table(made, PREFIXES, CONTINUATIONS)
    assert np.abs(totals(scorer.score(PREFIXES, CONTINUATIONS)) - expected).max() < EXACT


def test_attention_that_reaches_back_as_far_as_any_sequence_allows_packing():
    made = model("mistral")
    made.config.sliding_window = WINDOW
    scorer = ContinuationScorer(made)
    assert scorer.method == "packed"
    # Far more tokens in a row than the attention of one sequence reaches back.
    prefixes, continuations = texts(2, 50, 50), texts(60, 8, 8, seed=9)
    got = totals(scorer.score(prefixes, continuations))
    assert np.abs(got - naive_table(made, prefixes, continuations)).max() < EXACT


def test_attention_that_does_more_than_ours_is_left_to_the_model():
    made = model("gemma2", "eager")
    made.config.sliding_window = WINDOW
    scorer = ContinuationScorer(made)
    assert scorer.method == "cache" and "attention with softcap" in scorer.method_reason


@pytest.mark.parametrize("name", ["granite", "cohere"])
def test_logits_are_scaled_as_the_model_scales_them(name):
    made = model(name)
    got = totals(ContinuationScorer(made).score(PREFIXES, CONTINUATIONS))
    assert np.abs(got - naive_table(made, PREFIXES, CONTINUATIONS)).max() < EXACT


def without_positions(made, monkeypatch):
    forward = made.base_model.forward
    monkeypatch.setattr(made.base_model, "forward", lambda **given: forward(**(given | {"position_ids": None})))


def with_attention_of_its_own(made, monkeypatch):
    monkeypatch.setattr(scorer_line, "_attention_in_line", lambda config: contextlib.nullcontext())


@pytest.mark.parametrize("spoil", [without_positions, with_attention_of_its_own])
def test_a_model_that_ignores_positions_or_our_attention_is_found_out(spoil, monkeypatch):
    made = model()
    spoil(made, monkeypatch)
    scorer = ContinuationScorer(made)
    assert scorer.method == "cache" and "scores differ by" in scorer.method_reason
    with pytest.raises(ModelError, match=r"packed: scores differ by .* or method='auto'"):
        ContinuationScorer(made, method="packed")


def test_a_model_that_keeps_our_line_from_its_attention_falls_back_to_the_cache(monkeypatch):
    made = model()
    forward = made.base_model.forward

    def strict(tunewell_line=None, **given):
        return forward(**given)

    monkeypatch.setattr(made.base_model, "forward", strict)
    scorer = ContinuationScorer(made)
    assert scorer.method == "cache" and "the model raised TypeError" in scorer.method_reason


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_keeps_its_own_attention(attention):
    made = model(attention=attention)
    scorer = ContinuationScorer(made, preamble=PREAMBLE)
    with out_of_memory_above(made, 20):
        scorer.score([[5] * 9, [6] * 9], CONTINUATIONS[:2])
    assert scorer.tokens_per_batch < 8192 and made.config._attn_implementation == attention  # after an error too


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("attention_chunk_size", 4096, "attention is local in some layers"),
        ("window_size", 256, "attention is local in some layers"),
    ],
)
def test_what_a_short_trial_would_not_show_is_read_from_the_configuration(name, value, reason):
    parts = take_apart(model())
    assert unfit_for_packing(parts.config, 64) == ""
    setattr(parts.config, name, value)
    assert reason in unfit_for_packing(parts.config, 64)


def test_a_head_that_does_more_than_we_know_is_refused(monkeypatch):
    made = model()
    forward = made.forward

    def twice(*args, **given):
        out = forward(*args, **given)
        out.logits = out.logits * 2
        return out

    monkeypatch.setattr(made, "forward", twice)
    with pytest.raises(ModelError, match="cannot score continuations under LlamaForCausalLM"):
        ContinuationScorer(made)


def test_a_model_without_a_language_model_head_is_refused():
    encoder = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ModelError, match=r"got a BertModel, wanted a causal language model"):
        ContinuationScorer(encoder)


# ---- adapters and 4-bit --------------------------------------------------------------------------------------------


def with_adapter(made):
    torch.manual_seed(3)
    targets = ["q_proj", "v_proj", "down_proj", "lm_head"]
    return get_peft_model(made, LoraConfig(target_modules=targets, r=4, init_lora_weights=False)).eval()


@pytest.mark.parametrize("method", ["packed", "cache"])
def test_the_active_adapter_scores(method):
    made = with_adapter(model())
    scorer = ContinuationScorer(made, method=method, preamble=PREAMBLE)
    on = totals(scorer.score(PREFIXES, CONTINUATIONS))
    assert np.abs(on - naive_table(made, PREFIXES, CONTINUATIONS, PREAMBLE)).max() < EXACT
    with made.disable_adapter():
        off = totals(scorer.score(PREFIXES, CONTINUATIONS))
        assert np.abs(off - naive_table(made, PREFIXES, CONTINUATIONS, PREAMBLE)).max() < EXACT
    assert np.abs(on - off).max() > 0.1  # the control: the adapter does change the scores


def test_an_adapter_added_after_construction_scores_too():
    bare = model()
    scorer = ContinuationScorer(bare)
    made = with_adapter(bare)
    got = totals(scorer.score(PREFIXES, CONTINUATIONS))
    assert np.abs(got - naive_table(made, PREFIXES, CONTINUATIONS)).max() < EXACT


def test_an_adapter_of_virtual_tokens_is_refused():
    made = get_peft_model(model(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="adds virtual tokens"):
        ContinuationScorer(made)


@pytest.fixture(scope="module")
def four_bit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model("llama").save_pretrained(folder)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=nf4, dtype=torch.float32).eval()


@pytest.mark.parametrize("method", ["packed", "cache"])
@pytest.mark.parametrize("budget", [60, 8192])
def test_a_4_bit_base_scores_like_its_own_plain_passes(four_bit, method, budget):
    got = totals(ContinuationScorer(four_bit, method=method, tokens_per_batch=budget).score(PREFIXES, CONTINUATIONS))
    assert np.abs(got - naive_table(four_bit, PREFIXES, CONTINUATIONS)).max() < EXACT
    exact = totals(ContinuationScorer(model()).score(PREFIXES, CONTINUATIONS))
    assert np.abs(got - exact).max() > 0.01  # the control: it really is another, coarser model


def test_a_4_bit_base_scores_under_its_adapter(four_bit):
    made = with_adapter(four_bit)
    got = totals(ContinuationScorer(made).score(PREFIXES, CONTINUATIONS))
    assert np.abs(got - naive_table(made, PREFIXES, CONTINUATIONS)).max() < EXACT


def test_half_precision_scores_are_near_the_exact_ones():
    exact = totals(ContinuationScorer(model()).score(PREFIXES, CONTINUATIONS))
    half = ContinuationScorer(model().to(torch.bfloat16))
    assert half.method == "packed"
    got = totals(half.score(PREFIXES, CONTINUATIONS))
    assert got.dtype == np.float64 and np.abs(got - exact).max() < 2.0


# ---- windows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["packed", "cache"])
@pytest.mark.parametrize("stride", [None, 7])
def test_the_best_window_of_a_long_prefix_counts(name, method, stride):
    made = model(name)
    prefix, continuations, preamble = texts(1, 150, 150, seed=4)[0], CONTINUATIONS, [1, 40]
    size = WINDOW - len(preamble) - max(map(len, continuations))  # what is left for the prefix
    starts = [*range(0, 150 - size, stride or size // 2), 150 - size]
    windows = [preamble + prefix[start : start + size] for start in starts]
    table = np.array(naive_table(made, windows, continuations))
    scorer = ContinuationScorer(made, preamble=preamble, stride=stride, method=method)
    result, short = scorer.score([prefix, prefix[:size]], continuations)
    assert np.abs(result.total - table.max(axis=0)).max() < EXACT
    assert result.window_start.tolist() == [starts[i] for i in table.argmax(axis=0)]
    assert result.n_windows == len(starts) > 2 and len(set(result.window_start.tolist())) > 1
    assert np.abs(short.total - table[0]).max() < EXACT
    assert short.n_windows == 1 and not short.window_start.any()


def test_max_length_narrows_the_window():
    made = model()
    prefix, continuation = texts(1, 20, 20)[0], [5, 6, 7]
    result = ContinuationScorer(made, max_length=13).score([prefix], [continuation])[0]
    windows = [prefix[start : start + 10] for start in (0, 5, 10)]
    expected = [naive(made, window, continuation) for window in windows]
    assert result.n_windows == 3
    assert result.total[0] == pytest.approx(max(expected), abs=EXACT)
    assert result.window_start[0] == [0, 5, 10][int(np.argmax(expected))]


def test_each_prefix_has_the_window_that_its_own_continuations_leave():
    prefix = texts(1, 55, 55)[0]
    results = ContinuationScorer(model("gpt2")).score([prefix, prefix], [[[5] * 9], [[5] * 10]])
    assert [result.n_windows for result in results] == [1, 2]


# ---- what results are made of --------------------------------------------------------------------------------------


def test_mean_is_total_by_tokens():
    result = ContinuationScorer(model()).score([[5, 6]], CONTINUATIONS)[0]
    assert result.n_tokens.tolist() == [len(own) for own in CONTINUATIONS]
    assert result.total.dtype == result.mean.dtype == np.float64
    assert np.allclose(result.mean, result.total / result.n_tokens)


def test_scores_do_not_depend_on_the_company():
    scorer = ContinuationScorer(model())
    together = totals(scorer.score(PREFIXES, CONTINUATIONS))
    alone = np.array([[scorer.score([p], [c])[0].total[0] for c in CONTINUATIONS] for p in PREFIXES])
    assert np.abs(together - alone).max() < EXACT


def test_the_same_call_gives_the_same_numbers():
    first, second = (totals(ContinuationScorer(model()).score(PREFIXES, CONTINUATIONS)) for _ in range(2))
    assert (first == second).all()


def test_many_continuations_are_spread_over_several_rows(monkeypatch):
    monkeypatch.setattr(scorer_module, "PACK_TOKENS", 20)
    made, continuations = model("gpt2"), texts(40, 1, 6, seed=8)
    got = totals(ContinuationScorer(made, preamble=[1]).score(PREFIXES[:3], continuations))
    assert np.abs(got - naive_table(made, PREFIXES[:3], continuations, [1])).max() < EXACT


def test_a_pass_holds_every_token_once_and_no_padding():
    made = model()
    scorer = ContinuationScorer(made, preamble=PREAMBLE)
    fed = []
    made.model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    scorer.score([[5, 6], [7, 8, 9]], [[[11, 12, 13], [11, 14]], [[15, 16]]])
    # The preamble but for its last token; then each prefix with its continuations. The second begins as the first does.
    assert fed == [[1, 40, 41], [42, 5, 6, 11, 12, 7, 8, 9, 15]]


RELATED = [[5, 6, 7, 8], [5, 6, 7], [5, 6, 7, 8, *texts(1, 30, 30)[0]], [9], [5, 6, 7, 8], [5, 6, 9, 8, 7, 9]]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("preamble", [(), [1], PREAMBLE])
@pytest.mark.parametrize("together", [0, 96])
def test_prefixes_that_begin_alike_are_read_once(name, preamble, together, monkeypatch):
    monkeypatch.setattr(scorer_line, "TOGETHER", together)
    made, fed = model(name), []
    scorer = ContinuationScorer(made, preamble=preamble)
    sets = [[*CONTINUATIONS[i:], [8, 9, 9]] for i in range(len(RELATED))]
    hook = made.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    got = scorer.score(RELATED, sets)
    hook.remove()
    # no continuation says "5, 6": it stands where the first of those prefixes does, and nowhere else
    assert sum(line[i : i + 2] == [5, 6] for line in fed for i in range(len(line))) == 1
    for prefix, own, result in zip(RELATED, sets, got, strict=True):
        assert np.abs(result.total - naive_table(made, [prefix], own, preamble)[0]).max() < EXACT


def test_too_little_in_common_is_read_again():
    known, prefix = np.array([5, 6, 7]), np.arange(5, 105)
    assert n_alike(known, prefix) == 0 and n_alike(known, prefix[:96]) == 3
    assert n_alike(prefix[:9], prefix[:9]) == 8  # the last token predicts


def test_one_prefix_with_more_continuations_than_the_budget_takes_several_passes():
    made, continuations = model(), texts(30, 5, 5, seed=8)
    sizes = []
    scorer = ContinuationScorer(made, tokens_per_batch=60)
    made.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    got = totals(scorer.score(PREFIXES[1:2], continuations))
    assert len(sizes) > 2 and max(sizes) <= 60
    assert np.abs(got - naive_table(made, PREFIXES[1:2], continuations)).max() < EXACT


def test_logits_are_made_a_slice_at_a_time(monkeypatch):
    made = model()
    rows = []
    made.lm_head.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    scorer = ContinuationScorer(made)
    whole = totals(scorer.score(PREFIXES, CONTINUATIONS))
    monkeypatch.setattr(scorer_parts, "LOGITS_AT_ONCE", 3 * WORDS)
    rows.clear()
    assert np.abs(totals(scorer.score(PREFIXES, CONTINUATIONS)) - whole).max() < EXACT
    assert max(rows) == 3


def test_the_head_runs_only_where_something_is_predicted():
    made = model()
    rows = []
    scorer = ContinuationScorer(made)
    made.lm_head.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    scorer.score([texts(1, 40, 40)[0]], [[5, 6, 7], [5, 8]])
    assert sum(rows) == 3  # the prefix's end, "5" once for both, and "6"


def test_modules_return_to_the_mode_they_were_in():
    made = model().train()
    made.model.layers[0].eval()
    before = [module.training for module in made.modules()]
    scorer = ContinuationScorer(made)
    made.model.layers[1].register_forward_hook(lambda module, *rest: seen.append(module.training))
    seen = []
    scorer.score(PREFIXES, CONTINUATIONS)
    assert not any(seen) and [module.training for module in made.modules()] == before


def test_nothing_is_recorded_for_gradients():
    made = model().train()
    ContinuationScorer(made).score(PREFIXES, CONTINUATIONS)
    made(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()  # training still works


def test_progress_counts_finished_prefixes():
    calls = []
    prefixes = [*PREFIXES, texts(1, 200, 200)[0]]
    ContinuationScorer(model(), tokens_per_batch=100).score(prefixes, CONTINUATIONS, progress=calls.append)
    assert calls == sorted(calls) and calls[-1] == len(prefixes) and len(calls) > 2


LLAMA = []


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(len(CONTINUATIONS))), st.permutations(range(len(PREFIXES))))
def test_permuting_the_input_permutes_the_scores(continuation_order, prefix_order):
    if not LLAMA:
        scorer = ContinuationScorer(model())
        LLAMA.extend([scorer, totals(scorer.score(PREFIXES, CONTINUATIONS))])
    scorer, straight = LLAMA
    shuffled = totals(scorer.score([PREFIXES[i] for i in prefix_order], [CONTINUATIONS[i] for i in continuation_order]))
    assert np.abs(shuffled - straight[np.ix_(prefix_order, continuation_order)]).max() < EXACT


@pytest.mark.parametrize("preamble", [[], PREAMBLE])
def test_every_mask_begins_where_its_memory_does(preamble, monkeypatch):
    # CUDA's attention reads masks in pieces of 16 bytes, and fails for one that begins between two of them
    begins, attend = [], scorer_line.scaled_dot_product_attention

    def watched(*args, attn_mask=None, **others):
        begins.extend([] if attn_mask is None else [(attn_mask.storage_offset(), attn_mask.data_ptr() % 16)])
        return attend(*args, attn_mask=attn_mask, **others)

    monkeypatch.setattr(scorer_line, "scaled_dot_product_attention", watched)
    ContinuationScorer(model("llama"), preamble=preamble, method="packed").score(PREFIXES, CONTINUATIONS)
    assert len(begins) > 10 and set(begins) == {(0, 0)}
