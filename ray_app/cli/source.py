"""``crypto-data source``: lay down the code of a new source."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("source")
def command() -> None:
    """Add a source to the code."""


@command.command("new")
@click.argument("name")
@click.option("--url", help="The upstream's base URL, https://HOST/PATH; default: one that leads nowhere.")
def new(name: str, url: str | None) -> None:
    """Lay down the source NAME in this checkout: parser, sandbox, feed, collector, tests, page.

    It is complete and passes its tests, about an upstream that is made up; then make it that of yours. Every edit is
    computed before the first file is written.
    """
    from ray_app.cli.source_kit import checkout, kit

    laid = kit(checkout(Path.cwd()), name, url)
    laid.write()
    for path in laid.new:
        click.echo(f"new      {path}")
    for path in laid.changed:
        click.echo(f"changed  {path}")
    own = f"[{name}. or -{name}. or _{name}.py"  # its endpoints among the tests of all, and its own files
    tests = [path for path in laid.new if Path(path).name.startswith("test_")]
    click.echo(
        f"\nNow make it yours, from ray_app/sources/{name}.py on (docs/sources.md, A new source in 30 minutes). "
        "Then, and now already:\n\n"
        f'python -m pytest -k "{own}" tests/sources/test_contract.py tests/sources/test_fuzz.py {" ".join(tests)}'
    )
