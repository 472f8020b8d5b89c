import gc
from typing import Final

__all__ = ["keep_garbage_small"]

# Young objects, collections of young ones, and of those: a full one is due after some 5,600 objects.
_THRESHOLDS: Final = (700, 3, 1)


def keep_garbage_small() -> None:
    """For a process of this program's own that has imported all it needs and is about to serve.

    Connections and exceptions die in cycles: each refers to what refers to it. CPython looks for such garbage
    among old objects only after 70,000 new ones, and only when a quarter of the old ones is new; the imports
    alone make 70,000. So the memory of a process that serves few clients and meets a fault now and then rises
    by megabytes within a quarter of an hour before anything is freed. Here what the start has made is set
    apart, neither looked at nor counted, and a full collection comes sooner. It takes a millisecond then;
    where many clients make it a long one, the rule of the quarter still makes it rare.
    """
    gc.collect()  # what is garbage now would stay as well
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    gc.collect()  # to count what is left: nothing
