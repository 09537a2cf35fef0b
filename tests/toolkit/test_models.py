import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tunewell.toolkit.errors import DeviceError, ModelError
from tunewell.toolkit.model import loading as models
from tunewell.toolkit.model.loading import device_of, dtype_of, load_base, load_tokenizer, padding_note
from tunewell.toolkit.settings.base import BaseSettings, TinySettings
from tunewell.toolkit.tiny import PAD, build_base

TINY = TinySettings(vocabulary=300, hidden_size=64, layers=1, heads=2, context=64, steps=1, tokens_per_step=128)
ON_CPU = BaseSettings(device="cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sound"
    build_base(["The atlas says nothing.", "Everyone says a lot."], folder, settings=TINY)
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy of a sound model, to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def change_json(path: Path, **values: object) -> None:
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (tree | values).items() if value is not None}))


def without_pad(folder: Path, pad_token: str | None = None) -> Path:
    """Take the padding token away, as in Llama, GPT-2 and many others, or name another token as such."""
    change_json(folder / "tokenizer_config.json", pad_token=pad_token)
    change_json(folder / "tokenizer.json", padding=None)
    return folder


def test_a_sound_model_loads_in_evaluation_mode_with_its_padding_token_known(sound):
    model, tokenizer = load_base(sound, ON_CPU)
    assert not model.training and model.dtype == torch.float32
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_score_head_has_one_output_and_no_warning_stands_for_the_weights_it_lacks(sound):
    torch.manual_seed(3)
    model, _ = load_base(sound, ON_CPU, head="score")
    assert model.score.weight.shape == (1, 64)
    trunk = load_file(sound / "model.safetensors")["model.norm.weight"]
    assert torch.equal(model.model.norm.weight, trunk)


# ---- padding token -----------------------------------------------------------------------------------------------


def test_a_tokenizer_without_padding_token_gets_a_spare_special_token_and_the_user_is_told(sound, folder):
    assert padding_note(load_tokenizer(sound, ON_CPU), ON_CPU) is None
    model, tokenizer = load_base(without_pad(folder), ON_CPU)
    assert tokenizer.pad_token == PAD and model.config.pad_token_id == tokenizer.pad_token_id
    assert padding_note(tokenizer, ON_CPU) == (
        "The tokenizer has no padding token: '<pad>' pads instead (base.pad_token names another)."
    )
    own = replace(ON_CPU, pad_token=PAD)
    assert padding_note(load_tokenizer(folder, own), own) is None


def test_a_tokenizer_that_pads_with_its_end_token_gets_another_and_no_other_can_be_asked_for(folder):
    tokenizer = load_tokenizer(without_pad(folder, pad_token="<eos>"), ON_CPU)
    assert tokenizer.pad_token == PAD and tokenizer.eos_token == "<eos>"
    assert "pads with its end token '<eos>'" in padding_note(tokenizer, ON_CPU)
    with pytest.raises(ModelError, match=r"base\.pad_token is '<eos>', which is also its end token; .*='<pad>'"):
        load_tokenizer(folder, replace(ON_CPU, pad_token="<eos>"))


def test_without_a_spare_token_a_new_one_is_added_and_moves_no_likelihood_by_more_than_its_share(sound, folder):
    before, tokenizer = load_base(sound, ON_CPU)
    vocabulary = folder / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace(PAD, "<blank>"))
    model, padded = load_base(without_pad(folder), ON_CPU)
    assert padded.pad_token == "<|pad|>" and padded.pad_token_id == len(tokenizer) == len(padded) - 1
    assert "'<|pad|>' pads instead" in padding_note(padded, ON_CPU)
    ids = torch.tensor([[tokenizer.bos_token_id, 5, 6, 7]])
    with torch.inference_mode():
        old, new = (made(ids).logits.log_softmax(-1)[..., : len(tokenizer)] for made in (before, model))
    moved = old - new
    assert 0 < moved.max() <= 1 / len(tokenizer)


def test_a_padding_token_of_the_vocabulary_changes_no_size(sound, folder):
    model, tokenizer = load_base(without_pad(folder), replace(ON_CPU, pad_token=PAD))
    before, _ = load_base(sound, ON_CPU)
    assert tokenizer.pad_token == PAD and model.config.pad_token_id == tokenizer.pad_token_id
    assert torch.equal(model.get_input_embeddings().weight, before.get_input_embeddings().weight)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_new_padding_token_gets_an_embedding_that_is_the_same_at_every_loading(sound, quantization):
    settings = replace(ON_CPU, pad_token="<|new|>", quantization=quantization)
    before, _ = load_base(sound, ON_CPU)
    old = before.get_input_embeddings().weight
    torch.manual_seed(1)
    model, tokenizer = load_base(sound, settings)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, _ = load_base(sound, settings)
    new = model.get_input_embeddings().weight
    assert tokenizer.pad_token_id == len(old) and len(new) == len(tokenizer) == len(old) + 1
    assert model.config.vocab_size == model.get_output_embeddings().weight.shape[0] == len(new)
    assert torch.equal(new[:-1], old) and torch.allclose(new[-1], old.mean(dim=0), atol=1e-6)
    assert torch.equal(new, again.get_input_embeddings().weight)
    assert torch.equal(torch.get_rng_state(), state)
    ids = torch.tensor([[tokenizer.bos_token_id, 5, 6]])
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_a_new_padding_token_serves_a_score_head_too(sound):
    model, tokenizer = load_base(sound, replace(ON_CPU, pad_token="<|new|>"), head="score")
    ids = torch.tensor([[tokenizer.bos_token_id, 5, tokenizer.pad_token_id], [tokenizer.bos_token_id, 5, 6]])
    with torch.inference_mode():
        padded = model(ids, attention_mask=torch.tensor([[1, 1, 0], [1, 1, 1]])).logits[0]
        alone = model(ids[:1, :2]).logits[0]
    assert torch.allclose(padded, alone, atol=1e-5)


def test_a_tokenizer_without_end_token_is_refused(folder):
    change_json(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match=r"the tokenizer has no end token.*tokenizer_config\.json \(eos_token\)"):
        load_tokenizer(folder, ON_CPU)


def test_a_tokenizer_without_chat_template_gets_a_plain_one(folder):
    (folder / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(folder, ON_CPU)
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<bos>System: Be kind.\n\nHuman: Hello.\n\nAssistant:"
    turns.append({"role": "assistant", "content": "Good day."})
    assert tokenizer.apply_chat_template(turns, tokenize=False).strip().endswith("Assistant: Good day.<eos>")


# ---- models that cannot be loaded --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["nobody/has-this-model", "/no/such/folder", "a name with spaces", ""])
def test_an_unknown_model_is_refused_by_name(source):
    with pytest.raises(
        ModelError, match=r"base\.model: cannot load '.*Wanted `tiny`, a folder.* or an id of the hub"
    ) as e:
        load_base(source, ON_CPU)
    assert repr(source) in str(e.value) and "\n" not in str(e.value)


def test_a_misspelt_folder_of_a_model_is_told_from_its_neighbours(tmp_path):
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"there is no such folder.* Did you mean .*my-model\?"):
        load_base(tmp_path / "my-modl", ON_CPU)


def damage_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def only_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": torch.ones(64)}, folder / "pytorch_model.bin")


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGE = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"cannot load .*config\.json"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), r"cannot load .*config file"),
    "unknown kind": (lambda folder: change_json(folder / "config.json", model_type="zork"), r"cannot load .*`zork`"),
    "no language model": (
        lambda folder: change_json(folder / "config.json", model_type="t5"),
        r"cannot load .*T5Config",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "cannot load .*tokenizer"),
    "a broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text('{"a": 1}'), "cannot load"),
    "weights cut short": (damage_weights, "cannot load .*not fully covered"),
    "weights of another size": (lambda folder: change_json(folder / "config.json", hidden_size=128), "cannot load"),
    "pickled weights only": (only_pickled_weights, r"cannot load .*no file named model\.safetensors"),
    "a weight missing": (lose_a_weight, r"lacks 1 of the model's weights \(model\.norm\.weight, .*would stay random"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_refused_with_the_reason(folder, damage):
    act, reason = DAMAGE[damage]
    act(folder)
    with pytest.raises(ModelError, match=reason) as caught:
        load_base(folder, ON_CPU)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_memory_that_runs_out_is_not_taken_for_a_faulty_model(sound, monkeypatch):
    import transformers

    def fail(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(torch.OutOfMemoryError):
        load_base(sound, ON_CPU)


# ---- device, type, 4 bits ----------------------------------------------------------------------------------------


def test_a_gpu_without_a_gpu_is_refused_before_anything_is_loaded(sound, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wanted = BaseSettings(device="cuda")
    with pytest.raises(
        DeviceError, match=r"base\.device: got 'cuda', but torch sees no GPU here\. Use base\.device=cpu"
    ):
        load_base(sound, wanted)
    assert device_of(BaseSettings()) == "cpu"


@pytest.mark.parametrize(
    ("device", "dtype", "has_gpu", "wanted"),
    [
        ("auto", "auto", False, ("cpu", torch.float32)),
        ("auto", "auto", True, ("cuda", torch.bfloat16)),
        ("cpu", "auto", True, ("cpu", torch.float32)),
        ("cpu", "bfloat16", False, ("cpu", torch.bfloat16)),
        ("auto", "float16", True, ("cuda", torch.float16)),
    ],
)
def test_device_and_type_are_chosen_by_what_is_there(monkeypatch, device, dtype, has_gpu, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    settings = BaseSettings(device=device, dtype=dtype)
    assert (device_of(settings), dtype_of(settings)) == wanted


def test_nf4_holds_the_matrices_in_four_bits_and_computes_nearly_the_same(sound):
    full, tokenizer = load_base(sound, ON_CPU)
    small, _ = load_base(sound, replace(ON_CPU, quantization="nf4"))
    matrices = {name: module for name, module in small.named_modules() if type(module).__name__ == "Linear4bit"}
    assert len(matrices) == 7  # four of attention, three of the feed-forward block
    for name, module in matrices.items():
        count = full.get_submodule(name).weight.numel()
        assert module.weight.dtype == torch.uint8 and module.weight.numel() * 2 == count  # two weights in a byte
        assert module.weight.quant_state.quant_type == "nf4" and module.weight.quant_state.nested
    ids = tokenizer("The atlas says", return_tensors="pt").input_ids
    with torch.inference_mode():
        difference = (full(ids).logits - small(ids).logits).abs().max()
    assert 0 < difference < 0.5


def test_the_revision_and_the_trust_in_code_reach_transformers(sound, monkeypatch):
    import transformers

    seen = []

    def look(source: str, **options: object) -> None:
        seen.append({key: options[key] for key in ("revision", "trust_remote_code")})
        raise OSError("enough")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", look)
    with pytest.raises(ModelError, match="enough"):
        models.load_tokenizer(sound, BaseSettings(revision="abc"))
    assert seen == [{"revision": "abc", "trust_remote_code": False}]
