"""Recognise the many ways in which torch says that memory ran out."""

import torch

_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that an allocation failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator raises a plain RuntimeError; only its text tells.
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _MESSAGES)
