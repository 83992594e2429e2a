"""``crypto-data source new``: what it lays down is a source, whole and passing; what it cannot do it leaves alone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ray_app.cli import source_edits, source_kit
from ray_app.cli.source_edits import Unexpected, with_class, with_import, with_member
from ray_app.errors import ConfigError
from ray_app.sources import MODULES

ROOT = Path(__file__).parents[2]
NAME = "series"  # a word of other tests, too


def copied(target: Path) -> Path:
    """What a newcomer's checkout has of ours; no environment, no build."""
    for part in ("ray_app", "tests", "docs"):
        shutil.copytree(ROOT / part, target / part, ignore=shutil.ignore_patterns("__pycache__", "crds"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def run(folder: Path, *words: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-2_000:]
    return done.stdout


@pytest.mark.integration
def test_the_source_laid_down_is_clean_and_passes_the_contract_and_its_own_tests(tmp_path):
    folder = copied(tmp_path)
    said = run(folder, "-c", "from ray_app.cli import main; main()", "source", "new", NAME)
    touched = re.findall(r"^(?:new|changed) +(\S+)$", said, re.MULTILINE)
    assert f"ray_app/sources/{NAME}.py" in touched
    code = [path for path in touched if path.endswith(".py")]
    run(folder, "-m", "ruff", "check", "--no-cache", *code)
    run(folder, "-m", "ruff", "format", "--no-cache", "--check", *code)
    own = [path for path in code if Path(path).name.startswith("test_")]
    assert len(own) == 3
    _, *told = shlex.split(said.splitlines()[-1])
    assert [path for path in told if path.startswith("tests/")] == [
        *("tests/sources/test_contract.py", "tests/sources/test_fuzz.py"),
        *own,
    ]
    told.remove("tests/sources/test_fuzz.py")
    passed = run(folder, *told, "-n0", "-v", "-p", "no:cacheprovider")
    assert re.search(r"\d\d passed", passed)
    assert f"[{NAME}.series" in passed
    of_it = (f"[{NAME}.", f"-{NAME}.", f"_{NAME}.py")
    assert [line for line in passed.splitlines() if "::" in line and not any(part in line for part in of_it)] == []
    run(folder, "-c", "from tests.sources.test_terms import test_terms_are_said_in_full as test; test()")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_source_that_is_there_is_refused(module):
    with pytest.raises(ConfigError, match="is taken"):
        source_kit.kit(ROOT, module.__name__.rsplit(".", 1)[1])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Acme", "small letters"),
        ("9lives", "small letters"),
        ("two__lines", "small letters"),
        ("a-b", "small letters"),
        ("../up", "small letters"),
        ("a" * 25, "at most 24"),
        ("class", "means something"),
        ("list", "means something"),
        ("json", "Python's own library"),
        ("base", "is taken"),  # a module that is no source
        ("market", "is taken"),  # one of the sandbox alone
        ("onchain", "is taken"),  # a dataset
        ("stablecoins", "is taken"),  # an account without a module
        ("asset_registry", "is taken"),  # a collector
        ("prices", "is taken"),  # a dataset that is no feed's
        ("feed_collector", "a name there already"),  # its class would be another's
    ],
)
def test_a_name_that_will_not_do_is_refused(name, why):
    with pytest.raises(ConfigError, match=why):
        source_kit.kit(ROOT, name)


@pytest.mark.parametrize("url", ["http://a.b", "https://a", "https://a.b/", "https://a.b:80", 'https://a.b/"', "x"])
def test_an_address_that_will_not_do_is_refused(url):
    with pytest.raises(ConfigError, match="expected https"):
        source_kit.kit(ROOT, NAME, url)


def test_nothing_is_written_where_one_file_is_not_as_expected(tmp_path):
    folder = copied(tmp_path)
    accounts = folder / source_kit.ACCOUNTS
    accounts.write_text(accounts.read_text().replace("ACCOUNTS: Final", "ALL_ACCOUNTS: Final"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"accounts\.py is not as expected .*by hand"):
        source_kit.kit(folder, NAME)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_disk_that_refuses_in_the_middle_leaves_everything_as_it_was(tmp_path, monkeypatch):
    folder = copied(tmp_path)
    laid = source_kit.kit(folder, NAME)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write, left = Path.write_text, iter(range(4))

    def full(self, *args, **kwargs):
        if next(left, None) is None:
            raise OSError(28, "No space left on device", str(self))
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ConfigError, match="nothing was added"):
        laid.write()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_outside_of_a_checkout_it_says_so(tmp_path):
    with pytest.raises(ConfigError, match="in no checkout"):
        source_kit.checkout(tmp_path)
    assert source_kit.checkout(ROOT / "ray_app") == ROOT


# --- edits ---


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A = (x, y)\n", "A = (x, y, z)\n"),
        ("A: T = (x,)  # ü\n", "A: T = (x, z)  # ü\n"),
        ("A = (\n    x,\n    y,  # ü\n)\n", "A = (\n    x,\n    y,  # ü\n    z,\n)\n"),
        ("A = (\n    *(x, y),\n    # why\n)\nB = 1\n", "A = (\n    *(x, y),\n    # why\n    z,\n)\nB = 1\n"),
        ("A = (\n    w,\n    'x'  # why\n    # ü\n)\n", "A = (\n    w,\n    'x',  # why\n    # ü\n    z,\n)\n"),
        ("A = L[\n    x, y\n]\n", "A = L[\n    x, y,\n    z,\n]\n"),
        ('A = {\n    "ü": 1\n}\n', 'A = {\n    "ü": 1,\n    z,\n}\n'),
        (f"A = (x, {'y' * 120})\n", f"A = (\n    x,\n    {'y' * 120},\n    z,\n)\n"),
    ],
)
def test_a_member_comes_last(before, after):
    assert with_member(before, "A", "z") == after


@pytest.mark.parametrize(
    "text",
    [
        "B = (1,)\n",
        "A = ()\n",
        "A = f(1)\n",
        "A = (1,)\nA = (2,)\n",
        "A = (\n    x,\n    y)\n",
        "A = (\n    x,\n    (y),\n)\n",
    ],
)
def test_a_member_of_what_is_not_as_expected_is_refused(text):
    with pytest.raises(Unexpected):
        with_member(text, "A", "z")


def test_imports_stay_in_order():
    one = "from a.b import c, e10\n"
    assert with_import(one, "a.b", "e9") == "from a.b import c, e9, e10\n"
    several = "from a import (\n    b,\n    d,  # why\n)\n"
    assert with_import(several, "a", "c") == "from a import (\n    b,\n    c,\n    d,  # why\n)\n"
    assert with_import(several, "a", "e") == "from a import (\n    b,\n    d,  # why\n    e,\n)\n"
    long = f"from a import {'b' * 60}, {'c' * 60}\n"
    assert with_import(long, "a", "d") == f"from a import (\n    {'b' * 60},\n    {'c' * 60},\n    d,\n)\n"
    for refused in (
        "import a\n",
        "from a import b as c\n",
        "from a import b  # noqa\n",
        "from a import (b,\n  c)\n",
        "from a import (\n  b,\n  c)\n",
    ):
        with pytest.raises(Unexpected):
            with_import(refused, "a", "d")


def test_a_class_comes_before_the_comment_of_what_it_joins():
    assert with_class("x = 1\n\n\n#: all\nA = (x,)\n", "A", "class B: ...") == (
        "x = 1\n\n\nclass B: ...\n\n\n#: all\nA = (x,)\n"
    )
    assert source_edits.names("import a.b\nfrom c import d as e\nX: int = 1\ny, z = 1, 2\ndef f(): ...\n") == {
        *("a", "e", "X", "y", "z", "f")
    }
