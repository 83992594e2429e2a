"""What ``crypto-data source new`` lays down: computed as a whole from a checkout before the first file is written."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from ray_app.cli.source_edits import (
    Unexpected,
    call,
    constants,
    names,
    with_class,
    with_import,
    with_member,
    with_row,
)
from ray_app.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_URL = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[A-Za-z0-9_.-]+)*")
#: datasets and collectors have columns of 32 characters; an address longer than that is edited in by hand
_LONGEST_NAME, _LONGEST_URL = 24, 60
_TABLE = "| source | asks | yields |"

SOURCES, ADDRESSING = "ray_app/sources/__init__.py", "ray_app/sources/addressing.py"
TERMS, APP = "ray_app/sources/terms.py", "ray_app/sandbox/app.py"
ACCOUNTS, CATALOGUE = "ray_app/collection/accounts.py", "ray_app/collection/catalogue/__init__.py"
DATASETS, ACTORS = "ray_app/collection/datasets.py", "ray_app/collection/actors.py"
COLLECTORS, STATS = "ray_app/collection/collectors/everything.py", "ray_app/serving/routes/stats.py"
SAMPLES, PAGE = "tests/sources/samples.py", "docs/sources.md"

#: the new files by template
NEW: Mapping[str, str] = {
    "source.py": "ray_app/sources/{}.py",
    "sandbox.py": "ray_app/sandbox/{}.py",
    "catalogue.py": "ray_app/collection/catalogue/{}.py",
    "samples.py": "tests/sources/samples_{}.py",
    "test_source.py": "tests/sources/test_{}.py",
    "test_sandbox.py": "tests/sandbox/test_{}.py",
    "test_catalogue.py": "tests/collection/test_catalogue_{}.py",
    "page.md": "docs/sources/{}.md",
}


@dataclass(frozen=True, slots=True)
class Kit:
    """A source to be laid down in a checkout: whole new texts of files by path, relative to ``root``."""

    root: Path
    name: str
    new: Mapping[str, str]
    changed: Mapping[str, str]

    def write(self) -> None:
        """Write every file or none: ConfigError where the disk refuses, with everything as it was."""
        before = {path: (self.root / path).read_bytes() for path in self.changed}
        try:
            for path, text in self.new.items():
                (self.root / path).parent.mkdir(parents=True, exist_ok=True)
                with (self.root / path).open("x", encoding="utf-8") as file:
                    file.write(text)
            for path, text in self.changed.items():
                (self.root / path).write_text(text, encoding="utf-8")
        except OSError as error:
            with suppress(OSError):
                for path, content in before.items():
                    (self.root / path).write_bytes(content)
                for path in self.new:
                    (self.root / path).unlink(missing_ok=True)
            raise ConfigError(f"{error.filename}: {error.strerror}; nothing was added") from error


def checkout(start: Path) -> Path:
    """The checkout that ``start`` lies in; ConfigError: in none."""
    for folder in (start, *start.parents):
        project = folder / "pyproject.toml"
        if project.is_file() and 'name = "crypto-data-collection"' in project.read_text(encoding="utf-8"):
            return folder
    raise ConfigError(f"{start} is in no checkout of crypto-data-collection: a source is added to the code; go there")


def kit(root: Path, name: str, url: str | None = None) -> Kit:
    """Everything that makes ``name`` a source. ConfigError where it cannot be one; nothing is written here."""
    url = url or f"https://api.{name.replace('_', '-')}.example"
    _check(name, url)
    words = {
        "name": name,
        "dataset": name.replace("_", "-"),
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "url": url,
    }
    new = {path.format(name): _filled(template, words) for template, path in NEW.items()}
    there = [path for path in new if (root / path).exists()]
    if there:
        raise ConfigError(f"{name!r} is taken: {there[0]} exists; take another name")
    changed = {path: edit(_read(root, path)) for path, edit in _edits(root, words).items()}
    for path, text in (new | changed).items():
        _sound(path, text)
    return Kit(root, name, new, changed)


def _check(name: str, url: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"{name!r} cannot name a source: small letters, digits and single underscores, a letter first, "
            f"at most {_LONGEST_NAME} characters"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name):
        raise ConfigError(f"{name!r} means something in Python; take another name")
    if name in sys.stdlib_module_names:
        raise ConfigError(f"{name!r} is a module of Python's own library; take another name")
    if not _URL.fullmatch(url) or len(url) > _LONGEST_URL:
        raise ConfigError(
            f"{url!r}: expected https://HOST/PATH without port, query and slash at the end, "
            f"at most {_LONGEST_URL} characters"
        )


def _edits(root: Path, words: Mapping[str, str]) -> dict[str, Callable[[str], str]]:
    """By path, the text after from the text before; each raises ConfigError where the file is not as expected."""
    name, dataset, kind, url = words["name"], words["dataset"], words["class_name"], words["url"]
    place = url.removeprefix("https://").replace(".", r"\.")

    def members(path: str, *targets: tuple[str, str], module: str | None = None, imports: str = name) -> None:
        def edit(text: str) -> str:
            if module is not None:
                text = with_import(_free(text, imports), module, imports)
            for target, member in targets:
                if {name, dataset} & constants(text, target):
                    raise ConfigError(f"{name!r} is taken: {target} in {path} has it; take another name")
                text = with_member(text, target, member)
            return text

        found[path] = _guarded(path, edit)

    def classes(path: str, target: str, template: str) -> None:
        def edit(text: str) -> str:
            if f'"{dataset}"' in text:
                raise ConfigError(f"{name!r} is taken: there is a collector {dataset!r}; take another name")
            return with_member(with_class(_free(text, kind), target, _filled(template, words)), target, kind)

        found[path] = _guarded(path, edit)

    found: dict[str, Callable[[str], str]] = {}
    members(SOURCES, ("MODULES", name), module="ray_app.sources")
    members(ADDRESSING, ("_BASES", call(f'"{name}": re.compile(', f'r"{place}|[^/]+/{name}"')))
    members(ACCOUNTS, ("ACCOUNTS", call("Account(", f'"{name}", "{url}", Limits(10, 60.0)')))
    members(APP, ("BASES", f'"/{name}": ("{name}", {name}.ENDPOINTS)'), module="ray_app.sandbox")
    members(CATALOGUE, ("CATALOGUE", f'"{dataset}": {name}.feeds'), module="ray_app.collection.catalogue")
    members(DATASETS, ("FEED_DATASETS", f'"{dataset}"'))
    members(STATS, ("Dataset", f'"{dataset}"'))
    members(SAMPLES, ("GROUPS", f"samples_{name}"), module="tests.sources", imports=f"samples_{name}")
    classes(COLLECTORS, "FEED_COLLECTORS", "collector.py")
    classes(ACTORS, "COLLECTOR_ACTORS", "actor.py")
    if (root / TERMS).exists():
        members(TERMS, ("TERMS", call(f'"{name}": Terms(', f'"not looked up", "unknown", "not looked up", "{url}"')))
    row = (
        f"| `{name}.series` | `/series`, days of one metric of one asset ([page](sources/{name}.md)) | `onchain_data` |"
    )
    found[PAGE] = _guarded(PAGE, lambda text: with_row(text, _TABLE, row))
    return found


def _sound(path: str, text: str) -> None:
    try:
        if path.endswith(".py"):
            ast.parse(text, path)
    except SyntaxError as error:
        raise ConfigError(f"{path}: the edit would break it ({error.msg}); add the source by hand") from None


def _free(text: str, wanted: str) -> str:
    if wanted in names(text):
        raise ConfigError(f"{wanted!r} is a name there already; take another one for the source")
    return text


def _guarded(path: str, edit: Callable[[str], str]) -> Callable[[str], str]:
    def edited(text: str) -> str:
        try:
            return edit(text)
        except (Unexpected, SyntaxError) as error:
            raise ConfigError(
                f"{path} is not as expected ({error}): nothing was added; restore it, or add the source by hand "
                "(docs/sources.md, A new source in 30 minutes)"
            ) from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    return edited


def _read(root: Path, path: str) -> str:
    try:
        return (root / path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; is the checkout complete?") from error


def _filled(template: str, words: Mapping[str, str]) -> str:
    source = files("ray_app") / "data" / "source_kit" / f"{template}.tmpl"
    return Template(source.read_text(encoding="utf-8")).substitute(words)
