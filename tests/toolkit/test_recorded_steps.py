import logging
from typing import ClassVar

import pytest
import torch
from stack_fakes import tokenizer
from test_token_loop import ALIKE, PLAIN, UNLIKE, made
from tunewell.toolkit.errors import ModelError
from tunewell.toolkit.model import recorded_steps, token_loop
from tunewell.toolkit.model.generation import Sampling, generate
from tunewell.toolkit.model.recorded_steps import RecordedSteps, agree, can_record

HOW = Sampling(max_new_tokens=24, temperature=0.8)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def written(model, rows=UNLIKE, how=HOW):
    return generate(model, tokenizer(), rows, how, seeds=range(len(rows)))


class Watched(RecordedSteps):
    """Remembers all that were made."""

    made: ClassVar[list[RecordedSteps]] = []

    def __init__(self, *args):
        super().__init__(*args)
        self.made.append(self)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Lets a CPU go the way of a GPU: a record is then the step itself, with its fixed shapes and all its inputs."""
    Watched.made = []
    monkeypatch.setattr(token_loop, "can_record", lambda model, device, steps: True)
    monkeypatch.setattr(token_loop, "RecordedSteps", Watched)
    monkeypatch.setattr(recorded_steps, "record", lambda step, device: step)


@pytest.mark.parametrize("name", [name for name in PLAIN if "bloom" not in name])
@pytest.mark.parametrize("rows", [UNLIKE, ALIKE], ids=["padded", "of one length"])
def test_recorded_steps_write_the_tokens_of_ordinary_ones(name, rows, on_a_gpu, monkeypatch):
    model = made(PLAIN[name])
    ours = written(model, rows)
    (one,) = Watched.made
    # `eager` attention adds its mask, which is of another kind
    assert one.state == ("refused" if "eager" in name else "trusted")
    monkeypatch.setattr(token_loop, "can_record", lambda model, device, steps: False)
    assert written(model, rows) == ours and len(Watched.made) == 1


def test_only_the_first_steps_are_ordinary(on_a_gpu, monkeypatch):
    model = made(PLAIN["llama"])
    calls = []
    monkeypatch.setattr(RecordedSteps, "__call__", _counted(RecordedSteps.__call__, calls))
    longest = max(len(one.ids) for one in written(model))
    # one reads the prompts, one is recorded; the next is held against the record, which is called from there on
    assert len(calls) == longest - 2


def test_mixed_precision_is_recorded_too(on_a_gpu):
    model = made(PLAIN["llama"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert written(model)
    assert [one.state for one in Watched.made] == ["trusted"]


def test_a_model_that_depends_on_more_than_a_record_is_given_goes_on_with_ordinary_steps(on_a_gpu, caplog, monkeypatch):
    model = made(PLAIN["llama"])
    wanted = written(model, how=Sampling(max_new_tokens=15))  # whatever it writes, ordinary steps write it as well
    forward = type(model.model).forward

    def asks(self, *args, past_key_values=None, **kwargs):
        past_key_values.get_seq_length()
        return forward(self, *args, past_key_values=past_key_values, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", asks)
    with caplog.at_level(logging.INFO, recorded_steps.__name__):
        assert written(model, how=Sampling(max_new_tokens=15)) == wanted
    assert [one.state for one in Watched.made] == ["trusted", "refused"]
    assert "how long its cache is" in caplog.text


def test_a_record_that_gives_other_numbers_is_refused(on_a_gpu, monkeypatch):
    model = made(PLAIN["llama"])
    monkeypatch.setattr(token_loop, "can_record", lambda model, device, steps: False)
    wanted = written(model)
    monkeypatch.setattr(token_loop, "can_record", lambda model, device, steps: True)
    # a record in which a position stands still, as it would of a model that counts for itself
    monkeypatch.setattr(RecordedSteps, "_show", _without_positions(RecordedSteps._show))
    assert written(model) == wanted
    assert [one.state for one in Watched.made] == ["refused"]


def test_logits_agree_up_to_rounding_of_their_precision():
    wanted = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    near = wanted * (1 + 1e-4)
    assert agree(near, wanted) and agree(near + 0.01, wanted.bfloat16())
    assert not agree(near + 0.01, wanted)
    assert not agree(wanted.roll(1, 0), wanted.bfloat16())
    assert not agree(wanted * torch.nan, wanted)


def test_it_is_tried_on_a_gpu_for_many_steps_when_nobody_listens():
    model = made(PLAIN["llama"])
    gpu = torch.device("cuda")
    assert can_record(model, gpu, 64)
    assert not can_record(model, torch.device("cpu"), 64) and not can_record(model, gpu, 15)
    handle = model.model.register_forward_hook(lambda *_: None)
    assert not can_record(model, gpu, 64)  # a replay would not call it
    handle.remove()
    model.enable_input_require_grads()  # listens to the embeddings, for training alone
    assert can_record(model, gpu, 64)


def test_nothing_can_be_replayed_before_it_is_recorded():
    model = made(PLAIN["llama"])
    ids = torch.zeros(1, 4, dtype=torch.long)
    steps = RecordedSteps(model, ids, ids, ids, [])
    with pytest.raises(ModelError, match="no step is recorded"):
        steps(1)


def _counted(call, calls):
    def counted(self, place):
        calls.append(place)
        return call(self, place)

    return counted


def _without_positions(show):
    def shown(self, place):
        before = self._position.clone()
        show(self, place)
        if self.state == "recorded":
            self._position.copy_(before + 40)

    return shown
