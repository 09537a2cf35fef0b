import pytest
import torch
from stack_fakes import BOS, EOS, tokenizer
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from tunewell.toolkit.model import generation, token_loop
from tunewell.toolkit.model.generation import Sampling, generate
from tunewell.toolkit.model.token_loop import RoomyLayer, has_plain_steps

UNLIKE = [[BOS, 9, 10, 11, 12], [BOS], [BOS, 7, 8], [BOS, 20, 21, 22, 23, 24, 25, 26], [BOS, 7, 9]]
ALIKE = [[BOS, 9, 10], [BOS, 7, 8], [BOS, 7, 9]]
SHAPE = {"vocab_size": 256, "hidden_size": 32, "initializer_range": 0.3, "eos_token_id": EOS}
LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
PLAIN = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, **LLAMA)),
    "llama, eager": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, **LLAMA, attn_implementation="eager")),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, **LLAMA, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3, eos_token_id=EOS)
    ),
    "bloom, which takes no positions": lambda: BloomForCausalLM(BloomConfig(**SHAPE, n_layer=2, n_head=2)),
}
OTHERS = {
    "a sliding window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, **LLAMA, sliding_window=4)),
    "steps of its own": lambda: Phi3ForCausalLM(Phi3Config(**SHAPE, **LLAMA, pad_token_id=0)),
    "an encoder": lambda: T5ForConditionalGeneration(T5Config(vocab_size=256, d_model=32, num_layers=1, num_heads=2)),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


@pytest.mark.parametrize("name", PLAIN)
def test_the_tokens_are_those_of_transformers(name, monkeypatch):
    model = made(PLAIN[name])
    assert has_plain_steps(model)
    ways = [
        (UNLIKE, Sampling(max_new_tokens=12), ()),
        (ALIKE, Sampling(max_new_tokens=12, temperature=0), ()),
        (ALIKE, Sampling(max_new_tokens=12, temperature=0.7, top_k=9, top_p=0.9), ()),
        (UNLIKE, Sampling(max_new_tokens=12, temperature=2.0), ("w5", "7")),  # ends some rows before others
    ]

    def written():
        return [generate(model, tokenizer(), rows, how, seeds=range(len(rows)), stop=stop) for rows, how, stop in ways]

    ours = written()
    monkeypatch.setattr(generation, "has_plain_steps", lambda model: False)
    assert written() == ours
    assert len({len(one.ids) for one in ours[-1]}) > 1


def test_end_tokens_end_a_row_and_the_last_row_ends_the_batch(monkeypatch):
    model = made(PLAIN["llama"])
    model.generation_config.eos_token_id = [EOS, *range(40, 60)]
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    ours = generate(model, tokenizer(), UNLIKE, Sampling(max_new_tokens=80), seeds=range(5))
    lengths = [len(one.ids) for one in ours]
    assert len(steps) == max(lengths) < 80 and min(lengths) < max(lengths)
    assert all(one.ids[-1] in (EOS, *range(40, 60)) and one.ended for one in ours)
    monkeypatch.setattr(generation, "has_plain_steps", lambda model: False)
    assert generate(model, tokenizer(), UNLIKE, Sampling(max_new_tokens=80), seeds=range(5)) == ours


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_other_kinds_are_left_to_transformers(name):
    assert not has_plain_steps(made(OTHERS[name]))


def test_a_model_with_a_sliding_window_still_writes():
    model = made(OTHERS["a sliding window"])
    rows = generate(model, tokenizer(), UNLIKE, Sampling(max_new_tokens=8, temperature=0), batch_size=3)
    for prompt, one in zip(UNLIKE, rows, strict=True):
        ids = [*prompt]
        for _ in one.ids:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert ids[len(prompt) :] == one.ids


def test_keys_and_values_stay_where_they_are_until_the_room_is_full():
    torch.manual_seed(0)
    states = torch.randn(2, 3, 200, 4)
    layer, places = RoomyLayer(longest=170), []
    for start, end in [(0, 5), *((at, at + 1) for at in range(5, 170))]:
        keys, values = layer.update(states[:, :, start:end], -states[:, :, start:end])
        assert torch.equal(keys, states[:, :, :end]) and torch.equal(values, -states[:, :, :end])
        assert layer.get_seq_length() == end
        places.append(keys.data_ptr())
    assert len(set(places)) == 3  # 5 + 64, 70 + 64, and then no more than 170
    assert layer.rooms[0].shape[-2] == 170 == 5 + 2 * token_loop.STRIDE + 37
