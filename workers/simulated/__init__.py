"""A simulated Asterisk for tests, demonstrations and load: it speaks AMI and is no telephone exchange.

    from workers.simulated import SimulatedAsterisk

    async with SimulatedAsterisk(users={"amibus": "secret"}) as asterisk:
        ...  # connect to asterisk.port
        asterisk.faults.lose_response("Originate")
        assert asterisk.write_counts()["my-action-id"] == 1

Calls end by the name of the extension: `busy`, `congestion` and `noanswer` as they say, `ring` rings before
it answers, any other answers. Their events are those of a real Asterisk 22.10.1. It calls itself simulated
in CoreSettings and `core show version`.
"""

from workers.simulated.faults import Fault, Faults, Rule
from workers.simulated.ledger import LoginAttempt, Written
from workers.simulated.server import SimulatedAsterisk
from workers.simulated.users import ALL_CLASSES, User

__all__ = ["ALL_CLASSES", "Fault", "Faults", "LoginAttempt", "Rule", "SimulatedAsterisk", "User", "Written"]
