"""The audit of pinned packages: strict where PyPI's record answers, and honest where it does not."""

import subprocess
import urllib.error
from typing import Any

import pytest

from ops import audit


def test_where_the_record_does_not_answer_it_says_that_nothing_was_audited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("ran pip-audit"))
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("NOT AUDITED: ")


def test_where_it_answers_a_finding_fails_and_waivers_are_passed_on_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        called.extend(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(audit, "is_reachable", lambda: True)
    monkeypatch.setattr(audit, "WAIVED", {"PYSEC-0": "not loaded here"})
    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main() == 1
    assert "--strict" in called
    assert called[called.index("--ignore-vuln") + 1] == "PYSEC-0"
    assert "waived: PYSEC-0: not loaded here" in capsys.readouterr().out
