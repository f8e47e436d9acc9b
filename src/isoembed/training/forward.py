"""Another `forward` for some modules while a body runs: the one way in which training changes how a module runs.

Who uses it: compiled blocks (`compiled`), a frozen prefix that hands its kept output on (`replay`), merged adapters
(`merged`), token tables whose gradient is added row by row (`table`).  What a module does around its forward (hooks,
gradient checkpointing, gathering of sharded parameters) goes on as ever.

How they nest: an inner body runs its own forward in place of the outer one's, and gives that back at its end, so bodies
end in the reverse of the order in which they began.  A module belongs to one thread (replicas have modules of their
own).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def forwards_replaced(forwards: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Inside the body each module (a key of `forwards`) runs the forward given for it; afterwards, also after an
    exception, what it ran before: the one of an outer body, or its class's.

    A forward may call `module.forward` as it was when it was made.  Raises RuntimeError at the end where another
    replacement, begun later, has not ended yet.
    """
    before = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        later = [module for module, forward in forwards.items() if vars(module).get("forward") is not forward]
        for module in forwards.keys() - later:
            del module.forward
            if before[module] is not None:
                module.forward = before[module]
        if later:
            raise RuntimeError(f"The forward of {type(later[0]).__name__} was replaced again, and that has not ended.")
