"""`make beside`: the environments, every drill, and with `--write` docs/compatibility.md from what they showed."""

from __future__ import annotations

import argparse
import shutil
import sys

from tests import run
from tests.beside import page, told


def main(arguments: list[str]) -> int:
    """Run them; pytest's exit code, or 1 where the page could not be written."""
    parser = argparse.ArgumentParser(prog="python -m tests.beside", description="Further arguments are pytest's.")
    parser.add_argument("--write", action="store_true", help="write docs/compatibility.md anew from this run")
    asked, more = parser.parse_known_args(arguments)
    if asked.write:
        shutil.rmtree(told.FOLDER, ignore_errors=True)
    code = run.main(["--all", "--of=tests/beside", *more])
    if asked.write and code == 0:
        page.PAGE.write_text(page.render(list(told.read())))
        print(f"written: {page.PAGE}")
    elif asked.write:
        print("not written: a drill failed", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
