"""What may reach Asterisk at all: dangerous things are refused until a setting allows them by name."""

from collections.abc import Iterable

from broker.ami import risks_of
from broker.entry import Request
from broker.errors import ErrorCode, Refused


class Policy:
    """The worker's own access rules. The catalog knows what is dangerous; `allow` names what this site accepts."""

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._allowed = {name.lower() for name in allow}

    def check(self, request: Request) -> None:
        """Raise `Refused` (`forbidden`) for a request that holds something dangerous which no setting allows."""
        for risk in risks_of(request.action, request.pairs):
            if risk.never:
                raise Refused(ErrorCode.FORBIDDEN, f"{risk.why}; no setting allows it")
            if risk.token.lower() not in self._allowed:
                raise Refused(ErrorCode.FORBIDDEN, f"{risk.why}; the setting allow={risk.token} would let it through")
