import logging
from typing import Final, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

__all__ = ["Incoming", "websocket_logger"]

# websockets logs every connection; ours are logged once, by us. Its warnings and errors are kept.
websocket_logger: Final = logging.getLogger("gateway.websocket")
websocket_logger.setLevel(logging.WARNING)

# What may still be on its way when we close: a few messages.
LATE_BYTES: Final = 64 * 1024


class _Framing(Protocol):
    """websockets' rules for frames, but two that are RFC 6455's own (cases 5.6 and 7.1.5 of Autobahn)."""

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            # Answered in its turn (ClientConnection): what follows it must not be answered before it.
            self.events.append(frame)
            return
        if frame.opcode is Opcode.CLOSE:
            # Control frames may stand between the fragments of a message (5.4), this one too; the rest of the
            # message never comes. websockets takes that for an error.
            self.current_size = None
        super().recv_frame(frame)


class Incoming:
    """What a client has begun to say: websockets' Sans-I/O protocol, and a message of which parts are there.

    Between two messages there is nothing to remember, and a connection keeps none: of a hundred thousand
    connections most say nothing most of the time, and this would be half the weight of each.
    """

    __slots__ = ("_fragments", "_late_bytes", "_opcode", "_unfinished", "hung_up", "protocol")

    def __init__(self, max_message_bytes: int) -> None:
        """0 stands for no limit."""
        self.protocol = _Framing(Side.SERVER, max_size=max_message_bytes or None, logger=websocket_logger)
        self.hung_up = False  # nothing of it is read any more
        self._unfinished = 0  # bytes of a frame that is not complete
        self._opcode = Opcode.TEXT  # of the message that the fragments are of
        self._fragments: bytearray | None = None
        self._late_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether it may be forgotten: the next byte begins a frame, and the frame a message."""
        return not self._unfinished and self._fragments is None and self.protocol.state is State.OPEN

    @property
    def closing(self) -> bool:
        return self.protocol.state is not State.OPEN

    def receive(self, data: bytes) -> list[Frame]:
        """The frames that are complete now; pings are the caller's to answer. The protocol may have something
        to say afterwards."""
        self.protocol.receive_data(data)
        frames = cast("list[Frame]", self.protocol.events_received())
        self._unfinished += len(data)
        for frame in frames:
            self._unfinished -= _wire_bytes(frame)
        return frames

    def too_late(self, data: bytes) -> bool:
        """Whether a peer that was told that we close goes on regardless."""
        self._late_bytes += len(data)
        return self._late_bytes > LATE_BYTES

    def message(self, frame: Frame) -> tuple[bytes, bool] | None:
        """The message that a data frame completes, if it does, and whether it is a binary one."""
        if frame.opcode is not Opcode.CONT:
            self._opcode = frame.opcode
            if frame.fin:
                return bytes(frame.data), frame.opcode is Opcode.BINARY
        if self._fragments is None:
            self._fragments = bytearray()
        self._fragments += frame.data
        if not frame.fin:
            return None
        data, self._fragments = bytes(self._fragments), None
        return data, self._opcode is Opcode.BINARY


def _wire_bytes(frame: Frame) -> int:
    """Of a masked frame (RFC 6455 5.2). One whose length is written longer than need be seems unfinished ever
    after, which costs its sender's connection the memory of this protocol and nothing else."""
    length = len(frame.data)
    return length + (6 if length < 126 else 8 if length < 65536 else 14)
