"""The data flows one way through the packages, and Ray stays at the edges."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_app.node.head import LEAN

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ray_app"

#: what each part may import of ours; nothing else
FOUNDATION = {"errors", "clock", "settings", "logs", "editions"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "clock": {"errors"},
    "logs": set(),
    "editions": set(),
    "settings": {"errors", "sentiment"},  # the models' names
    "assets": {"errors", "clock"},
    "mention_words": set(),
    "mentions": {"errors", "clock", "assets", "mention_words"},
    "sources": {"errors", "clock"},
    "reconcile": {"errors", "clock", "assets", "sources"},
    "sentiment": {"errors", "clock"},
    "storage": FOUNDATION | {"assets"},
    "collection": FOUNDATION | {"assets", "mentions", "sources", "reconcile", "sentiment", "storage"},
    "scoring": FOUNDATION | {"sentiment", "storage", "collection"},
    "health": FOUNDATION | {"assets", "storage", "collection"},
    "serving": FOUNDATION | {"assets", "mentions", "sources", "sentiment", "storage", "collection", "health"},
    "sandbox": FOUNDATION | {"assets"},
}

#: the only modules that may import ray
RAY_EDGES = {
    "ray_app/collection/actors.py",
    "ray_app/collection/supervisor.py",
    "ray_app/collection/serve_app.py",
    "ray_app/scoring/deployed.py",
    "ray_app/scoring/pool.py",
    "ray_app/scoring/serve_app.py",
    "ray_app/serving/apps.py",
}


#: everything of ours there is to import; what else stands in the package itself (__version__) is everybody's
PARTS = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Every absolute module name imported in the file, but for the type checker's eyes only."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_a_part_imports_only_what_lies_before_it(part):
    for path in modules():
        if part_of(path) != part:
            continue
        for name in imports_of(path):
            other = name.removeprefix("ray_app.").split(".")[0]
            if name.startswith("ray_app.") and other in PARTS:
                assert other == part or other in MAY_IMPORT[part], f"{path.relative_to(ROOT)} imports {name}"


def test_only_the_edges_import_ray():
    importing = {
        str(path.relative_to(ROOT))
        for path in modules()
        if any(name == "ray" or name.startswith("ray.") for name in imports_of(path)) and part_of(path) != "node"
    }
    assert importing <= RAY_EDGES


def test_everything_but_the_edges_imports_where_ray_is_not_installed():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in modules()
        if str(path.relative_to(ROOT)) not in RAY_EDGES and "migrations" not in path.parts
    ]
    program = (
        "import sys, importlib\n"
        "sys.modules['ray'] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print('imported', len(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("imported")


def test_what_runs_text_models_is_imported_by_nobody_who_does_not():
    """The CLI, the gateway, the streams and the collectors start without gigabytes of what only the scorers need."""
    starts = ["ray_app.cli", "ray_app.serving.apps", "ray_app.collection.actors", "ray_app.collection.serve_app"]
    starts += ["ray_app.scoring.serve_app"]  # its models come later, if there are any
    heavy = ("torch", "transformers", "tokenizers", "huggingface_hub", "nltk", "textblob", "vaderSentiment", "pandas")
    program = f"import sys, {', '.join(starts)}\nprint(*({set(heavy)!r} & set(sys.modules)))\nimport pandas\npandas.NA"
    environment = os.environ | {"PYTHONPATH": str(LEAN)}  # as every process of a node
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


def test_nothing_but_the_clock_asks_for_the_time():
    """datetime.now, time.time and friends live in ray_app/clock.py; measuring a duration may use time.monotonic."""
    forbidden = {
        ("datetime", "now"),
        ("datetime", "utcnow"),
        ("datetime", "today"),
        ("time", "time"),
        ("time", "time_ns"),
    }
    for path in modules():
        if path.name == "clock.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in forbidden, (
                    f"{path.relative_to(ROOT)}:{node.lineno} asks for the time"
                )
