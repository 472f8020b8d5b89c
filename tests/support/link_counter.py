from protocol.envelope import Envelope

__all__ = ["LinkCounter"]


class LinkCounter:
    """Counts what a bus says about its links (listeners.bus.BusListener)."""

    def __init__(self) -> None:
        self.losses = self.restorations = 0

    def message(self, envelope: Envelope) -> None: ...

    def lost(self) -> None:
        self.losses += 1

    def restored(self) -> None:
        self.restorations += 1
