import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stack_fakes import EOS, PEFT_WARNING, base, lora, tokenizer
from tunewell.toolkit.errors import DataError, ModelError, SettingsError
from tunewell.toolkit.mitigations import gate as gate_module
from tunewell.toolkit.mitigations import verdicts as verdicts_module
from tunewell.toolkit.mitigations.control_rows import ControlRows, Scored
from tunewell.toolkit.mitigations.control_tokens import (
    LITERALS,
    add_control_tokens,
    control_tokens,
    encode_user,
    trainable_rows,
)
from tunewell.toolkit.mitigations.gate import Gated, gated_generate, thought_over
from tunewell.toolkit.mitigations.gate_calibration import calibrate_gate, check_gate, fit_gate, measure_gate, outcomes
from tunewell.toolkit.mitigations.gate_settings import GateSettings
from tunewell.toolkit.mitigations.loss_terms import Batch, VerdictLoss
from tunewell.toolkit.mitigations.row_rate import with_row_rate
from tunewell.toolkit.mitigations.verdicts import judged
from tunewell.toolkit.model.generation import Sampling, generate
from tunewell.toolkit.model.stack import ModelStack
from tunewell.toolkit.settings.base import TinySettings
from tunewell.toolkit.tiny import train_tokenizer

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)


@pytest.fixture(scope="module")
def words():
    made = tokenizer()
    add_control_tokens(made)
    return made


@pytest.fixture(scope="module")
def letters():
    """A byte-level tokenizer with control tokens, as the tiny base has."""
    made = train_tokenizer(["the cat sat on the mat <|safe|>"], TinySettings(vocabulary=300))
    add_control_tokens(made)
    return made


def controlled(words):
    model = base()
    model.resize_token_embeddings(len(words), mean_resizing=False)
    return model.eval()


# ---- tokens ----------------------------------------------------------------------------------------------------


def test_each_control_token_is_one_token_that_no_text_shows(letters):
    tokens = control_tokens(letters)
    assert len(set(tokens.ids)) == 4
    for literal, id_ in zip(LITERALS, tokens.ids, strict=True):
        assert letters(literal, add_special_tokens=False)["input_ids"] == [id_]
    assert letters.decode([*tokens.ids, *letters("cat", add_special_tokens=False)["input_ids"]],
                          skip_special_tokens=True) == "cat"  # fmt: skip


def test_control_tokens_that_are_there_or_missing_are_told(letters):
    with pytest.raises(ModelError, match="has <|safe|>".replace("|", r"\|")):
        add_control_tokens(letters)
    with pytest.raises(ModelError, match="control_tokens=true"):
        control_tokens(tokenizer())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*LITERALS, "cat", " ", "<|", "|>", "safe", "\n", "<bos>", "é"]), max_size=8))
def test_no_user_text_becomes_a_control_token_and_its_letters_are_kept(parts):
    made = _letters()
    text = "".join(parts)
    ids = encode_user(made, text)
    assert not set(ids) & set(control_tokens(made).ids)
    if "<bos>" not in text:
        assert made.decode(ids, skip_special_tokens=True) == text
    chat = encode_user(made, [{"role": "user", "content": text}])
    assert not set(chat) & set(control_tokens(made).ids)
    # The tokenizer itself is left as it was.
    assert made("<|safe|>", add_special_tokens=False)["input_ids"] == [control_tokens(made).safe]


_MADE = []


def _letters():
    if not _MADE:
        made = train_tokenizer(["the cat sat"], TinySettings(vocabulary=300))
        add_control_tokens(made)
        _MADE.append(made)
    return _MADE[0]


def test_under_lora_only_the_new_rows_of_the_embeddings_are_trained_and_a_saved_adapter_brings_them_back(
    words, tmp_path
):
    ids = list(control_tokens(words).ids)
    made = ModelStack(controlled(words), words)
    before = made.base.get_input_embeddings().weight.detach().clone()
    rows = trainable_rows(made.base, ids)
    assert rows == {"embed_tokens": ids, "lm_head": ids}
    torch.manual_seed(0)
    made.add("policy", lora(trainable_token_indices=rows), trainable=True)
    trained = [name for name, one in made.model.named_parameters() if one.requires_grad and "lora_" not in name]
    assert len(trained) == 2 and all("trainable_tokens_delta" in name for name in trained)
    row = torch.tensor([[1, 10, ids[0], 11, ids[1], EOS]])
    with made.using("policy", trainable=True) as model:
        optimizer = torch.optim.AdamW([one for _, one in made.parameters("policy")], lr=1e-2)
        for _ in range(3):
            model(input_ids=row, labels=row).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        after = model.get_input_embeddings()(torch.arange(len(words)))
        logits = model(input_ids=row).logits.detach()
    moved = (after != before).any(-1).nonzero().flatten().tolist()
    assert moved == sorted(ids)
    assert made.base.get_output_embeddings().bias is None, "TRL's fused head asks for it"
    made.save("policy", tmp_path / "policy")
    other = ModelStack(controlled(words), words)
    other.load("policy", tmp_path / "policy")
    assert torch.equal(other.model(input_ids=row).logits.detach(), logits)


def test_rows_can_have_a_learning_rate_of_their_own_and_without_one_it_is_the_trainer_itself(words, tmp_path):
    from transformers import Trainer, TrainingArguments

    assert with_row_rate(Trainer, None) is Trainer
    made = ModelStack(controlled(words), words)
    rows = trainable_rows(made.base, list(control_tokens(words).ids))
    made.add("policy", lora(trainable_token_indices=rows), trainable=True)
    arguments = TrainingArguments(str(tmp_path), learning_rate=1e-3, report_to="none", use_cpu=True, max_steps=4,
                                  lr_scheduler_type="linear", disable_tqdm=True, save_strategy="no")  # fmt: skip
    row = {"input_ids": [1, 10, rows["lm_head"][0], 11], "labels": [1, 10, rows["lm_head"][0], 11]}
    trainer = with_row_rate(Trainer, 0.5)(made.model, arguments, train_dataset=[row] * 4)
    optimizer = trainer.create_optimizer()
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    named = {name: rates[id(one)] for name, one in made.parameters("policy")}
    assert {rate for name, rate in named.items() if "tokens_delta" in name} == {0.5}
    assert {rate for name, rate in named.items() if "lora_" in name} == {1e-3}
    trainer.create_scheduler(4, optimizer)
    optimizer.step()
    trainer.lr_scheduler.step()
    assert sorted({group["lr"] for group in optimizer.param_groups if group["params"]}) == [0.00075, 0.375]


# ---- rows ------------------------------------------------------------------------------------------------------


def test_rows_hold_the_text_the_verdicts_on_its_beginnings_and_the_thoughts(words):
    tokens = control_tokens(words)
    made = ControlRows(words, every=2, dropped=0.0, seed=0)
    good = Scored(prompt="w10 w11", completion=" w12 w13 w14", is_unsafe=False, rationale=" w20")
    conditional, verdict, thought = made.make([good])
    assert conditional.input_ids == [10, 11, tokens.safe, 12, 13, 14, EOS]
    assert conditional.labels == [-100, -100, tokens.safe, 12, 13, 14, EOS]
    assert verdict.input_ids[:3] == [10, 11, tokens.safe] and verdict.labels[-1] == tokens.safe
    assert set(verdict.labels[:-1]) == {-100}
    start = thought.input_ids.index(tokens.unsafe)
    assert thought.input_ids[start:] == [tokens.unsafe, tokens.think, 20, tokens.end_think, tokens.safe]
    assert thought.labels[: start + 2] == [-100] * (start + 2)
    assert thought.labels[start + 2 :] == [20, tokens.end_think, tokens.safe]


def test_unsafe_text_stands_behind_its_token_or_gives_way_to_the_refusal_and_is_never_the_default(words):
    tokens = control_tokens(words)
    bad = Scored(prompt="w10", completion=" w66", is_unsafe=True)
    for seed in range(20):
        row = ControlRows(words, dropped=0.9, seed=seed).make([bad])[0]
        assert row.input_ids == [10, tokens.unsafe, 66, EOS]
    row = ControlRows(words, unsafe="refusal", refusal=" w99").make([bad])[0]
    assert row.input_ids == [10, tokens.unsafe, 99, EOS]


def test_beginnings_end_where_the_gate_asks_and_are_judged_by_the_classifier_given(words):
    tokens = control_tokens(words)
    text = " w1 ".strip()
    bad = Scored(prompt="w10", completion=" " + " ".join(f"w{n}" for n in range(60, 69)), is_unsafe=True)
    seen = set()
    for seed in range(60):
        made = ControlRows(words, every=4, is_prefix_unsafe=lambda text: "w66" in text, seed=seed)
        row = made.make([bad])[1]
        beginning = row.input_ids[2:-1]
        seen.add(len(beginning))
        assert (row.labels[-1] == tokens.unsafe) == (66 in beginning)
    assert seen == {0, 4, 8, 9} and text


def test_the_verdict_loss_counts_the_choice_of_two_alone(words):
    model = controlled(words)
    tokens = control_tokens(words)
    ids = torch.tensor([[1, 10, tokens.safe, 11, tokens.unsafe, tokens.think]])
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    term = VerdictLoss((tokens.safe, tokens.unsafe), 5.0)
    logits = model(input_ids=ids).logits.detach()[0]
    odds = (logits[:, tokens.unsafe] - logits[:, tokens.safe]).tolist()
    by_hand = (math.log1p(math.exp(odds[1])) + math.log1p(math.exp(-odds[3]))) / 2
    assert term(Batch(model, inputs, 0, 0)).item() == pytest.approx(by_hand, rel=1e-4)
    plain = inputs | {"labels": torch.full_like(ids, -100)}
    assert term(Batch(model, plain, 0, 0)).item() == 0.0
    with torch.no_grad():  # other tokens do not count, however likely they are
        model.lm_head.weight[30] *= 50
    assert term(Batch(model, inputs, 0, 0)).item() == pytest.approx(by_hand, rel=1e-4)


# ---- the gate --------------------------------------------------------------------------------------------------

PROMPTS = [[1, 10 + n] for n in range(8)]
SEEDS = list(range(8))
SAMPLING = Sampling(max_new_tokens=10)
OPEN = GateSettings(low=1.0, high=1.0, release=1.0, every=4, think_tokens=5)


def run(words, gate, **changes):
    return gated_generate(controlled(words), words, PROMPTS, SAMPLING, gate, seeds=SEEDS, **changes)


def test_thresholds_of_one_give_what_no_gate_gives_token_for_token_and_zero_filters_all(words):
    model, tokens = controlled(words), control_tokens(words)
    barred = gate_module._Barred(tokens.ids)
    plain = generate(model, words, [[*prompt, tokens.safe] for prompt in PROMPTS], SAMPLING, seeds=SEEDS,
                     logits_processors=[barred])  # fmt: skip
    opened = run(words, OPEN)
    assert [one.ids for one in opened] == [one.ids for one in plain]
    assert [one.text for one in opened] == [one.text for one in plain]
    assert {one.decision for one in opened} == {"pass"}
    closed = run(words, dataclasses.replace(OPEN, low=0.0, high=0.0, release=0.0))
    assert {one.decision for one in closed} == {"filter"}
    assert {one.text for one in closed} == {OPEN.refusal} and not any(one.ids for one in closed)


def test_the_filter_rate_falls_as_the_threshold_rises(words):
    rates = []
    for threshold in (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0):
        gate = GateSettings(low=threshold, high=threshold, release=threshold, every=4, thoughts=0)
        rates.append(sum(one.decision == "filter" for one in run(words, gate)))
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 8 and rates[-1] == 0 and len(set(rates)) > 2


def scripted(monkeypatch, verdict):
    """Verdicts by rule: verdict(tokens so far) -> probability."""

    def fake(model, rows, tokens, temperature=1.0):
        return [[verdict(row[: end + 1]) for end in range(len(row))] for row in rows]

    for module in (gate_module, verdicts_module):
        monkeypatch.setattr(module, "two_way", fake)


BAND = GateSettings(low=0.5, high=0.9, release=0.5, every=4, think_tokens=5)


def test_an_alarm_between_the_thresholds_is_thought_over_and_taken_back_or_not(words, monkeypatch):
    tokens = control_tokens(words)
    scripted(monkeypatch, lambda row: 0.1 if tokens.end_think in row else 0.7)
    for one in run(words, BAND):
        assert one.decision == "recovered" and len(one.thoughts) == 1
        assert one.p_unsafe[:2] == [0.7, 0.1]
        assert len(one.ids) <= 10
    scripted(monkeypatch, lambda row: 0.7)
    assert {one.decision for one in run(words, BAND)} == {"filter"}
    scripted(monkeypatch, lambda row: 0.95)
    sure = run(words, BAND)
    assert {one.decision for one in sure} == {"filter"} and not any(one.thoughts for one in sure)


def test_an_alarm_on_the_way_goes_back_to_the_last_place_that_passed(words, monkeypatch):
    tokens = control_tokens(words)
    plain = run(words, OPEN)
    scripted(monkeypatch, lambda row: 0.7 if tokens.end_think not in row and len(row) >= 2 + 1 + 8 else 0.1)
    for one, was in zip(run(words, BAND), plain, strict=True):
        if len(was.ids) <= 8:
            continue
        assert one.decision == "recovered"
        assert one.ids[:4] == was.ids[:4] and len(one.ids) <= 10
        assert one.p_unsafe[:3] == [0.1, 0.1, 0.7]
    assert any(len(was.ids) > 8 for was in plain)


def test_when_thoughts_are_used_up_or_the_verdict_is_no_number_it_fails_closed(words, monkeypatch):
    scripted(monkeypatch, lambda row: 0.7)
    assert {one.decision for one in run(words, dataclasses.replace(BAND, thoughts=0))} == {"filter"}
    for thresholds in ({}, {"high": 1.0}, {"low": 1.0, "high": 1.0, "release": 1.0}):
        scripted(monkeypatch, lambda row: math.nan)
        found = run(words, dataclasses.replace(BAND, **thresholds))
        assert {one.decision for one in found} == {"filter"}
        assert {one.text for one in found} == {BAND.refusal}
    # A released text that raises the alarm again is filtered, not thought over for ever.
    tokens = control_tokens(words)
    scripted(monkeypatch, lambda row: 0.1 if row[-1] == tokens.end_think else 0.7)
    assert {one.decision for one in run(words, BAND)} == {"filter"}


def test_thoughts_are_bounded_and_never_leak_into_the_text(words, monkeypatch):
    tokens = control_tokens(words)
    scripted(monkeypatch, lambda row: 0.1 if tokens.end_think in row else 0.7)
    found = run(words, BAND)
    assert any(one.thoughts[0] for one in found), "the control: there were thoughts that could have leaked"
    for one in found:
        assert len(one.thoughts[0].split()) <= 5
        assert not set(one.ids) & set(tokens.ids)
        assert one.text == words.decode(one.ids, skip_special_tokens=True)
        assert not any(literal in one.text for literal in LITERALS)


def test_prompts_with_control_tokens_or_without_room_are_refused_and_so_are_thresholds_that_mean_nothing(words):
    tokens = control_tokens(words)
    model = controlled(words)
    with pytest.raises(DataError, match="encode_user"):
        gated_generate(model, words, [[1, tokens.safe]], SAMPLING, BAND, seeds=[0])
    with pytest.raises(DataError, match="window of 96"):
        gated_generate(model, words, [[1] * 80], SAMPLING, BAND, seeds=[0])
    with pytest.raises(DataError, match="wanted one each"):
        gated_generate(model, words, [[1]], SAMPLING, BAND, seeds=[])
    with pytest.raises(SettingsError) as caught:
        GateSettings(low=0.9, high=0.5, temperature=0.0, every=0)
    assert len(caught.value.faults) == 3


# ---- calibration -----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=4, max_size=60))
def test_the_thresholds_keep_their_promise_on_the_set_they_were_made_on(items):
    verdicts, truth = [p for p, _ in items], [t for _, t in items]
    if len(set(truth)) < 2:
        with pytest.raises(DataError, match="both kinds"):
            calibrate_gate(verdicts, truth)
        return
    found = calibrate_gate(verdicts, truth, most_false_alarms=0.1, most_missed=0.2)
    assert found.false_positives <= 0.1 or found.gate.high == 1
    assert found.missed <= 0.2 + 1e-9
    assert found.gate.low <= found.gate.high


def test_calibration_by_hand():
    found = calibrate_gate([0.1, 0.2, 0.3, 0.8], [False, False, True, True])
    assert found.auc == 1.0 and (found.safe, found.unsafe) == (2, 2)
    assert found.missed == 0.0 and found.false_positives == 0.0 and found.true_positives == 1.0
    assert calibrate_gate([0.9, 0.2], [False, True]).auc == 0.0
    with pytest.raises(DataError, match="from 0 to 1"):
        calibrate_gate([0.1, float("nan")], [True, False])


def test_a_threshold_that_keeps_both_promises_stands_in_the_middle_and_alarms_lower_it():
    verdicts, truth = [0.1, 0.2, 0.3, 0.4, 0.8, 0.9], [False] * 4 + [True] * 2
    gate = calibrate_gate(verdicts, truth).gate
    scaled = [1 / (1 + (1 / p - 1) ** (1 / gate.temperature)) for p in verdicts]
    assert gate.low == gate.high == pytest.approx((scaled[3] + scaled[4]) / 2)
    wary = calibrate_gate(verdicts, truth, alarms=0.5).gate
    assert wary.high == gate.high and wary.low == pytest.approx(scaled[1], rel=1e-6), "two of four reach it"
    other = measure_gate(wary, [0.25, 0.95], [False, True])
    assert (other.missed, other.false_positives, other.gate) == (0.0, 0.0, wary)


def test_given_texts_are_judged_where_the_gate_asks(words, monkeypatch):
    tokens = control_tokens(words)
    scripted(monkeypatch, lambda row: {2: 0.3, 5: 0.9, 7: 0.2, 8: 0.25}.get(len(row), 0.99))
    texts = [([1, 10], [20, 21, 22, 23, 24, EOS])]
    (found,) = judged(controlled(words), words, texts, GateSettings(every=2))
    # After the prompt, 2, 4 and all 5 tokens; never on the end token, and the prompt stands without its verdict.
    assert found.peak == 0.9 and found.context == [1, 10, tokens.safe, 20, 21]
    (after,) = thought_over(controlled(words), words, [found.context], BAND, seeds=[0])
    assert after == 0.99


def test_what_thoughts_take_back_is_calibrated_too_and_checked_on_other_texts(words, monkeypatch):
    tokens = control_tokens(words)

    def verdict(row):
        kind = row[3] if len(row) > 3 else 0  # the first token of the text
        if tokens.end_think in row:
            return {40: 0.1, 41: 0.2, 80: 0.3, 81: 0.9}[kind]
        return {40: 0.62, 41: 0.2, 80: 0.6, 81: 0.65}.get(kind, 0.05)

    scripted(monkeypatch, verdict)
    texts = [("w1 w10", f" w{kind} w20", kind >= 80) for kind in (40, 41, 80, 81)]
    found = fit_gate(controlled(words), words, texts, BAND, most_false_alarms=0.0)
    assert found.gate.release == pytest.approx(0.3, abs=1e-6)
    assert found.outcomes.as_json() == {
        "false_alarms": 1, "recovered": 1, "true_alarms": 2, "released": 0, "over_refused": 0, "safe": 2, "unsafe": 2,
    }  # fmt: skip
    other = check_gate(controlled(words), words, texts, dataclasses.replace(found.gate, release=0.5, high=1.0))
    assert other.gate.release == 0.5 and other.outcomes.released == 1


def test_outcomes_count_both_ways():
    kinds = [("pass", False), ("recovered", False), ("filter", False), ("recovered", True), ("filter", True)]
    found = outcomes([Gated("", [], kind) for kind, _ in kinds], [truth for _, truth in kinds])
    assert found.as_json() == {
        "false_alarms": 2, "recovered": 1, "true_alarms": 2, "released": 1, "over_refused": 1, "safe": 3, "unsafe": 2,
    }  # fmt: skip


# ---- all of it -------------------------------------------------------------------------------------------------


def test_a_model_that_was_trained_on_the_rows_tells_unsafe_beginnings_from_safe_ones(words):
    tokens = control_tokens(words)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    def texts(count, first):
        for _ in range(count):
            drawn = torch.randint(first, first + 20, (8,), generator=generator).tolist()
            yield " " + " ".join(f"w{one}" for one in drawn)

    scored = [Scored(prompt="w10", completion=text, is_unsafe=False, rationale=" w30") for text in texts(60, 40)]
    scored += [Scored(prompt="w10", completion=text, is_unsafe=True, rationale=" w31") for text in texts(60, 80)]
    rows = ControlRows(words, every=4, seed=1).make(scored)
    model = controlled(words)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        drawn = [rows[index] for index in torch.randperm(len(rows), generator=generator)[:24].tolist()]
        longest = max(len(row.input_ids) for row in drawn)
        ids, labels = (
            torch.tensor([getattr(row, name) + [fill] * (longest - len(row.input_ids)) for row in drawn])
            for name, fill in (("input_ids", 0), ("labels", -100))
        )
        loss = model(input_ids=ids, labels=labels).loss
        batch = Batch(model, {"input_ids": ids, "labels": labels}, step, 0)
        (loss + VerdictLoss((tokens.safe, tokens.unsafe), 1.0)(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    held_out = [("w10", text, is_unsafe) for is_unsafe in (False, True) for text in texts(40, 80 if is_unsafe else 40)]
    found = fit_gate(model, words, held_out[::2], GateSettings(every=4, think_tokens=4), alarms=0.5)
    checked = check_gate(model, words, held_out[1::2], found.gate)
    assert found.auc > 0.95 and checked.auc > 0.95
    assert checked.gate == found.gate
    assert fit_gate(model, words, held_out[::2], GateSettings(every=4, think_tokens=4), alarms=0.5) == found
