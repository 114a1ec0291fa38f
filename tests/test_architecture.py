"""The house rules that a machine can hold: who may import whom, what is documented, what is never called."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import compress
from compress.cli import COMMANDS, main
from compress.errors import CompressError

ROOT = Path(__file__).parent.parent
FILES = sorted(p for package in ("compress", "export", "android_bench") for p in (ROOT / package).rglob("*.py"))
NAMES = {p: ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in FILES}
ids = [NAMES[p] for p in FILES]

# From low to high. A module may import its own tier and those before it.
NOUNS = ["compress", "compress.errors", "compress.image_format", "compress.spec", "compress.files", "compress.photos"]
NOUNS += [
    "compress.checkpoint",
    "compress.pickles",
    "compress.memory",
    "compress.models",
    "compress.sheet",
    "compress.demo_photos",
]
PARTS = ["compress.channels", "compress.networks", "compress.features", "compress.losses", "compress.metrics"]
STAGES = ["compress.pruning", "compress.training", "compress.stylize"]
TOP = ["compress.cli", "compress.pipeline", "compress.api", "compress.__main__"]
# What `android_bench` may use of the others.
BENCH_USES = [*NOUNS, "compress.networks", "export.artifact", "export.runtime", "export.child"]
LIGHT = ["compress.errors", "compress.image_format", "compress.spec", "compress.files", "compress.photos", "compress.pickles"]
LIGHT += ["compress.memory", "android_bench.record", "android_bench.budget", "android_bench.statistics", "export.artifact"]
HEAVY = ("torch", "tensorflow", "onnx", "onnxruntime", "ai_edge_litert")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Our own modules that a file imports at run time, wherever the statement stands; type checking does not count."""
    tree = tree_of(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    known = set(NAMES.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in full)


def inside(name: str, packages: list[str]) -> bool:
    return any(name == package or (package != "compress" and name.startswith(f"{package}.")) for package in packages)


def allowed(name: str) -> list[str]:
    """Packages that module `name` may import."""
    if inside(name, TOP):
        return [*NOUNS, *PARTS, *STAGES, *TOP, "export", "android_bench"]
    if name.startswith("export"):
        return [*NOUNS, *PARTS, "export"]
    if name.startswith("android_bench"):
        return [*BENCH_USES, "android_bench"]
    for tier, may in ((NOUNS, NOUNS), (PARTS, [*NOUNS, *PARTS]), (STAGES, [*NOUNS, *PARTS, *STAGES])):
        if inside(name, tier):
            return may
    raise AssertionError(f"{name} is in no tier: docs/architecture.md and this test must say where it belongs")


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_run_one_way(path: Path) -> None:
    name = NAMES[path]
    if name == "compress":  # hands out the Python API when it is asked for
        return
    for imported in imports(path):
        if imported.split(".")[0] in ("compress", "export", "android_bench"):
            assert inside(imported, allowed(name)), f"{name} imports {imported}"


def test_light_modules_import_nothing_heavy() -> None:
    """A check runs on a laptop that has none of it."""
    known = set(NAMES.values())
    code = f"import sys, {', '.join(name for name in LIGHT if name in known)}\nprint(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
    assert {"compress.errors", "compress.spec", "export.artifact", "android_bench.record"} <= known


def test_help_imports_nothing_heavy() -> None:
    modules = (*HEAVY, "numpy", "PIL", "rich")
    code = f"""
import sys
from compress.cli import main
try:
    main(["--help"])
finally:
    print([m for m in {modules} if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_file_and_a_place_in_the_readme(name: str) -> None:
    assert (ROOT / "compress" / "cli" / f"{name}.py").is_file()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"compress {name}" in readme or f"make {name}" in readme


def readme_commands() -> list[list[str]]:
    """The indented lines of the README, split as a shell would."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("    ")]


def test_the_readme_shows_the_two_commands_first() -> None:
    assert readme_commands()[:2] == [["make", "demo"], ["make", "test"]]


def test_commands_in_the_readme_exist_with_their_options() -> None:
    """Each example is parsed by the real command; nothing is run."""
    found = [words[1:] for words in readme_commands() if words[0] == "compress"]
    assert len(found) >= len(COMMANDS) - 1
    for name, *arguments in found:
        command = main.get_command(click.Context(main), name)
        assert command, name
        command.make_context(name, arguments)


def test_version_equals_changelog() -> None:
    first = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first
    assert first[1] == compress.__version__


def test_pins_and_constraints_agree() -> None:
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in constraints)
    assert all(re.fullmatch(r"[\w.]+", version) for version in constraints.values())
    wanted = config["options"]["install_requires"] + "".join(config["options.extras_require"].values())
    for line in filter(None, map(str.strip, wanted.splitlines())):
        if line.startswith("%("):
            continue
        name, _, pin = re.sub(r"[<>~].*", "", line).partition("==")
        assert name in constraints, f"{name} has no tested version in constraints.txt"
        assert not pin or pin == constraints[name], f"{name} is pinned to {pin} and constrained to {constraints[name]}"


def needs_words(node: ast.FunctionDef) -> bool:
    """Private functions, one-liners and those that a decorator enters into a table speak for themselves."""
    return not (node.name.startswith("_") or node.decorator_list or len(node.body) == 1 or ast.get_docstring(node))


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_modules_and_public_functions_are_documented(path: Path) -> None:
    tree = tree_of(path)
    body = path.read_text(encoding="utf-8").strip()
    assert ast.get_docstring(tree) or not body, f"{path} has no docstring"
    undocumented = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and needs_words(node)]
    assert not undocumented


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 500
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is long"
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert len(parameters) < 9 or path.parent.name == "cli", f"{node.name} has many parameters"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "os.system", "os.popen", "subprocess.getoutput"), called
        assert not re.fullmatch(r"(pickle|cPickle|dill|joblib|marshal|shelve)\.(load|loads|open|Unpickler)", called), called
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("shell", "False") == "False", "a shell string"
        if called == "torch.load":
            assert keywords.get("weights_only") == "True"
        if called in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle", "False") == "False"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"line {node.lineno}: except {caught}"


def test_every_error_stands_in_the_tree_at_the_top_of_its_file() -> None:
    import compress.errors

    tree = compress.errors.__doc__ or ""
    for name, thing in vars(compress.errors).items():
        if isinstance(thing, type) and issubclass(thing, CompressError) and not name.startswith("_"):
            line = next(line for line in tree.splitlines() if re.search(rf"\b{name}\b", line) and "exit" in line)
            assert f"exit {thing.exit_code}" in line
            assert thing is CompressError or re.search(rf"\b{thing.kind}\b", line)


def test_no_path_of_a_machine_is_in_the_repository() -> None:
    for path in [*FILES, *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "Makefile"]:
        assert not re.search(r"/(work|root|home/\w+)/", path.read_text(encoding="utf-8")), path
