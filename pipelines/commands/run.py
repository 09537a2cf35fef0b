"""`tunewell run`: a whole recipe, or its stages up to one of them."""

import sys
from collections.abc import Callable
from pathlib import Path

import typer

from ...toolkit import processes
from ...toolkit.errors import SettingsError
from .options import (
    JsonOption,
    OutOption,
    OverridesArgument,
    QuietOption,
    RecipeArgument,
    SetAsideOption,
    calm_libraries,
    print_result,
)


def run(
    recipe: RecipeArgument = "embedded",
    overrides: OverridesArgument = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    set_aside: SetAsideOption = False,
) -> None:
    """Run a whole recipe: filter, SFT, reward model, PPO, evaluation, report.

    Started again after an interruption it goes on where it stopped: finished stages are skipped, a training goes on
    from its last checkpoint. Without RECIPE it runs the embedded one, offline, in minutes on a CPU.

    On several GPUs start it with `accelerate launch -m tunewell run ...`: SFT, reward model and PPO share their batches
    among the processes; per_device_train_batch_size counts for each of them.

    Examples:
      tunewell run
      tunewell run sft.trainer.max_steps=40 --out runs/longer-sft
      tunewell run hh-rlhf data.path=harmless.jsonl.gz base.model=Qwen/Qwen2.5-0.5B
    """
    _run_stages(recipe, overrides, out, as_json, quiet, set_aside, last=None)


GOES_ON = "`tunewell run` in the same folder goes on from there."
HELP = {
    "sft": f"""Run a recipe up to supervised fine-tuning; {GOES_ON}

    The adapter is a plain PEFT folder, RUN/NN-sft/policy. `tunewell chat RUN` talks to it, `tunewell export RUN` merges
    it. Of your own you need rows of `prompt` and `completion`, or of `messages`; where a padding token, a chat template
    or a held-out part is missing, one is chosen and named.

    Examples:
      tunewell sft own-files data.demonstrations=chats.jsonl base.model=ID
      tunewell sft own-files ... base.quantization=nf4 sft.lora.rank=64
      tunewell sft own-files ... sft.max_length=2048 sft.trainer.packing=true
    """,
    "reward": f"""Run a recipe up to the reward model; {GOES_ON}

    It learns from comparisons, rankings of K completions and ratings. RUN/report.html shows how often it ranks held-out
    rows right, whether it knows how sure it may be, and how much of its score is length.

    Examples:
      tunewell reward own-files data.rankings=ranked.jsonl base.model=ID \\
          stages=[filter,reward]
      tunewell reward own-files ... reward.members=3 reward.combine=min
      tunewell reward own-files ... reward.gradient_cache=4
    """,
    "ppo": f"""Run a recipe up to PPO, without the evaluation; {GOES_ON}

    PPO starts from the SFT adapter and is held near it by a KL penalty. RUN/report.html shows reward, distance from
    SFT, length and entropy over the steps, with the signs of a policy that goes wrong.

    Examples:
      tunewell ppo
      tunewell ppo own-files data.demonstrations=chats.jsonl \\
          data.rankings=ranked.jsonl data.prompts=prompts.jsonl base.model=ID
    """,
}


def up_to(name: str) -> Callable[..., None]:
    """The command that runs the stages of a recipe up to one of them."""

    def command(
        recipe: RecipeArgument = "embedded",
        overrides: OverridesArgument = None,
        out: OutOption = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
        set_aside: SetAsideOption = False,
    ) -> None:
        _run_stages(recipe, overrides, out, as_json, quiet, set_aside, last=name)

    command.__doc__ = HELP[name]
    return command


def _run_stages(
    recipe: str,
    overrides: list[str] | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    set_aside: bool,
    last: str | None,
) -> None:
    from ..recipe import DEFAULT, find_recipe, read_recipe

    given = list(overrides or ())
    if "=" in recipe and not Path(recipe).is_file():  # no recipe was named, the first override took its place
        given.insert(0, recipe)
        recipe = DEFAULT
    settings = read_recipe(find_recipe(recipe), given, last)
    if last is not None and last not in settings.stages:
        raise SettingsError([f"stages: got {list(settings.stages)}, wanted {last!r} among them for this command"])

    calm_libraries()
    from ..console import Console
    from ..report.page import write_report
    from ..report_data import build_report
    from ..run import run_recipe

    folder = out or Path("runs") / settings.name
    speaks = processes.is_first()  # of the processes that a launcher started
    console = Console(is_quiet=quiet or not speaks)
    try:
        record = run_recipe(settings, folder, console, argv=sys.argv, sets_aside=set_aside, last=last)
    except KeyboardInterrupt:
        console.warn("interrupted; give the same command again to go on where it stopped")
        raise typer.Exit(130) from None
    if not speaks:
        return
    page = folder / "report.html"
    report = build_report(folder)
    write_report(report, page)
    for sentence in report.get("verdict", ()):
        console.say(sentence)
    print_result({"run": str(folder), "report": str(page), "results": record["results"]}, as_json, f"report: {page}")
