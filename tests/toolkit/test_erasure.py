import pytest
import torch
from stack_fakes import PEFT_WARNING, base, lora, tokenizer
from tunewell.toolkit.errors import DataError, ModelError, SettingsError
from tunewell.toolkit.mitigations.decoding import Adaptive, Erasure, calibrated, erased, head_inputs
from tunewell.toolkit.mitigations.erasure import Eraser, fit_inlp, fit_leace, probe_accuracy
from tunewell.toolkit.model.generation import Sampling, generate
from tunewell.toolkit.model.stack import ModelStack

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
D, N = 32, 1200


@pytest.fixture(scope="module")
def planted():
    """States whose first three directions tell two classes apart, and more states of the same kind."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(2, (2 * N,), generator=generator)
    x = torch.randn(2 * N, D, generator=generator) @ torch.randn(D, D, generator=generator) / 5
    x[:, :3] += 2.0 * z[:, None] * torch.tensor([1.0, -0.7, 0.4])
    return (x[:N], z[:N]), (x[N:], z[N:])


def chance(labels):
    share = labels.float().mean().item()
    return max(share, 1 - share) + 3 * (0.25 / len(labels)) ** 0.5


@pytest.mark.parametrize("method", ["leace", "inlp"])
def test_after_erasure_a_linear_probe_is_at_chance(planted, method):
    train, test = planted
    eraser = fit_leace(*train) if method == "leace" else fit_inlp(*train, most=16).eraser
    assert probe_accuracy(train, test) > 0.8, "the control: the concept is there to be found"
    after = [(eraser(x), z) for x, z in planted]
    assert probe_accuracy(*after) <= chance(test[1])
    assert torch.allclose(eraser(eraser(test[0])), eraser(test[0]), atol=1e-4)


def test_leace_removes_one_direction_leaves_the_class_means_equal_and_changes_less_than_inlp(planted):
    (x, z), _ = planted
    leace, inlp = fit_leace(x, z), fit_inlp(x, z, most=16)
    assert leace.rank == 1 < inlp.eraser.rank
    means = [leace(x)[z == one].mean(0) for one in (0, 1)]
    assert (means[0] - means[1]).abs().max() < 1e-5
    assert (leace(x) - x).norm() < (inlp.eraser(x) - x).norm()
    assert inlp.accuracies[0] > 0.8 and inlp.accuracies[-1] < inlp.accuracies[0]


def test_leace_is_that_of_the_authors_package_also_for_three_classes_and_states_that_do_not_span():
    concept_erasure = pytest.importorskip("concept_erasure")
    torch.manual_seed(0)
    z = torch.randint(3, (500,))
    x = torch.randn(500, 8).double() @ torch.randn(8, 12).double()  # rank 8 of 12
    x[:, 0] += z
    x[:, 1] -= (z == 2) * 2
    one_hot = torch.nn.functional.one_hot(z)
    theirs = concept_erasure.LeaceFitter.fit(x, one_hot, shrinkage=False, constrain_cov_trace=False).eraser(x)
    assert torch.allclose(fit_leace(x, z)(x), theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("states", "labels"),
    [
        (torch.randn(4, 3), torch.zeros(4)),
        (torch.full((4, 3), float("nan")), torch.tensor([0, 1, 0, 1])),
        (torch.randn(4, 3), torch.tensor([0, 1])),
    ],
)
def test_states_from_which_nothing_can_be_learned_are_refused(states, labels):
    with pytest.raises(DataError, match="wanted"):
        fit_leace(states, labels)


def test_an_erasure_is_the_same_after_a_file(tmp_path, planted):
    (x, z), _ = planted
    for adaptive in (None, Adaptive(x[0] / x[0].norm(), -0.1, 0.2, scale=0.5)):
        made = Erasure(fit_leace(x, z), 0.25, adaptive)
        made.save(tmp_path / "eraser.safetensors")
        again = Erasure.load(tmp_path / "eraser.safetensors")
        assert torch.equal(again.eraser(x), made.eraser(x)) and again.strength == 0.25
        if adaptive is None:
            assert again.adaptive is None
        else:
            assert torch.equal(again.adaptive.axis, adaptive.axis)
            assert (again.adaptive.low, again.adaptive.high, again.adaptive.scale) == (-0.1, 0.2, 0.5)
    one = Eraser.of_directions(x[:1])  # its two sides are one piece of memory
    Erasure(one, 1.0).save(tmp_path / "one.safetensors")
    assert torch.equal(Erasure.load(tmp_path / "one.safetensors").eraser(x), one(x))
    from safetensors.torch import save_file

    save_file({"other": x}, tmp_path / "no.safetensors")
    with pytest.raises(ModelError, match="wanted an eraser"):
        Erasure.load(tmp_path / "no.safetensors")


# ---- at decoding -----------------------------------------------------------------------------------------------

IDS = torch.tensor([[1, 10, 11, 12, 13, 14], [1, 30, 31, 32, 33, 34]])


def pair_eraser(model):
    weight = model.get_output_embeddings().weight.detach()
    return Eraser.of_directions((weight[40] - weight[41])[None])


def gap(model):
    logits = model(input_ids=IDS).logits.detach()
    return logits[..., 40] - logits[..., 41]


def test_projecting_out_a_pair_makes_its_words_equally_likely_everywhere_and_half_the_strength_halves_the_gap():
    model = base()
    eraser, before = pair_eraser(model), gap(model)
    assert before.abs().max() > 0.1, "the control: the pair is uneven"
    with erased(model, eraser, 1.0):
        assert gap(model).abs().max() < 1e-4
    with erased(model, eraser, 0.25):
        assert torch.allclose(gap(model), 0.75 * before, atol=1e-4)
    assert torch.equal(gap(model), before)


def test_strength_zero_is_bit_for_bit_the_model_and_a_fault_leaves_no_hook():
    model = base()
    before = model(input_ids=IDS).logits
    with erased(model, pair_eraser(model), 0.0):
        assert torch.equal(model(input_ids=IDS).logits, before)
    with pytest.raises(RuntimeError), erased(model, pair_eraser(model), 1.0):
        raise RuntimeError
    assert torch.equal(model(input_ids=IDS).logits, before)
    with pytest.raises(SettingsError, match="wanted 0"), erased(model, pair_eraser(model), 2.0):
        pass


def test_it_acts_on_adapters_and_on_what_is_generated():
    made = ModelStack(base(), tokenizer())
    made.add("policy", lora(init_lora_weights=False), trainable=False)
    prompts, sampling = IDS.tolist(), Sampling(max_new_tokens=6, temperature=0.0)
    plain = generate(made.model, made.tokenizer, prompts, sampling)
    weight = made.base.get_output_embeddings().weight.detach()
    favourite = weight[[completion.ids[0] for completion in plain]]
    with erased(made.model, Eraser.of_directions(favourite), 1.0):
        treated = generate(made.model, made.tokenizer, prompts, sampling)
    assert [one.ids for one in treated] != [one.ids for one in plain]
    assert generate(made.model, made.tokenizer, prompts, sampling) == plain


def test_adaptive_erasure_acts_only_where_the_next_words_lean():
    model = base()
    weight = model.get_output_embeddings().weight.detach()
    adaptive = calibrated(model, weight[40] - weight[41], IDS.tolist(), inside=0.5)
    states = torch.cat(head_inputs(model, IDS.tolist()))
    lean, kept = adaptive.lean(states, weight), adaptive.kept(states, weight, 0.4)[:, 0]
    is_inside = (lean >= adaptive.low) & (lean <= adaptive.high)
    assert 0 < is_inside.sum() < len(lean)
    assert (kept[is_inside] == 1).all()
    outside = lean[~is_inside]
    assert adaptive.scale == lean.abs().max()
    assert torch.equal(kept[~is_inside], (1 - outside.abs() / adaptive.scale).clamp(min=0.6))
    everywhere, nowhere = Adaptive(adaptive.axis, 9.0, 9.0), Adaptive(adaptive.axis, -9.0, 9.0)
    before = gap(model)
    with erased(model, pair_eraser(model), 1.0, nowhere):
        assert torch.allclose(gap(model), before, atol=1e-6)
    with erased(model, pair_eraser(model), 1.0, everywhere):
        assert gap(model).abs().mean() < before.abs().mean()


def test_the_states_that_the_output_layer_reads_give_its_logits_whatever_the_padding():
    model = base()
    rows = [[1, 10, 11], [1, 30, 31, 32, 33]]
    for row, states in zip(rows, head_inputs(model, rows), strict=True):
        logits = model(input_ids=torch.tensor([row])).logits[0]
        assert torch.allclose(model.get_output_embeddings()(states), logits, atol=1e-5)
