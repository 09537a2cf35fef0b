import pytest
import torch
from stack_fakes import PEFT_WARNING, base, batch, lora, stack, tokenizer
from tunewell.toolkit.model.direct import compute_directly, lora_layers
from tunewell.toolkit.model.stack import ModelStack

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]


def stack_with(**changes):
    made = ModelStack(base(), tokenizer())
    torch.manual_seed(3)
    made.add("policy", lora(init_lora_weights=False, **changes), trainable=True)
    return made


def hidden_and_gradients(made, direct):
    made.is_direct = direct
    ids, mask = batch()
    with made.using("policy", trainable=True):
        states = made.hidden(ids, mask)
        states.square().mean().backward()
    gradients = [parameter.grad.clone() for _, parameter in made.parameters("policy")]
    made.model.zero_grad()
    return states.detach(), gradients


def test_direct_layers_give_the_states_and_gradients_of_peft():
    made = stack_with()
    (peft, peft_gradients), (direct, direct_gradients) = (hidden_and_gradients(made, flag) for flag in (False, True))
    torch.testing.assert_close(direct, peft, atol=1e-5, rtol=1e-5)
    for one, other in zip(direct_gradients, peft_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    with torch.no_grad(), made.using(None):
        assert (made.hidden(*batch()) - peft).abs().max() > 0.1  # the adapter has an effect to be found


def test_inside_of_using_every_layer_is_direct_and_outside_none_is():
    made = stack_with()
    made.is_direct = True
    layers = lora_layers(made.model)
    assert len(layers) == 6  # three kinds of layer in two blocks
    with made.using("policy"):
        assert all("forward" in vars(layer) for layer in layers)
        with made.using(None):
            assert not any("forward" in vars(layer) for layer in layers)
        assert all("forward" in vars(layer) for layer in layers)
    assert not any("forward" in vars(layer) for layer in layers)


def test_adapters_of_other_shapes_take_turns(tmp_path):
    made = stack(tmp_path)
    made.add("narrow", lora(target_modules=["q_proj"], init_lora_weights=False), trainable=False)

    def states(name):
        with torch.no_grad(), made.using(name):
            return made.hidden(*batch())

    plain = {name: states(name) for name in ("narrow", "reward", None)}
    made.is_direct = True
    for name, expected in plain.items():
        torch.testing.assert_close(states(name), expected, atol=1e-5, rtol=1e-5)


def test_layers_that_are_not_plain_stay_with_peft():
    made = stack_with(use_dora=True)
    compute_directly(lora_layers(made.model), "policy")
    assert not any("forward" in vars(layer) for layer in lora_layers(made.model))


def test_half_precision_bases_and_autocast_are_as_peft_has_them():
    made = ModelStack(base().to(torch.bfloat16), tokenizer())
    torch.manual_seed(3)
    made.add("policy", lora(init_lora_weights=False), trainable=True)
    for autocast in (False, True):
        found = []
        for made.is_direct in (False, True):
            with torch.no_grad(), made.using("policy"), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found.append(made.hidden(*batch()))
        assert found[0].dtype == found[1].dtype
        torch.testing.assert_close(found[1], found[0], atol=0.1, rtol=0.05)


def test_summed_layers_give_the_states_of_peft_and_leave_the_base_as_it_was():
    made = stack_with()
    plain = made.base.model.layers[0].self_attn.q_proj
    before = plain.base_layer.weight.clone()
    with torch.no_grad(), made.using("policy"):
        peft = made.hidden(*batch())
    made.is_direct = True
    with torch.no_grad(), made.using("policy", summed=True):
        torch.testing.assert_close(made.hidden(*batch()), peft, atol=1e-5, rtol=1e-5)
        assert plain(torch.ones(1, 1, before.shape[1])).shape == (1, 1, before.shape[0])
        # one product: the adapter's own matrices are not asked any more
        made.parameters("policy")[0][1].zero_()
        torch.testing.assert_close(made.hidden(*batch()), peft, atol=1e-5, rtol=1e-5)
    assert torch.equal(plain.base_layer.weight, before)
    with torch.no_grad(), made.using("policy"):
        assert (made.hidden(*batch()) - peft).abs().max() > 1e-3


def test_sums_of_adapters_take_turns_in_one_memory_until_one_is_trained():
    made = stack_with()
    made.add("other", lora(init_lora_weights=False), trainable=False)
    made.is_direct = True
    layers = lora_layers(made.model)
    plain, places = {}, []
    for name in ("policy", "other"):
        with torch.no_grad(), made.using(name):
            plain[name] = made.hidden(*batch())
    for name in ("policy", "other", "policy"):
        with torch.no_grad(), made.using(name, summed=True):
            torch.testing.assert_close(made.hidden(*batch()), plain[name], atol=1e-5, rtol=1e-5)
        places.append({made._switch._sums[layer].data_ptr() for layer in layers})
    assert places[0] == places[1] == places[2] and len(places[0]) == len(layers)
    with made.using("policy", trainable=True):
        assert not made._switch._sums


def test_no_sum_is_made_where_16_bits_would_round_the_adapter_away():
    def follows_its_adapter(made):
        with torch.no_grad(), made.using("policy", summed=True):
            before = made.hidden(*batch())
            for _, parameter in made.parameters("policy"):
                parameter.mul_(2)
            return bool((made.hidden(*batch()) - before).abs().max() > 1e-2)

    half = ModelStack(base().to(torch.bfloat16), tokenizer())
    half.add("policy", lora(init_lora_weights=False), trainable=True)
    whole, mixed = stack_with(), stack_with()
    for made in (half, whole, mixed):
        made.is_direct = True
    assert follows_its_adapter(half)
    assert not follows_its_adapter(whole)
    with torch.autocast("cpu", torch.bfloat16):
        assert follows_its_adapter(mixed)
