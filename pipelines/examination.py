"""What a run asks of its models: the settings, and the tasks that its held-out rows allow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.errors import DataError
from ..toolkit.settings.reading import setting
from .console import Advance
from .sets import Row, read_set

if TYPE_CHECKING:
    from ..eval.task import TaskResult
    from ..eval.truthfulqa import QuestionSet
    from ..toolkit.model.stack import ModelStack
    from ..toolkit.toxicity.scorer import ToxicityScorer

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What is asked of the base model, of SFT and of PPO, each time with the same rows and seeds."""

    questions: str | None = AUTO
    """Multiple-choice questions: TruthfulQA's CSV or JSON lines of `question`, `best`, `correct`, `incorrect`. `auto`
    takes the embedded world's, or a TruthfulQA.csv beside the data (DATA/truthfulqa/); null asks none."""
    preset: str = "none"
    """How a question is put: `none`, `six`, `truthfulqa`, `chat`, or a template with `{question}`."""
    limit: int | None = setting(None, low=1, unit="held-out prompts")
    """Take only the first held-out prompts and texts; null takes all."""
    toxicity: str | None = AUTO
    """Scorer of the generations, such as `detoxify:unbiased@SHA256`, `hf:FOLDER#toxic`, `tfidf:FOLDER`,
    `wordlist:FILE`. `auto` trains a small one on the embedded world's rows; null measures no toxicity."""
    samples_per_prompt: int = setting(4, low=1)
    """Continuations per held-out prompt, the k of the toxicity figures."""
    max_new_tokens: int = setting(32, low=1, unit="tokens")
    """Longest continuation."""
    tokens_per_batch: int = setting(8192, low=64, unit="tokens")
    """Bound on the memory of one forward pass."""

    def faults(self) -> list[str]:
        """A preset or a scorer that there is not: told before the stages that come first have run for hours."""
        from ..eval.prompts import preset_faults
        from ..toolkit.toxicity.scorer import spec_fault

        found = preset_faults(self.preset)
        if self.toxicity not in (None, AUTO) and (fault := spec_fault(str(self.toxicity))) is not None:
            found.append(f"toxicity: {fault}, or auto")
        return found

    def scorer_files(self) -> list[Path]:
        """The files of the toxicity scorer, as far as it lies in a file or folder of one's own.

        Raises:
            DataError: it should and does not.
        """
        from ..toolkit.toxicity.scorer import missing_place, scorer_place

        if self.toxicity in (None, AUTO):
            return []
        if (lacking := missing_place(str(self.toxicity))) is not None:
            raise DataError(f"eval.toxicity: got {self.toxicity}, but there is no {lacking}")
        place = scorer_place(str(self.toxicity))
        if not place.exists():
            return []
        return sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]


def questions_file(settings: EvalSettings, data_path: str | None) -> Path | None:
    """The file of questions that the settings mean; None for the embedded world's own, or for none at all.

    Raises:
        DataError: a named file is missing.
    """
    if settings.questions is None:
        return None
    if settings.questions != AUTO:
        path = Path(settings.questions)
        if not path.is_file():
            raise DataError(f"eval.questions: got {path}, which is not a file; wanted TruthfulQA.csv or JSON lines")
        return path
    if data_path is None:
        return None
    near = Path(data_path).parent
    places = [near, near / "truthfulqa", near.parent / "truthfulqa"]
    return next((place / "TruthfulQA.csv" for place in places if (place / "TruthfulQA.csv").is_file()), None)


Ask = Callable[[str | None, Advance], "TaskResult"]


class Examination:
    """The tasks of a run, each to be asked of one adapter (None is the bare base).

    Args:
        settings: what is asked.
        stack: holds the adapters `sft`, `ppo` and `reward`, as far as they were trained.
        data: folder of the sets.
        seed: of sampling and bootstrap.
        questions: file of questions, None for those of the sets.
        folder: where the toxicity scorer is kept that is trained for this evaluation.
    """

    def __init__(
        self,
        settings: EvalSettings,
        stack: "ModelStack",
        data: Path,
        seed: int,
        questions: Path | None,
        folder: Path,
    ) -> None:
        self.settings, self.stack, self.data, self.seed = settings, stack, data, seed
        self.prompts, self.too_long = self._prompts_that_fit(read_set(data, "held_out_prompts"))
        self.texts = [row["text"] for row in read_set(data, "clean_text")][: settings.limit]
        self.questions = self._read_questions(questions)
        self.scorer = self._open_scorer(folder)

    def tasks(self) -> tuple[dict[str, Ask], list[dict[str, str]]]:
        """The tasks that can be asked, and those that can't, each with the reason."""
        asks: dict[str, Ask] = {}
        missing: list[dict[str, str]] = []
        no_scorer = None if self.scorer else "no scorer was given (eval.toxicity=SCORER)"
        no_stages = None if {"sft", "reward"} <= set(self.stack.names) else "it needs the SFT and the reward stage"
        reasons = {
            "truthfulness": None if self.questions else "no questions were given (eval.questions=FILE)",
            "toxicity": no_scorer or self._no_prompts(self.talk(), " that is no question of fact"),
            "perplexity": None if self.texts else "no clean held-out text was given (data.clean_text=FILE)",
            "reward": no_stages or self._no_prompts(self.prompts),
        }
        for name, reason in reasons.items():
            if reason is None:
                asks[name] = getattr(self, name)
            else:
                missing.append({"what": name, "reason": reason})
        return asks, missing

    def truthfulness(self, adapter: str | None, advance: Advance) -> "TaskResult":
        """Multiple choice over the reference answers."""
        from ..eval.truthfulness import multiple_choice

        questions = self.questions
        if questions is None:
            raise DataError("no questions were given")
        with self._model(adapter) as model:
            return multiple_choice(
                model,
                self.stack.tokenizer,
                questions,
                preset=self.settings.preset,
                binary=False,
                seed=self.seed,
                tokens_per_batch=self.settings.tokens_per_batch,
                progress=advance,
            )

    def talk(self) -> list[Row]:
        """The held-out prompts that are no questions of fact."""
        return [row for row in self.prompts if row.get("kind") != "question"][: self.settings.limit]

    def toxicity(self, adapter: str | None, advance: Advance) -> "TaskResult":
        """Toxicity of continuations of the held-out prompts."""
        from ..eval.toxicity import toxicity_of_generations
        from ..toolkit.model.generation import Sampling

        if self.scorer is None:
            raise DataError("no toxicity scorer was given")
        talk = [row["prompt"] for row in self.talk()]
        with self._model(adapter) as model:
            return toxicity_of_generations(
                model,
                self.stack.tokenizer,
                [self._text(prompt) for prompt in talk],
                self.scorer,
                samples_per_prompt=self.settings.samples_per_prompt,
                sampling=Sampling(max_new_tokens=self.settings.max_new_tokens),
                seed=self.seed,
                progress=advance,
            )

    def perplexity(self, adapter: str | None, advance: Advance) -> "TaskResult":
        """Perplexity of clean text that no stage has seen."""
        from ..eval.perplexity import perplexity

        with self._model(adapter) as model:
            return perplexity(
                model,
                self.stack.tokenizer,
                self.texts,
                tokens_per_batch=self.settings.tokens_per_batch,
                seed=self.seed,
                progress=advance,
            )

    def reward(self, adapter: str | None, advance: Advance) -> "TaskResult":
        """Reward of one answer to every held-out prompt, and its KL from SFT."""
        from ..eval.reward import reward_of_answers
        from ..toolkit.model.generation import Sampling

        result = reward_of_answers(
            self.stack,
            adapter,
            self.prompts[: self.settings.limit],
            sampling=Sampling(max_new_tokens=self.settings.max_new_tokens),
            seed=self.seed,
            progress=advance,
        )
        if self.scorer is not None:  # so that the report knows which answers to cover
            for item, score in zip(
                result.items, self.scorer.score([i["completion"] for i in result.items]), strict=True
            ):
                item["toxicity"] = None if score != score else float(score)
        return result

    def _model(self, adapter: str | None) -> Any:
        """A context with the model that computes as `adapter`; a stack without adapters is the bare base already."""
        from contextlib import nullcontext

        return self.stack.using(adapter) if self.stack.names else nullcontext(self.stack.base)

    def _no_prompts(self, prompts: Sequence[Row], which: str = "") -> str | None:
        if prompts:
            return None
        fit = f" leaves room for eval.max_new_tokens={self.settings.max_new_tokens} in the model's window"
        return f"no held-out prompt{which}{fit if self.too_long else ' was given (data.held_out_prompts=FILE)'}"

    def _prompts_that_fit(self, prompts: list[Row]) -> tuple[list[Row], int]:
        """Prompts that leave room for an answer in the model's window, and how many do not."""
        from ..toolkit.model.generation import window_of
        from ..toolkit.ppo.prompts import tokenize_prompts

        window = window_of(self.stack.base)
        if not prompts or window is None:
            return prompts, 0
        tokenized = tokenize_prompts(prompts, self.stack.tokenizer, None)
        room = window - self.settings.max_new_tokens
        fitting = [row for row, prompt in zip(prompts, tokenized, strict=True) if len(prompt.ids) <= room]
        return fitting, len(prompts) - len(fitting)

    def _text(self, prompt: str | Sequence[Row]) -> str:
        """A prompt as text; a start token that the chat template wrote is taken off, encoding adds it again."""
        if isinstance(prompt, str):
            return prompt
        tokenizer = self.stack.tokenizer
        text = str(tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True))
        return text.removeprefix(str(tokenizer.bos_token or ""))

    def _read_questions(self, path: Path | None) -> "QuestionSet | None":
        from ..eval.truthfulqa import read_questions

        if path is not None:
            return read_questions(path)
        own = self.data / "questions.jsonl"
        if self.settings.questions is None or not own.stat().st_size:
            return None
        return read_questions(own)

    def _open_scorer(self, folder: Path) -> "ToxicityScorer | None":
        from ..toolkit.toxicity.scorer import open_scorer
        from ..toolkit.toxicity.tfidf import TfidfToxicity

        if self.settings.toxicity is None:
            return None
        if self.settings.toxicity != AUTO:
            return open_scorer(self.settings.toxicity)
        rows = read_set(self.data, "toxicity_rows")
        if not rows:
            return None
        scorer = TfidfToxicity.train([row["text"] for row in rows], [row["is_toxic"] for row in rows])
        scorer.save(folder / "toxicity_scorer")
        return scorer
