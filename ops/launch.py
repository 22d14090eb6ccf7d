"""`make serve`: Darkroom on one machine, from the first check to the last process.

Checks the config, and the checkpoints and files of keys that it names, locks `state_dir`, checks the port (two Serves
on one port split requests silently), and hands over to `cluster`, which starts a Ray of its own, deploys, and waits for
`/v1/ready`. What keeps it from serving is said in words, with exit code 1.
"""

import argparse
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil

from ops.cluster import RAY_SETTINGS, StartError, Stop, run
from ops.config import ROOT, UnusableConfig, check_files, read, read_set
from ops.status import read_holder


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line. Paths become absolute: from here on the checkout is the working directory."""
    parser = argparse.ArgumentParser(prog="python -m ops.launch", description="Serve Darkroom on this machine.")
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "serve_config.yaml", help="Serve config file")
    parser.add_argument("--host", help="in place of http_options.host")
    parser.add_argument("--port", type=int, help="in place of http_options.port")
    parser.add_argument("--model", help="in place of all models: a diffusers folder, a .safetensors file or a hub id")
    parser.add_argument("--set", metavar="FIELD=VALUE ...", default="", help="over the defaults of the first model")
    args = parser.parse_args(argv)
    args.config = args.config.absolute()
    with suppress(RuntimeError):  # `~` of an account that there is not: `read` says so
        if args.model and (folder := Path(args.model).expanduser()).exists():
            args.model = str(folder.absolute())
    return args


def check_address(host: str, port: int) -> None:
    """Raise StartError where Serve could not listen, or another listens already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closing connections do not take a port
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(f"Cannot listen on {host}:{port}: {error.strerror}{listener(port)}.") from error


def listener(port: int) -> str:
    """Return who listens on `port`, in words; nothing where the system does not tell."""
    try:
        taken = [c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and tuple(c.laddr)[1] == port]
        return "".join(f" by process {pid} ({psutil.Process(pid).name()})" for pid in taken[:1] if pid)
    except psutil.Error:  # macOS tells root alone
        return ""


@contextmanager
def hold(state_path: Path, address: str, config: Path) -> Iterator[None]:
    """Lock `state_path`, and write there who holds it. Raises StartError, naming the holder, if it is locked."""
    try:
        state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (state_path / "lock").open("a", encoding="utf-8")
    except OSError as error:
        raise StartError(f"state_dir cannot be used: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_holder(state_path)
            who = f"Process {holder.pid}, serving {holder.address}," if holder else "Another process"
            raise StartError(f"{who} holds {state_path}. End it, or choose another state_dir and port.") from None
        file.truncate(0)
        file.write(f"{os.getpid()} {address} {config}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # and not removed: one who has it open already would lock a file without a name


def main(argv: list[str] | None = None) -> int:
    """Serve; return the exit code."""
    args = parse_args(argv)
    os.chdir(ROOT)  # replicas start in it and import from it; relative paths in the config mean it
    os.environ.update({name: value for name, value in RAY_SETTINGS.items() if name not in os.environ})
    stop = Stop()
    stop.listen()
    try:
        read_again = partial(read, args.config, args.host, args.port, args.model, read_set(args.set))
        config = read_again()
        check_files(config)
        app, http = config.generation, config.serve.http_options
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.host) or http.host
        name = f"[{name}]" if ":" in name else name
        address = f"{'https' if http.ssl_certfile else 'http'}://{name}:{http.port}"
        with hold(app.state_path, address, args.config):
            check_address(http.host, http.port)
            run(config, read_again, address, stop)
    except (StartError, UnusableConfig) as error:
        print(f"Darkroom cannot serve.\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
