import pytest
import torch
from stack_fakes import PEFT_WARNING, base, batch, lora, tokenizer
from tunewell.toolkit.model.direct import lora_layers
from tunewell.toolkit.model.stack import ModelStack

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]


@pytest.fixture
def mixed():
    """A plain adapter, one that PEFT alone can compute (DoRA), and one with a reward head."""
    made = ModelStack(base(), tokenizer())
    torch.manual_seed(3)
    made.add("policy", lora(init_lora_weights=False), trainable=True)
    made.add("decomposed", lora(init_lora_weights=False, use_dora=True), trainable=False)
    made.add_scorer("reward", "policy", trainable=False)
    made.add_scorer("value", "policy", trainable=True)
    for name in ("reward", "value"):
        for _, parameter in made.parameters(name):
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@torch.no_grad()
def outputs(made, names):
    found = {}
    for name in names:
        with made.using(name):
            found[name] = [made.hidden(*batch())]
            if name is not None and made.has_head(name):
                found[name].append(made.score(*batch()))
    return found


def test_past_peft_every_adapter_computes_what_it_does_through_peft_in_any_order(mixed):
    names = ("policy", "reward", "decomposed", None, "value", "decomposed", "policy", "value")
    through = outputs(mixed, names)
    states = [found[0] for found in through.values()]
    assert all((one - other).abs().max() > 0.01 for one in states for other in states if one is not other)
    mixed.is_direct = True
    for name, found in outputs(mixed, names).items():
        torch.testing.assert_close(found, through[name], atol=1e-5, rtol=1e-5)


def test_past_peft_nested_switches_come_back(mixed):
    through = outputs(mixed, ("reward", "decomposed"))
    mixed.is_direct = True
    for outer, inner in (("reward", "decomposed"), ("decomposed", "reward"), ("reward", None), ("decomposed", "value")):
        with torch.no_grad(), mixed.using(outer):
            with mixed.using(inner):
                assert mixed.active == inner
            torch.testing.assert_close(mixed.hidden(*batch()), through[outer][0], atol=1e-5, rtol=1e-5)
            if outer == "reward":
                torch.testing.assert_close(mixed.score(*batch()), through[outer][1], atol=1e-5, rtol=1e-5)


def test_afterwards_peft_finds_all_its_layers_and_flags_as_they_were(mixed):
    flags = {name: parameter.requires_grad for name, parameter in mixed.model.named_parameters()}
    before = [layer.active_adapters for layer in lora_layers(mixed.model)]
    through = outputs(mixed, ("policy",))
    mixed.is_direct = True
    outputs(mixed, ("reward", "decomposed", "value"))
    assert [layer.active_adapters for layer in lora_layers(mixed.model)] == before
    assert mixed.model.active_adapter == mixed.active == "policy"
    assert {name: parameter.requires_grad for name, parameter in mixed.model.named_parameters()} == flags
    mixed.is_direct = False
    torch.testing.assert_close(mixed.hidden(*batch()), through["policy"][0], atol=1e-5, rtol=1e-5)


def test_an_adapter_that_is_deleted_and_added_again_is_found(mixed):
    mixed.is_direct = True
    outputs(mixed, ("reward",))
    mixed.delete("policy")
    mixed.add("policy", lora(init_lora_weights=False), trainable=True)
    found = outputs(mixed, ("policy", "value"))
    mixed.is_direct = False
    for name, through in outputs(mixed, ("policy", "value")).items():
        torch.testing.assert_close(found[name], through, atol=1e-5, rtol=1e-5)
    assert (found["policy"][0] - found["value"][0]).abs().max() > 0.01


def test_an_adapter_that_was_chosen_through_peft_is_not_taken_for_the_active_one(mixed):
    through = outputs(mixed, ("decomposed",))
    with torch.no_grad(), mixed.using("decomposed"):
        mixed.model.set_adapter("reward")
        mixed.is_direct = True
        with mixed.using("decomposed"):
            torch.testing.assert_close(mixed.hidden(*batch()), through["decomposed"][0], atol=1e-5, rtol=1e-5)
