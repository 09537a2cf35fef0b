"""TRL's trainers report their use to Hugging Face when they are made; ours do not unless they are asked to."""

import os

from transformers import Trainer

VARIABLE = "HF_HUB_DISABLE_TELEMETRY"
ASKED = ("0", "OFF", "NO", "FALSE")


class NoTelemetry(Trainer):
    """Mixin that sends TRL's usage telemetry only where the user has set HF_HUB_DISABLE_TELEMETRY to 0."""

    def _send_telemetry(self) -> None:
        if os.environ.get(VARIABLE, "").upper() in ASKED:
            super()._send_telemetry()  # type: ignore[misc]  # TRL's trainers have it
