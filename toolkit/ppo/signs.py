"""Signs that a PPO run is going wrong, read off its figures, each with what to try."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Figures = Mapping[str, float]

FIRST = 3
"""Entries of the log that stand for how the run began."""
LAST = 3
"""Entries that must agree before a sign is given, so that one odd rollout raises no alarm."""
FAR = 1.5
"""Nats per token from the reference: e to this power is how many times likelier each token became, on average."""


@dataclass(frozen=True)
class Sign:
    """One sign of failure.

    Attributes:
        name: stays the same, so that a run warns of each only once.
        text: what was seen, what it may mean, what to try.
    """

    name: str
    text: str


def failure_signs(log: Sequence[Figures]) -> list[Sign]:
    """Read the known signs of failure off the log of a run.

    Args:
        log: the figures of the iterations so far, oldest first, under the names that `PPOTrainer` logs.

    Returns:
        the signs that the last entries show; none while there are too few entries.
    """
    entries = [entry for entry in log if "objective/kl" in entry]
    if len(entries) < LAST:
        return []
    found = [rule(entries) for rule in (_negative_kl, _far_away, _same_scores)]
    if len(entries) >= FIRST + LAST:
        found += [
            rule(entries) for rule in (_length_collapse, _never_ends, _value_blow_up, _entropy_collapse, _clipped)
        ]
    return [sign for sign in found if sign is not None]


def signs_by_step(log: Sequence[Figures]) -> list[tuple[int, Sign]]:
    """Every sign that a run showed, each once, with the iteration that showed it first."""
    entries = [entry for entry in log if "objective/kl" in entry]
    found: dict[str, tuple[int, Sign]] = {}
    for count in range(1, len(entries) + 1):
        for sign in failure_signs(entries[:count]):
            found.setdefault(sign.name, (int(entries[count - 1].get("step", count)), sign))
    return list(found.values())


class SignWatch(TrainerCallback):
    """Says each sign once, as soon as the log shows it.

    Args:
        say: called with the text.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.said: set[str] = set()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Look at the log so far."""
        if not state.is_world_process_zero:
            return
        for sign in failure_signs(state.log_history):
            if sign.name not in self.said:
                self.said.add(sign.name)
                self.say(f"iteration {state.global_step}: {sign.text}")


def _recent(entries: Sequence[Figures], name: str) -> list[float]:
    return [entry.get(name, math.nan) for entry in entries[-LAST:]]


def _at_first(entries: Sequence[Figures], name: str) -> float:
    return fmean(entry.get(name, math.nan) for entry in entries[:FIRST])


def _negative_kl(entries: Sequence[Figures]) -> Sign | None:
    values = _recent(entries, "objective/kl")
    # the estimate is a mean of signed numbers and may dip below zero by chance near zero, not by a nat, three times
    if not all(value < -1 for value in values):
        return None
    return Sign(
        "negative_kl",
        f"The estimated KL has been below -1 nat per answer for {LAST} iterations (now {values[-1]:.1f}). True KL is "
        "never negative: the policy is not sampled as it is scored. Look for top_p below 1, a generation setting that "
        "changes the logits, a 4-bit base with another compute type, or a reference that is not the SFT model.",
    )


def _far_away(entries: Sequence[Figures]) -> Sign | None:
    values = _recent(entries, "objective/kl_per_token")
    if not all(value > FAR for value in values):
        return None
    return Sign(
        "far_away",
        f"The policy has been more than {FAR:g} nats per token from the SFT model for {LAST} iterations (now "
        f"{values[-1]:.1f}): whatever the score says, the text is likely broken. Read rollouts/, raise kl_coef, lower "
        "the learning rate, mix in text with ptx_coef, or set kl_ceiling to keep the last good checkpoint.",
    )


def _same_scores(entries: Sequence[Figures]) -> Sign | None:
    if not all(value < 1e-6 for value in _recent(entries, "objective/score_std")):
        return None
    return Sign(
        "same_scores",
        f"All answers have had one and the same score for {LAST} iterations, so there is nothing to learn from. Look "
        "at rollouts/: are the answers empty or alike, is reward_clip too tight, does the reward read them at all?",
    )


def _length_collapse(entries: Sequence[Figures]) -> Sign | None:
    before, now = _at_first(entries, "completion/length"), _recent(entries, "completion/length")
    if not all(value < 0.25 * before for value in now):
        return None
    return Sign(
        "length_collapse",
        f"Answers have shrunk from {before:.0f} to {now[-1]:.0f} tokens: the reward may be easiest to reach by saying "
        "little. Look at rollouts/, raise kl_coef, or rate length against short answers in the reward data.",
    )


def _never_ends(entries: Sequence[Figures]) -> Sign | None:
    before, now = _at_first(entries, "completion/ended"), _recent(entries, "completion/ended")
    if not (before > 0.2 and all(value < 0.25 * before for value in now)):
        return None
    return Sign(
        "never_ends",
        f"The share of answers that end by themselves fell from {before:.0%} to {now[-1]:.0%}: the reward may pay for "
        "length. Set missing_eos_penalty, raise response_length, or raise kl_coef.",
    )


def _value_blow_up(entries: Sequence[Figures]) -> Sign | None:
    losses = [entry["value/loss"] for entry in entries if "value/loss" in entry]
    if len(losses) < FIRST + LAST:
        return None
    before, now = median(losses[:-LAST]), losses[-LAST:]
    variances = _recent(entries, "value/explained_variance")
    if not (all(value > 10 * before for value in now) and all(not value > 0 for value in variances)):
        return None
    return Sign(
        "value_blow_up",
        f"The value loss rose from about {before:.2g} to {now[-1]:.2g} and the values explain nothing of the returns. "
        "Lower value_learning_rate, set reward_clip, or check that the scores themselves did not jump.",
    )


def _entropy_collapse(entries: Sequence[Figures]) -> Sign | None:
    before, now = _at_first(entries, "objective/entropy"), _recent(entries, "objective/entropy")
    if not all(value < 0.1 * before for value in now):
        return None
    return Sign(
        "entropy_collapse",
        f"The policy's entropy fell from {before:.2f} to {now[-1]:.3f} nats per token: it says nearly the same thing "
        "every time. Raise kl_coef, lower the learning rate or num_ppo_epochs, or stop at an earlier checkpoint.",
    )


def _clipped(entries: Sequence[Figures]) -> Sign | None:
    now = _recent(entries, "policy/clip_fraction")
    if not all(value > 0.4 for value in now):
        return None
    return Sign(
        "clipped",
        f"{now[-1]:.0%} of the tokens hit the clip range in each update: the steps are too large for their data. Lower "
        "the learning rate or num_ppo_epochs, or raise rollout_batch_size.",
    )
