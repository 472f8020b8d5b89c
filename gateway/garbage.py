import gc

__all__ = ["set_startup_apart"]


def set_startup_apart() -> None:
    """What the start has made stays to the end; the collector shall neither look at it nor count it.

    CPython looks for garbage among old objects only when those that became old since the last time are a
    quarter of all that it found then. The imports alone make 70,000: so what faults leave behind, exceptions
    that refer to the frames that refer to them, is kept until some 17,000 objects have come together, and the
    memory of a process that is disturbed now and then rises for a quarter of an hour. With the imports set
    apart the quarter is one of what clients and topics need, and to look takes a millisecond.
    """
    gc.collect()  # what is garbage now would stay as well
    gc.freeze()
    gc.collect()  # to count what is left: nothing
