"""Any task of lm-evaluation-harness, asked of the model in memory, item by item comparable."""

import random
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..toolkit.errors import DataError, SettingsError
from .harness_items import harness_items, harness_scores, scores_by_task
from .harness_loading import load_harness_task
from .statistics import RESAMPLES
from .task import TaskResult, check_scored, file_record

Engine = Literal["packed", "harness"]


class HarnessTask:
    """A task, a group or a tag of the installed lm-eval, with its rows.

    Args:
        name: its name, such as `hellaswag`, or the path of a task file (YAML).
        data: a local file of JSON lines in the task's own columns, in place of the data set of the hub.
        shots: solved examples before each question; None: as the task says.
        seed: of everything that the task draws, and of the bootstrap.

    Raises:
        MissingPackageError: lm-eval is not installed.
        DataError: lm-eval knows no such task, or cannot read its rows.
    """

    def __init__(self, name: str, *, data: Path | None = None, shots: int | None = None, seed: int = 0) -> None:
        self.name, self._data, self._seed = name, data, seed
        self._loaded = load_harness_task(name, data=data, shots=shots, seed=seed)

    def ask(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        limit: int | None = None,
        chat: bool = False,
        engine: Engine = "packed",
        batch_size: int = 8,
        tokens_per_batch: int = 8192,
        resamples: int = RESAMPLES,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> TaskResult:
        """Ask every row; the figures are lm-eval's own, the intervals come from its values of single rows.

        A figure over a group of tasks is the mean over all their rows. Figures that are no mean over rows (a corpus
        BLEU, say) stand without an interval and cannot be compared pair by pair.

        Args:
            model: a causal language model; whatever adapter is active is used.
            tokenizer: of the model.
            limit: rows of each task, the first ones; None: all.
            chat: put the question through the tokenizer's chat template.
            engine: `packed` answers multiple choice through the continuation scorer, in a fraction of the time;
                `harness` leaves everything to lm-eval's own forward passes.
            batch_size: rows per pass in what the scorer does not serve.
            tokens_per_batch: bound on the memory of one pass of the scorer, in tokens.
            resamples: of the bootstrap.
            force: take the figures though more than 1 % of the rows have none.
            progress: called with (jobs done, jobs in all) while the scorer works.

        Raises:
            ModelError: the model cannot be asked, or gives numbers that are none.
            SettingsError: `chat` without a chat template, or a task that runs code.
        """
        from lm_eval.evaluator import evaluate

        from .lm_eval_model import HarnessModel

        if chat and not getattr(tokenizer, "chat_template", None):
            raise SettingsError([f"chat: the tokenizer has no chat template; ask {self.name} without"], "the task")
        tasks = self._loaded["tasks"]
        packed = [name for name, task in tasks.items() if _is_packable(task)] if engine == "packed" else []
        harness = HarnessModel(model, tokenizer, packed=packed, batch_size=batch_size,
                               tokens_per_batch=tokens_per_batch, progress=progress)  # fmt: skip
        try:
            with _seeded(self._seed):
                found = evaluate(harness, dict(self._loaded), limit=limit, bootstrap_iters=0, log_samples=True,
                                 apply_chat_template=chat, fewshot_as_multiturn=chat)  # fmt: skip
        except ValueError as error:
            if "unsafe" not in str(error):
                raise
            raise SettingsError([f"{self.name} runs code that the model wrote, which is not done here"]) from error
        details = {"engine": engine, "limit": limit, "chat": chat}
        return self._result(found, details, resamples, force)

    def _result(self, found: Mapping[str, Any], details: dict[str, Any], resamples: int, force: bool) -> TaskResult:
        names = [name for name in self._loaded["tasks"] if name in found["samples"]]
        items = harness_items({name: found["samples"][name] for name in names})
        if not items:
            raise DataError(f"the task {self.name!r} asked no row: check its data, or raise the limit")
        lost = sum(None in item["values"].values() for item in items)
        check_scored(lost, len(items), "rows (their log-likelihoods are not numbers: is the model sound?)", force=force)
        scores, notes = harness_scores(items, names, found, seed=self._seed, resamples=resamples)
        return TaskResult(
            name=self.name,
            scores=scores,
            items=items,
            details={
                "dataset": file_record(
                    self._data, n=sum(found["n-samples"][name]["original"] for name in names), n_used=len(items)
                ),
                "preset": {
                    "versions": {name: found["versions"][name] for name in names},
                    "shots": {name: found["n-shot"][name] for name in names},
                    "chat": details.pop("chat"),
                },
                "harness": f"lm-eval {version('lm_eval')}",
                "seed": self._seed,
                "by": scores_by_task(items, names, seed=self._seed, resamples=resamples),
                "notes": notes,
            }
            | details,
        )


def _is_packable(task: Any) -> bool:
    """Whether the answers' log-likelihoods are all that the task's figures need."""
    if getattr(task, "OUTPUT_TYPE", None) != "multiple_choice":
        return False
    metrics = {metric["metric"] for metric in task.config.metric_list or []}
    return "exact_match" not in metrics


@contextmanager
def _seeded(seed: int) -> Any:
    """Fixed seeds inside, as lm-eval sets them; the generators are as before afterwards."""
    import torch

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
