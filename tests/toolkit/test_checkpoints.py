import shutil

import pytest
import torch
from datasets import Dataset
from stack_fakes import PEFT_WARNING, stack
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer
from tunewell.toolkit.checkpoints import (
    BestByAdapterName,
    CompleteMarker,
    complete_checkpoints,
    is_complete,
    last_complete,
    mark_complete,
    step_of,
)
from tunewell.toolkit.errors import ModelError, SettingsError

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def checkpoint(folder, step, *, complete=True):
    path = folder / f"checkpoint-{step}"
    (path / "policy").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"x" * step)
    (path / "policy" / "adapter_model.safetensors").write_bytes(b"y" * 7)
    if complete:
        mark_complete(path)
    return path


def test_the_newest_complete_checkpoint_is_found_and_newer_ruins_are_removed(tmp_path):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    unmarked = checkpoint(tmp_path, 11, complete=False)
    cut = checkpoint(tmp_path, 12)
    (cut / "policy" / "adapter_model.safetensors").write_bytes(b"y" * 3)
    lost = checkpoint(tmp_path, 13)
    (lost / "optimizer.pt").unlink()
    torn = checkpoint(tmp_path, 14)
    (torn / "complete.json").write_text('{"sizes"')
    (tmp_path / "checkpoint-best").mkdir()
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [2, 9, 10]
    assert last_complete(tmp_path) == tmp_path / "checkpoint-10"
    assert not any(path.exists() for path in (unmarked, cut, lost, torn))
    assert is_complete(tmp_path / "checkpoint-2")
    with pytest.raises(ModelError, match="wanted one named checkpoint-N"):
        step_of(tmp_path / "checkpoint-best")


def test_without_a_complete_checkpoint_there_is_none(tmp_path):
    assert last_complete(tmp_path / "nowhere") is None
    checkpoint(tmp_path, 1, complete=False)
    assert last_complete(tmp_path) is None


def test_the_marker_comes_last_and_a_single_checkpoint_is_refused(tmp_path):
    path = checkpoint(tmp_path, 3, complete=False)
    state = TrainerState(global_step=3, is_world_process_zero=True)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, save_total_limit=1)
    CompleteMarker().on_save(args, state, TrainerControl())
    assert is_complete(path)
    with pytest.raises(SettingsError, match="save_total_limit: got 1, wanted at least 2"):
        CompleteMarker().on_train_begin(args, state, TrainerControl())


# ---- supervised fine-tuning of the adapter `policy` --------------------------------------------------------------

ROWS = [{"prompt": f"w{10 + i}", "completion": f" w{60 + i % 7} w{80 + i % 5}"} for i in range(24)]


class Stage(BestByAdapterName, SFTTrainer):
    """As the SFT stage is built."""


def sft(folder, made, callbacks=(), trainer=Stage, **changes):
    settings = {
        "output_dir": str(folder / "out"),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_steps": 1,
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "data_seed": 0,
    }
    return trainer(
        model=made.model,
        args=SFTConfig(**(settings | changes)),
        train_dataset=Dataset.from_list(ROWS),
        eval_dataset=Dataset.from_list(ROWS[:4]) if "eval_strategy" in changes else None,
        processing_class=made.tokenizer,
        callbacks=[CompleteMarker(), *callbacks],
    )


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def with_dropout(folder):
    made = stack(folder)
    for module in made.model.modules():
        if isinstance(module, torch.nn.ModuleDict):
            for key in module:
                if isinstance(module[key], torch.nn.Identity):
                    module[key] = torch.nn.Dropout(0.2)
    return made


def test_sft_of_an_adapter_named_policy_goes_on_bit_for_bit(tmp_path):
    """With dropout, so that weights, optimiser, schedule, order of rows and random states all have to come back."""
    whole_stack = with_dropout(tmp_path)
    whole = sft(tmp_path / "whole", whole_stack)
    whole.train()
    sft(tmp_path / "parts", with_dropout(tmp_path), callbacks=[StopAfter(2)]).train()
    torch.manual_seed(99)
    again_stack = with_dropout(tmp_path)
    again = sft(tmp_path / "parts", again_stack)
    newest = last_complete(tmp_path / "parts" / "out")
    assert newest is not None and step_of(newest) == 2
    again.train(resume_from_checkpoint=str(newest))
    assert losses(again) == losses(whole)
    assert again_stack.digest("policy") == whole_stack.digest("policy")
    for name in ("reference", "reward"):
        assert again_stack.digest(name) == whole_stack.digest(name)


def best_run(folder, trainer):
    """A run whose loss rises after its first step, so that the best checkpoint is the first."""
    made = stack(folder)
    run = sft(
        folder,
        made,
        trainer=trainer,
        learning_rate=5.0,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        lr_scheduler_type="constant",
    )
    run.train()
    first = stack(folder)
    first.restore("policy", folder / "out" / "checkpoint-1" / "policy")
    return run, made, first


def test_the_best_checkpoint_is_loaded_by_adapter_name_which_transformers_alone_does_not_do(tmp_path):
    run, made, first = best_run(tmp_path / "ours", Stage)
    assert run.state.best_model_checkpoint.endswith("checkpoint-1")
    assert made.digest("policy") == first.digest("policy")
    run, made, first = best_run(tmp_path / "theirs", SFTTrainer)
    assert run.state.best_model_checkpoint.endswith("checkpoint-1")
    assert made.digest("policy") != first.digest("policy")


def test_a_best_checkpoint_without_the_adapter_is_named(tmp_path):
    run = sft(tmp_path, stack(tmp_path), max_steps=1)
    run.train()
    run.state.best_model_checkpoint = str(tmp_path / "out" / "checkpoint-1")
    shutil.rmtree(tmp_path / "out" / "checkpoint-1" / "policy")
    with pytest.raises(ModelError, match="has no adapter 'policy'"):
        run._load_best_model()
