"""The page of a filter run shows where rows went, and no flagged text before it is asked for."""

import json
import re

from corpus_runs import run, settings


def test_the_page_escapes_and_covers_what_was_dropped(tmp_path):
    rows = tmp_path / "rows.jsonl"
    hostile = "<script>alert(1)</script> badword </style>"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("fine", hostile, "fine too")) + "broken\n")
    run([rows], tmp_path / "out", settings(tmp_path))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 of 4 rows are kept (50.0%), 1 dropped, 1 could not be read" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "listed phrase" in page or "listed_phrase" in page
    assert "bad_json" in page and "File by file" in page and "blocklist: matches" in page
    # What matched stands in the covered text alone, not in the note beside it.
    notes = re.findall(r"rows\.jsonl, line 2[^<]*", page)
    assert notes and not any("badword" in note for note in notes)
