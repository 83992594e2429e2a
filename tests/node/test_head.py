"""The Ray head's command line and directories."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ray_app.node.head import Head


def test_a_plain_environment_is_used_as_it_is(tmp_path, ports, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/opt/node-1/.venv")
    monkeypatch.setattr(sys, "executable", "/opt/node-1/.venv/bin/python")
    assert Head(tmp_path, ports).command()[0] == "/opt/node-1/.venv/bin/python"


def test_an_environment_whose_path_a_shell_would_split_is_reached_through_a_link(tmp_path, ports, monkeypatch):
    real = sys.prefix
    spaced = tmp_path / "my projects (new)" / ".venv"
    spaced.parent.mkdir()
    spaced.symlink_to(real, target_is_directory=True)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(sys, "prefix", str(spaced))
    monkeypatch.setattr(sys, "executable", str(spaced / "bin" / "python"))
    head = Head(tmp_path / "data", ports)
    head.prepare()
    try:
        python = head.command()[0]
        assert " " not in python
        shown = subprocess.run(
            ["bash", "-c", f"{python} -c 'import sys, ray; print(sys.prefix); print(ray.__file__)'"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert all(Path(path).is_relative_to(head.private_dir) for path in shown), shown
    finally:
        head.clear()
    assert spaced.exists(), "clearing up removes the link, not what it leads to"
    assert not head.private_dir.exists()
