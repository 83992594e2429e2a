"""Every command in the pages about sources and the sandbox runs as printed."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ray_app.clock import Epoch
from tests.sandbox.conftest import NOW, ohlcv
from tests.sources.samples import BODIES, NOON

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^(?:    .*\n|```\n(?:(?!```).*\n)+```\n)+", re.MULTILINE)


def commands(page: str) -> list[str]:
    """The ``crypto-data`` lines of a page's code blocks, continuation lines joined, comments off."""
    blocks = "\n".join(BLOCK.findall((DOCS / page).read_text())).replace("\\\n", " ")
    lines = [line.strip() for line in blocks.splitlines()]
    return [line for line in lines if line.startswith("crypto-data ")]


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """A folder with the files that the pages name, and the times they speak of."""
    (tmp_path / "candles.json").write_text(json.dumps(BODIES["coinbase.candles"]))
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "a.json").write_text(json.dumps(BODIES["coingecko.global"]))
    entry = {"file": "a.json", "url": "https://api.coingecko.com/api/v3/global", "headers": {"date": date(NOON)}}
    (tmp_path / "recorded" / "MANIFEST.jsonl").write_text(json.dumps(entry) + "\n")
    ohlcv().write_parquet(tmp_path / "crypto_1h.parquet")
    script = re.search(r"```yaml\n(.*?)```", (DOCS / "sandbox.md").read_text(), re.DOTALL)
    assert script is not None
    (tmp_path / "faults.yaml").write_text(script[1])
    (tmp_path / "data" / "sandbox").mkdir(parents=True)
    Epoch(NOW, NOW, 1.0, NOW).save(tmp_path / "data" / "sandbox" / "epoch.json")
    (tmp_path / "asked.jsonl").touch()
    return tmp_path


def date(ms: int) -> str:
    from email.utils import formatdate

    return formatdate(ms / 1_000, usegmt=True)


def run(folder: Path, line: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command; a server is ended once it is ready."""
    words = shlex.split(line, comments=True)[1:]
    serves = words[0] == "sandbox" and not {"audit", "truth"} & set(words)
    program = [
        sys.executable,
        "-c",
        "from ray_app.cli import main; main()",
        *words,
        *(["--port", "0"] if serves else []),
    ]
    with subprocess.Popen(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline() if serves else ""
        if ready.startswith("SANDBOX READY "):
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    return process.returncode, ready + out, err


def test_pages_have_commands() -> None:
    assert [len(commands(page)) for page in ("sources.md", "sandbox.md")] == [2, 7]


@pytest.mark.parametrize("line", [*commands("sources.md"), *commands("sandbox.md")])
def test_command_runs_as_printed(reader: Path, line: str) -> None:
    status, out, err = run(reader, line)
    assert (status, err) == (0, "")
    assert "…" not in line
    assert out or "audit" in line
