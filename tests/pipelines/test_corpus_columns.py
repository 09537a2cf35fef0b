"""Columns come back as they were given, and nothing loads pandas for them."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from tunewell.pipelines.corpus.columns import column, measured, named, numbers_of, texts


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "float64"])
@pytest.mark.parametrize("n", [0, 1, 9, 1000])
def test_numbers_come_back(kind, n):
    values = np.arange(n).astype(kind)
    table = pa.table({"a": column(values)})
    assert table["a"].to_pylist() == values.tolist()
    assert numbers_of(table, "a").tolist() == values.tolist() and numbers_of(table, "a").dtype == values.dtype
    assert numbers_of(table.slice(3, 4), "a").tolist() == values[3:7].tolist()


def test_what_is_missing_is_null():
    is_missing = np.array([n % 3 == 0 for n in range(20)])
    expected = [None if n % 3 == 0 else n for n in range(20)]
    assert column(np.arange(20), is_missing).to_pylist() == expected
    assert measured(np.where(is_missing, np.nan, np.arange(20.0))).to_pylist() == expected
    assert column(np.arange(20) % 2 == 0).to_pylist() == [n % 2 == 0 for n in range(20)]
    names = named(np.where(is_missing, -1, 1).astype(np.int32), ["a", "é"], is_missing)
    assert names.to_pylist() == [None if n is None else "é" for n in expected]


def test_texts_stand_in_their_rows():
    assert texts(["é", "", "bc"]).to_pylist() == ["é", "", "bc"]
    assert texts(["é", "", "bc"], np.array([1, 2, 10]), 12).to_pylist() == [
        None, "é", "", *[None] * 7, "bc", None,
    ]  # fmt: skip
    assert texts([], np.zeros(0, dtype=np.int64), 3).to_pylist() == [None] * 3
    assert texts([]).to_pylist() == []


def test_a_run_without_a_model_loads_neither_pandas_nor_torch(tmp_path):
    (tmp_path / "words.txt").write_text("badword\n")
    rows = [{"text": "a badword"}, {"text": "café \U0001f642"}, {"text": "a b c"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = """
import sys
from pathlib import Path
from tunewell.pipelines.console import Console
from tunewell.pipelines.corpus import runner
from tunewell.pipelines.filter_settings import FilterSettings
runner._report = lambda *given: None
plan = runner.make_plan(["rows.jsonl"], Path("out"), FilterSettings(blocklist="words.txt"))
print(runner.run_corpus(plan, Console(is_quiet=True), workers=1)["dropped"])
print(sorted({"torch", "pandas", "transformers", "datasets"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["1", "[]"], done.stderr
