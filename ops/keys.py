"""`python -m ops.keys`: make, rotate, list and remove API keys. A secret is printed once, when it is made."""

import argparse
import os
import sys
from pathlib import Path

from pydantic import ValidationError

from deployments.keys import KEYS, ApiKey, UnusableKeys, new_key, read_keys, rotated


def main(argv: list[str] | None = None) -> int:
    """Change a file of keys; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ops.keys", description=__doc__)
    parser.add_argument("file", type=Path, help="what `api_keys_file` in the config names")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key and print its secret")
    add.add_argument("name")
    add.add_argument("--max-waiting", type=int, help="pictures in line at a time")
    add.add_argument("--max-cost-per-day", type=float, help="megapixel steps in a day (UTC)")
    rotate = commands.add_parser("rotate", help="give a key a new secret, and print it; its jobs and caps stay")
    rotate.add_argument("name")
    remove = commands.add_parser("remove", help="take a key out of force")
    remove.add_argument("name")
    commands.add_parser("list", help="names and caps")
    args = parser.parse_args(argv)
    try:
        keys = read_keys(args.file) if args.file.exists() else []
        named = [key for key in keys if args.command != "list" and key.name == args.name]
        match args.command:
            case "add" if named:
                raise UnusableKeys(f"There is a key {args.name} already.")
            case "add":
                key, secret = new_key(args.name, args.max_waiting, args.max_cost_per_day)
                write_keys(args.file, [*keys, key])
                print(secret)
            case "rotate" | "remove" if not named:
                raise UnusableKeys(f"There is no key {args.name}.")
            case "rotate":
                key, secret = rotated(named[0])
                write_keys(args.file, [key if each.name == key.name else each for each in keys])
                print(secret)
            case "remove":
                write_keys(args.file, [key for key in keys if key.name != args.name])
            case _:
                for key in keys:
                    print(f"{key.name}  max_waiting={key.max_waiting}  max_cost_per_day={key.max_cost_per_day}")
    except (UnusableKeys, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except ValidationError as error:
        problem = error.errors()[0]
        print(f"{problem['loc'][0]} = {problem['input']!r}: {problem['msg']}", file=sys.stderr)
        return 1
    return 0


def write_keys(path: Path, keys: list[ApiKey]) -> None:
    """Replace the file in one rename: whoever reads it sees all of it. It stays readable to whom it was."""
    partial = path.with_name(f".{path.name}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(KEYS.dump_json(keys, indent=2, exclude_none=True) + b"\n")
        if path.exists():
            before = path.stat()
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), before.st_mode & 0o777)
    partial.rename(path)


if __name__ == "__main__":
    sys.exit(main())
