"""What a rule may change besides the memory that cyad tracks: objects, kept as they are, and put back.

A forward rule that takes no batches is called once for each lane, and every call must find what the first one found.
`Kept(values)` reads plain arrays, lists, dicts, sets, attributes of objects and the state of random generators, however
deep; `restore()` puts all of it back into the same objects. What else can change (an iterator, an object of compiled
code) is refused: a second call would start from somewhere else, and its derivative would be of another function.

Rejected: a deep copy for each lane (what arguments share would come apart, and plain arrays are only copied once here);
comparing in order to see whether anything changed (as costly as putting it back).

Thread safety: a Kept belongs to one thread.
"""
import array
import collections
import copy
import io
import logging
import random
import threading
import types

import numpy as np

from cyad._structures import attributes_of, is_leaf
from cyad.errors import ActivityError

# Neither numbers nor what leads to them; a log or a file gets its lines once for each lane.
_LEFT_ALONE = (str, bytes, bool, int, type(None), np.generic, np.dtype, np.ufunc, type, types.ModuleType,
               types.FunctionType, types.BuiltinFunctionType, io.IOBase, logging.Logger, logging.Handler,
               type(threading.Lock()), type(threading.RLock()), threading.local, frozenset)


class Kept:
    """The state of objects, to be put back as often as need be. `tracked` are values that somebody else looks after."""

    def __init__(self, values, tracked, name):
        self.ways = []     # (function, its arguments), one for each part
        self.name = name
        self.known = {id(v): v for v in tracked}   # objects are kept with their ids, which are theirs as long
        rest = list(values)
        while rest:
            value = rest.pop()
            if isinstance(value, _LEFT_ALONE) or id(value) in self.known:
                continue
            self.known[id(value)] = value
            rest.extend(self.read(value))

    def read(self, value):
        """Notes how a value is put back; what it holds."""
        if isinstance(value, np.ndarray):
            if value.flags.writeable:
                self.ways.append((_fill, (value, value.copy())))
            return value.ravel().tolist() if value.dtype.hasobject else ()
        if is_leaf(value):
            return ()
        if isinstance(value, types.MethodType):
            return (value.__self__,)
        if isinstance(value, np.random.Generator):
            return (value.bit_generator,)
        if isinstance(value, np.random.BitGenerator):
            self.ways.append((setattr, (value, "state", value.state)))
            return ()
        if isinstance(value, np.random.RandomState):
            self.ways.append((value.set_state, (value.get_state(),)))
            return ()
        if isinstance(value, random.Random):
            self.ways.append((value.setstate, (value.getstate(),)))
        attributes = attributes_of(value)
        parts = [part for _, part in attributes]
        if attributes or hasattr(value, "__dict__"):
            self.ways.append((_assign, (value, attributes)))
        if isinstance(value, dict):
            self.ways.append((_refill, (value, value.update, dict(value))))
            parts += value.values()
        elif isinstance(value, (list, collections.deque, array.array)):
            self.ways.append((_replace, (value, list(value))))
            parts += value
        elif isinstance(value, set):
            self.ways.append((_refill, (value, value.update, set(value))))
        elif isinstance(value, bytearray):
            self.ways.append((_refill, (value, value.extend, bytes(value))))
        elif isinstance(value, tuple):
            parts += value
        elif not hasattr(value, "__dict__") and not attributes and not _is_immutable(value):
            raise ActivityError(
                f"a forward rule of {self.name} takes one lane at a time, and would be called once for each lane of "
                f"the batch; what it may change in a {type(value).__qualname__} cannot be put back between the calls. "
                "Write the rule for batches (hint BatchDuplicated), or differentiate one direction at a time")
        return parts

    def restore(self):
        """Puts everything back."""
        for function, arguments in self.ways:
            function(*arguments)


def _is_immutable(value):
    """Whether the copy module takes a value for one that cannot change: it then gives back the same."""
    try:
        return not hasattr(value, "__next__") and copy.copy(value) is value
    except TypeError:      # what cannot be copied cannot be kept either
        return False


def _fill(memory, before):
    memory[...] = before


def _refill(container, fill, before):
    container.clear()
    fill(before)


def _replace(container, before):
    if isinstance(container, collections.deque):
        container.clear()
        container.extend(before)
    else:
        container[:] = array.array(container.typecode, before) if isinstance(container, array.array) else before


def _assign(value, before):
    names = {name for name, _ in before}
    for name, _ in attributes_of(value):
        if name not in names:
            object.__delattr__(value, name)
    now = dict(attributes_of(value))
    for name, part in before:
        if name not in now or now[name] is not part:
            object.__setattr__(value, name, part)
