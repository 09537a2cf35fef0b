"""A tiny random Llama, a word tokenizer and a reward adapter for the tests of the model stack."""

import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from tunewell.toolkit.model.stack import ModelStack

PAD, BOS, EOS, WORDS, WINDOW = 0, 1, 2, 256, 96

# peft 0.21 asks transformers 5.23 for a property that was renamed; the old name goes away with transformers 6
PEFT_WARNING = r"ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"

CHAT = (
    "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<bos>", "<eos>", "user", "assistant", "<unk>", *(f"w{i}" for i in range(6, WORDS))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    made.chat_template = CHAT
    return made


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=WORDS,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=0.1,
        num_labels=1,
    )


def base(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(config()).eval()


def lora(**changes: object) -> LoraConfig:
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    return LoraConfig(**(settings | changes))


def reward_folder(model: LlamaForCausalLM, folder: Path, seed: int = 7) -> tuple[Path, torch.nn.Module]:
    """A reward adapter with random weights, made by peft alone; returns the folder and the classifier it came from."""
    torch.manual_seed(seed)
    classifier = LlamaForSequenceClassification(config())
    classifier.model.load_state_dict(model.model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(
            classifier, lora(task_type="SEQ_CLS", modules_to_save=["score"], init_lora_weights=False)
        ).eval()
        made.save_pretrained(folder)
    return folder, made


def stack(folder: Path, *, bias: float = 0.0, seed: int = 0) -> ModelStack:
    """A stack with a policy, its frozen copy as reference, and a reward adapter."""
    model = base(seed)
    made = ModelStack(model, tokenizer())
    if not (folder / "reward").exists():
        reward_folder(model, folder / "reward")
    torch.manual_seed(seed + 1)
    made.add("policy", lora(), trainable=True)
    made.copy("policy", "reference", trainable=False)
    made.load("reward", folder / "reward")
    made.set_bias("reward", bias)
    return made


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of tokens, the first with two cells of padding on the right."""
    ids = torch.tensor([[5, 6, 7, 8, 2, 0, 0], [9, 10, 11, 12, 13, 14, 2]])
    return ids, (ids != PAD).long()
