import copy
import json

import pytest
import torch
from peft import PeftModel
from stack_fakes import PEFT_WARNING, base, batch, config, lora, reward_folder, stack, tokenizer
from transformers import BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM
from tunewell.toolkit.errors import ModelError
from tunewell.toolkit.model.ensemble import Ensemble
from tunewell.toolkit.model.four_bit import keep_differentiable
from tunewell.toolkit.model.stack import ModelStack

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def flags(made):
    return {name: parameter.requires_grad for name, parameter in made.model.named_parameters()}


def noise(made, name):
    for _, parameter in made.parameters(name):
        torch.nn.init.normal_(parameter, std=0.2)


def logits(made, name):
    ids, mask = (part.to(made.device) for part in batch())
    with torch.no_grad(), made.using(name):
        return made.logits(made.hidden(ids, mask))[mask.bool()]


def test_a_fresh_adapter_and_the_bare_base_compute_the_same_and_a_trained_one_does_not(tmp_path):
    made = stack(tmp_path)
    ids, mask = batch()
    with torch.no_grad():
        plain = base()(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    assert torch.equal(logits(made, None), plain)
    torch.testing.assert_close(logits(made, "policy"), plain)
    noise(made, "policy")
    assert (logits(made, "policy") - plain).abs().max() > 0.1
    assert torch.equal(logits(made, None), plain)


def test_only_the_adapter_in_use_takes_gradients_and_all_flags_come_back_even_after_an_error(tmp_path):
    made = stack(tmp_path)
    before = flags(made)
    assert made.active == "policy"
    with made.using("reward"):
        assert not any(flags(made).values())
        with made.using("policy", trainable=True):
            own = {name for name, _ in made.parameters("policy")}
            assert {name for name, flag in flags(made).items() if flag} == own and own
        assert made.active == "reward"
        with made.using(None):
            assert made.active is None and not any(flags(made).values())
        assert made.active == "reward"
    with pytest.raises(RuntimeError, match="broken"), made.using("reference"):
        raise RuntimeError("broken")
    assert made.active == "policy"
    assert flags(made) == before
    assert any(before.values())


def test_two_trainable_adapters_stay_trainable_through_switching(tmp_path):
    made = stack(tmp_path)
    made.copy("reward", "value", trainable=True)
    with made.using("reference"):
        pass
    for name, expected in {"policy": True, "value": True, "reward": False, "reference": False}.items():
        assert {parameter.requires_grad for _, parameter in made.parameters(name)} == {expected}
    assert made.has_head("value") and not made.has_head("policy")


def test_scores_of_a_loaded_reward_adapter_are_bit_identical_to_the_classifier_it_was_saved_from(tmp_path):
    model = base()
    folder, classifier = reward_folder(model, tmp_path / "reward")
    made = ModelStack(model, tokenizer())
    made.add("policy", lora(), trainable=True)
    made.load("reward", folder)
    ids, mask = batch()
    with torch.no_grad(), made.using("reward"):
        scores = made.score(ids, mask)
        expected = classifier(input_ids=ids, attention_mask=mask).logits[:, 0]
    assert torch.equal(scores, expected)
    assert scores.abs().max() > 0.01


def test_a_reward_adapter_may_come_first_and_padding_on_the_left_gives_the_same_score(tmp_path):
    model = base()
    folder, _ = reward_folder(model, tmp_path / "reward")
    made = ModelStack(model, tokenizer())
    made.load("reward", folder)
    ids, mask = batch()
    with torch.no_grad(), made.using("reward"):
        right = made.score(ids, mask)
        left = made.score(ids.roll(2, 1)[:1], mask.roll(2, 1)[:1])
    torch.testing.assert_close(left, right[:1])


def test_the_stored_bias_is_subtracted_and_survives_saving_and_copying(tmp_path):
    made = stack(tmp_path)
    ids, mask = batch()
    with torch.no_grad(), made.using("reward"):
        plain = made.score(ids, mask)
        made.set_bias("reward", 1.5)
        assert torch.equal(made.score(ids, mask), plain - 1.5)
    made.save("reward", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "reward_meta.json").read_text())["bias"] == 1.5
    made.load("second", tmp_path / "again")
    made.copy("second", "third", trainable=True)
    with torch.no_grad(), made.using("third"):
        assert torch.equal(made.score(ids, mask), plain - 1.5)


def test_a_saved_policy_loads_with_peft_alone(tmp_path):
    made = stack(tmp_path)
    noise(made, "policy")
    made.save("policy", tmp_path / "policy")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in (tmp_path / "policy").iterdir()
    }
    assert not list(tmp_path.glob(".*"))
    alone = PeftModel.from_pretrained(base(), tmp_path / "policy").eval()
    ids, mask = batch()
    with torch.no_grad():
        assert torch.equal(alone(input_ids=ids, attention_mask=mask).logits[mask.bool()], logits(made, "policy"))


def test_a_saved_reward_adapter_loads_with_peft_as_a_classifier(tmp_path):
    made = stack(tmp_path)
    made.save("reward", tmp_path / "again")
    _, classifier = reward_folder(base(), tmp_path / "unused")
    empty = copy.deepcopy(classifier.unload())
    torch.nn.init.zeros_(empty.score.weight)
    ids, mask = batch()
    alone = PeftModel.from_pretrained(empty, tmp_path / "again").eval()
    with torch.no_grad(), made.using("reward"):
        assert torch.equal(alone(input_ids=ids, attention_mask=mask).logits[:, 0], made.score(ids, mask))


def test_saving_twice_replaces_and_restoring_brings_the_saved_weights_back(tmp_path):
    made = stack(tmp_path)
    made.save("policy", tmp_path / "policy")
    noise(made, "policy")
    changed = made.digest("policy")
    made.save("policy", tmp_path / "policy")
    noise(made, "policy")
    assert made.digest("policy") != changed
    made.restore("policy", tmp_path / "policy")
    assert made.digest("policy") == changed
    assert made.digest("reference") != changed


def test_a_failed_save_leaves_the_old_adapter_in_place(tmp_path, monkeypatch):
    made = stack(tmp_path)
    made.save("policy", tmp_path / "policy")
    old = made.digest("policy")
    noise(made, "policy")

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("tunewell.toolkit.model.adapter_files.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        made.save("policy", tmp_path / "policy")
    made.restore("policy", tmp_path / "policy")
    assert made.digest("policy") == old
    assert not list(tmp_path.glob(".*"))


def test_an_adapter_of_another_base_is_refused_by_name_and_leaves_nothing_behind(tmp_path):
    made = stack(tmp_path)
    made.base.name_or_path = "first/base"
    made.save("policy", tmp_path / "policy")
    made.save("reward", tmp_path / "scores")
    twin = base(seed=5)
    twin.name_or_path = "second/base"
    other = ModelStack(twin, tokenizer())
    with pytest.raises(ModelError, match=r"(?s)second/base.*first/base"):
        other.load("policy", tmp_path / "policy")
    (tmp_path / "policy" / "base_meta.json").unlink()
    other.load("policy", tmp_path / "policy")  # without a record the shapes are all there is to go by

    deeper = config()
    deeper.num_hidden_layers = 3
    other = ModelStack(LlamaForCausalLM(deeper), tokenizer())
    with pytest.raises(ModelError, match=r"missing key .*layers\.2"):
        other.load("policy", tmp_path / "policy")
    assert other.names == ()

    wider = config()
    wider.hidden_size = 128
    other = ModelStack(LlamaForCausalLM(wider), tokenizer())
    with pytest.raises(ModelError, match=r"has shape .* wanted"):
        other.load("policy", tmp_path / "policy")

    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_embd=64, n_layer=2, n_head=2, n_positions=96))
    other = ModelStack(gpt, tokenizer())
    with pytest.raises(ModelError, match="does not fit"):
        other.load("policy", tmp_path / "policy")
    other.add("policy", lora(target_modules=["c_attn"], fan_in_fan_out=True), trainable=True)
    assert other.names == ("policy",)


def test_a_reward_folder_that_lost_its_head_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder, _ = reward_folder(base(), tmp_path / "reward")
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop("base_model.model.score.weight")
    save_file(weights, folder / "adapter_model.safetensors")
    made = ModelStack(base(), tokenizer())
    with pytest.raises(ModelError, match="does not fit"):
        made.load("reward", folder)


def test_a_reward_adapter_on_a_base_that_computes_otherwise_is_refused_though_all_keys_and_embeddings_fit(tmp_path):
    made = stack(tmp_path)
    made.save("reward", tmp_path / "scores")
    merged = base()
    with torch.no_grad():
        merged.model.layers[0].mlp.down_proj.weight += 0.05 * torch.randn(64, 64)
    other = ModelStack(merged, tokenizer())
    with pytest.raises(ModelError, match=r"differ by up to .* from those when it was saved"):
        other.load("reward", tmp_path / "scores")
    assert other.names == ()
    rounded = ModelStack(base().to(torch.bfloat16), tokenizer())
    rounded.load("reward", tmp_path / "scores")  # rounding alone is no fault
    assert rounded.has_head("reward")


@pytest.mark.parametrize(
    ("combine", "wanted"), [("mean", 3.0), ("min", 1.0), ("mean_minus_deviation", 3.0 - 0.5 * 8**0.5)]
)
def test_members_are_combined_as_the_rule_says(combine, wanted):
    ensemble = Ensemble(size=3, combine=combine, deviation_weight=0.5)
    # deviations from the mean 3 are -2, -2 and 4: the variance is 24 / 3 = 8
    found = ensemble.combined(torch.tensor([[1.0], [1.0], [7.0]]))
    torch.testing.assert_close(found, torch.tensor([wanted]))


def test_an_ensemble_is_saved_loaded_scored_and_forgotten_as_one(tmp_path):
    made = stack(tmp_path)
    made.copy("reward", "reward_2", trainable=False)
    noise(made, "reward_2")
    ids, mask = batch()
    single = []
    for name in ("reward", "reward_2"):
        made.set_bias(name, 0.25)
        with torch.no_grad(), made.using(name):
            single.append(made.score(ids, mask))
    assert not torch.allclose(*single)
    alone = made.digest("reward")
    made.set_ensemble("reward", Ensemble(size=2, combine="min", bias=0.5))
    assert made.digest("reward") != alone
    with torch.no_grad(), made.using("reward"):
        both = made.score(ids, mask)
    torch.testing.assert_close(both, torch.minimum(*single) - 0.5)
    made.save("reward", tmp_path / "both")
    again = ModelStack(base(), tokenizer())
    again.load("judge", tmp_path / "both")
    assert again.names == ("judge", "judge_2") and again.digest("judge") == made.digest("reward")
    with torch.no_grad(), again.using("judge"):
        assert torch.equal(again.score(ids, mask), both)
    (tmp_path / "both" / "member-2" / "adapter_model.safetensors").unlink()
    broken = ModelStack(base(), tokenizer())
    with pytest.raises(ModelError, match="member-2"):
        broken.load("judge", tmp_path / "both")
    assert broken.names == ()
    again.delete("judge")
    assert again.names == ()
    with pytest.raises(ModelError, match=r"got adapter 'reward_3'"):
        made.set_ensemble("reward", Ensemble(size=3))
    with pytest.raises(ModelError, match="two or more"):
        Ensemble(size=1)


@pytest.mark.parametrize("fault", ["no folder", "broken weights", "no names"])
def test_broken_folders_and_names_give_clear_errors(tmp_path, fault):
    made = stack(tmp_path)
    if fault == "no folder":
        with pytest.raises(ModelError, match=r"adapter_config\.json and adapter_model\.safetensors"):
            made.load("value", tmp_path / "nowhere")
    elif fault == "broken weights":
        (tmp_path / "reward" / "adapter_model.safetensors").write_bytes(b"\x10")
        with pytest.raises(ModelError, match="cannot be read"):
            made.load("value", tmp_path / "reward")
    else:
        with pytest.raises(ModelError, match="already in the stack"):
            made.add("policy", lora(), trainable=True)
        with pytest.raises(ModelError, match=r"got adapter 'nobody', wanted one of .*policy, reference, reward"):
            made.using("nobody").__enter__()
        with pytest.raises(ModelError, match="has no reward head"), made.using("policy"):
            made.score(*batch())
        with pytest.raises(ModelError, match="rewrites the base"):
            made.add("value", lora(init_lora_weights="pissa"), trainable=True)


def test_deleting_the_active_adapter_activates_another_and_the_last_one_leaves_the_base(tmp_path):
    made = stack(tmp_path)
    made.delete("policy")
    assert made.active == "reference"
    made.delete("reference")
    made.delete("reward")
    assert made.names == () and made.active is None
    made.add("policy", lora(), trainable=True)
    assert made.active == "policy"
    noise(made, "policy")
    assert not torch.equal(logits(made, "policy"), logits(made, None))


def test_all_linear_does_not_reach_into_the_reward_head(tmp_path):
    made = stack(tmp_path)
    made.add("wide", lora(target_modules="all-linear"), trainable=True)
    assert not any("score" in name or "lm_head" in name for name, _ in made.parameters("wide"))
    assert any("gate_proj" in name for name, _ in made.parameters("wide"))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_two_adapters_are_those_of_separate_models(tmp_path, checkpointing):
    """Under checkpointing the backward recomputes; the gradient is right because it runs inside `using`."""
    made = stack(tmp_path)
    made.copy("reward", "value", trainable=True)
    noise(made, "policy")
    ids, mask = batch()

    def gradient(name, loss):
        made.model.zero_grad()
        with made.using(name, trainable=True):
            loss().backward()
        return torch.cat([parameter.grad.flatten() for _, parameter in made.parameters(name)])

    plain = [
        gradient("policy", lambda: made.logits(made.hidden(ids, mask)).logsumexp(-1).sum()),
        gradient("value", lambda: made.head(made.hidden(ids, mask)).square().sum()),
    ]
    if checkpointing:
        made.base.activation_checkpointing_enable()
        made.base.train()
    again = [
        gradient("policy", lambda: made.logits(made.hidden(ids, mask)).logsumexp(-1).sum()),
        gradient("value", lambda: made.head(made.hidden(ids, mask)).square().sum()),
    ]
    for one, other in zip(plain, again, strict=True):
        assert one.norm() > 0
        torch.testing.assert_close(one, other)


# bitsandbytes reads single-element tensors that require gradients as numbers while it quantises and multiplies
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_on_a_four_bit_base_gradients_survive_an_evaluation_and_adapters_are_float32(tmp_path):
    base().save_pretrained(tmp_path / "base")
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base", quantization_config=four_bit, dtype=torch.float32)
    made = ModelStack(model, tokenizer())
    made.add("policy", lora(init_lora_weights=False), trainable=True)
    assert {parameter.dtype for _, parameter in made.parameters("policy")} == {torch.float32}
    ids, mask = (part.to(made.device) for part in batch())

    def gradient():
        made.model.zero_grad()
        with made.using("policy", trainable=True):
            made.logits(made.hidden(ids, mask)).logsumexp(-1).sum().backward()
        return torch.cat([parameter.grad.flatten() for _, parameter in made.parameters("policy")])

    before = gradient()
    made.model.eval()
    logits(made, "policy")
    torch.testing.assert_close(gradient(), before)


def test_a_four_bit_model_that_was_packed_for_inference_is_refused():
    class Packed(torch.nn.Linear):
        support_avx512bf16_for_cpu = True

    model = torch.nn.Sequential(Packed(2, 2))
    keep_differentiable(model)
    assert model[0].support_avx512bf16_for_cpu is False
    model[0].weight.quant_state = type("State", (), {"packing_format_for_cpu": True})()
    with pytest.raises(ModelError, match="packed for inference"):
        keep_differentiable(model)


def test_adapters_follow_the_mode_of_the_base_so_that_dropout_never_makes_scores_random():
    made = ModelStack(base().eval(), tokenizer())
    made.add("policy", lora(lora_dropout=0.5), trainable=True)
    made.add("other", lora(lora_dropout=0.5), trainable=False)
    noise(made, "policy")
    assert not any(module.training for module in made.model.modules())
    assert torch.equal(logits(made, "policy"), logits(made, "policy"))
    made.model.train()
    assert not torch.equal(logits(made, "policy"), logits(made, "policy"))


@pytest.mark.parametrize("is_first", [True, False])
def test_trained_token_rows_of_one_adapter_leave_others_alone(tmp_path, is_first):
    """Control tokens in the policy, a reward adapter without them: PEFT alone fails at the second one."""
    made = ModelStack(base(), tokenizer())
    rows = lora(trainable_token_indices=[10, 11], init_lora_weights=False)
    plain = lora(init_lora_weights=False)
    for name, shape in (("policy", rows), ("reward", plain)) if is_first else (("reward", plain), ("policy", rows)):
        made.add(name, shape, trainable=False)
    with torch.no_grad():
        for name, parameter in made.parameters("policy"):
            if "tokens" in name:
                parameter += 1
    ids = torch.tensor([[1, 10, 11, 12]])
    start = base().model.embed_tokens.weight[ids]
    was = {}
    for name, moved in (("policy", [False, True, True, False]), ("reward", [False] * 4)):
        with made.using(name) as model:
            assert (model.get_input_embeddings()(ids) != start).any(-1).tolist() == [moved]
            was[name] = model(input_ids=ids).logits.detach()
        made.save(name, tmp_path / name)
    assert {key for key in made.weights("policy") if "tokens" in key} and made.digest("reward")
    assert not {key for key in made.weights("reward") if "tokens" in key}
    again = ModelStack(base(), tokenizer())
    for name in made.names:
        again.load(name, tmp_path / name)
    again.copy("reward", "other", trainable=False)
    again.restore("reward", tmp_path / "reward")
    for name in ("policy", "reward"):
        with again.using(name) as model:
            assert torch.equal(model(input_ids=ids).logits, was[name])
    with again.using("other") as model:
        assert torch.equal(model(input_ids=ids).logits, was["reward"])
