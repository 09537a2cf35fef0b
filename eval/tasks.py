"""The tasks that `tunewell eval` knows, by name."""

import difflib

from ..toolkit.errors import SettingsError
from .bias_tasks import CrowsPairsTask, OccupationsTask, WinogenderTask
from .perplexity_task import PerplexityTask
from .squad_task import SquadTask
from .task import Task
from .toxicity_task import ToxicityTask
from .truthful_answers_task import TruthfulAnswersTask
from .truthfulness_task import TruthfulnessTask

# One line a task. Their modules load nothing heavy before `prepare`.
TASKS: dict[str, type[Task]] = {
    "truthfulness": TruthfulnessTask,
    "truthful_answers": TruthfulAnswersTask,
    "toxicity": ToxicityTask,
    "perplexity": PerplexityTask,
    "squad": SquadTask,
    "crows_pairs": CrowsPairsTask,
    "winogender": WinogenderTask,
    "occupations": OccupationsTask,
}


def find_task(name: str) -> type[Task]:
    """The class behind a name.

    Raises:
        SettingsError: there is none, with the known names and the nearest of them.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name.lower(), TASKS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise SettingsError([f"task: got {name!r}{hint}, wanted one of {', '.join(TASKS)}"], "the command line")
