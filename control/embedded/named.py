"""Become a program that wants its user to have a name: `named.py PROGRAM ARGUMENT...`.

initdb looks its user up in /etc/passwd, and a container may run as an id that is not there. In a user namespace of its
own this process is nobody, who is; outside, its files belong to the same id as ever. A script of its own, because a
process that has threads cannot enter one.
"""

import ctypes
import os
import pwd
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000  # linux/sched.h


def enter_as_nobody() -> None:
    """Raises OSError where this is forbidden, KeyError where even nobody has no name."""
    nobody = pwd.getpwnam("nobody")
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{nobody.pw_uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{nobody.pw_gid} {gid} 1")


def main(command: list[str]) -> None:
    """Does not return."""
    uid = os.geteuid()
    try:
        enter_as_nobody()
    except (OSError, KeyError) as error:
        sys.exit(
            f"error: initdb wants a name for user {uid}, /etc/passwd has none, and none can be lent here ({error}): "
            f"add a line such as sluicegate:x:{uid}:{os.getegid()}::/:/bin/false to it"
        )
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
