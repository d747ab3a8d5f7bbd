"""Become a server that cannot outlive its parent: `leash.py PARENT SIGNAL UID GID PROGRAM ARGUMENT...`.

Run as a script between fork and exec, because Python code must not run there in a process that has
threads. It needs nothing but the standard library, and may be read by root only: it drops root itself.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, death_signal: int, uid: int, gid: int, command: list[str]) -> None:
    """Give up root where `uid` is not -1, tie this process to `parent`, and become `command`."""
    os.umask(0o077)
    if uid != -1:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After setuid, which clears it. Elsewhere than on Linux a server outlives a parent that is killed.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the parent ended before its server began")
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        parent, death_signal, uid, gid = map(int, sys.argv[1:5])
        main(parent, death_signal, uid, gid, sys.argv[5:])
    except OSError as error:
        sys.exit(f"cannot run {sys.argv[5]}: {error.strerror}")
