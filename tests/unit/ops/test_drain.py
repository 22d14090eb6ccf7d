"""What a pod waits for before it ends. Whether Serve then moves its replicas is Ray's to test, and a cluster's."""

import subprocess
import sys

import pytest

from ops.drain import REPLICA, replicas


@pytest.mark.parametrize(
    "name",
    [
        "ray::ServeReplica:shapes:Denoiser",
        "ray::SERVE_REPLICA::shapes#Denoiser#grin5bfn:ServeReplica:shapes:Denoiser.__init__",
    ],
)
def test_the_processes_of_replicas_are_found_by_the_names_that_ray_gives_them(name: str) -> None:
    replica = subprocess.Popen(
        [name, "-c", "print(flush=True); input()"], executable=sys.executable, stdin=-1, stdout=-1
    )
    assert replica.stdout
    replica.stdout.readline()
    assert replica.pid in replicas()
    replica.communicate(b"\n")
    assert replica.pid not in replicas()


def test_other_processes_of_ray_are_none() -> None:
    assert not REPLICA.match("ray::ServeController")
    assert not REPLICA.match("ray::IDLE")
