"""How `make serve` ends."""

import os
import signal
import time

from tests.cluster import PATHS, Cluster, alive_in_session

ENDED_WITHIN_S = 60


def test_ctrl_c_ends_it_with_0_quietly_and_no_process_survives(service: Cluster) -> None:
    launcher = service.launcher
    processes = [process for _, process in service.processes()]  # its guard has a session of its own
    with service.asking(*PATHS) as answered:
        while not answered[200]:
            time.sleep(0.01)
        os.killpg(launcher.process.pid, signal.SIGINT)  # a terminal signals the whole group
        assert launcher.exit_code(within_s=ENDED_WITHIN_S) == 0
    assert set(answered) <= {200, 503}  # and no path is said not to exist
    assert [process for process in processes if process.is_running()] == []
    assert alive_in_session(launcher.process.pid) == []
    assert launcher.err.read_text().split("\n") == ["", "Stopping. Ctrl-C again ends it at once.", ""]
