"""The stages of a recipe: what decides the result of each, and the code that does."""

from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..toolkit.files import code_fingerprint, sha256_file, sha256_of
from ..toolkit.settings.reading import to_tree
from ..toolkit.stage import Stage
from ..toolkit.world.occupations import occupation_documents
from .console import Console
from .curate import run_filter
from .evaluate import run_eval
from .examination import questions_file
from .mitigations import run_mitigations
from .mixture import run_mixture
from .ppo import run_ppo
from .recipe import Recipe
from .retrain import run_retrain
from .reward import run_reward
from .reward_losses import run_losses
from .sets import input_hashes, load_sets, plain_text
from .sft import run_sft
from .sweep import run_sweep

ROOT = Path(__file__).parents[1]
# The code that decides results; how they are shown is left out, so that a new report makes no stage stale.
FOLDERS = ("toolkit", "filters", "eval")
MODULES = (
    "at_decoding",
    "curate",
    "evaluate",
    "examination",
    "filter_building",
    "filter_settings",
    "gated_eval",
    "mitigate",
    "mitigation_arms",
    "mitigation_measures",
    "mitigation_tables",
    "mitigations",
    "mixture",
    "ppo",
    "ppo_rewards",
    "retrain",
    "reward",
    "reward_losses",
    "reward_report",
    "sets",
    "sft",
    "sweep",
    "training",
)


def stages_of(recipe: Recipe, console: Console) -> list[Stage]:
    """The recipe's stages with all that decides their results."""
    base, seed, data = recipe.base, recipe.seed, recipe.data
    shared: dict[str, Any] = {"seed": seed, "base": to_tree(base)}
    treated: dict[str, Any] = {"mitigations": to_tree(recipe.mitigations)}
    treatments = input_hashes(recipe.mitigations.files())
    questions = questions_file(recipe.eval, data.path)
    scorer = input_hashes(recipe.eval.scorer_files())
    corpus = [Path(base.corpus)] if base.corpus else []
    every: dict[str, Stage] = {
        "filter": Stage(
            name="filter",
            settings=shared | {"data": to_tree(data), "filter": to_tree(recipe.filter)},
            inputs=input_hashes([*data.files(), *recipe.filter.files(), *corpus, *base.files()]),
            run=partial(run_filter, recipe.filter, data, base, seed, console),
        ),
        "retrain": Stage(
            name="retrain",
            settings=shared | {"retrain": to_tree(recipe.retrain), "eval": to_tree(recipe.eval)},
            run=partial(run_retrain, recipe.retrain, recipe.eval, base, seed, partial(base_texts, recipe), console),
        ),
        "mixture": Stage(
            name="mixture",
            settings=shared | {"mixture": to_tree(recipe.mixture), "sft": to_tree(recipe.sft)},
            inputs=input_hashes(base.files()),
            run=partial(run_mixture, recipe.mixture, recipe.sft, base, seed, console),
        ),
        "losses": Stage(
            name="losses",
            settings=shared | {"losses": to_tree(recipe.losses), "reward": to_tree(recipe.reward)},
            run=partial(run_losses, recipe.losses, recipe.reward, base, seed, console),
        ),
        "sft": Stage(
            name="sft",
            settings=shared | treated | {"sft": to_tree(recipe.sft)},
            inputs=treatments | input_hashes(recipe.sft.files()),
            run=partial(run_sft, recipe.sft, base, seed, console, mitigations=recipe.mitigations),
            is_shared=True,
        ),
        "reward": Stage(
            name="reward",
            settings=shared | treated | {"reward": to_tree(recipe.reward)},
            inputs=treatments,
            run=partial(run_reward, recipe.reward, base, seed, console, mitigations=recipe.mitigations),
            is_shared=True,
        ),
        "ppo": Stage(
            name="ppo",
            settings=shared | treated | {"ppo": to_tree(recipe.ppo)},
            inputs=treatments | input_hashes(recipe.ppo.reward.files()),
            run=partial(run_ppo, recipe.ppo, base, seed, console, mitigations=recipe.mitigations),
            is_shared=True,
        ),
        "mitigations": Stage(
            name="mitigations",
            settings=shared
            | {"comparison": to_tree(recipe.comparison), "sft": to_tree(recipe.sft), "eval": to_tree(recipe.eval)},
            inputs=scorer,
            run=partial(run_mitigations, recipe.comparison, recipe.sft, recipe.eval, data, base, seed, console),
        ),
        "sweep": Stage(
            name="sweep",
            settings=shared
            | {
                name: to_tree(part)
                for name, part in (("sweep", recipe.sweep), ("ppo", recipe.ppo), ("eval", recipe.eval))
            },
            inputs=input_hashes(recipe.ppo.reward.files()),
            run=partial(run_sweep, recipe.sweep, recipe.ppo, recipe.eval, base, seed, console),
        ),
        "eval": Stage(
            name="eval",
            settings=shared | treated | {"eval": to_tree(recipe.eval)},
            inputs=input_hashes([questions] if questions else []) | treatments | scorer,
            run=partial(run_eval, recipe.eval, base, seed, questions, console, mitigations=recipe.mitigations),
        ),
    }
    return [every[name] for name in recipe.stages]


def code_of_stages() -> str:
    """Hash of the code that decides results: other code makes finished stages stale."""
    modules = [sha256_file(Path(__file__).with_name(f"{name}.py")) for name in MODULES]
    return sha256_of([__version__, code_fingerprint([ROOT / name for name in FOLDERS]), modules])


def base_texts(recipe: Recipe) -> list[str]:
    """The unfiltered corpus: what a base model of the web would have read."""
    from ..toolkit.data.row_shapes import require_columns
    from ..toolkit.data.rows import read_rows

    if recipe.base.corpus is not None:
        rows = read_rows(recipe.base.corpus)
        require_columns(rows, "text", recipe.base.corpus)
        return [row["text"] for row in rows]
    sets = load_sets(recipe.data, recipe.seed)
    if "mitigations" in recipe.stages:
        return [*(row["text"] for row in sets.corpus), *occupation_documents(recipe.seed)]
    if sets.corpus:
        return [row["text"] for row in sets.corpus]
    return [plain_text([*row["prompt"], *row[side]]) for row in sets.comparisons for side in ("chosen", "rejected")]
