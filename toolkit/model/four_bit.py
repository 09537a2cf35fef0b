"""4-bit weights on a CPU, kept in the form that gradients can pass."""

from typing import Any

from torch import nn

from ..errors import ModelError


def keep_differentiable(model: nn.Module) -> None:
    """Stop bitsandbytes from packing 4-bit weights for inference on a CPU: the packed kernel has no backward.

    On CPUs with AVX512-BF16, the first forward in eval mode without gradients repacks the weights in place, and later
    training steps then miss most of their gradient without an error. Call this before a 4-bit model is used.

    Raises:
        ModelError: when weights are already packed.
    """
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        state: Any = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ModelError(
                f"the 4-bit weight {name!r} was packed for inference by an earlier forward pass, wanted an unused "
                "model: load the model again and hand it over before the first use"
            )
        setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
