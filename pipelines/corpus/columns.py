"""Arrow columns are made of NumPy arrays, and back, without pandas, which `pyarrow.array` would import first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Booleans = NDArray[np.bool_]


def column(values: NDArray[Any], is_missing: Booleans | None = None) -> Any:
    """Make an Arrow array of numbers or truth values; plain numbers are not copied.

    Args:
        values: (rows,) of a NumPy type of fixed width, or bool.
        is_missing: (rows,) true: null; None: nothing is.
    """
    import pyarrow as pa

    if values.dtype == np.bool_:
        kind, data = pa.bool_(), pa.py_buffer(_bits(values))
    else:
        kind, data = getattr(pa, values.dtype.name)(), pa.py_buffer(np.ascontiguousarray(values))
    known = None if is_missing is None or not is_missing.any() else pa.py_buffer(_bits(~is_missing))
    return pa.Array.from_buffers(kind, len(values), [known, data])


def measured(values: NDArray[np.float64]) -> Any:
    """Make an Arrow array of measured values, in which NaN becomes null."""
    return column(values, np.isnan(values))


def texts(values: Sequence[str], rows: NDArray[np.int64] | None = None, n: int | None = None) -> Any:
    """Make an Arrow array of texts.

    Args:
        values: the texts.
        rows: (texts,) the rows that they stand in, rising; None: one after the other, in all.
        n: all rows; those that are not named are null.
    """
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    rows = np.arange(len(encoded)) if rows is None else rows
    count = len(encoded) if n is None else n
    lengths = np.zeros(count + 1, dtype=np.int32)
    lengths[rows + 1] = [len(one) for one in encoded]
    is_known = np.zeros(count, dtype=np.bool_)
    is_known[rows] = True
    buffers = [
        pa.py_buffer(_bits(is_known)),
        pa.py_buffer(np.cumsum(lengths, dtype=np.int32)),
        pa.py_buffer(b"".join(encoded)),
    ]
    return pa.Array.from_buffers(pa.string(), count, buffers)


def named(numbers: NDArray[np.int32], names: Sequence[str], is_missing: Booleans | None = None) -> Any:
    """Make an Arrow array of names, each given by its number."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(column(numbers, is_missing), texts(names))


def numbers_of(table: Any, name: str) -> NDArray[Any]:
    """The plain numbers of a column of one chunk that has no nulls, without a copy."""
    kind = np.dtype(table.schema.field(name).type.to_pandas_dtype())
    chunks = [chunk for chunk in table[name].chunks if len(chunk)]
    if not chunks:
        return np.zeros(0, dtype=kind)
    (chunk,) = chunks
    return np.frombuffer(chunk.buffers()[1], dtype=kind)[chunk.offset : chunk.offset + len(chunk)]


def _bits(values: Booleans) -> NDArray[np.uint8]:
    return np.packbits(values, bitorder="little")
