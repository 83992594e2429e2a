"""The launcher's own manners, without a node."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading

import pytest

from ray_app.errors import NodeError
from ray_app.node import launcher, record
from ray_app.node.dashboard import Dashboard
from ray_app.node.plan import Plan
from ray_app.settings import Settings
from tests.servers import free_port

SAY_INTO_A_CLOSED_PIPE = """
import os, sys
reading, writing = os.pipe()
os.dup2(writing, 1); os.close(writing); os.close(reading)
from ray_app.node.launcher import say
say("one"); say("two")
sys.exit(7)
"""


def test_nobody_reading_is_no_reason_to_stop():
    done = subprocess.run([sys.executable, "-c", SAY_INTO_A_CLOSED_PIPE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_signal_interrupts_the_launcher_once():
    node = launcher.Launcher(launcher.Options())
    with pytest.raises(launcher._Interrupted):
        node._on_signal(2, None)
    node._on_signal(2, None)  # it is on its way out; this one only hurries it


def test_a_signal_waits_until_what_is_being_started_is_known():
    node, reached = launcher.Launcher(launcher.Options()), []

    def start() -> None:
        with node._uninterrupted():
            node._on_signal(2, None)
            reached.append("the end of the block")

    with pytest.raises(launcher._Interrupted):
        start()
    assert reached == ["the end of the block"]


def test_where_ray_ends_the_dashboard_that_hangs_up_is_not_the_news(tmp_path):
    node = launcher.Launcher(launcher.Options(data_dir=tmp_path))
    record.run_dir(tmp_path).mkdir()
    (record.run_dir(tmp_path) / "ray.log").write_text("Traceback …\nException: The current node timed out\n")
    node._head = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3); raise SystemExit(1)"])
    plan = Plan.make(
        launcher.Options(upstream="sandbox", port=free_port(), dashboard_port=free_port()), Settings(data_dir=tmp_path)
    )
    gone = Dashboard(f"http://127.0.0.1:{free_port()}", "token")
    with pytest.raises(NodeError, match=r"Ray ended \(1\).*The current node timed out"):
        node._deploy(plan, gone)
    gone.close()


def test_the_launcher_stays_small():
    """It lives as long as the node: no Ray, no database driver, no data frames in it."""
    program = "import sys, ray_app.node.launcher; print(*(set(sys.modules) & {'ray', 'sqlalchemy', 'polars', 'numpy'}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_tail_of_a_log_is_one_line(tmp_path):
    log = tmp_path / "ray.log"
    log.write_text("a\nb\nc\nd\n")
    assert launcher._tail(log) == "b / c / d"
    assert launcher._tail(tmp_path / "none") == "no log"


class _Answers(http.server.BaseHTTPRequestHandler):
    """Each PUT gets the next status."""

    statuses: list[int]

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.statuses.pop(0))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def deploying(tmp_path, monkeypatch):
    """Deploy to a dashboard that answers with these statuses; what is left of them."""
    monkeypatch.setattr(launcher, "HEAD_STOP_S", 0.05)
    node = launcher.Launcher(launcher.Options(data_dir=tmp_path))
    node._head = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    plan = Plan.make(
        launcher.Options(upstream="sandbox", port=free_port(), dashboard_port=free_port()), Settings(data_dir=tmp_path)
    )
    server = http.server.HTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    dashboard = Dashboard(f"http://127.0.0.1:{server.server_port}", "token")

    def deploy(*statuses: int) -> list[int]:
        _Answers.statuses = [*statuses]
        node._deploy(plan, dashboard)
        return _Answers.statuses

    yield deploy
    dashboard.close()
    server.shutdown()
    server.server_close()
    node._head.kill()
    node._head.wait()


def test_a_serve_that_is_slow_to_start_is_asked_again(deploying):
    assert deploying(500, 503, 200) == []


def test_a_configuration_that_serve_refuses_is_not_repeated(deploying):
    with pytest.raises(NodeError, match=r"refuses serve_config.yaml \(400\)"):
        deploying(400, 200)


def test_patience_with_serve_ends(deploying, monkeypatch):
    monkeypatch.setattr(launcher, "DEPLOY_S", 0.0)
    with pytest.raises(NodeError, match=r"\(500\)"):
        deploying(500, 500, 500)
