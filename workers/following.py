"""Which of the states that a worker reads it puts into force: pure, with the time passed in.

The rules (S2, S3, S4, S9):
- nothing older than the fence is taken; the fence is what was applied last, in this life or the one before
- a worker that starts takes nothing until it reads a state that answers its own nonce: any other may have been put back
  by someone. (Boot policy `advancing`, as earlier versions had it: until it saw the publication advance between two
  of its own reads. Two recorded states, put back one after the other, look like that.)
- a newer edition is taken at once; the same edition only renews freshness
- the same edition with other holds is of another history of the database: it is refused, and the control plane, which
  is shown what is in force here, goes above both
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.schemas.errors import StaleSnapshot
from sluicegate.schemas.snapshots import NOTHING, Edition, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What a follower knows. Times are seconds of one monotonic clock.

    `fence`: nothing older is taken. `in_force`: None until the first state is taken. `last_publication`: of the last
    valid state read. `fresh_at`: when a read last showed that the control plane is alive (None: never).
    """

    fence: Edition = NOTHING
    in_force: Snapshot | None = None
    last_publication: int | None = None
    fresh_at: float | None = None

    def is_fresh(self, now: float, stale_after_s: float) -> bool:
        """Was the control plane seen alive within the stale lease?"""
        return self.fresh_at is not None and now - self.fresh_at < stale_after_s


def lose_touch(following: Following) -> Following:
    """What is known after a read that failed: the next one may meet another server.

    A publication that is higher in one server's copy than in another's does not show that anybody is alive.
    """
    return Following(
        fence=following.fence, in_force=following.in_force, last_publication=None, fresh_at=following.fresh_at
    )


def see(
    following: Following, snapshot: Snapshot, *, now: float, needs_fresh_boot: bool = True, nonce: str | None = None
) -> Following:
    """What is known after reading `snapshot`, whose signature holds.

    A life with a `nonce` starts on a state that answers it; one without, `needs_fresh_boot`, on one that advanced.
    Raises StaleSnapshot behind the fence, and for another state at the edition that is in force.
    """
    edition, before = snapshot.edition, following.in_force
    if edition < following.fence:
        raise StaleSnapshot(f"edition {edition} is older than {following.fence}, which was applied")
    if before is not None and edition == before.edition and snapshot.holds != before.holds:
        raise StaleSnapshot(f"edition {edition} was applied with other holds")
    has_advanced = following.last_publication is not None and snapshot.publication > following.last_publication
    may_boot = has_advanced or not needs_fresh_boot
    if nonce is not None:
        may_boot = nonce in (snapshot.answers or ())
    if may_boot if before is None else edition > before.edition:
        # A newer edition is itself a sign of life: it was signed after the one in force.
        return Following(fence=edition, in_force=snapshot, last_publication=snapshot.publication, fresh_at=now)
    return Following(
        fence=following.fence,
        in_force=before,
        last_publication=snapshot.publication,
        fresh_at=now if has_advanced else following.fresh_at,
    )
