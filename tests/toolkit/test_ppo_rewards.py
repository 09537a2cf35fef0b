import numpy as np
import pytest
import torch
from stack_fakes import PEFT_WARNING, config, lora, reward_folder, stack
from test_ppo_trainer import ROWS, count_w7, trainer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from tunewell.toolkit.errors import DataError, ModelError
from tunewell.toolkit.model.ensemble import Ensemble
from tunewell.toolkit.ppo.combined import Penalty, RewardEnsemble, toxicity_penalty
from tunewell.toolkit.ppo.reward_model import RewardModel
from tunewell.toolkit.toxicity.scorer import WordlistToxicity

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def other_tokenizer() -> PreTrainedTokenizerFast:
    """Splits into characters: other tokens than the policy's words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = ["[pad]", "[end]", "[unk]", *"abcdefghijklmnopqrstuvwxyz0123456789<> "]
    core = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="[unk]"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[pad]", eos_token="[end]", unk_token="[unk]")


def classifier(seed=0):
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config())


# ---- a reward model with a tokenizer of its own ------------------------------------------------------------------


def test_a_reward_model_reads_its_own_tokens_and_gives_the_scores_of_a_plain_pass():
    model, own = classifier(), other_tokenizer()
    judge = RewardModel(model, own, bias=0.5, batch_size=2)
    prompts, completions = ["w7 w8", "w9", "w10 w11"], [" w7", " w12 w13 w14", ""]
    scores = judge(prompts=prompts, completions=completions, tag=[1, 2, 3])
    for prompt, completion, score in zip(prompts, completions, scores, strict=True):
        ids = torch.tensor([[*own(prompt + completion)["input_ids"], own.eos_token_id]])
        assert ids.shape[1] > len(prompt)  # characters, not the policy's words
        with torch.no_grad():
            hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
            assert score == pytest.approx(float(model.score(hidden)) - 0.5, abs=1e-5)
    assert len(set(scores)) == 3


def test_an_encoder_judges_too():
    torch.manual_seed(0)
    own = other_tokenizer()
    bert = BertForSequenceClassification(
        BertConfig(vocab_size=len(own), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=32, max_position_embeddings=64, num_labels=1, pad_token_id=0)
    )  # fmt: skip
    judge = RewardModel(bert, own)
    together = judge(prompts=["w7", "w7 w8 w9"], completions=["a", "b"])
    apart = [judge(prompts=[p], completions=[c])[0] for p, c in (("w7", "a"), ("w7 w8 w9", "b"))]
    assert together == pytest.approx(apart, abs=1e-5)


def test_ppo_takes_it_beside_an_adapter_and_logs_both(tmp_path):
    ppo = trainer(tmp_path, stack(tmp_path), [("reward", 1.0), (RewardModel(classifier(), other_tokenizer()), 2.0)])
    rollout = ppo.maker.make(ppo.train_dataset[:4], list(range(4)), 0.0)
    assert set(rollout.terms) == {"reward", "reward_model"}
    torch.testing.assert_close(rollout.score, rollout.terms["reward"] + 2 * rollout.terms["reward_model"])
    own = rollout.terms["reward_model"].tolist()
    assert own == pytest.approx(
        RewardModel(classifier(), other_tokenizer())(
            prompts=[prompt.shown for prompt in rollout.prompts],
            completions=[completion.text for completion in rollout.completions],
        ),
        abs=1e-5,
    )


def test_a_saved_reward_model_comes_back_with_its_bias(tmp_path):
    classifier().save_pretrained(tmp_path / "judge")
    other_tokenizer().save_pretrained(tmp_path / "judge")
    (tmp_path / "judge" / "reward_meta.json").write_text('{"bias": 0.25}')
    loaded = RewardModel.load(tmp_path / "judge")
    plain = RewardModel(classifier(), other_tokenizer())
    given = {"prompts": ["w7"], "completions": ["w8"]}
    assert loaded(**given)[0] == pytest.approx(plain(**given)[0] - 0.25, abs=1e-5)
    assert loaded.__name__ == "judge"


def test_reward_models_that_cannot_judge_are_named(tmp_path):
    with pytest.raises(ModelError, match="'reward_model' came without a tokenizer, wanted its own"):
        RewardModel(classifier(), None)
    classifier().save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match=r"'bare' came without a tokenizer.*RewardModel\.load"):
        RewardModel.load(tmp_path / "bare")
    with pytest.raises(ModelError, match="cannot load the reward model"):
        RewardModel.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match="has 3 labels, wanted a classifier with one score"):
        RewardModel(LlamaForSequenceClassification(config().__class__(**(config().to_dict() | {"num_labels": 3}))),
                    other_tokenizer())  # fmt: skip
    own = other_tokenizer()
    own.pad_token = own.eos_token
    with pytest.raises(ModelError, match="no padding token of its own"):
        RewardModel(classifier(), own)
    small = classifier()
    small.resize_token_embeddings(8)
    with pytest.raises(ModelError, match="the tokenizer of another model"):
        RewardModel(small, other_tokenizer())
    with pytest.raises(DataError, match=r"reads 96 tokens, an episode has 204 of its own"):
        RewardModel(classifier(), other_tokenizer())(prompts=["w" * 200], completions=["abc"])


# ---- penalties and ensembles -------------------------------------------------------------------------------------


def test_a_toxicity_penalty_costs_what_the_scorer_says_and_silence_costs_nothing():
    penalty = toxicity_penalty(WordlistToxicity(["damn"]))
    assert penalty(prompts=["", ""], completions=["damn you", "bless you"]) == [-1.0, 0.0]
    blank = Penalty(lambda texts: np.array([np.nan, 0.25]), "odd")
    assert blank(prompts=["", ""], completions=["", "x"]) == [0.0, -0.25]
    short = Penalty(lambda texts: [0.0], "odd")
    with pytest.raises(DataError, match="penalty odd measured 1 of 2 texts"):
        short(prompts=["", ""], completions=["a", "b"])


def test_ppo_learns_to_avoid_what_a_penalty_names(tmp_path):
    made = stack(tmp_path)
    listed = toxicity_penalty(WordlistToxicity([f"w{i}" for i in range(6, 60)]))
    ppo = trainer(
        tmp_path, made, [(listed, 2.0)], max_steps=10, rollout_batch_size=32, num_mini_batches=4, value="head",
    )  # fmt: skip
    ppo.train()
    scores = [entry["objective/score"] for entry in ppo.state.log_history if "objective/score" in entry]
    assert sum(scores[-3:]) > sum(scores[:3]) + 0.5


def test_a_cautious_ensemble_pays_what_all_members_agree_on():
    def first(prompts, completions, **columns):
        return [1.0, 4.0]

    def second(prompts, completions, **columns):
        return [3.0, 0.0]

    given = {"prompts": ["", ""], "completions": ["a", "b"]}
    assert RewardEnsemble([first, second])(**given) == [1.0, 0.0]
    assert RewardEnsemble([first, second], "mean")(**given) == [2.0, 2.0]
    # deviations 1 and 2 about the mean 2
    assert RewardEnsemble([first, second], "mean_minus_deviation", deviation_weight=0.5)(**given) == [1.5, 1.0]

    def broken(prompts, completions, **columns):
        return [1.0]

    with pytest.raises(DataError, match="reward function broken returned 1 scores, wanted 2"):
        RewardEnsemble([first, broken])(**given)
    with pytest.raises(ModelError, match="ensemble of 1 members"):
        RewardEnsemble([first])
    with pytest.raises(ModelError, match=r"members \['reward'\] of a reward ensemble, wanted functions"):
        RewardEnsemble(["reward", first])


def test_adapters_that_form_an_ensemble_in_the_stack_are_paid_by_their_combined_score(tmp_path):
    made = stack(tmp_path)
    made.load("reward_2", reward_folder(LlamaForCausalLM(config()).eval(), tmp_path / "second", seed=8)[0])

    def rollout():
        ppo = trainer(tmp_path, made, "reward", rows=ROWS)
        return ppo.maker.make(ppo.train_dataset[:4], list(range(4)), 0.0)

    alone = rollout()
    made.set_ensemble("reward", Ensemble(size=2, combine="min"))
    both = rollout()
    assert [one.ids for one in alone.completions] == [one.ids for one in both.completions]
    assert (both.score <= alone.score + 1e-6).all()
    assert (both.score < alone.score - 1e-3).any()


def test_an_adapter_of_another_base_is_refused_before_anything_is_trained(tmp_path):
    other = LlamaForCausalLM(config().__class__(**(config().to_dict() | {"hidden_size": 128})))
    made = stack(tmp_path)
    from peft import get_peft_model

    get_peft_model(other, lora()).save_pretrained(tmp_path / "foreign")
    with pytest.raises(ModelError, match="does not fit the base"):
        made.load("judge", tmp_path / "foreign")
    with pytest.raises(ModelError, match="reward adapter 'judge' is missing"):
        trainer(tmp_path, made, [("judge", 1.0), (count_w7, 1.0)])
