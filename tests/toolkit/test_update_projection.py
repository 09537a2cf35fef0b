import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stack_fakes import PEFT_WARNING, base, lora, stack, tokenizer
from torch import nn
from transformers import Trainer, TrainingArguments
from tunewell.toolkit.errors import DataError, ModelError
from tunewell.toolkit.mitigations.null_space import basis_by_energy, basis_by_ratio, orthonormal, without
from tunewell.toolkit.mitigations.protected_inputs import ProtectedInputs
from tunewell.toolkit.mitigations.settings import ProtectSettings
from tunewell.toolkit.mitigations.update_projection import FILE, UpdateProjection
from tunewell.toolkit.model.stack import ModelStack

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
EXACT = ProtectSettings(strength=1.0, energy=1.0)
ROWS = [[1, 10, 11, 12, 13, 2], [1, 20, 21, 22, 2]]  # 11 tokens: far fewer than the 64 directions of a layer
NEW = torch.tensor([[1, 30, 31, 32, 33, 34, 2], [1, 40, 41, 42, 43, 44, 2]])


def two_layers(seed=0, d=24):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 32, bias=False), nn.Tanh(), nn.Linear(32, 8, bias=False))


def spanned(rank, d=24, n=200, seed=1):
    """Inputs that span `rank` of d directions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, rank, generator=generator) @ torch.randn(rank, d, generator=generator)


# ---- bases -----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 23), st.integers(0, 5))
def test_the_projector_is_symmetric_idempotent_and_of_the_rank_that_is_left(rank, seed):
    inputs = spanned(rank, seed=seed).double()
    basis = basis_by_energy(inputs.mT @ inputs, 1.0)
    projector = torch.eye(24).double() - basis @ basis.mT
    assert basis.shape == (24, rank)
    assert torch.allclose(projector @ projector, projector, atol=1e-12)
    assert torch.allclose(projector, projector.mT)
    update = torch.randn(5, 24, dtype=torch.float64)
    kept = without(update, basis)
    assert (kept @ inputs.mT).norm() <= 1e-6 * kept.norm() * inputs.norm()
    assert kept.norm() > 0


def test_a_share_of_the_energy_takes_the_fewest_directions_that_hold_it():
    covariance = torch.diag(torch.tensor([6.0, 3.0, 1.0, 0.0]))
    assert [basis_by_energy(covariance, share).shape[1] for share in (0.5, 0.6, 0.7, 0.9, 0.95, 1.0)] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    with pytest.raises(DataError, match="above 0"):
        basis_by_energy(covariance, 0.0)


def test_a_ratio_frees_the_weakest_directions():
    covariance = torch.diag(torch.tensor([1000.0, 50.0, 10.0, 1.0]))
    assert [basis_by_ratio(covariance, ratio).shape[1] for ratio in (1, 10, 50, 1000)] == [3, 2, 1, 0]
    lacking = torch.diag(torch.tensor([1000.0, 50.0, 10.0, 0.0]))
    assert basis_by_ratio(lacking, 10).shape[1] == 3


def test_gradients_that_nearly_agree_give_an_orthonormal_basis_and_nothing_twice():
    torch.manual_seed(0)
    shared = torch.randn(20_000)
    vectors = [shared + 0.01 * torch.randn(20_000) for _ in range(50)]
    basis = orthonormal([*vectors, vectors[0] * 3])
    assert basis.shape == (50, 20_000)
    assert torch.allclose(basis @ basis.mT, torch.eye(50), atol=1e-6)
    gradient = torch.randn(20_000)
    kept = without(gradient, basis.mT)
    cosines = (basis @ kept).abs() / kept.norm()
    assert cosines.max() <= 1e-6
    assert kept @ gradient >= 0
    assert torch.allclose(without(kept, basis.mT), kept, atol=1e-6)


# ---- the leak that decides the design --------------------------------------------------------------------------


def trained(project):
    """Relative change of the old outputs after 50 steps of AdamW on other inputs and targets."""
    network = two_layers()
    old, new, target = spanned(12), torch.randn(64, 24, generator=torch.Generator().manual_seed(5)), torch.randn(64, 8)
    before = network(old).detach()
    bases = [basis_by_energy(old.double().mT @ old.double(), 1.0).float()]
    assert bases[0].shape[1] == 12
    layers = [network[0]]
    network[2].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([network[0].weight], lr=1e-2, weight_decay=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(new), target).backward()
        was = layers[0].weight.detach().clone()
        if project == "gradient":
            layers[0].weight.grad = without(layers[0].weight.grad, bases[0])
        optimizer.step()
        if project == "update":
            with torch.no_grad():
                layers[0].weight.copy_(was + without(layers[0].weight - was, bases[0]))
    return float((network(old).detach() - before).norm() / before.norm())


def test_projecting_the_update_protects_and_projecting_the_gradient_does_not():
    assert trained("nothing") > 1e-2
    assert trained("gradient") > 1e-2, "the leak through Adam and weight decay: do not project gradients"
    assert trained("update") < 1e-5


# ---- on a language model ---------------------------------------------------------------------------------------


def logits(model, rows):
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in rows]).detach()


def optimise(model, projection, steps=20, lr=5e-3):
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    if projection is not None:
        projection.watch(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=NEW, labels=NEW).loss.backward()
        optimizer.step()


def moved(kind, protect, tmp_path):
    """How far the logits of protected and of other texts move, for LoRA or full fine-tuning of the linear layers."""
    if kind == "lora":
        made = ModelStack(base(), tokenizer())
        torch.manual_seed(1)
        made.add("policy", lora(), trainable=True)
        model = made.model
    else:
        model = base()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("embed" not in name)
    old, new = logits(model, ROWS), logits(model, NEW.tolist())
    projection = None
    if protect is not None:
        projection = UpdateProjection(ROWS, protect)
        projection.start(model, tmp_path, 0)
        assert not projection.warnings()
    optimise(model, projection)
    return [float((logits(model, rows) - was).abs().max()) for rows, was in ((ROWS, old), (NEW.tolist(), new))]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_protected_outputs_stay_while_others_are_learned(kind, tmp_path):
    protected, learned = moved(kind, EXACT, tmp_path)
    unprotected, _ = moved(kind, None, tmp_path)
    assert protected < 1e-5
    assert unprotected > 1e-2
    assert learned > 1e-1


def test_half_the_strength_lies_between_and_zero_is_the_untreated_run_bit_for_bit(tmp_path):
    full, half, none, untreated = (
        moved("lora", protect, tmp_path)[0]
        for protect in (EXACT, ProtectSettings(strength=0.5, energy=1.0), ProtectSettings(energy=1.0), None)
    )
    assert full < half < untreated
    assert none == untreated


def test_an_adapter_that_is_trained_further_keeps_its_behaviour_too(tmp_path):
    made = ModelStack(base(), tokenizer())
    made.add("policy", lora(init_lora_weights=False), trainable=True)
    old, new = logits(made.model, ROWS), logits(made.model, NEW.tolist())
    projection = UpdateProjection(ROWS, EXACT)
    projection.start(made.model, tmp_path, 0)
    assert torch.equal(logits(made.model, ROWS), old), "the start of a trained adapter must not be touched"
    optimise(made.model, projection)
    assert (logits(made.model, ROWS) - old).abs().max() < 1e-4
    assert (logits(made.model, NEW.tolist()) - new).abs().max() > 1e-1


def test_layers_that_read_the_same_tensor_share_one_covariance():
    made = ModelStack(base(), tokenizer())
    made.add("policy", lora(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]), trainable=True)
    inputs = ProtectedInputs(made.model)
    inputs.read(ROWS)
    assert len(inputs.covariance) == 4  # per block: one for query, key and value, one for the output
    assert len(set(inputs.source.values())) == 4
    assert len(inputs.source) == 8
    assert inputs.tokens_seen == {token for row in ROWS for token in row}
    for covariance in inputs.covariance.values():
        assert covariance.trace().item() == pytest.approx(11)  # each of 11 tokens counts as one


def test_biases_norms_and_embeddings_of_protected_tokens_stay_where_they_are_trained(tmp_path):
    model = base()
    model.config.tie_word_embeddings = False
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    old = logits(model, ROWS)
    projection = UpdateProjection(ROWS, EXACT)
    projection.start(model, tmp_path, 0)
    optimise(model, projection)
    embedding = model.model.embed_tokens.weight
    assert torch.equal(embedding[10], before["model.embed_tokens.weight"][10])
    assert not torch.equal(embedding[30], before["model.embed_tokens.weight"][30])
    assert torch.equal(model.model.norm.weight, before["model.norm.weight"])
    assert (logits(model, ROWS) - old).abs().max() < 1e-4


def test_stored_gradients_bound_the_drift_to_first_order(tmp_path):
    protect = ProtectSettings(strength=1.0, method="ogd")
    made = ModelStack(base(), tokenizer())
    torch.manual_seed(1)
    made.add("policy", lora(init_lora_weights=False), trainable=True)
    projection = UpdateProjection(ROWS, protect)
    projection.start(made.model, tmp_path, 0)
    (basis,) = projection.bases.values()
    start = {name: parameter.detach().clone() for name, parameter in made.parameters("policy")}
    optimise(made.model, projection, steps=1, lr=1e-3)
    moved = torch.cat([(one - start[name]).reshape(-1) for name, one in made.parameters("policy")])
    assert basis.shape[1] == len(ROWS)
    assert (moved @ basis).abs().max() <= 1e-4 * moved.norm()
    assert moved.norm() > 0


def test_protected_texts_of_full_rank_leave_no_room_and_say_so_with_the_rank(tmp_path):
    made = ModelStack(base(), tokenizer())
    made.add("policy", lora(target_modules=["q_proj"]), trainable=True)
    torch.manual_seed(0)
    many = torch.randint(6, 256, (20, 30)).tolist()
    projection = UpdateProjection(many, EXACT)
    projection.start(made.model, tmp_path, 0)
    (warning,) = projection.warnings()
    assert "full rank (64 of 64 directions)" in warning and "energy" in warning
    with pytest.raises(DataError, match="at least one"):
        UpdateProjection([], EXACT).start(made.model, tmp_path, 0)


# ---- with a Trainer --------------------------------------------------------------------------------------------


def trainer(folder, steps, projection, made, **arguments):
    rows = [{"input_ids": row, "labels": row} for row in NEW.tolist()] * 8
    options = {"max_grad_norm": 0.5, "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "save_steps": 3}
    args = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=2, report_to="none", use_cpu=True, seed=3,
        disable_tqdm=True, **(options | arguments),
    )  # fmt: skip
    return Trainer(made.model, args, train_dataset=rows, callbacks=[projection] if projection else [])


def policy(seed=1):
    made = ModelStack(base(), tokenizer())
    torch.manual_seed(seed)
    made.add("policy", lora(), trainable=True)
    return made


def test_it_works_as_a_callback_with_accumulation_and_clipping_and_a_resumed_run_ends_alike(tmp_path):
    whole = policy()
    old = logits(whole.model, ROWS)
    trainer(tmp_path / "whole", 6, UpdateProjection(ROWS, EXACT), whole).train()
    assert (logits(whole.model, ROWS) - old).abs().max() < 1e-4
    assert (tmp_path / "whole" / "checkpoint-3" / FILE).is_file()

    other = policy()
    resumed = trainer(tmp_path / "whole", 6, UpdateProjection([[5, 6, 7]], EXACT), other)  # its rows are not read
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    weights = whole.weights("policy")
    assert all(torch.equal(weights[name], one) for name, one in other.weights("policy").items())


def test_a_checkpoint_without_its_state_is_refused(tmp_path):
    trainer(tmp_path, 3, None, policy()).train()
    resumed = trainer(tmp_path, 6, UpdateProjection(ROWS, EXACT), policy())
    with pytest.raises(ModelError, match="began without protected texts"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_step_that_was_skipped_changes_nothing(tmp_path):
    made = policy()
    projection = UpdateProjection(ROWS, EXACT)
    projection.start(made.model, tmp_path, 0)
    before = {name: one.detach().clone() for name, one in made.parameters("policy")}
    projection.snapshot()  # the optimiser looked at its gradients and left
    projection.project()
    assert all(torch.equal(one, before[name]) for name, one in made.parameters("policy"))


def test_the_projection_comes_before_hooks_that_were_there(tmp_path):
    made = policy()
    seen = []
    parameters = [one for _, one in made.parameters("policy")]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    optimizer.register_step_post_hook(lambda *_: seen.append([one.detach().clone() for one in parameters]))
    projection = UpdateProjection(ROWS, EXACT)
    projection.start(made.model, tmp_path, 0)
    projection.watch(optimizer)
    made.model(input_ids=NEW, labels=NEW).loss.backward()
    optimizer.step()
    assert all(torch.equal(was, now) for was, now in zip(seen[0], parameters, strict=True))


def test_only_the_adapter_in_use_is_guarded(tmp_path):
    made = stack(tmp_path)
    projection = UpdateProjection(ROWS, EXACT, activate=lambda: made.using("policy", trainable=True))
    projection.start(made.model, tmp_path, 0)
    assert {json.dumps("policy" in name) for name in projection.source} == {"true"}
