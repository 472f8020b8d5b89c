"""Everything that keeps the promises, and what takes it away: see tests.mutations.

The line that is replaced must be in its file exactly once, so a safeguard that is written anew needs its
mutation written anew.
"""

from typing import Final

from tests.mutation import Mutation
from tests.safeguards.capture import CAPTURE_SAFEGUARDS
from tests.safeguards.convergence import CONVERGENCE_SAFEGUARDS
from tests.safeguards.delivery import DELIVERY_SAFEGUARDS
from tests.safeguards.edge import EDGE_SAFEGUARDS
from tests.safeguards.hostile import HOSTILE_SAFEGUARDS
from tests.safeguards.identity import IDENTITY_SAFEGUARDS
from tests.safeguards.rate import RATE_SAFEGUARDS
from tests.safeguards.signature import SIGNATURE_SAFEGUARDS
from tests.safeguards.tls import TLS_SAFEGUARDS
from tests.safeguards.view import VIEW_SAFEGUARDS

__all__ = ["SAFEGUARDS", "Mutation"]

SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    *CONVERGENCE_SAFEGUARDS,
    *CAPTURE_SAFEGUARDS,
    *HOSTILE_SAFEGUARDS,
    *DELIVERY_SAFEGUARDS,
    *IDENTITY_SAFEGUARDS,
    *SIGNATURE_SAFEGUARDS,
    *TLS_SAFEGUARDS,
    *VIEW_SAFEGUARDS,
    *RATE_SAFEGUARDS,
    *EDGE_SAFEGUARDS,
)
