"""Filters that need no model start without one, and every filter says where it comes from."""

import re
import subprocess
import sys

import pytest
from tunewell import filters

PROTOCOLS = ("Filter", "CorpusFilter")


def test_importing_the_filters_and_using_a_blocklist_loads_no_heavy_package():
    code = (
        "import sys; from tunewell.filters import Blocklist, BlocklistFilter, load_phrases;"
        "judge = BlocklistFilter(Blocklist.from_lines(['kill']));"
        "print([v.keep for v in judge.judge(['Kill', 'é', 'skill'])], len(load_phrases()) > 0);"
        "print({'torch', 'transformers', 'sklearn', 'matplotlib', 'datasets'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split("\n")[:2] == ["[False, True, True] True", "set()"]


@pytest.mark.parametrize(
    "name", [name for name in filters.__all__ if name.endswith("Filter") and name not in PROTOCOLS]
)
def test_every_filter_names_its_source_its_unit_its_defaults_and_what_is_missing(name):
    text = " ".join(getattr(filters, name).__doc__.split())
    assert re.search(r"https://arxiv\.org/abs/\d{4}\.\d{5}", text)
    for word in ("Score", "default", "mplemented"):
        assert word in text


def test_all_public_names_exist():
    assert all(hasattr(filters, name) for name in filters.__all__)
