import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stack_fakes import PEFT_WARNING, base, lora, tokenizer
from torch.nn.functional import log_softmax
from transformers import Trainer, TrainingArguments
from tunewell.toolkit.errors import DataError, ModelError
from tunewell.toolkit.mitigations.embeddings import (
    BiasSubspace,
    CounterfactualHidden,
    PairDistance,
    embedded,
    group_axis,
)
from tunewell.toolkit.mitigations.loss_terms import Batch, with_terms
from tunewell.toolkit.mitigations.objectives import (
    Equalise,
    Unlikelihood,
    Unwanted,
    equalise,
    is_neutral,
    unlikelihood,
    unwanted_of_pair,
)
from tunewell.toolkit.mitigations.word_pairs import TokenPairs, token_pairs
from tunewell.toolkit.model.stack import ModelStack

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
PAIRS = TokenPairs((10, 20), (11, 21), ())
IDS = torch.tensor([[1, 30, 31, 32, 2], [1, 40, 10, 41, 2]])
INPUTS = {"input_ids": IDS, "labels": IDS.clone(), "attention_mask": torch.ones_like(IDS)}


def batch(model, step=0):
    return Batch(model, INPUTS, step, 0)


# ---- unlikelihood ----------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=3, max_size=9), st.data())
def test_the_gradient_of_unlikelihood_is_the_closed_form(values, data):
    logits = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    token = data.draw(st.integers(0, len(values) - 1))
    loss = unlikelihood(logits[None], torch.tensor([token]), torch.tensor([True]))
    (gradient,) = torch.autograd.grad(loss, logits)
    p = logits.detach().double().softmax(-1)
    wanted = -p[token] / (1 - p[token]) * p
    wanted[token] = p[token]
    assert loss.item() == pytest.approx(-math.log1p(-p[token].item()), rel=1e-4, abs=1e-5)
    assert torch.allclose(gradient.double(), wanted, atol=2e-5)
    assert gradient.sum().abs() < 1e-5


def test_unlikelihood_is_finite_and_still_pushes_where_the_token_is_certain_also_in_bfloat16():
    logits = torch.tensor([[200.0, 0.0, -3.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = unlikelihood(logits, torch.tensor([0]), torch.tensor([True]))
    loss.backward()
    naive = -(1 - logits.detach().softmax(-1)[0, 0]).log()
    assert torch.isinf(naive), "the control: 1 - p is zero here"
    assert loss.item() == pytest.approx(200.0, abs=1.0)
    assert logits.grad[0, 0] == 1.0


def test_only_unwanted_tokens_count_and_none_at_all_cost_nothing():
    logits = torch.randn(2, 3, 5)
    tokens = torch.tensor([[0, 1, 2], [3, 4, 0]])
    mask = torch.tensor([[False, True, False], [False, False, False]])
    p = logits[0, 1].softmax(-1)[1]
    assert unlikelihood(logits, tokens, mask).item() == pytest.approx(-math.log(1 - p.item()), rel=1e-4)
    assert unlikelihood(logits, tokens, torch.zeros_like(mask)).item() == 0.0


def test_of_a_rejected_side_only_tokens_that_the_chosen_side_lacks_are_unlearned():
    found = unwanted_of_pair([1, 5], [6, 7], [6, 9, 2], all_=False)
    assert found == Unwanted((1, 5, 6, 9, 2), (False, False, False, True, True))
    assert unwanted_of_pair([1, 5], [6, 7], [6, 9], all_=True).is_unwanted == (False, False, True, True)
    with pytest.raises(DataError, match="none of the texts"):
        Unlikelihood([Unwanted((1, 2), (True, False))], 1.0)


def test_a_step_of_unlikelihood_makes_the_token_less_likely():
    model = base()
    term = Unlikelihood([Unwanted((1, 30, 31), (False, False, True))], 1.0)

    def likelihood():
        return float(log_softmax(model(input_ids=torch.tensor([[1, 30]])).logits[0, -1].detach(), -1)[31])

    before = likelihood()
    term(batch(model)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    assert likelihood() < before


# ---- equalising ------------------------------------------------------------------------------------------------


def test_equalising_is_zero_exactly_where_the_pair_is_even_and_otherwise_the_difference_of_logits():
    logits = torch.randn(1, 1, 30)
    counted = torch.ones(1, 1, dtype=torch.bool)
    one = TokenPairs((10,), (11,), ())
    lp = log_softmax(logits, -1)[0, 0]
    assert equalise(logits, counted, one).item() == pytest.approx(abs(lp[10] - lp[11]).item(), rel=1e-4)
    assert equalise(logits + 5, counted, one).item() == pytest.approx(equalise(logits, counted, one).item(), rel=1e-4)
    logits[..., 11] = logits[..., 10]
    assert equalise(logits, counted, one).item() == 0.0


def test_equalising_pulls_on_the_words_of_the_pairs_alone():
    logits = torch.randn(1, 2, 30, requires_grad=True)
    equalise(logits, torch.tensor([[True, False]]), PAIRS).backward()
    listed = [10, 11, 20, 21]
    others = [token for token in range(30) if token not in listed]
    assert (logits.grad[0, 0, listed] != 0).all()
    assert (logits.grad[0, 0, others] == 0).all() and (logits.grad[0, 1] == 0).all()
    assert torch.sign(logits.grad[0, 0, 10]) == torch.sign(logits[0, 0, 10] - logits[0, 0, 11])


def test_positions_behind_a_listed_word_do_not_count():
    assert is_neutral(IDS, PAIRS).tolist() == [[True] * 5, [True, True, False, False, False]]
    assert Equalise(PAIRS, 1.0)(batch(base())).item() > 0
    nothing = Batch(base(), INPUTS | {"labels": torch.full_like(IDS, -100)}, 0, 0)
    assert Equalise(PAIRS, 1.0)(nothing).item() == 0.0


# ---- embeddings ------------------------------------------------------------------------------------------------


def test_the_distance_of_pairs_is_zero_where_they_agree_and_pulls_on_their_rows_alone():
    model = base()
    term = PairDistance(PAIRS, 1.0)
    weight = model.model.embed_tokens.weight
    value = term(batch(model))
    assert value.item() == pytest.approx((weight[[10, 20]] - weight[[11, 21]]).norm(dim=-1).mean().item())
    value.backward()
    assert weight.grad.abs().sum(-1).nonzero().flatten().tolist() == [10, 11, 20, 21]
    with torch.no_grad():
        weight[[11, 21]] = weight[[10, 20]]
    weight.grad = None
    again = term(batch(model))
    again.backward()
    assert again.item() == 0.0 and weight.grad.isfinite().all()


def test_the_penalty_on_the_group_axis_is_its_formula_and_so_is_its_gradient():
    model = base()
    weight = model.model.embed_tokens.weight
    neutral = [50, 51, 52]
    axis = group_axis(weight[[10, 20]].detach(), weight[[11, 21]].detach())
    assert torch.allclose(axis @ axis.mT, torch.eye(len(axis)), atol=1e-5)
    value = BiasSubspace(PAIRS, neutral, 1.0)(batch(model))
    by_hand = sum(float(weight[n].detach() @ v) ** 2 for n in neutral for v in axis)
    assert value.item() == pytest.approx(by_hand, rel=1e-4)
    value.backward()
    wanted = 2 * weight[neutral].detach() @ axis.mT @ axis
    assert torch.allclose(weight.grad[neutral], wanted, atol=1e-5)
    assert weight.grad.abs().sum(-1).nonzero().flatten().tolist() == neutral
    with torch.no_grad():
        weight[neutral] -= weight[neutral] @ axis.mT @ axis
    assert BiasSubspace(PAIRS, neutral, 1.0)(batch(model)).item() < 1e-8
    with pytest.raises(DataError, match=r"neutral=FILE"):
        BiasSubspace(PAIRS, [], 1.0)


def test_states_of_counterfactuals_are_compared_both_ways_alike():
    model = base()
    a, b = [1, 10, 30], [1, 11, 30, 31]
    same = CounterfactualHidden([(a, a)], 1.0)(batch(model)).item()
    one, other = (CounterfactualHidden([pair], 1.0)(batch(model)).item() for pair in ((a, b), (b, a)))
    assert same == pytest.approx(0.0, abs=1e-5)
    assert one > 1e-3 and one == pytest.approx(other, abs=1e-6)
    with pytest.raises(DataError, match="no training row"):
        CounterfactualHidden([], 1.0)


@pytest.mark.parametrize("term", [PairDistance(PAIRS, 1.0), BiasSubspace(PAIRS, [50], 1.0)])
def test_frozen_embeddings_are_an_error_and_not_a_penalty_that_does_nothing(term):
    made = ModelStack(base(), tokenizer())
    made.add("policy", lora(), trainable=True)
    with pytest.raises(ModelError, match="frozen, as they are under LoRA") as caught:
        term.check(made.model)
    assert "train_rows=true" in str(caught.value)
    made.add("other", lora(trainable_token_indices=[10, 11, 20, 21, 50]), trainable=True)
    with made.using("other", trainable=True) as model:
        term.check(model)


def test_trained_rows_travel_with_their_adapter(tmp_path):
    made = ModelStack(base(), tokenizer())
    made.add("policy", lora(trainable_token_indices=[10, 11]), trainable=True)
    with made.using("policy", trainable=True) as model:
        rows = [one for name, one in made.parameters("policy") if "trainable_tokens" in name]
        assert len(rows) == 1 and rows[0].requires_grad
        PairDistance(TokenPairs((10,), (11,), ()), 1.0)(batch(model)).backward()
        with torch.no_grad():
            rows[0] -= 0.5 * rows[0].grad
        moved = embedded(model, [10, 11, 12]).detach()
    made.save("policy", tmp_path / "policy")
    made.copy("policy", "reference", trainable=False)
    other = ModelStack(base(), tokenizer())
    other.load("policy", tmp_path / "policy")
    start = base().model.embed_tokens.weight
    for stack, name in ((made, "reference"), (other, "policy")):
        with stack.using(name) as model:
            again = embedded(model, [10, 11, 12]).detach()
        assert torch.equal(again, moved)
    assert torch.equal(moved[2], start[12]) and not torch.equal(moved[0], start[10])
    with made.using(None):
        assert torch.equal(embedded(made.base, [10]), start[[10]])


# ---- words -----------------------------------------------------------------------------------------------------


def test_pairs_that_are_no_single_tokens_are_left_out_and_named():
    found = token_pairs([("w10", "w11"), ("w12", "nowhere")], tokenizer())
    assert (found.first, found.second, found.left_out) == ((10,), (11,), (("w12", "nowhere"),))
    assert "1 word pairs are left out" in found.warning() and "w12/nowhere" in found.warning()
    with pytest.raises(DataError, match="none of 1 word pairs"):
        token_pairs([("she", "he")], tokenizer())


# ---- in a trainer ----------------------------------------------------------------------------------------------


def trained(folder, terms, steps=2, accumulate=1, resume=None):
    made = ModelStack(base(), tokenizer())
    torch.manual_seed(1)
    made.add("policy", lora(), trainable=True)
    rows = [{"input_ids": row, "labels": row} for row in IDS.tolist()] * 8
    args = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=2, report_to="none", use_cpu=True, seed=3,
        disable_tqdm=True, learning_rate=1e-2, save_steps=2, gradient_accumulation_steps=accumulate,
    )  # fmt: skip
    trainer = with_terms(Trainer, terms)(made.model, args, train_dataset=rows)
    trainer.train(resume_from_checkpoint=resume)
    return {name: one.clone() for name, one in made.weights("policy").items()}


def same(first, second):
    return all(torch.equal(one, second[name]) for name, one in first.items())


def unwanted(strength):
    texts = [Unwanted((1, 60 + n, 70 + n), (False, False, True)) for n in range(30)]
    return Unlikelihood(texts, strength, batch_size=2)


def test_strength_zero_is_the_trainer_itself_and_more_strength_changes_more(tmp_path):
    assert with_terms(Trainer, []) is Trainer
    assert with_terms(Trainer, [unwanted(0.0)]) is Trainer
    plain = trained(tmp_path, [])
    assert same(plain, trained(tmp_path, [unwanted(0.0)]))
    assert not same(plain, trained(tmp_path, [unwanted(1.0), Equalise(PAIRS, 1.0)]))


def test_a_resumed_training_draws_the_same_texts(tmp_path):
    whole = trained(tmp_path, [unwanted(1.0)], steps=4, accumulate=2)
    resumed = trained(tmp_path, [unwanted(1.0)], steps=4, accumulate=2, resume=str(tmp_path / "checkpoint-2"))
    assert same(whole, resumed)


def test_a_trainer_refuses_a_term_that_could_train_nothing(tmp_path):
    with pytest.raises(ModelError, match="frozen"):
        trained(tmp_path, [PairDistance(PAIRS, 1.0)])
