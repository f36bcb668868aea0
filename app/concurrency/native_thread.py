"""Work beside gevent's loop: in C that releases the interpreter's lock, or in Python for a tenth of a second or more.

Python's own threads take turns every five milliseconds, which greenlets do not.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def in_native_thread(work: Callable[[], _T]) -> _T:
    """Calls ``work`` so that the streams of the same worker go on meanwhile. Without gevent it is simply called.

    ``work`` must use no log, and of ``threading``, which gevent has replaced, no lock that anybody holds for long.
    """
    if "gevent.monkey" in sys.modules:
        from gevent import get_hub
        from gevent.monkey import is_module_patched

        if is_module_patched("threading"):
            result: _T = get_hub().threadpool.apply(work)
            return result
    return work()
