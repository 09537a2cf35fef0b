"""What the report shows of reinforcement learning: its curves, reward against KL, rollouts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..toolkit.data.rows import read_rows
from ..toolkit.files import read_json

Curve = tuple[str, str, str, str, dict[str, str]]
CURVES: tuple[Curve, ...] = (
    ("ppo", "PPO: mean reward", "iteration", "reward", {"objective/score": "reward"}),
    ("ppo", "PPO: distance from SFT", "iteration", "KL, nats per answer", {"objective/kl": "policy"}),
    ("ppo", "PPO: length of answers", "iteration", "tokens", {"completion/length": "tokens"}),
    ("ppo", "PPO: answers that end by themselves", "iteration", "share", {"completion/ended": "ended"}),
    ("ppo", "PPO: entropy", "iteration", "nats per token", {"objective/entropy": "policy"}),
    ("ppo", "PPO: tokens at the clip range", "iteration", "share",
     {"policy/clip_fraction": "policy", "value/clip_fraction": "value"}),
    ("ppo", "PPO: returns that the values explain", "iteration", "explained variance",
     {"value/explained_variance": "value function"}),
    ("ppo", "PPO: gradient norm", "iteration", "norm before clipping", {"grad_norm": "policy and value"}),
    ("ppo", "PPO: loss on ptx texts", "iteration", "nats per token", {"ptx/loss": "policy"}),
)  # fmt: skip
EPISODES = 4
"""Episodes shown of an iteration from each end of its scores."""


def frontier(folder: Path) -> dict[str, Any]:
    """Reward against KL over the iterations."""
    log = [entry for entry in read_json(folder / "log.json") if "objective/score" in entry]
    points: list[dict[str, Any]] = [{"x": entry["objective/kl"], "y": entry["objective/score"]} for entry in log]
    if points:
        points[0]["label"], points[-1]["label"] = "first iteration", "last"
    return {
        "title": "PPO: reward against KL",
        "x_label": "KL from SFT (nats per answer)",
        "y_label": "mean reward",
        "points": points,
    }


def rollout_samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The best and the worst rated episodes of the first and the last rollout; covered, for nobody has judged them."""
    files = sorted((folder / "checkpoints" / "rollouts").glob("step-*.jsonl"))
    for name, path in {"first": files[:1], "last": files[-1:]}.items() if len(files) > 1 else ():
        rows = sorted(read_rows(path[0]), key=lambda row: -row["score"])
        shown = rows if len(rows) <= 2 * EPISODES else [*rows[:EPISODES], *rows[-EPISODES:]]
        for row in shown:
            yield {
                "model": f"PPO, {name} rollout",
                "prompt": row["prompt"],
                "completion": row["completion"],
                "flagged": True,
                "scores": {"reward": row["score"], "kl": row["kl"]},
            }
