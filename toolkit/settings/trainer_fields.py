"""The options of a trainer's settings class are read from its source, so that nothing heavy is imported."""

import ast
import builtins
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


@lru_cache
def field_types(class_path: str) -> Mapping[str, str] | None:
    """Names and annotations of the options that a dataclass takes, those of its base classes included.

    Only the top-level package is located; its files are parsed, never run.

    Args:
        class_path: module and class, as in `trl.trainer.sft_config:SFTConfig`.

    Returns:
        the annotation of each option as it is written there; None where the source of the class, or of one of its
        bases, cannot be found, so that a caller can skip its check.
    """
    module, _, name = class_path.partition(":")
    return _fields_of(module, name, frozenset())


def _fields_of(module: str, name: str, seen: frozenset[tuple[str, str]]) -> dict[str, str] | None:
    if module.partition(".")[0] in sys.stdlib_module_names:
        return {}  # Generic, ABC and their like bring no options
    parsed = None if (module, name) in seen else _parse(module)
    if parsed is None:
        return None
    seen = seen | {(module, name)}
    tree, package = parsed
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _fields_of_class(node, tree, module, package, seen)
    for target, original in _imports_of(tree, name, package):
        fields = _fields_of(target, original, seen)
        if fields is not None:
            return fields
    return None


def _fields_of_class(
    node: ast.ClassDef, tree: ast.Module, module: str, package: str, seen: frozenset[tuple[str, str]]
) -> dict[str, str] | None:
    fields: dict[str, str] = {}
    for base in reversed(node.bases):  # the leftmost base wins, as in Python
        inherited = _fields_of_base(base, tree, module, package, seen)
        if inherited is None:
            return None
        fields |= inherited
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return fields
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation = ast.unparse(statement.annotation)
            if "ClassVar" in annotation or "KW_ONLY" in annotation:
                continue
            if _is_left_out_of_init(statement.value):
                fields.pop(statement.target.id, None)
            else:
                fields[statement.target.id] = annotation
    return fields


def _fields_of_base(
    base: ast.expr, tree: ast.Module, module: str, package: str, seen: frozenset[tuple[str, str]]
) -> dict[str, str] | None:
    if isinstance(base, ast.Subscript):  # Generic[T]
        base = base.value
    head, _, last = ast.unparse(base).rpartition(".")
    if head:
        return _fields_of(_module_named(tree, head), last, seen)
    if hasattr(builtins, last):
        return {}
    return _fields_of(module, last, seen)


def _is_left_out_of_init(value: ast.expr | None) -> bool:
    if not isinstance(value, ast.Call):
        return False
    return any(
        keyword.arg == "init" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        for keyword in value.keywords
    )


def _imports_of(tree: ast.Module, name: str, package: str) -> Iterator[tuple[str, str]]:
    # The whole tree is walked: lazy packages import their names beneath `if TYPE_CHECKING:` only.
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                yield _absolute(node, package), alias.name
    # Star imports come last: transformers has hundreds, and following one of them costs a parse of its module.
    for node in imports:
        if any(alias.name == "*" for alias in node.names):
            yield _absolute(node, package), name


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def _module_named(tree: ast.Module, dotted: str) -> str:
    """Undo `import a.b as c` in a dotted name that stands before a class."""
    root, _, rest = dotted.partition(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname == root:
                    return f"{alias.name}.{rest}" if rest else alias.name
    return dotted


@lru_cache
def _parse(module: str) -> tuple[ast.Module, str] | None:
    """The syntax tree of a module, and the package that its relative imports start from."""
    path = _file_of(module)
    if path is None:
        return None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in someone else's source
            return ast.parse(path.read_text(encoding="utf-8")), package
    except (OSError, SyntaxError, ValueError):
        return None


def _file_of(module: str) -> Path | None:
    top, *rest = module.split(".")
    try:
        spec = find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest and spec.origin and spec.origin.endswith(".py"):
        return Path(spec.origin)
    for location in spec.submodule_search_locations or ():
        stem = Path(location, *rest)
        for path in (stem.with_name(stem.name + ".py"), stem / "__init__.py"):
            if path.is_file():
                return path
    return None
