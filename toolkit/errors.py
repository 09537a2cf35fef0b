"""The faults a user can mend, each with what was got, what was wanted and the cure."""

from collections.abc import Sequence


class TunewellError(Exception):
    """A fault of input, settings or machine; the command line prints it and exits with code 2."""


class SettingsError(TunewellError, ValueError):
    """All faults of one set of settings, gathered before anything heavy is loaded."""

    def __init__(self, faults: Sequence[str], where: str = "the recipe") -> None:
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault" + ("s" if len(self.faults) != 1 else "")
        super().__init__(f"{count} in {where}:\n" + "\n".join(f"  - {fault}" for fault in self.faults))


class DataError(TunewellError, ValueError):
    """Rows, files or lists that cannot be used as they are."""


class ModelError(TunewellError, ValueError):
    """A model, tokenizer or adapter that cannot do what was asked."""


class DeviceError(TunewellError, RuntimeError):
    """An option that this machine's hardware cannot serve."""


class RunError(TunewellError, RuntimeError):
    """A run folder that belongs to another run, is in use, or cannot be written."""


class TrainingError(TunewellError, RuntimeError):
    """A training that cannot go on: its loss or gradient is not a number."""


class MissingPackageError(TunewellError, ImportError):
    """An optional package that is not installed.

    Args:
        package: the name on the package index.
        extra: the extra of tunewell that brings it, if one does.
        purpose: what the package is needed for.
    """

    def __init__(self, package: str, purpose: str, extra: str | None = None) -> None:
        cure = f'pip install "tunewell[{extra}]"' if extra else f"pip install {package}"
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed. Mend it with: {cure}")
