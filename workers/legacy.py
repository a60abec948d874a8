"""What a tenure leaves to the next one of the same process when Redis has forgotten it."""

from workers.lease import Lease
from workers.tenure import Tenure


class Legacy:
    """The tenure that was fenced, as long as nobody else is known to have served since."""

    def __init__(self) -> None:
        self._tenure: Tenure | None = None

    def leave(self, tenure: Tenure) -> None:
        """This one is over."""
        self._tenure = tenure

    def take(self, lease: Lease) -> Tenure | None:
        """What the holder of this lease, just taken, can go on from."""
        if not lease.has_gone_back:  # somebody has served since
            self.drop()
        tenure, self._tenure = self._tenure, None
        return tenure

    def drop(self) -> None:
        """Somebody else knows better, or nobody needs it."""
        if self._tenure is not None:
            self._tenure.close()
        self._tenure = None
