"""Atomic writing and hashing."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tunewell.toolkit import files
from tunewell.toolkit.errors import DataError, RunError


def test_text_and_bytes_are_written_and_folders_made(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a" / "b.txt", "grün\n")
    files.write_atomic(tmp_path / "a" / "c.bin", b"\x00\xff")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "grün\n".encode()
    assert (tmp_path / "a" / "c.bin").read_bytes() == b"\x00\xff"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b.txt", "c.bin"]


def test_a_new_file_has_the_usual_permissions_not_those_of_a_private_temporary(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_failure_midway_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_text("old")

    def write_half() -> None:
        with files.atomic_writer(target) as file:
            file.write(b"half of the new")
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_fault_of_the_block_itself_is_not_reported_as_a_fault_of_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"), files.atomic_writer(tmp_path / "out"):
        (tmp_path / "absent.txt").read_text()


def test_a_full_disk_names_the_free_space_the_cure_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run.json"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"disk is full.*run\.json.*\d+\.\d MB free.*another disk"):
        files.write_atomic(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_in_the_way_is_a_clear_fault(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match=r"cannot write .*taken.*Choose a folder"):
        files.write_atomic(tmp_path / "taken", "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"cannot write .*Choose a folder"):
        files.write_atomic(tmp_path / "file" / "under", "x")


def test_a_killed_writer_never_leaves_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "big.bin"
    code = (
        "import sys, pathlib; from tunewell.toolkit.files import write_atomic\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for letter in b'ab': write_atomic(pathlib.Path(sys.argv[1]), bytes([letter]) * 3_000_000)\n"
    )
    for delay in (0.01, 0.03, 0.05):
        process = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        if target.exists():
            content = target.read_bytes()
            assert content in (b"a" * 3_000_000, b"b" * 3_000_000)


def test_json_round_trips_with_paths_and_says_null_for_what_was_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    files.write_json(path, {"folder": Path("a/b"), "value": float("nan"), "list": (1, 2.5), "text": "ü"})
    assert files.read_json(path) == {"folder": "a/b", "value": None, "list": [1, 2.5], "text": "ü"}
    assert path.read_text().endswith("}\n")


def test_what_json_cannot_say_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    files.write_json(path, [1])
    with pytest.raises(TypeError, match="object"):
        files.write_json(path, {"x": object()})
    assert files.read_json(path) == [1]


def test_a_broken_json_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(DataError, match=r"run\.json is not JSON.*line 2, column"):
        files.read_json(path)
    with pytest.raises(DataError, match=r"cannot read .*none\.json"):
        files.read_json(tmp_path / "none.json")


def test_file_hash_is_that_of_hashlib(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 100_000)
    assert files.sha256_file(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(DataError, match="cannot read"):
        files.sha256_file(tmp_path / "none")


def test_tree_hash_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert files.sha256_of({"a": 1, "b": [Path("x"), None]}) == files.sha256_of({"b": ["x", None], "a": 1})
    expected = hashlib.sha256(b'{"a":[1,"\\u00fc"]}').hexdigest()
    assert files.sha256_of({"a": [1, "ü"]}) == expected
    different = [{"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": True}, {"a": None}, {}, {"a": [1, 2]}, {"a": [2, 1]}]
    assert len({files.sha256_of(tree) for tree in different}) == len(different)
    with pytest.raises(TypeError, match="set"):
        files.sha256_of({"a": {1, 2}})


def test_code_fingerprint_follows_python_files_and_not_the_place(tmp_path: Path) -> None:
    for place in ("here", "there"):
        folder = tmp_path / place / "package" / "sub"
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("x = 1\n")
        (folder.parent / "b.py").write_text("y = 1\n")
    here, there = (tmp_path / place / "package" for place in ("here", "there"))
    before = files.code_fingerprint([here])
    assert before == files.code_fingerprint([there])
    (here / "notes.txt").write_text("ignored")
    (here / "__pycache__").mkdir()
    (here / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"ignored")
    assert files.code_fingerprint([here]) == before
    (here / "sub" / "a.py").write_text("x = 2\n")
    changed = files.code_fingerprint([here])
    (there / "sub" / "a.py").rename(there / "sub" / "renamed.py")
    assert len({before, changed, files.code_fingerprint([there])}) == 3


def test_a_folder_without_python_files_cannot_be_fingerprinted(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no Python file"):
        files.code_fingerprint([tmp_path])


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = (
        "import sys, tunewell.toolkit.files, tunewell.toolkit.data.rows, tunewell.toolkit.settings.reading;"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'pandas', 'numpy', 'pyarrow'} & set(sys.modules);"
        "import json; print(json.dumps(sorted(heavy)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []
