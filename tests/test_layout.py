import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "toolkit": set(),
    "filters": {"toolkit"},
    "eval": {"toolkit"},
    "pipelines": {"toolkit", "filters", "eval"},
}


def rooms_imported_by(path: Path) -> set[str]:
    """Folders of ours that a module names, by relative import or by the package's name."""
    found = set()
    depth = len(path.relative_to(ROOT).parts) - 1
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth + 1 and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tunewell."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("tunewell.")}
    return found & set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    for path in (ROOT / room).rglob("*.py"):
        forbidden = rooms_imported_by(path) - MAY_IMPORT[room] - {room}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}; {room} may import {MAY_IMPORT[room]}"


def test_the_import_check_sees_a_forbidden_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for text in (
        "from ..pipelines.cli import main",
        "import tunewell.pipelines.cli",
        "from tunewell.pipelines import x",
    ):
        module = tmp_path / "toolkit" / "bad.py"
        module.parent.mkdir(exist_ok=True)
        module.write_text(text)
        assert rooms_imported_by(module) == {"pipelines"}


def test_every_module_opens_with_a_sentence():
    for room in MAY_IMPORT:
        for path in (ROOT / room).rglob("*.py"):
            doc = ast.get_docstring(ast.parse(path.read_text())) or ""
            assert doc.strip().split("\n")[0].endswith((".", ":", "?")), f"{path.relative_to(ROOT)}: {doc[:80]!r}"


@pytest.mark.slow
def test_the_wheel_holds_every_folder_and_neither_tests_nor_benchmarks(tmp_path):
    copy = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(copy),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for room in MAY_IMPORT:
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert f"tunewell/{path.relative_to(ROOT)}" in names, f"{path} does not reach the wheel"
    assert {"tunewell/__init__.py", "tunewell/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tunewell/tests", "tunewell/bench", "tests", "bench"))]
