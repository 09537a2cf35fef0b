"""Proximal policy optimisation of a language model, with four roles on one base model, on transformers' Trainer."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerState, set_seed
from transformers.trainer_utils import TrainOutput

from ..checkpoints import CompleteMarker, last_complete
from ..errors import RunError, SettingsError
from ..files import write_json
from ..model.generation import window_of
from ..model.roles import RoleStack
from . import math as ppo_math
from .config import PPOConfig, check_data
from .moving_average import MovingAverage
from .prompts import Prompt, tokenize_prompts
from .ptx import PtxStream
from .rates import constant_after_warmup, give_own_rate
from .rewards import Reward, weighted_rewards
from .roles import ValueFunction, check_logits, check_roles, require_grad_of_trained
from .rollout import Rollout
from .rollout_maker import RolloutMaker
from .seeds import seed_of
from .sequences import Experience
from .signs import SignWatch
from .state import TrainedParts
from .stopping import EarlyStop, good_checkpoint, no_number
from .update import Updater

Rows = Iterable[Mapping[str, Any]]
logger = logging.getLogger(__name__)
SAMPLING = "sampling.json"


class PPOTrainer(Trainer):
    """PPO (and PPO-ptx) after https://arxiv.org/abs/2203.02155, section 3.5 and appendix C.4.

    One step of the Trainer is one iteration: the policy answers `rollout_batch_size` prompts, the answers are scored,
    and a few optimiser steps are made on them. All of those but the last are made in `training_step`; the last one is
    the Trainer's own, so that its step count, schedule, callbacks, checkpoints and logs mean iterations, and a
    checkpoint never falls inside a rollout. A resumed run goes on with the same numbers as one never interrupted.

    Dropout is off throughout, so that a policy which has not changed yet has a probability ratio of 1.

    Args:
        stack: with the adapters `policy` (the SFT adapter), `reference` (the same, kept frozen) and the reward's. The
            adapter or head of the value function is added when it is not there.
        args: the settings.
        train_dataset: rows with `prompt`, text or chat messages; other columns go to reward functions.
        reward: an adapter's name, a function f(prompts, completions, **columns) -> list of floats, or several of these
            as (reward, weight).
        ptx_dataset: rows with `text`, for PPO-ptx.
        eval_dataset: rows as in `train_dataset`; `evaluate` reports their mean reward as `eval_reward`.
        callbacks: further Trainer callbacks.
        warn: called with each sign that the run is going wrong, and what to try (`failure_signs`).

    Raises:
        SettingsError: when settings do not fit the data.
        DataError: when prompts or texts cannot be used.
        ModelError: when a role is missing.
    """

    args: PPOConfig
    model: nn.Module
    optimizer: Any
    loss_is_scaled_for_ga = True  # the losses are means already, the Trainer must not divide them

    def __init__(
        self,
        stack: RoleStack,
        args: PPOConfig,
        train_dataset: Rows,
        reward: Reward | Sequence[tuple[Reward, float]] = "reward",
        ptx_dataset: Rows | None = None,
        eval_dataset: Rows | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        warn: Callable[[str], None] = logger.warning,
    ) -> None:
        set_seed(args.seed)
        self.stack = stack
        stack.is_direct = True
        self.rewards = weighted_rewards(reward)
        check_roles(stack, self.rewards)
        window = window_of(stack.base)
        self._longest_prompt = None if window is None else window - args.response_length
        prompts = self._tokenize(train_dataset)
        held_out = None if eval_dataset is None else self._tokenize(eval_dataset)
        check_data(args, len(prompts), None if held_out is None else len(held_out), ptx_dataset is not None, window)
        self.value = ValueFunction(stack, args.value, self.rewards)
        require_grad_of_trained(stack)
        self.ptx: PtxStream | None = None
        if args.ptx_coef and ptx_dataset is not None:
            self.ptx = PtxStream(ptx_dataset, stack.tokenizer, args.ptx_block_size, args.seed)
        self.kl_coef = args.kl_coef
        self.stopped: EarlyStop | None = None
        self._metrics: defaultdict[str, list[float]] = defaultdict(list)
        super().__init__(
            model=stack.model,
            args=args,
            train_dataset=prompts,
            eval_dataset=held_out,
            processing_class=stack.tokenizer,
            data_collator=_collate,
            # the marker last: callbacks may write into a checkpoint
            callbacks=[SignWatch(warn), *(callbacks or ()), CompleteMarker()],
        )
        check_logits(stack)
        self.maker = RolloutMaker(stack, self.value, self.rewards, args, self.accelerator.autocast, self._sum)
        self.updater = Updater(self.maker, args, self.accelerator, self.ptx, self._sum)
        self.average = MovingAverage(stack.parameters("policy"), args.ema_decay) if args.ema_decay else None
        self._frozen = {name: stack.digest(name) for name in stack.names if name not in ("policy", "value")}

    # ---- one iteration -------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Roll out, then make every optimiser step of this iteration but the last, which is left to the Trainer."""
        step = self.state.global_step
        prompts: list[Prompt] = inputs["prompts"]
        rollout = self.maker.make(prompts, self._seeds(len(prompts), step), self.kl_coef)
        kl = self._note_rollout(rollout)
        if self.args.save_rollouts:
            self._save_rollout(rollout, step)
        if not math.isfinite(kl):
            raise self._no_number(f"the KL divergence became {kl} at step {step + 1}", step)
        if self.args.kl_ceiling is not None and kl > self.args.kl_ceiling:
            return self._stop(step, kl)
        with self._timed("update"), self.updater.recomputing():
            loss = self._update(rollout.experience, step)
        self.kl_coef = ppo_math.adapted_kl_coef(
            self.kl_coef,
            kl,
            target=self.args.kl_target,
            horizon=self.args.kl_horizon,
            episodes=self.args.rollout_batch_size,
        )
        return loss

    def _update(self, experience: Experience, step: int) -> Tensor:
        """Make the optimiser steps of one iteration; the last one only as far as its gradients."""
        seed = seed_of(self.args.seed, step, -1 - self.args.process_index)
        mini_batches = self.updater.mini_batches(len(experience.sequences), seed)
        losses = []
        for number, rows in enumerate(mini_batches, start=1):
            figures = self.updater.gradients(experience, rows)
            self._note_update(figures, step)
            losses.append(self.updater.loss(figures))
            if self.args.max_grad_norm <= 0:  # nothing is clipped, which would look at the norm
                self._require_finite(self.updater.norm(), step)
            if number < len(mini_batches):
                if self.args.max_grad_norm > 0:
                    self._clip_grad_norm(self.model)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return torch.stack(losses).mean()

    def _note_update(self, figures: dict[str, Tensor], step: int) -> None:
        """Remember the figures of an optimiser step for the next log entry; a loss that is no number ends the run."""
        for name, value in figures.items():
            if not value.isfinite():
                raise self._no_number(f"{name} became {value.item()} at step {step + 1}", step + 1)
            self._metrics[name].append(value.item())

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip the gradients; returns their norm before."""
        self.accelerator.unscale_gradients()
        total = self.updater.clip()
        self._require_finite(total, self.state.global_step)
        return total

    def _require_finite(self, norm: Tensor, step: int) -> None:
        """End the run before gradients that are no numbers reach the weights."""
        if not norm.isfinite() and self.accelerator.scaler is None:  # a scaler skips such a step by itself
            raise self._no_number(f"the gradient norm became {norm.item()} at step {step + 1}", step + 1)

    # ---- what the Trainer asks for -------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; True resumes from the last complete checkpoint in the output folder."""
        if resume_from_checkpoint is True:
            newest = last_complete(str(self.args.output_dir))
            if newest is None:
                raise RunError(f"there is no complete checkpoint in {self.args.output_dir}: start without resuming")
            resume_from_checkpoint = str(newest)
        self.stopped = None
        if resume_from_checkpoint and (state := _finished(Path(resume_from_checkpoint))) is not None:
            return self._take_over(Path(resume_from_checkpoint), state)
        output: TrainOutput = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if self.stopped is not None and self.stopped.checkpoint is not None:
            self._load_from_checkpoint(str(self.stopped.checkpoint))
        if self.average is not None:
            self.average.apply()
        return output

    def _take_over(self, checkpoint: Path, state: TrainerState) -> TrainOutput:
        """Take the weights of a checkpoint of the last step: transformers would make one step more from there."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = state
        if self.average is not None:
            self.average.apply()
        return TrainOutput(state.global_step, math.nan, {})

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of `rollout_batch_size` prompts in an order of the data seed; an incomplete last one is left out."""
        dataset: Any = self.train_dataset
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=self.args.rollout_batch_size // self.args.world_size,
            shuffle=True,
            drop_last=True,
            collate_fn=_collate,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def get_total_train_batch_size(self, args: Any) -> int:
        """Episodes of one step."""
        return self.args.rollout_batch_size

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: a rollout is no plain forward and backward."""
        return 0

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The Trainer's optimiser, with the value function's own learning rate and the moving average after a step."""
        if self.optimizer is not None:
            made: Optimizer = self.optimizer
            return made
        optimizer: Optimizer = super().create_optimizer(model)
        if self.args.value_learning_rate is not None:
            give_own_rate(optimizer, self.updater.value_parameters, self.args.value_learning_rate)
        if self.average is not None:
            average = self.average
            optimizer.register_step_post_hook(lambda *_: average.update())
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """As the Trainer's, except that a constant rate is warmed up from a tenth of it, so no rollout is wasted."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "constant_with_warmup":
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = constant_after_warmup(optimizer or self.optimizer, warmup)
            self._created_lr_scheduler = True
            return self.lr_scheduler
        scheduler: LRScheduler = super().create_scheduler(num_training_steps, optimizer)
        return scheduler

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean reward, KL, length and share of ended completions on held-out prompts, sampled alike every time."""
        prompts: Any = self.eval_dataset if eval_dataset is None else self._tokenize(eval_dataset)
        if prompts is None:
            raise SettingsError(
                ["eval_dataset: got none, wanted rows with `prompt` to evaluate on"], "the PPO settings"
            )
        mine = range(self.args.process_index, len(prompts), self.args.world_size)
        seeds = [seed_of(self.args.seed, "evaluation", row) for row in mine]
        rollout = self.maker.make([prompts[row] for row in mine], seeds, self.kl_coef)
        metrics = {
            f"{metric_key_prefix}_{name.rpartition('/')[2]}": value
            for name, value in rollout.figures(self._sum).items()
            if name.rpartition("/")[2] in ("score", "kl", "length", "ended")
        }
        metrics[f"{metric_key_prefix}_reward"] = metrics.pop(f"{metric_key_prefix}_score")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the means of what the iterations since the last entry measured."""
        if "loss" in logs:
            measured = {name: [x for x in values if not math.isnan(x)] for name, values in self._metrics.items()}
            logs |= {name: sum(values) / len(values) for name, values in measured.items() if values}
            self._metrics.clear()
            if self.stopped is not None:  # the last iteration made no update, so it has no loss
                logs = {name: value for name, value in logs.items() if name not in ("loss", "grad_norm")}
        logs.pop("total_flos", None)  # not counted
        super().log(logs, start_time)

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.stopped is None:  # a policy beyond the KL ceiling is not worth a checkpoint
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the policy as a plain PEFT folder, and beside it what a resume needs."""
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            self.stack.tokenizer.save_pretrained(folder)
            self._parts().save(folder, self.kl_coef, self.ptx.position if self.ptx else None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.kl_coef, position = self._parts().load(Path(resume_from_checkpoint))
        if self.ptx is not None:
            self.ptx.position = position or 0

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _parts(self) -> TrainedParts:
        return TrainedParts(self.stack, self.value, self.average, self._frozen)

    # ---- small things --------------------------------------------------------------------------------------------

    def _tokenize(self, rows: Rows) -> list[Prompt]:
        return tokenize_prompts(rows, self.stack.tokenizer, self._longest_prompt)

    def _seeds(self, count: int, step: int) -> list[int]:
        """One sampling seed per episode of this process; they depend on nothing but seed, step and place."""
        first = self.args.process_index * count
        return [seed_of(self.args.seed, step, first + row) for row in range(count)]

    def _sum(self, local: Tensor) -> Tensor:
        """Sum over all processes."""
        total: Tensor = self.accelerator.reduce(local, "sum")
        return total

    def _note_rollout(self, rollout: Rollout) -> float:
        """Remember the figures of a rollout for the next log entry; returns the KL per sequence."""
        figures = rollout.figures(self._sum)
        seconds = {f"seconds/{name}": value for name, value in rollout.seconds.items()}
        for name, value in {**figures, **seconds, "objective/kl_coef": self.kl_coef}.items():
            self._metrics[name].append(value)
        return figures["objective/kl"]

    def _save_rollout(self, rollout: Rollout, step: int) -> None:
        """Write the episodes of a step, and once beside them how they were sampled."""
        folder = Path(str(self.args.output_dir)) / "rollouts"
        if not (folder / SAMPLING).exists() and self.args.should_save:
            how = asdict(self.maker.sampling) | {"seed": self.args.seed}
            write_json(folder / SAMPLING, how | {"batch_size": self.args.local_rollout_forward_batch_size})
        rank = f"-{self.args.process_index}" if self.args.world_size > 1 else ""
        rollout.write(folder / f"step-{step + 1:06d}{rank}.jsonl")

    def _stop(self, step: int, kl: float) -> Tensor:
        """End training before an update. No gradients are left, so the Trainer's own step changes nothing."""
        self.stopped = EarlyStop(step + 1, kl, good_checkpoint(str(self.args.output_dir), step))
        self.control.should_training_stop = True
        self.model.zero_grad()
        return torch.zeros((), device=self.args.device)

    def _no_number(self, fault: str, before: int) -> RunError:
        return no_number(fault, str(self.args.output_dir), before)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._metrics[f"seconds/{name}"].append(time.perf_counter() - start)


def _finished(checkpoint: Path) -> TrainerState | None:
    """The Trainer's state of a checkpoint of the last step; None of any other."""
    if not (file := checkpoint / "trainer_state.json").is_file():
        return None
    state = TrainerState.load_from_json(str(file))
    return state if state.global_step >= state.max_steps else None


def _collate(prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    return {"prompts": prompts}
