"""What a PPO checkpoint holds beside the Trainer's own files: safetensors and JSON."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from ..errors import ModelError
from ..files import read_json, write_json
from ..model.roles import RoleStack
from .moving_average import MovingAverage
from .roles import ValueFunction

STATE, VALUE_HEAD, AVERAGE = "ppo_state.json", "value_head.safetensors", "ema.safetensors"


@dataclass(frozen=True)
class TrainedParts:
    """Everything that training changes, and the digests of the adapters that it must not change."""

    stack: RoleStack
    value: ValueFunction
    average: MovingAverage | None
    frozen: dict[str, str]
    """Digest of each adapter that is not trained."""

    def save(self, folder: Path, kl_coef: float, ptx_position: int | None) -> None:
        """Write the policy as a plain PEFT folder, and beside it the value function, the average and the numbers."""
        self.stack.save("policy", folder)
        if self.value.head is None:
            self.stack.save("value", folder / "value")
        else:
            state = {name: tensor.detach().cpu() for name, tensor in self.value.head.state_dict().items()}
            save_file(state, folder / VALUE_HEAD)
        if self.average is not None:
            self.average.save(folder / AVERAGE)
        write_json(folder / STATE, {"kl_coef": kl_coef, "ptx_position": ptx_position, "frozen": self.frozen})

    def load(self, folder: Path) -> tuple[float, int | None]:
        """Bring back what `save` wrote; returns the KL coefficient and the position in the ptx stream.

        Raises:
            ModelError: when the frozen adapters are not those the checkpoint was trained against.
        """
        state = read_json(folder / STATE)
        names = sorted(state["frozen"].keys() | self.frozen.keys())
        changed = [name for name in names if state["frozen"].get(name) != self.frozen.get(name)]
        if changed:
            raise ModelError(
                f"the frozen adapters {', '.join(changed)} differ from those that {folder} was trained against: load "
                "the same ones, or start afresh"
            )
        self.stack.restore("policy", folder)
        if self.value.head is None:
            self.stack.restore("value", folder / "value")
        else:
            self.value.head.load_state_dict(load_file(folder / VALUE_HEAD))
        if self.average is not None:
            self.average.load(folder / AVERAGE)
        return float(state["kl_coef"]), state["ptx_position"]
