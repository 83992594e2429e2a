"""``crypto-data config``: every setting in force, where it came from, and what was found but means nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import click
from dotenv import dotenv_values
from pydantic import AliasChoices, SecretStr

from ray_app.settings import Settings, ignored_names, load_settings, without_password


@dataclass(frozen=True)
class Entry:
    """One setting as it is in force; a secret's ``value`` is masked."""

    name: str
    value: str
    source: str
    meaning: str


def entries(settings: Settings, environment: Mapping[str, str], dotenv: Mapping[str, str | None]) -> Iterator[Entry]:
    """Each setting with the place its value came from, strongest first: environment, .env, default."""
    for name, field in Settings.model_fields.items():
        assert isinstance(field.validation_alias, AliasChoices)  # noqa: S101 - tests/test_settings.py proves it for all
        names = [str(choice) for choice in field.validation_alias.choices]
        yield Entry(
            names[0],
            _show(name, getattr(settings, name)),
            _source(names, environment, dotenv),
            field.description or "",
        )


def _source(names: list[str], environment: Mapping[str, str], dotenv: Mapping[str, str | None]) -> str:
    for place, values in (("environment", environment), (".env", dotenv)):
        folded = {key.upper(): value for key, value in values.items()}
        for name in names:
            if folded.get(name):
                return place if name == names[0] else f"{place} ({name})"
    return "default"


def _show(name: str, value: Any) -> str:
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        if name.endswith("_url"):
            return without_password(secret)
        return "******" if secret else "(empty)"
    if value is None:
        return "(not set)"
    return ",".join(value) if isinstance(value, tuple) else without_password(str(value))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def command(as_json: bool) -> None:
    """Print every setting in force with its source; secrets are masked.

    A wrong value is named together with the fix, and the exit status is 1.
    """
    found = list(entries(load_settings(), os.environ, dotenv_values(".env")))
    ignored = ignored_names()
    if as_json:
        click.echo(json.dumps({"settings": [asdict(entry) for entry in found], "ignored": ignored}, indent=2))
        return
    width = max(len(entry.name) for entry in found)
    shown = max(len(entry.value) for entry in found)
    for entry in found:
        click.echo(f"{entry.name:<{width}}  {entry.value:<{shown}}  {entry.source:<12}  {entry.meaning}".rstrip())
    for name, reason in ignored.items():
        click.echo(f"{name} is set but ignored: {reason}")
