"""Puts changed code under functions that exist already, so that nothing is loaded again."""

import ast
import functools
import gc
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

ROOT = Path(__file__).parents[2]
Key = tuple[str, str, int]
"""The file, the qualified name and the first line of a function."""


class Functions:
    """Every function of the two packages that is in memory now."""

    def __init__(self) -> None:
        self._by_code: dict[Key, list[FunctionType]] = {}
        self._caches = [
            it for it in gc.get_objects() if isinstance(it, functools._lru_cache_wrapper)
        ]
        for one in gc.get_objects():
            if isinstance(one, FunctionType):
                self._by_code.setdefault(_key(one.__code__), []).append(one)

    def change(self, file: str, tree: ast.Module) -> bool:
        """Gives them the code of the changed file; false: none of them has any of it.

        Raises ValueError where a function needs other surroundings than it has.
        """
        whole = compile(tree, str(ROOT / file), "exec")
        for cache in self._caches:
            cache.cache_clear()
        changed = False
        for code in _inside(whole):
            for function in self._by_code.get(_key(code), ()):
                if function.__code__ != code:
                    function.__code__ = code
                    changed = True
        return changed


def _key(code: CodeType) -> Key:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _inside(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inside(constant)
