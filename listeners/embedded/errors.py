__all__ = ["EmbeddedError"]


class EmbeddedError(Exception):
    """An embedded server can not be had; the message is one line that says what to do."""
