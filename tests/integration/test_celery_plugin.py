"""`celery -A APP pause` and its sisters, under the real `celery` command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sluicegate.schemas.exits import Exit
from tests.unit import answers
from tests.unit.stub import stub

PLUGIN = "sluicegate.control.cli.celery_plugin"
SERVERS = ("sqlalchemy", "psycopg", "alembic", "fastapi", "starlette", "uvicorn", "mcp", "flower")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on sys.path with an app, and the entry points as an installed distribution has them."""
    site = tmp_path_factory.mktemp("site")
    (site / "fleet.py").write_text("from celery import Celery\napp = Celery('fleet', broker='memory://')\n")
    # The same name as an installed one's, before it on the path: importlib.metadata takes the first.
    metadata = site / "sluicegate-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sluicegate\nVersion: 0\n")
    names = {"pause": "pause", "resume": "resume", "pause-status": "pause_status"}
    points = "".join(f"{name} = {PLUGIN}:{attribute}\n" for name, attribute in names.items())
    (metadata / "entry_points.txt").write_text(f"[celery.commands]\n{points}")
    return site


def run(site: Path, code: str, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(
        command, env=dict(os.environ) | {"PYTHONPATH": path} | environ, capture_output=True, text=True, timeout=60
    )


def celery(site: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from celery.__main__ import main; sys.argv[0] = 'celery'; main()"
    return run(site, code, "-A", "fleet", *args, **environ)


def test_celery_lists_the_three_and_prints_no_failed_plugin(site: Path) -> None:
    shown = celery(site, "--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    for name in ("pause ", "resume ", "pause-status "):
        assert f"\n  {name}" in shown.stdout


def test_the_help_of_a_verb_has_the_same_options(site: Path) -> None:
    shown = celery(site, "pause", "--help").stdout
    for option in ("--mode", "--reason", "--for", "--wait", "--timeout", "--token-file", "--json"):
        assert option in shown


def test_the_plugin_loads_without_httpx_rich_or_any_server(site: Path) -> None:
    """Else a worker host prints a failed plugin for every `celery` command."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys(sys.argv[1:])); import {PLUGIN} as p; "
        "print(p.pause.name, p.resume.name, p.pause_status.name)"
    )
    shown = run(site, code, "httpx", "rich", *SERVERS)
    assert (shown.stdout, shown.stderr) == ("pause resume pause-status\n", "")


def test_it_pauses_with_no_server_package_at_all(site: Path) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({SERVERS!r})); "
        "from celery.__main__ import main; sys.argv[0] = 'celery'; main()"
    )
    with stub() as control:
        control.answer("POST /api/system/worker-pause", answers.change())
        settings = {"SLUICEGATE_URL": control.url, "SLUICEGATE_TOKEN": answers.TOKEN}
        done = run(site, code, "-A", "fleet", "pause", "--reason", "deploying", **settings)
    assert done.returncode == Exit.OK
    assert done.stdout.startswith("PAUSED drain — version 7")


def test_exit_codes_and_lines_are_the_same_as_the_commands_own(site: Path) -> None:
    with stub() as control:
        settings = {"SLUICEGATE_URL": control.url, "SLUICEGATE_TOKEN": answers.TOKEN}
        bad = celery(site, "pause", "--mode", "x", "--reason", "y", **settings)
        assert (bad.returncode, bad.stderr) == (
            Exit.USAGE,
            "sluicegate: mode: 'x' is not a mode: use drain or quiesce\n",
        )
        assert celery(site, "pause", **settings).returncode == Exit.USAGE
        assert celery(site, "pause", "--nope", **settings).returncode == Exit.USAGE
        control.answer("POST /api/system/worker-pause", answers.error("not_allowed", "no"), status=403)
        assert celery(site, "resume", "--reason", "y", **settings).returncode == Exit.NOT_ALLOWED
        control.answer("GET /api/system/worker-pause", answers.state())
        control.answer("GET /api/workers", {"workers": [answers.worker()]})
        shown = celery(site, "pause-status", **settings)
        assert shown.stdout.startswith("PAUSED drain")


def test_no_option_is_read_from_an_environment_variable_of_celerys_making(site: Path) -> None:
    """Celery's prefix would otherwise make settings that nobody documents."""
    bad = celery(site, "pause", CELERY_PAUSE_REASON="from nowhere", CELERY_PAUSE_URL="http://nowhere")
    assert bad.returncode == Exit.USAGE
    assert "reason:" in bad.stderr
