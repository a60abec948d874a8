"""What is known to be wrong with the worker and waits to be mended. While a switch is True the campaign goes around it.

Whoever mends one sets it to False, sees the campaign pass, and takes it out.
"""

from typing import Final

EXPIRED_TWINS: Final = True
"""Two entries of one ActionID whose deadlines pass together are answered twice: neither has a record when they are
judged, and `settle` answers the second one apart, as if it had asked for something else."""

EXPIRED_REPEATS: Final = True
"""A read-only action that a lost worker had written, and whose deadline has passed when it is to be repeated, ends
`expired`, which promises that it was never sent."""

STRANDED_READS: Final = True
"""Reading is not fenced: what a woken zombie reads in its last moment stays in its pending list, at which the new
holder does not look again before the lease changes hands."""

LATE_READS: Final = True
"""The reply to a read is lost: those entries are found five to ten seconds later, and what was queued after them is
written first."""

REQUEUED: Final = True
"""A session is lost between an entry's mark and its write: it waits for its turn anew behind all that came after it."""

LATE_WRITES: Final = True
"""The lease is looked at before `Connection.request`, and the bytes go out a turn of the event loop later: a worker
that is stopped in between writes when it wakes, though its entry was settled `unknown` by the next holder long ago."""
