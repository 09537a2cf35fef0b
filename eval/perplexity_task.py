"""The task `perplexity`: how well a model still predicts held-out text, the first figure of the alignment tax."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..toolkit.errors import DataError
from ..toolkit.files import sha256_file
from ..toolkit.settings.reading import setting
from .task import Ask, Label, Progress, Task, TaskResult


@dataclass(frozen=True, kw_only=True)
class PerplexityTask(Task):
    """Negative log-likelihood per token of texts that no model here was trained on."""

    labels: ClassVar = {
        "perplexity": Label("Perplexity", None, "Of held-out text; the exponential of the loss per token."),
        "nll": Label("Loss per token", "nats"),
    }

    texts: str
    """Rows with the text: JSONL, CSV, TSV, Parquet (also .gz, .zst), a folder, or an id of the hub."""
    column: str = "text"
    """Column that holds the text."""
    split: str = "train"
    """Part of a data set of the hub or a folder; files have none."""
    max_length: int | None = setting(None, low=2, unit="tokens")
    """Window; null takes the model's own."""
    stride: int | None = setting(None, low=1, unit="tokens")
    """From one window to the next; null takes half a window."""

    def files(self) -> list[Path]:
        """The file of texts, if it is one."""
        path = Path(self.texts).expanduser()
        return [path] if path.exists() else []

    def prepare(self) -> Ask:
        """Read the texts."""
        from ..toolkit.data.rows import read_rows

        rows = read_rows(self.texts, split=self.split)
        if lacking := [number for number, row in enumerate(rows) if not isinstance(row.get(self.column), str)]:
            raise DataError(
                f"{self.texts}: {len(lacking)} of {len(rows)} rows have no text in {self.column!r} (the first is row "
                f"{lacking[0]}, counting from 0; it has {', '.join(rows[lacking[0]])}). Name the column with "
                "perplexity.column=NAME"
            )
        texts = [str(row[self.column]) for row in self.drawn(rows)]
        path = Path(self.texts).expanduser()
        dataset = {"path": self.texts, "sha256": sha256_file(path) if path.is_file() else None, "n": len(rows),
                   "n_used": len(texts)}  # fmt: skip

        def ask(
            model: Any, tokenizer: Any, *, progress: Progress | None = None, kept: Path | None = None
        ) -> TaskResult:
            from .perplexity import perplexity

            return perplexity(
                model,
                tokenizer,
                texts,
                max_length=self.max_length,
                stride=self.stride,
                tokens_per_batch=self.tokens_per_batch,
                dataset=dataset,
                seed=self.seed,
                resamples=self.resamples,
                progress=progress,
            )

        return ask
