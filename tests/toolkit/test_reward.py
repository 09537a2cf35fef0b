import math

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_fakes import classifier, gradient, maker, rankings, trainer
from stack_fakes import EOS, PEFT_WARNING, tokenizer
from trl import RewardConfig, RewardTrainer
from tunewell.toolkit.errors import DataError, ModelError, TrainingError
from tunewell.toolkit.reward import scoring
from tunewell.toolkit.reward.losses import kwise_loss, pairwise_loss, pointwise_loss, ranked_pairs

pytestmark = [
    pytest.mark.filterwarnings(PEFT_WARNING),
    # TRL asks transformers 5.23 for options under their old names
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
    # transformers' data loaders ask for pinned memory on a machine without a GPU
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]


# ---- losses ------------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    good, bad = torch.tensor([1.0]), torch.tensor([0.0])
    assert pairwise_loss(good, bad).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert pairwise_loss(good, bad, margin=1.0).item() == pytest.approx(math.log(2))
    # ranks 1, 2, 2: the tie is no pair, but one of the three pairs that the weight counts
    scores = torch.tensor([1.0, 0.0, 0.0])
    assert kwise_loss(scores, [1, 2, 2]).item() == pytest.approx(2 / 3 * math.log(1 + math.exp(-1)))
    assert kwise_loss(scores, [1, 3, 3], margin=0.5).item() == pytest.approx(2 / 3 * math.log(2))
    assert pointwise_loss(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])).item() == pytest.approx(
        (math.log(2) + math.log(1 + math.exp(2))) / 2
    )


def test_a_ranking_of_ties_alone_has_no_loss_and_no_gradient():
    scores = torch.randn(4, requires_grad=True)
    loss = kwise_loss(scores, [2, 2, 2, 2])
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=9), st.integers(0, 1000))
def test_kwise_equals_pairwise_over_the_same_pairs_in_value_and_gradient(ranks, seed):
    pairs = ranked_pairs(ranks)
    scores = torch.randn(len(ranks), generator=torch.Generator().manual_seed(seed)).requires_grad_()
    kwise = kwise_loss(scores, ranks)
    if not pairs:
        assert kwise.item() == 0
        return
    better, worse = zip(*pairs, strict=True)
    pairwise = pairwise_loss(scores[list(better)], scores[list(worse)]) * len(pairs) / math.comb(len(ranks), 2)
    (one,), (other,) = (torch.autograd.grad(loss, scores) for loss in (kwise, pairwise))
    torch.testing.assert_close(kwise, pairwise, atol=1e-6, rtol=0)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


# ---- examples ----------------------------------------------------------------------------------------------------


def test_a_ranking_is_one_element_under_kwise_and_one_for_each_pair_under_pairwise():
    rows = rankings(3, 5)
    assert [len(one["completions_ids"]) for one in maker().rankings(rows).examples] == [5, 5, 5]
    single = maker(loss="pairwise").rankings(rows)
    assert len(single.examples) == 3 * 10 and single.counts["pairs"] == 30
    assert {one["row"] for one in single.examples} == {0, 1, 2}


def test_what_is_left_out_is_counted_by_its_reason():
    long = " " + "w7 " * 40
    rows = [
        {"prompt": "w6", "completions": [" w7", long, "  "], "ranks": [1, 2, 3]},  # one left: nothing to compare
        {"prompt": "w6", "completions": [" w7", " w7", " w8"], "ranks": [1, 2, 3]},  # equal texts, two pairs left
        {"prompt": "w6", "completions": [" w7", " w8"], "ranks": [1, 1]},  # a tie and nothing else
    ]
    made = maker(max_length=20).rankings(rows)
    wanted = {"rows": 3, "too_long": 1, "empty": 1, "same_text": 1, "ties": 1, "pairs": 2, "nothing_to_learn": 2}
    assert {name: count for name, count in made.counts.items() if count} == wanted
    assert len(made.examples) == 1 and made.examples[0]["weight"] == [1 / 3, 1 / 3]
    assert "1 completions that are too long" in made.left_out() and "2 rows without a single pair" in made.left_out()


def test_comparisons_are_rankings_of_two_with_their_own_margin():
    rows = [
        {"prompt": "w6", "chosen": " w7", "rejected": " w8", "margin": 0.5},
        {"prompt": "w6", "chosen": " w7", "rejected": " w7"},
    ]
    made = maker(margin=1.0).comparisons(rows)
    assert [one["margin"] for one in made.examples] == [[1.5]]
    assert made.counts["same_text"] == made.counts["nothing_to_learn"] == 1


def test_pointwise_counts_wins_and_losses_as_the_cross_entropy_of_both_sides_of_every_pair():
    row = rankings(1, 4, ties=True)
    (made,) = maker(loss="pointwise").rankings(row).examples
    scores = torch.randn(4)
    pairs = ranked_pairs(row[0]["ranks"])
    sides = torch.stack([scores[[high, low]] for high, low in pairs]).flatten()
    by_pairs = pointwise_loss(sides, torch.tensor([1.0, 0.0] * len(pairs))) * len(pairs) / 6
    wins, losses = torch.tensor(made["wins"]), torch.tensor(made["losses"])
    found = (wins * torch.nn.functional.softplus(-scores) + losses * torch.nn.functional.softplus(scores)).sum()
    torch.testing.assert_close(found, by_pairs)


def test_ratings_become_targets_on_their_scale_and_others_are_refused():
    rows = [{"prompt": "w6", "completion": " w7", "rating": rating} for rating in (1, 4, 7)]
    made = maker().ratings(rows)
    assert [(one["wins"], one["losses"]) for one in made.examples] == [([0.0], [1.0]), ([0.5], [0.5]), ([1.0], [0.0])]
    with pytest.raises(DataError, match=r"row 1 .* has the rating 4, wanted 0 \(bad\) to 1 \(good\)"):
        maker(rating_scale=(0.0, 1.0)).ratings([dict(rows[0], rating=1), rows[1]])


# ---- the trainer -------------------------------------------------------------------------------------------------


def test_kwise_training_equals_trl_on_all_pairs_in_loss_and_gradient(tmp_path):
    rows = rankings(1, 6)
    examples = maker().rankings(rows).examples
    ours = gradient(trainer(tmp_path, examples), examples)
    ids = examples[0]["completions_ids"]
    pairs = [{"chosen_ids": ids[high], "rejected_ids": ids[low]} for high, low in ranked_pairs(rows[0]["ranks"])]
    arguments = RewardConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False)
    peer = RewardTrainer(
        model=classifier(), args=arguments, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer()
    )
    theirs = gradient(peer, pairs)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert ours[1].norm() > 1e-3
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-5, rtol=0)


def test_kwise_and_pairwise_of_several_rankings_have_the_same_loss_and_gradient(tmp_path):
    rows = rankings(3, 4)
    found = []
    for loss in ("kwise", "pairwise"):
        examples = maker(loss=loss).rankings(rows).examples
        found.append(gradient(trainer(tmp_path, examples), examples))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("loss", ["kwise", "pointwise"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradient_caching_gives_the_same_gradient_also_under_dropout(tmp_path, loss, dropout):
    examples = maker(loss=loss).rankings(rankings(2, 9)).examples
    found = []
    for size in (None, 4):
        made = trainer(
            tmp_path, examples, model=classifier(dropout=dropout), gradient_cache=size, disable_dropout=False,
            center_rewards_coefficient=0.01,
        )  # fmt: skip
        found.append((made, examples))
    if dropout:  # chunks draw other dropout than one batch: compare the cache with itself without its second pass
        made, _ = found[1]
        torch.manual_seed(3)
        cached = gradient(made, examples)
        torch.manual_seed(3)
        uncached = _chunked_at_once(made, examples)
    else:
        cached, uncached = gradient(*found[1]), gradient(*found[0])
    assert cached[0] == pytest.approx(uncached[0], abs=1e-6)
    assert cached[1].norm() > 1e-3
    torch.testing.assert_close(cached[1], uncached[1], atol=1e-6, rtol=1e-4)


def _chunked_at_once(made, examples):
    """Loss and gradient over the same chunks in one graph."""
    made.model.zero_grad()
    made.model.train()
    loss = made.compute_loss(made.model, made.data_collator(examples))
    loss.backward()
    found = [weight.grad.flatten() for weight in made.model.parameters() if weight.requires_grad]
    return float(loss.detach()), torch.cat(found)


def test_the_head_learns_a_ranking_and_the_log_says_so(tmp_path):
    rows = rankings(6, 4)
    for row in rows:  # the fewer tokens, the better
        row["ranks"] = [1 + sum(len(other) < len(text) for other in row["completions"]) for text in row["completions"]]
    examples = maker().rankings(rows).examples
    made = trainer(
        tmp_path, examples, held_out=examples, max_steps=40, learning_rate=0.01, logging_steps=10, gradient_cache=6
    )
    before = made.evaluate()
    made.train()
    after = made.evaluate()
    assert before["eval_accuracy"] < 0.9 < after["eval_accuracy"]
    assert after["eval_loss"] < before["eval_loss"]
    last = [entry for entry in made.state.log_history if "loss" in entry][-1]
    assert {"accuracy", "margin", "mean_reward", "num_tokens"} <= last.keys()


def test_a_training_that_was_stopped_ends_like_one_that_was_not(tmp_path):
    examples = maker().rankings(rankings(8, 3)).examples
    options = {
        "max_steps": 6,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 2,
        "save_steps": 3,
        "save_strategy": "steps",
        "logging_steps": 6,
    }

    def weights(made):
        return {name: weight.detach().clone() for name, weight in made.model.named_parameters() if weight.requires_grad}

    whole = trainer(tmp_path / "whole", examples, **options)
    whole.train()
    again = trainer(tmp_path / "again", examples, **(options | {"seed": 42}))
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    wanted = weights(whole)
    assert any("score" in name for name in wanted)
    for name, weight in weights(again).items():
        torch.testing.assert_close(weight, wanted[name], atol=1e-6, rtol=1e-5)


def test_a_padding_token_that_is_the_end_token_is_refused(tmp_path):
    shared = tokenizer()
    shared.pad_token = shared.eos_token
    examples = maker().rankings(rankings(1, 3)).examples
    from tunewell.toolkit.reward.trainer import RankingTrainer

    with pytest.raises(ModelError, match=r"read one token early: .*add_special_tokens"):
        RankingTrainer(model=classifier(), processing_class=shared, train_dataset=Dataset.from_list(examples))
    assert shared.pad_token_id == EOS


def test_a_loss_that_is_not_a_number_stops_before_the_weights_change_and_names_the_rows(tmp_path):
    examples = maker().rankings(rankings(4, 3)).examples
    examples[2]["margin"] = [math.nan] * 3
    made = trainer(
        tmp_path, examples, max_steps=8, per_device_train_batch_size=1, learning_rate=0.01, save_steps=1,
        save_strategy="steps", logging_steps=1,
    )  # fmt: skip
    message = r"the loss is nan on row 2 \(counting from 0\): 'w\d+ .*finite, the largest is 1, so look at these rows"
    with pytest.raises(TrainingError, match=message):
        made.train()
    assert all(torch.isfinite(weight).all() for weight in made.model.parameters())
    assert len(list(tmp_path.glob("checkpoint-*"))) == made.state.global_step


def test_weights_that_are_broken_already_are_named_as_the_cause(tmp_path):
    examples = maker().rankings(rankings(2, 3)).examples
    made = trainer(tmp_path, examples, max_steps=1)
    with torch.no_grad():
        made.model.base_model.model.score.modules_to_save["reward"].weight[0, 0] = math.inf
    with pytest.raises(TrainingError, match=r"Weights are not finite already \(.*score.*an earlier step was too big"):
        made.train()


@pytest.mark.parametrize(
    ("lengths", "most", "wanted"),
    [
        ([], 3, []),
        ([5, 5, 5, 5], 3, [3, 1]),
        ([1000, 2000, 3000, 4000], 32, [2, 2]),  # two of 2,000 with padding, two of 4,000
        ([2000, 4000, 4096, 9000, 9000], 32, [2, 1, 1, 1]),  # one that is longer than a pass goes by itself
    ],
)
def test_a_scoring_pass_holds_so_many_rows_and_so_many_tokens(lengths, most, wanted):
    found = list(scoring.score_batches(range(len(lengths)), [[0] * length for length in lengths], most))
    assert [len(batch) for batch in found] == wanted
    assert [row for batch in found for row in batch] == [*range(len(lengths))]
    assert all(len(batch) == 1 or len(batch) * lengths[batch[-1]] <= scoring.TOKENS_PER_PASS for batch in found)
