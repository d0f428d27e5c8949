"""How a call's arguments are named: ``f(1)`` and ``f(url=1)`` are the same call."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from kitaru.errors import KitaruUsageError

VARARGS = "*"
"""The name under which surplus positional arguments are kept."""
VARKWARGS = "**"
"""The name under which those surplus keywords are kept whose own name is taken already."""

_SURPLUS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

Named = dict[str, Any]


class Binder:
    """Names the arguments of one function, and spreads named ones out again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__name__", "function")
        self.signature = inspect.signature(function)
        parameters = self.signature.parameters.values()
        self._positional = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        self._positional_only = frozenset(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY)
        self._named = frozenset(
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )
        self._required = frozenset(
            p.name
            for p in parameters
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        )
        self._order = [p.name for p in parameters if p.kind not in _SURPLUS]
        self._named_at_all = frozenset(self._order)
        self._varargs = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self._varkwargs = any(p.kind is p.VAR_KEYWORD for p in parameters)

        self._positional_suffice = self._required <= frozenset(self._positional)
        self._is_simple = not (self._positional_only or self._varargs or self._varkwargs)
        """Whether every argument can be passed by its name."""

    def name_all(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Named:
        """The arguments by parameter name, in a stable order.

        Raises KitaruUsageError when they do not fit the function's signature.
        """
        named: Named = dict(zip(self._positional, args, strict=False))
        if not kwargs and len(args) == len(self._positional) and self._positional_suffice:
            return named
        if len(args) > len(self._positional):
            if not self._varargs:
                self._refuse(args, kwargs)
            named[VARARGS] = list(args[len(self._positional) :])
        if kwargs:
            if named.keys() & kwargs.keys() & self._named:
                self._refuse(args, kwargs)
            if not kwargs.keys() <= self._named:
                kwargs = self._with_surplus(args, kwargs)
            named = self._in_order({**named, **kwargs})
        if not self._required <= named.keys():
            self._refuse(args, kwargs)
        return named

    def _in_order(self, named: Named) -> Named:
        # That of the signature, however the call was written; what it does not name comes last.
        known = [name for name in self._order if name in named]
        return {name: named[name] for name in [*known, *sorted(named.keys() - self._named_at_all)]}

    def _with_surplus(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._varkwargs:
            self._refuse(args, kwargs)
        taken = {
            name: value
            for name, value in sorted(kwargs.items())
            if name in self._positional_only or name in (VARARGS, VARKWARGS)
        }
        if not taken:
            return kwargs
        rest = {name: value for name, value in kwargs.items() if name not in taken}
        return {**rest, VARKWARGS: taken}

    def spread(self, named: Mapping[str, Any]) -> tuple[list[Any], Named]:
        """The positional and keyword arguments that the names stand for."""
        rest = dict(named)
        if self._is_simple:
            return [], rest
        surplus = rest.pop(VARARGS, [])
        keywords = rest.pop(VARKWARGS, {})
        by_position = self._positional if surplus else self._positional_only
        args = [rest.pop(name) for name in self._positional if name in by_position and name in rest]
        return [*args, *surplus], {**rest, **keywords} if keywords else rest

    def _refuse(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise KitaruUsageError(f"{self.name}{self.signature}: {error}.") from None
        raise KitaruUsageError(f"{self.name}{self.signature} does not take these arguments.")
