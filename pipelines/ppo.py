"""The PPO stage: the policy learns from the reward adapter, held near SFT by a KL penalty, on one base model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.errors import DataError
from ..toolkit.files import read_json, write_json
from ..toolkit.mitigations.settings import OFF, MitigationSettings
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.reading import TrainerBlock, setting, trainer_block
from ..toolkit.stage import Artifacts, Outcome
from .console import Console
from .mitigate import Treatment
from .ppo_rewards import PpoRewardSettings, reward_terms
from .sets import read_set
from .training import RESERVED, Row, go_on, resume_from, trainer_arguments, watch

if TYPE_CHECKING:
    from ..toolkit.ppo.stopping import EarlyStop

SHOWN = {"objective/score": "reward", "objective/kl": "KL", "completion/length": "tokens", "completion/ended": "ended"}
"""Figures behind the progress bar, and what they are called there."""


@dataclass(frozen=True, kw_only=True)
class PpoSettings:
    """PPO as InstructGPT did it (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155)."""

    reward: PpoRewardSettings = PpoRewardSettings()
    """What an answer is paid for."""
    max_prompt_tokens: int | None = setting(None, low=1, unit="tokens")
    """Longer prompts are left out and counted. Null: whatever leaves room for a completion in the model's window."""
    trainer: TrainerBlock = trainer_block(
        "tunewell.toolkit.ppo.config:PPOConfig",
        reserved={name: why for name, why in RESERVED.items() if name != "max_length"},
    )
    """Passed to PPOConfig as it is; one step is one iteration (a rollout and its updates)."""

    def faults(self) -> list[str]:
        """An evaluation while it trains, for which a recipe has no prompts."""
        when = self.trainer.get("eval_strategy", "no")
        if when in ("no", None):
            return []
        return [
            f"trainer.eval_strategy: got {when!r}, wanted no: PPO measures reward and KL on every rollout, and the "
            "stage eval measures them on held-out prompts"
        ]


def run_ppo(
    settings: PpoSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
    mitigations: MitigationSettings = OFF,
) -> Outcome:
    """Train `policy` from the SFT adapter against the reward adapter and save it as a plain PEFT folder.

    Raises:
        DataError: a stage before is missing, or no prompt is left.
    """
    from transformers.trainer_callback import PrinterCallback

    from ..toolkit.model.loading import load_base
    from ..toolkit.model.stack import ModelStack
    from ..toolkit.ppo.config import PPOConfig
    from ..toolkit.ppo.signs import signs_by_step
    from ..toolkit.ppo.trainer import PPOTrainer

    if before.data is None or before.sft is None or before.reward is None:
        raise DataError("PPO needs the sets, the SFT adapter and the reward adapter: put filter, sft, reward before it")
    model, tokenizer = load_base(before.base, base)
    stack = ModelStack(model, tokenizer)
    stack.load("policy", before.sft, trainable=True)
    stack.load("reference", before.sft)
    stack.load("reward", before.reward)
    arguments = trainer_arguments(PPOConfig, settings.trainer, base, folder, seed, logging_steps=1)
    prompts, too_long = _prompts_that_fit(
        read_set(before.data, "prompts"), stack, settings.max_prompt_tokens, arguments.response_length
    )
    if not prompts:
        raise DataError(f"no prompt is left for PPO: {too_long} are too long for ppo.max_prompt_tokens or the window")
    ptx = read_set(before.data, "ptx") if arguments.ptx_coef else None
    treatment = Treatment(mitigations, "ppo", before)
    callbacks = treatment.callbacks(model, tokenizer, lambda: stack.using("policy", trainable=True))
    reward = reward_terms(settings.reward, str(stack.device))
    trainer = PPOTrainer(
        stack, arguments, prompts, reward=reward, ptx_dataset=ptx, callbacks=callbacks, warn=console.warn
    )
    trainer.remove_callback(PrinterCallback)
    resume = resume_from(folder)
    with console.bar("PPO") as advance:
        trainer.add_callback(watch(advance, "PPO", SHOWN))
        go_on(trainer, resume)
    write_json(folder / "log.json", trainer.state.log_history)
    stack.save("policy", folder / "policy")
    warnings = [f"PPO left out {too_long} prompts that are too long."] if too_long else []
    if trainer.stopped is not None:
        warnings.append(_over_the_ceiling(trainer.stopped))
    warnings += [f"PPO, iteration {step}: {sign.text}" for step, sign in signs_by_step(trainer.state.log_history)]
    return Outcome(
        artifacts=replace(before, policy=folder / "policy"),
        rows={"prompts": len(prompts), "too_long": too_long, "ptx_texts": len(ptx or [])},
        warnings=(*warnings, *treatment.warnings()),
    )


def _over_the_ceiling(stop: "EarlyStop") -> str:
    """Why training ended early, and which policy is the result."""
    why = f"PPO stopped at iteration {stop.step}: KL {stop.kl:.2f} nats per sequence is over ppo.trainer.kl_ceiling. "
    if stop.checkpoint is not None:
        return f"{why}The last good checkpoint ({stop.checkpoint.name}) is the result."
    return (
        f"{why}No good checkpoint had been saved before, so the result is the policy that is over the ceiling: set "
        "ppo.trainer.save_steps to fewer iterations and train again, or do not use it."
    )


def ppo_log(folder: Path) -> list[dict[str, Any]]:
    """The figures of every iteration that a finished PPO stage wrote."""
    log: list[dict[str, Any]] = read_json(folder / "log.json")
    return log


def _prompts_that_fit(rows: list[Row], stack: Any, longest: int | None, response_length: int) -> tuple[list[Row], int]:
    from ..toolkit.model.generation import window_of
    from ..toolkit.ppo.prompts import tokenize_prompts

    if not rows:
        return [], 0
    window = window_of(stack.base)
    room = [limit for limit in (longest, window and window - response_length) if limit is not None]
    lengths = [len(prompt.ids) for prompt in tokenize_prompts(rows, stack.tokenizer, None)]
    kept = [
        {"prompt": row["prompt"]}
        for row, length in zip(rows, lengths, strict=True)
        if length <= min(room, default=length)
    ]
    return kept, len(rows) - len(kept)
