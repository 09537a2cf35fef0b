import pytest
import torch
from stack_fakes import BOS, EOS, PEFT_WARNING, WINDOW, base, lora, tokenizer
from transformers import BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, LogitsProcessor
from tunewell.toolkit.errors import DataError, SettingsError
from tunewell.toolkit.model.generation import Sampling, end_tokens, generate
from tunewell.toolkit.model.stack import ModelStack

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]

PROMPTS = [[BOS, 9, 10, 11, 12], [BOS], [BOS, 7, 8], [BOS, 20, 21, 22, 23, 24, 25, 26], [BOS, 7, 9]]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    return base()


class Only(LogitsProcessor):
    """Allows a few tokens, with given probabilities."""

    def __init__(self, probabilities):
        self.probabilities = probabilities

    def __call__(self, input_ids, scores):
        scores = torch.full_like(scores, -torch.inf)
        for token, probability in self.probabilities.items():
            scores[:, token] = torch.tensor(probability).log()
        return scores


class Script(LogitsProcessor):
    """Forces the tokens of a script, whatever the prompt."""

    def __init__(self, tokens, prompt_length):
        self.tokens, self.prompt_length = tokens, prompt_length

    def __call__(self, input_ids, scores):
        scores = torch.full_like(scores, -torch.inf)
        scores[:, self.tokens[input_ids.shape[1] - self.prompt_length]] = 0
        return scores


def greedy_by_hand(model, prompt, length):
    ids = list(prompt)
    for _ in range(length):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == EOS:
            break
    return ids[len(prompt) :]


def test_greedy_batches_give_what_single_forward_passes_give_in_the_order_of_the_prompts(model):
    got = generate(model, tokenizer(), PROMPTS, Sampling(max_new_tokens=6, temperature=0), batch_size=3)
    assert [completion.ids for completion in got] == [greedy_by_hand(model, prompt, 6) for prompt in PROMPTS]


def test_padding_does_not_shift_the_positions_of_a_model_that_learned_them():
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=256, n_embd=64, n_layer=2, n_head=2, n_positions=WINDOW, initializer_range=0.3)
    gpt = GPT2LMHeadModel(shape).eval()
    got = generate(gpt, tokenizer(), PROMPTS, Sampling(max_new_tokens=6, temperature=0))
    assert [completion.ids for completion in got] == [greedy_by_hand(gpt, prompt, 6) for prompt in PROMPTS]


def test_a_sample_depends_on_its_seed_and_not_on_batch_size_order_or_neighbours(model):
    sampling = Sampling(max_new_tokens=8)
    seeds = [11, 12, 13, 14, 15]
    one = generate(model, tokenizer(), PROMPTS, sampling, seeds=seeds, batch_size=1)
    five = generate(model, tokenizer(), PROMPTS, sampling, seeds=seeds, batch_size=5)
    back = generate(model, tokenizer(), PROMPTS[::-1], sampling, seeds=seeds[::-1], batch_size=2)[::-1]
    assert one == five == back
    other = generate(model, tokenizer(), PROMPTS, sampling, seeds=[seed + 1 for seed in seeds])
    assert all(a.ids != b.ids for a, b in zip(one, other, strict=True))


def test_without_seeds_torchs_generator_decides(model):
    def draw(seed):
        torch.manual_seed(seed)
        return generate(model, tokenizer(), PROMPTS, Sampling(max_new_tokens=4))

    assert draw(1) == draw(1) != draw(2)


def test_the_gumbel_trick_draws_from_the_softmax_at_the_given_temperature(model):
    probabilities = {7: 0.5, 8: 0.3, 9: 0.2}
    n = 600

    def shares(**changes):
        got = generate(
            model,
            tokenizer(),
            [[BOS]] * n,
            Sampling(max_new_tokens=1, **changes),
            seeds=range(n),
            batch_size=n,
            logits_processors=[Only(probabilities)],
        )
        return [sum(completion.ids == [token] for completion in got) / n for token in probabilities]

    # 600 draws: a share has a standard error of at most 0.02
    assert shares() == pytest.approx([0.5, 0.3, 0.2], abs=0.07)
    squares = [p**2 / 0.38 for p in probabilities.values()]
    assert shares(temperature=0.5) == pytest.approx(squares, abs=0.07)
    assert shares(top_k=1) == [1, 0, 0]
    assert shares(top_p=0.75) == pytest.approx([0.625, 0.375, 0], abs=0.07)


def test_an_end_token_ends_a_completion_and_is_kept_in_its_ids(model):
    got = generate(
        model,
        tokenizer(),
        [[BOS, 7]],
        Sampling(max_new_tokens=5),
        logits_processors=[Script([8, 9, EOS, 10, 11], 2)],
    )
    assert got[0].ids == [8, 9, EOS]
    assert got[0].text == "w8 w9"
    assert got[0].ended
    got = generate(model, tokenizer(), [[BOS, 7]], Sampling(max_new_tokens=2), logits_processors=[Script([8, 9], 2)])
    assert got[0].ids == [8, 9] and not got[0].ended


def test_a_stop_string_ends_a_completion_and_is_cut_from_its_text(model):
    got = generate(
        model,
        tokenizer(),
        [[BOS, 7]],
        Sampling(max_new_tokens=6),
        stop=["w9 w10", "w99"],
        logits_processors=[Script([8, 9, 10, 11, 12, 13], 2)],
    )
    assert got[0].ids == [8, 9, 10]
    assert got[0].text == "w8 "
    assert got[0].ended


def test_end_tokens_of_the_models_own_settings_count_too(model):
    model.generation_config.eos_token_id = [EOS, 30]
    try:
        assert end_tokens(model, tokenizer()) == {EOS, 30}
    finally:
        model.generation_config.eos_token_id = EOS


def test_generation_settings_shipped_with_a_model_do_not_leak_in(model):
    """Transformers fills gaps of the caller's settings from the model's, which would change the policy in PPO."""
    before = generate(model, tokenizer(), PROMPTS, Sampling(max_new_tokens=6), seeds=range(5))
    shipped = model.generation_config.repetition_penalty
    model.generation_config.repetition_penalty = 50.0
    try:
        assert generate(model, tokenizer(), PROMPTS, Sampling(max_new_tokens=6), seeds=range(5)) == before
        assert model.generation_config.repetition_penalty == 50.0
    finally:
        model.generation_config.repetition_penalty = shipped


def test_modes_of_all_modules_come_back(model):
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    generate(model, tokenizer(), PROMPTS, Sampling(max_new_tokens=1))
    assert [module.training for module in model.modules()] == before
    model.eval()


def test_the_active_adapter_speaks():
    made = ModelStack(base(), tokenizer())
    made.add("policy", lora(init_lora_weights=False), trainable=True)
    sampling = Sampling(max_new_tokens=6, temperature=0)
    with made.using("policy") as model:
        adapted = generate(model, tokenizer(), PROMPTS, sampling)
    with made.using(None) as model:
        assert generate(model, tokenizer(), PROMPTS, sampling) == generate(base(), tokenizer(), PROMPTS, sampling)
    assert [a.ids for a in adapted] != [b.ids for b in generate(base(), tokenizer(), PROMPTS, sampling)]


# bitsandbytes reads single-element tensors that require gradients as numbers while it quantises
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_a_four_bit_base_generates(tmp_path):
    base().save_pretrained(tmp_path)
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=four_bit, dtype=torch.float32)
    ModelStack(model, tokenizer())
    one = generate(model, tokenizer(), PROMPTS, Sampling(max_new_tokens=4), seeds=range(5), batch_size=1)
    assert one == generate(model, tokenizer(), PROMPTS, Sampling(max_new_tokens=4), seeds=range(5))


def test_progress_counts_prompts(model):
    seen = []
    generate(
        model,
        tokenizer(),
        PROMPTS,
        Sampling(max_new_tokens=1),
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_no_prompts_give_no_completions(model):
    assert generate(model, tokenizer(), [], Sampling()) == []


def test_unusable_prompts_seeds_and_settings_give_clear_errors(model):
    with pytest.raises(DataError, match=r"prompt 1 has 90 tokens, which leaves 6 of the model's window of 96 .* 8"):
        generate(model, tokenizer(), [[BOS], [7] * 90], Sampling(max_new_tokens=8))
    with pytest.raises(DataError, match=r"prompt 0 has 100 tokens, which leaves 0"):
        generate(model, tokenizer(), [[7] * (WINDOW + 4)], Sampling(max_new_tokens=1))
    with pytest.raises(DataError, match="prompt 0 has no tokens"):
        generate(model, tokenizer(), [[]], Sampling())
    with pytest.raises(DataError, match="got 2 seeds for 1 prompts"):
        generate(model, tokenizer(), [[BOS]], Sampling(), seeds=[1, 2])
    with pytest.raises(SettingsError, match=r"(?s)4 faults.*max_new_tokens.*temperature.*top_p.*top_k"):
        Sampling(max_new_tokens=0, temperature=-1, top_p=0, top_k=-1)
