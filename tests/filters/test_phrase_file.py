"""Phrase files are read with all their faults named, and written back unchanged."""

import math

import pytest
from tunewell.filters.phrase_file import Axis, dump_phrases, load_phrases, with_thresholds
from tunewell.toolkit.errors import SettingsError


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "phrases.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_default_phrases_are_without_faults_and_all_to_be_calibrated():
    axes = load_phrases()
    assert len(axes) >= 4
    assert all(axis.threshold is None and len(axis.phrases) >= 5 for axis in axes)
    assert all(3 <= len(phrase.split()) <= 15 for axis in axes for phrase in axis.phrases)


def test_thresholds_are_put_in_and_the_file_is_read_back_unchanged(write):
    axes = with_thresholds(load_phrases(), {"hostility": 0.25, "threats": math.inf})
    assert axes[0].threshold == 0.25
    assert load_phrases(write(dump_phrases(axes))) == axes
    odd = (Axis("a", ("no", "- x: #y", "“ä” 1", "null")),)
    assert load_phrases(write(dump_phrases(odd))) == odd


def test_a_threshold_for_an_axis_that_is_not_there_is_a_fault():
    with pytest.raises(SettingsError, match=r"the axis 'hostilty', wanted .*`hostility`"):
        with_thresholds(load_phrases(), {"hostilty": 1.0})


def test_all_faults_of_a_file_are_reported_with_their_lines(write):
    path = write("""\
axes:
  a:
    threshold: high
    phrases: [say this, Say  This, 3, ""]
  b:
    phrases: []
  c: 5
  d:
    phrase: [z]
    phrases: text
  e:
    phrases:
      - say this
      - null
  e.raw:
    threshold: -.inf
    phrases: [more]
more: 1
""")
    with pytest.raises(SettingsError) as error:
        load_phrases(path)
    faults = "\n".join(error.value.faults)
    assert len(error.value.faults) == 13
    for expected in (
        "line 18: got the key 'more'",
        "line 3: got the threshold 'high'",
        "line 4: got the phrase 'Say  This' again (first on line 4)",
        "line 4: got 3, wanted a phrase",
        "line 4: got '', wanted a phrase",
        "line 5: the axis 'b' has no phrases",
        "line 7: got 5 for the axis 'c'",
        "line 9: got the key 'phrase' in the axis 'd'",
        "line 10: got 'text' for phrases, wanted a list",
        "line 13: got the phrase 'say this' again (first on line 4)",
        "line 14: got None, wanted a phrase",
        "line 15: got the axis name 'e.raw'",
        "line 16: got the threshold -inf",
    ):
        assert expected in faults


@pytest.mark.parametrize("text", ["", "axes:", "axes: []", "axes: {}"])
def test_a_file_without_axes_is_a_fault(write, text):
    with pytest.raises(SettingsError, match="axes: got none"):
        load_phrases(write(text))


def test_an_axis_given_twice_is_a_fault(write):
    with pytest.raises(SettingsError, match=r"line 3: got the key 'a' again"):
        load_phrases(write("axes:\n  a: {phrases: [x]}\n  a: {phrases: [y]}\n"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match="cannot read"):
        load_phrases(tmp_path / "none.yaml")
