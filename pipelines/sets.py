"""The rows that a run starts from: the embedded world, a file of human preferences, or the user's own files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..toolkit.data.hh_dialogues import parse_hh_rows
from ..toolkit.data.row_shapes import RowShape, require_columns
from ..toolkit.data.rows import read_rows, write_rows
from ..toolkit.errors import DataError
from ..toolkit.files import sha256_file
from ..toolkit.settings.reading import setting

Row = dict[str, Any]
FILES: dict[str, RowShape] = {
    "corpus": "text",
    "demonstrations": "prompt_completion",
    "demonstrations_held_out": "prompt_completion",
    "comparisons": "preference",
    "comparisons_held_out": "preference",
    "rankings": "ranking",
    "rankings_held_out": "ranking",
    "ratings": "rating",
    "prompts": "prompt",
    "held_out_prompts": "prompt",
    "clean_text": "text",
}
READERS = {
    "demonstrations": ("sft",),
    "comparisons": ("reward",),
    "rankings": ("losses",),
    "prompts": ("ppo", "sweep"),
    "held_out_prompts": ("sweep", "eval"),
}
"""The stages that cannot do without a file."""
RANKINGS = 160  # of the embedded world, and as many held out


def _instead(name: str) -> tuple[str, ...]:
    """The sets of which one is enough where this one is read."""
    return (name, "rankings", "ratings") if name == "comparisons" else (name,)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the rows come from."""

    source: Literal["world", "hh", "files"] = "world"
    """`world`: the embedded one; `hh`: pairs of dialogues, `chosen` and `rejected`; `files`: the files named below."""
    path: str | None = None
    """The file of pairs for `hh`: a file (JSONL, .gz, .zst, Parquet), a folder, or an id of the hub."""
    held_out_share: float = setting(0.15, above=0, below=1, unit="share of prompts")
    """Part of the prompts that is kept for evaluation, of `hh` and of comparisons and rankings for which no file of
    held-out ones is named; a hash of the prompt decides which."""
    validation_share: float = setting(0.0, low=0, below=1, unit="share of prompts")
    """Part of the prompts that SFT is evaluated on while it trains, to choose a checkpoint (sft.select), of `hh` and of
    demonstrations for which no file of held-out ones is named."""
    limit: int | None = setting(None, low=1, unit="rows")
    """Take only the first rows of the source (of each set, for `world` and `files`): for trials. The rows that the
    world's toxicity scorer is trained on are all taken."""
    corpus: str | None = None
    """File with `text`: filtered, then used for pretraining gradients."""
    demonstrations: str | None = None
    """File with `prompt` and `completion`, or with `messages`: filtered, then used for SFT. Of a chat every answer of
    the assistant becomes a row, with all that stands before it as the prompt."""
    demonstrations_held_out: str | None = None
    """The same, for the loss of SFT on rows that it does not train on."""
    comparisons: str | None = None
    """File with `prompt`, `chosen` and `rejected`, for the reward model; not filtered, its bad side is meant to be."""
    comparisons_held_out: str | None = None
    """The same, for measuring the reward model. Null: held_out_share of the comparisons."""
    rankings: str | None = None
    """File with `prompt`, `completions` (K of them) and `ranks` (1 is best, equal ranks tie), for the reward model."""
    rankings_held_out: str | None = None
    """The same, for measuring the reward model. Null: held_out_share of the rankings."""
    ratings: str | None = None
    """File with `prompt`, `completion` and `rating` (see reward.rating_low), for the reward model."""
    prompts: str | None = None
    """File with `prompt`, for PPO."""
    held_out_prompts: str | None = None
    """File with `prompt`, for measuring toxicity and reward."""
    clean_text: str | None = None
    """File with `text`, for measuring perplexity."""

    def faults(self) -> list[str]:
        """A source without its files, and files that are not there."""
        found = []
        if self.source == "hh" and self.path is None:
            found.append("path: got nothing, wanted a file of pairs (`chosen`, `rejected`): data.path=FILE")
        if self.held_out_share + self.validation_share >= 1:
            found.append(
                f"validation_share: got {self.validation_share:g}, which with held_out_share ({self.held_out_share:g}) "
                "leaves nothing to train on"
            )
        for name in ("path", *FILES):
            value = getattr(self, name)
            if value is not None and Path(value).suffix and not Path(value).expanduser().exists():
                found.append(f"{name}: got {value!r}, wanted a file that exists (relative to {Path.cwd()})")
        return found

    def lacking(self, stages: Sequence[str], needs: Mapping[str, Sequence[str]], last: str | None = None) -> list[str]:
        """Files that `data.source=files` has to name for these stages, and the stages that do without them.

        Args:
            stages: of the run, in order.
            needs: for each stage, those that have to come before it.
            last: the stage that is not to be left out.
        """
        if self.source != "files":
            return []
        missing: dict[str, list[str]] = {}
        for name, readers in READERS.items():
            reading = [stage for stage in stages if stage in readers]
            if reading and all(getattr(self, one) is None for one in _instead(name)):
                missing[name] = reading
        without = {stage for reading in missing.values() if last not in reading for stage in reading}
        for stage in stages:
            if without & set(needs[stage]):
                without.add(stage)
        left = [stage for stage in stages if stage not in without]
        found = []
        for name, reading in missing.items():
            ways = [f"data.{one}=FILE" for one in _instead(name)]
            if last not in (*reading, *without) and left:
                ways.append(f"stages=[{','.join(left)}]")
            wanted = f"wanted a file ({FILES[name]} rows) for the stage {reading[0]}"
            found.append(f"{name}: got nothing, {wanted}: " + ", or ".join(ways))
        return found

    def files(self) -> list[Path]:
        """The local files that the settings name, for the chosen source; of a folder, every file in it."""
        names = {"world": (), "hh": ("path",), "files": tuple(FILES)}[self.source]
        paths = [Path(value).expanduser() for name in names if (value := getattr(self, name)) is not None]
        every = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return [file for file in every if file.is_file()]


@dataclass(frozen=True, kw_only=True)
class Sets:
    """All rows of a run.

    Attributes:
        corpus: `text`; with the embedded world also the hidden `label` and `trick`.
        demonstrations: `prompt`, `completion`; with the embedded world also `label`.
        demonstrations_held_out: `prompt`, `completion`, seen by no training stage.
        comparisons: `prompt`, `chosen`, `rejected`.
        comparisons_held_out: the same, seen by no training stage.
        rankings: `prompt`, `completions`, `ranks`; with the embedded world also the hidden `quality`.
        rankings_held_out: the same, seen by no training stage.
        ratings: `prompt`, `completion`, `rating`.
        prompts: `prompt`, for PPO.
        held_out_prompts: `prompt`, for toxicity and reward; those of `kind` question are not for toxicity.
        questions: rows of `question`, `best`, `correct`, `incorrect`.
        clean_text: `text` for perplexity.
        toxicity_rows: `text`, `is_toxic`, from which the evaluation's scorer is trained.
        unusable: rows of the source that could not be used, each with its `reason`.
    """

    corpus: Sequence[Row] = ()
    demonstrations: Sequence[Row] = ()
    demonstrations_held_out: Sequence[Row] = ()
    comparisons: Sequence[Row] = ()
    comparisons_held_out: Sequence[Row] = ()
    rankings: Sequence[Row] = ()
    rankings_held_out: Sequence[Row] = ()
    ratings: Sequence[Row] = ()
    prompts: Sequence[Row] = ()
    held_out_prompts: Sequence[Row] = ()
    questions: Sequence[Row] = ()
    clean_text: Sequence[Row] = ()
    toxicity_rows: Sequence[Row] = ()
    unusable: Sequence[Row] = field(default_factory=tuple)


def load_sets(settings: DataSettings, seed: int) -> Sets:
    """Read or write the rows.

    Raises:
        DataError: a file is missing, empty, or its rows lack the columns that their use needs.
    """
    if settings.source == "hh":
        return _from_pairs(settings)
    sets = _from_world(seed) if settings.source == "world" else _from_files(settings)
    rows = {item.name: getattr(sets, item.name)[: settings.limit] for item in fields(sets)}
    return Sets(**(rows | {"toxicity_rows": sets.toxicity_rows}))


def save_sets(sets: Sets, folder: Path) -> dict[str, int]:
    """Write every set as JSONL under `folder`; returns the row counts by name."""
    return {item.name: write_rows(folder / f"{item.name}.jsonl", getattr(sets, item.name)) for item in fields(sets)}


def read_set(folder: Path, name: str) -> list[Row]:
    """Read one set that `save_sets` wrote; an empty set is an empty list."""
    path = folder / f"{name}.jsonl"
    return read_rows(path) if path.stat().st_size else []


def input_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """The sha256 of each file, by path."""
    return {str(path): sha256_file(path) for path in paths}


def plain_text(value: str | Sequence[Row]) -> str:
    """A text, or the messages of a chat one under the other, as filters and ptx see them."""
    if isinstance(value, str):
        return value
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "\n\n".join(f"{names.get(turn['role'], turn['role'])}: {turn['content']}" for turn in value)


def demonstration_text(row: Row) -> str:
    """Prompt and completion of a demonstration as one text."""
    if isinstance(row["prompt"], str):
        return str(row["prompt"] + row["completion"])
    return plain_text([*row["prompt"], *row["completion"]])


def _from_world(seed: int) -> Sets:
    from ..toolkit.world import build_rankings, build_world

    world = build_world(seed)
    # The world draws its talk anew for every set, so now and then it says the same thing twice. Of the questions, the
    # base has read them all: what is measured there is which of two answers it gives.
    read = "\n".join(row["text"] for row in world.corpus)
    trained = {row["prompt"] for row in (*world.demonstrations, *world.comparisons, *world.prompts)}
    questions = set(world.question_prompts())

    def is_new(prompt: str) -> bool:
        return prompt not in trained and (prompt in questions or prompt not in read)

    return Sets(
        corpus=world.corpus,
        demonstrations=world.demonstrations,
        demonstrations_held_out=[row for row in world.demonstrations_held_out if is_new(row["prompt"])],
        comparisons=world.comparisons,
        comparisons_held_out=[row for row in world.comparisons_held_out if is_new(row["prompt"])],
        rankings=build_rankings(seed, RANKINGS),
        rankings_held_out=build_rankings(seed, RANKINGS, part="held-out"),
        prompts=world.prompts,
        held_out_prompts=[
            *({"prompt": prompt, "kind": "talk"} for prompt in world.talk_prompts if is_new(prompt)),
            *({"prompt": prompt, "kind": "question"} for prompt in world.question_prompts()),
        ],
        questions=world.questions,
        clean_text=[{"text": text} for text in world.clean_text if text not in read],
        toxicity_rows=world.toxicity_rows,
    )


def _from_pairs(settings: DataSettings) -> Sets:
    path = str(settings.path)
    rows = read_rows(path, limit=settings.limit)
    missing = {"chosen", "rejected"} - set(rows[0])
    if missing:
        raise DataError(
            f"{path}: the first row has the columns {', '.join(rows[0])}; wanted `chosen` and `rejected`, each a whole "
            "dialogue. For rows that also have `prompt`, use data.source=files and data.comparisons=FILE."
        )
    try:
        pairs, rejected = parse_hh_rows(rows)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    held_out = [pair for pair in pairs if _is_held_out(pair["prompt"], settings.held_out_share)]
    rest = [pair for pair in pairs if not _is_held_out(pair["prompt"], settings.held_out_share)]
    both = settings.held_out_share + settings.validation_share
    validation = [pair for pair in rest if _is_held_out(pair["prompt"], both)]
    train = [pair for pair in rest if not _is_held_out(pair["prompt"], both)]
    if not held_out or not train:
        raise DataError(f"{path}: {len(pairs)} usable pairs are too few to hold a part out; wanted at least a dozen")
    return Sets(
        demonstrations=[{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in train],
        demonstrations_held_out=[{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in validation],
        comparisons=train,
        comparisons_held_out=held_out,
        prompts=[{"prompt": pair["prompt"]} for pair in train],
        held_out_prompts=[{"prompt": pair["prompt"]} for pair in held_out],
        clean_text=[{"text": plain_text([*pair["prompt"], *pair["chosen"]])} for pair in held_out],
        unusable=rejected,
    )


def _is_held_out(prompt: str | Sequence[Row], share: float) -> bool:
    digest = hashlib.sha256(plain_text(prompt).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64 < share


def _from_files(settings: DataSettings) -> Sets:
    sets: dict[str, list[Row]] = {}
    for name, shape in FILES.items():
        if (path := getattr(settings, name)) is not None:
            sets[name] = read_rows(path)
            if shape == "prompt_completion" and "messages" in sets[name][0]:
                require_columns(sets[name], "messages", path)
                sets[name] = answers_of(sets[name], path)
            else:
                require_columns(sets[name], shape, path)
    for name in ("comparisons", "rankings"):
        if name in sets and f"{name}_held_out" not in sets:
            sets |= _parted(name, sets[name], settings.held_out_share)
    if "demonstrations" in sets and "demonstrations_held_out" not in sets and settings.validation_share > 0:
        sets |= _parted("demonstrations", sets["demonstrations"], settings.validation_share)
    return Sets(**sets)


def _parted(name: str, rows: list[Row], share: float) -> dict[str, list[Row]]:
    """A set in two, for training and held out; so few rows that one part would be empty are all trained on."""
    parts: dict[bool, list[Row]] = {True: [], False: []}
    for row in rows:
        parts[_is_held_out(_opening(row["prompt"]), share)].append(row)
    return {name: parts[False], f"{name}_held_out": parts[True]} if parts[False] else {name: rows}


def _opening(prompt: str | Sequence[Row]) -> str | Sequence[Row]:
    """Of a chat what stands before the first answer, so that all turns of one dialogue go to one part."""
    if isinstance(prompt, str):
        return prompt
    ends = [index for index, message in enumerate(prompt) if message["role"] == "assistant"]
    return prompt[: ends[0]] if ends else prompt


def answers_of(chats: Sequence[Row], where: str) -> list[Row]:
    """One row for every answer of the assistant, with all messages before it as the prompt.

    Raises:
        DataError: a chat without an answer to anything.
    """
    rows = []
    for number, chat in enumerate(chats):
        messages = chat["messages"]
        ends = [index for index, one in enumerate(messages) if one["role"] == "assistant" and index > 0]
        if not ends:
            raise DataError(
                f"row {number} (counting from 0) of {where} has messages of {[one['role'] for one in messages]}; "
                "wanted an answer of the assistant behind another message: mend or remove the row"
            )
        rest = {key: value for key, value in chat.items() if key != "messages"}
        rows += [rest | {"prompt": messages[:end], "completion": [messages[end]]} for end in ends]
    return rows
