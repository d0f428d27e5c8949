"""Exceptions as data, and back: any shape survives, and no class's code runs to make one."""

import linecache
import sys
from collections import deque
from collections.abc import Iterator
from types import (
    FrameType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
    TracebackType,
)
from typing import Any

import msgspec

from kitaru.domain.values import NO_JSON, ErrorData, FrameData
from kitaru.engine.codec import Codec, TypeScope, digest
from kitaru.errors import KitaruSerializationError

LONGEST_MESSAGE_BYTES = 16 * 1024
LONGEST_ATTRIBUTE_BYTES = 16 * 1024
MOST_ATTRIBUTES_BYTES = 64 * 1024
OUTER_FRAMES = 50
INNER_FRAMES = 50
MOST_ERRORS = 100
"""How many exceptions of one chain or tree are kept."""
DEEPEST_CHAIN = 60
MOST_NOTES = 50

_TEXT = "_kitaru_text"
_READS_MEMORY = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)
_LONGEST_SOURCE_LINE = 200
_ROOM_FOR_REMARK = 64
_MOST_BASES = 32
_NOT_KEPT = frozenset({"obj", "exceptions", _TEXT})
"""The object of an AttributeError, which may be anything; a group's members, kept as errors."""
_NO_TYPES = TypeScope.of()

_CAUSE = BaseException.__dict__["__cause__"]
_CONTEXT = BaseException.__dict__["__context__"]
_SUPPRESS = BaseException.__dict__["__suppress_context__"]
_ARGS = BaseException.__dict__["args"]
_DICT: Any = vars(BaseException)["__dict__"]
_TRACEBACK = BaseException.__dict__["__traceback__"]
_MODULE_NAMES: Any = vars(ModuleType)["__dict__"]
_MEMBERS = BaseExceptionGroup.__dict__["exceptions"]


def describe(error: BaseException, codec: Codec, *, types: TypeScope = _NO_TYPES) -> ErrorData:
    """The exception as data; never raises, whatever the exception's own methods do.

    What its ``args`` and attributes hold is kept as far as the codec can write it. The rest of
    messages over 16 KiB, the middle of long tracebacks and the far end of long chains are left out,
    and the data says so.
    """
    try:
        return _Describer(codec, types).error(error, depth=0)
    except Exception as trouble:  # classes may redefine what is read here
        module, qualname = _name(type(error))
        return ErrorData(
            type=_shown(module, qualname),
            module=module,
            qualname=qualname,
            message=f"<this exception cannot be described: {type(trouble).__name__}>",
        )


class _Describer:
    def __init__(self, codec: Codec, types: TypeScope) -> None:
        self._codec = codec
        self._types = types
        self._path: set[int] = set()
        self._count = 0

    def error(self, error: BaseException, depth: int) -> ErrorData:
        self._path.add(id(error))
        self._count += 1
        module, qualname = _name(type(error))
        whole = _text(error)
        message, cut = _cut(whole, LONGEST_MESSAGE_BYTES)
        frames, frames_left_out = _frames(_TRACEBACK.__get__(error))
        members, note = self._members(error, depth)
        reason, earlier = _CAUSE.__get__(error), _CONTEXT.__get__(error)
        cause = self._next(reason, depth)
        context = self._next(earlier, depth) if earlier is not reason else None
        self._path.discard(id(error))
        return ErrorData(
            type=_shown(module, qualname),
            module=module,
            qualname=qualname,
            bases=_bases(type(error)),
            message=_speakable(message),
            exact_message=NO_JSON if _is_speakable(message) else self._written(message),
            arguments=NO_JSON if cut else self._written(list(_ARGS.__get__(error))),
            attributes=self._attributes(error),
            notes=(*_notes(error), *note),
            frames=frames,
            frames_left_out=frames_left_out,
            truncated_bytes=cut,
            message_digest=digest(_bytes(whole)) if cut else "",
            cause=cause,
            context=context,
            suppress_context=_SUPPRESS.__get__(error),
            members=members,
        )

    def _next(self, error: BaseException | None, depth: int) -> ErrorData | None:
        if error is None or id(error) in self._path:
            return None
        if depth >= DEEPEST_CHAIN or self._count >= MOST_ERRORS:
            return None
        return self.error(error, depth + 1)

    def _members(
        self, error: BaseException, depth: int
    ) -> tuple[tuple[ErrorData, ...], tuple[str, ...]]:
        if not _is_group(error):
            return (), ()
        whole = _MEMBERS.__get__(error)
        kept = tuple(data for member in whole if (data := self._next(member, depth)) is not None)
        missing = len(whole) - len(kept)
        return kept, (f"({missing:,} more exceptions of this group were not recorded)",) * (
            missing > 0
        )

    def _attributes(self, error: BaseException) -> msgspec.Raw:
        """The attributes that the codec can write; one lock does not lose the others."""
        kept: dict[str, Any] = {}
        size = 0
        for name, value in _state(error):
            encoded = self._encoded(value, LONGEST_ATTRIBUTE_BYTES)
            if encoded is None or size + len(bytes(encoded)) > MOST_ATTRIBUTES_BYTES:
                continue
            size += len(bytes(encoded))
            kept[name] = value
        return self._written(kept, MOST_ATTRIBUTES_BYTES * 2) if kept else NO_JSON

    def _written(self, value: Any, limit: int = MOST_ATTRIBUTES_BYTES) -> msgspec.Raw:
        encoded = self._encoded(value, limit)
        return NO_JSON if encoded is None else encoded

    def _encoded(self, value: Any, limit: int = MOST_ATTRIBUTES_BYTES) -> msgspec.Raw | None:
        try:
            data = self._codec.encode(value, where="error", types=self._types)
        except Exception:  # an attribute's own methods may raise anything
            return None
        return msgspec.Raw(data) if len(data) <= limit else None


def _text(error: BaseException) -> str:
    try:
        return _own_text(error)
    except BaseException as trouble:  # __str__ is the user's, and may even exit
        return f"<the text of this {type(error).__name__} raised {type(trouble).__name__}>"


def _tells(error: BaseException, text: str) -> bool:
    try:
        return _own_text(error) == text
    except BaseException:
        return False


def _own_text(error: BaseException) -> str:
    return str.__str__(str(error))


def _names(error: BaseException) -> dict[str, Any]:
    """Its ``__dict__``, whatever its class says about that name."""
    return _DICT.__get__(error)  # type: ignore[no-any-return]


def _is_group(error: BaseException) -> bool:
    return issubclass(type(error), BaseExceptionGroup)  # isinstance believes the object itself


def _cut(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a long text, with a remark, and how many bytes were left out."""
    if len(text) * 4 <= limit:
        return text, 0
    data = _bytes(text)
    if len(data) <= limit:
        return text, 0
    start = data[: limit - _ROOM_FOR_REMARK]
    while start and data[len(start)] & 0xC0 == 0x80:
        start = start[:-1]
    left_out = len(data) - len(start)
    return f"{start.decode('utf-8', 'surrogatepass')}... ({left_out:,} more bytes)", left_out


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _speakable(text: str) -> str:
    """The text without lone surrogates, which no JSON can say."""
    return text if _is_speakable(text) else text.encode("utf-8", "backslashreplace").decode()


def _is_speakable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(cls: type) -> tuple[str, str]:
    module = cls.__module__
    return _speakable(module if type(module) is str else "?"), _speakable(cls.__qualname__)


def _shown(module: str, qualname: str) -> str:
    return qualname if module == "builtins" else f"{module}.{qualname}"


def _bases(cls: type) -> tuple[tuple[str, str], ...]:
    names = [name for base in cls.__mro__[1:-1] if (name := _name(base)) != _name(cls)]
    builtin = [name for name in names if name[0] == "builtins"]
    return tuple([name for name in names if name not in builtin][:_MOST_BASES] + builtin)


def _notes(error: BaseException) -> Iterator[str]:
    notes = _names(error).get("__notes__", ())
    if isinstance(notes, list | tuple):
        for note in notes[:MOST_NOTES]:
            if isinstance(note, str):
                yield _speakable(_cut(str.__str__(note), LONGEST_MESSAGE_BYTES)[0])


def _state(error: BaseException) -> Iterator[tuple[str, Any]]:
    """The attributes: those that the builtin classes keep in C, slots, and ``__dict__``."""
    for name, descriptor in _descriptors(type(error)).items():
        try:
            value = descriptor.__get__(error)
        except Exception:  # noqa: S112 - not set
            continue
        if value is not None:
            yield name, value
    for name, value in list(_names(error).items()):
        if type(name) is str and not name.startswith("__") and name not in _NOT_KEPT:
            yield name, value


def _descriptors(cls: type) -> dict[str, Any]:
    return {
        name: member
        for klass in reversed(cls.__mro__)
        if klass not in (BaseException, object)
        for name, member in klass.__dict__.items()
        if isinstance(member, MemberDescriptorType | GetSetDescriptorType)
        and not name.startswith("__")
        and name not in _NOT_KEPT
    }


def _frames(traceback: TracebackType | None) -> tuple[tuple[FrameData, ...], int]:
    outer: list[tuple[FrameType, int]] = []
    inner: deque[tuple[FrameType, int]] = deque(maxlen=INNER_FRAMES)
    count = 0
    while traceback is not None:
        place = (traceback.tb_frame, traceback.tb_lineno or 0)
        (outer if count < OUTER_FRAMES else inner).append(place)
        count += 1
        traceback = traceback.tb_next
    places = [*outer, *inner]
    return tuple(_frame(frame, line) for frame, line in places), count - len(places)


def _frame(frame: FrameType, line: int) -> FrameData:
    code = frame.f_code
    return FrameData(
        file=_speakable(code.co_filename),
        line=line,
        function=_speakable(code.co_name),
        source=_speakable(_source(frame, line)),
    )


def _source(frame: FrameType, line: int) -> str:
    try:
        source = linecache.getline(frame.f_code.co_filename, line, frame.f_globals)
    except Exception:  # a loader's own code may raise anything
        return ""
    return source.strip()[:_LONGEST_SOURCE_LINE]


def revive(
    data: ErrorData,
    codec: Codec,
    *,
    main_module: str | None = None,
    types: TypeScope = _NO_TYPES,
) -> BaseException:
    """An exception that ``except`` clauses treat as they would the original, and with its text.

    Its class is looked up among what is loaded already, and its object is made without its
    ``__new__`` and ``__init__``. For a class that is not there, and for one whose ``__str__`` no
    longer tells the same, a stand-in with its name is made, deriving from the nearest of its
    classes that is there. ``main_module`` is where to look for what was recorded in ``__main__``.
    """
    return _Reviver(codec, types, main_module).error(data, depth=0)


class _Reviver:
    def __init__(self, codec: Codec, types: TypeScope, main_module: str | None) -> None:
        self._codec = codec
        self._types = types
        self._main_module = main_module

    def error(self, data: ErrorData, depth: int) -> BaseException:
        members = self._members(data, depth)
        text = self._text(data)
        found = self._find(data.module, data.qualname)
        error = self._made(found, data, members) if found is not None else None
        if error is None or not _tells(error, text):
            bases = (found,) if found is not None else self._found_bases(data)
            error = self._stand_in(bases, data, members)
            _names(error)[_TEXT] = text
        if data.notes:
            _names(error)["__notes__"] = list(data.notes)
        _CAUSE.__set__(error, self._next(data.cause, depth))
        _CONTEXT.__set__(error, self._next(data.context, depth))
        _SUPPRESS.__set__(error, data.suppress_context)
        return error

    def _next(self, data: ErrorData | None, depth: int) -> BaseException | None:
        if data is None or depth > DEEPEST_CHAIN:
            return None
        return self.error(data, depth + 1)

    def _members(self, data: ErrorData, depth: int) -> list[BaseException]:
        found = [self._next(member, depth) for member in data.members]
        members = [member for member in found if member is not None]
        return members or [Exception("the members of this group were not recorded")]

    def _text(self, data: ErrorData) -> str:
        exact = self._decoded(data.exact_message)
        return exact if type(exact) is str else data.message

    def _decoded(self, raw: msgspec.Raw) -> Any:
        if not bytes(raw):
            return None
        try:
            return self._codec.decode(raw, self._types)
        except KitaruSerializationError:
            return None

    def _find(self, module: str, qualname: str) -> type[BaseException] | None:
        if module == "__main__" and self._main_module is not None:
            module = self._main_module
        return _loaded_class(module, qualname)

    def _found_bases(self, data: ErrorData) -> tuple[type[BaseException], ...]:
        """The nearest known ones, without those that another of them derives from."""
        chosen: list[type[BaseException]] = []
        for module, qualname in data.bases[:_MOST_BASES]:
            base = self._find(module, qualname)
            if base is not None and not any(issubclass(nearer, base) for nearer in chosen):
                chosen.append(base)
        return tuple(chosen) or (Exception,)

    def _stand_in(
        self,
        bases: tuple[type[BaseException], ...],
        data: ErrorData,
        members: list[BaseException],
    ) -> BaseException:
        for candidates in (bases, bases[:1], (_builtin(bases[0]),), (Exception,)):
            cls = _stand_in_class(data.module, data.qualname, candidates)
            error = self._made(cls, data, members) if cls is not None else None
            if error is not None:
                return error
        return BaseException(data.message)

    def _made(
        self, cls: type[BaseException], data: ErrorData, members: list[BaseException]
    ) -> BaseException | None:
        attributes = self._decoded(data.attributes)
        if type(attributes) is not dict:
            attributes = {}
        error = _new(cls, attributes, members)
        if error is None:
            return None
        arguments = self._decoded(data.arguments)
        if not _is_group(error):
            _ARGS.__set__(error, tuple(arguments) if type(arguments) is list else (data.message,))
        _restore(error, attributes)
        return error


def _loaded_class(module: str, qualname: str) -> type[BaseException] | None:
    """An exception class of a loaded module, found by plain look-ups that run nobody's code."""
    holder: Any = sys.modules.get(module)
    if not issubclass(type(holder), ModuleType):
        return None
    # Not getattr: a lazy module would load itself, and a module's __getattr__ would run.
    namespace = _MODULE_NAMES.__get__(holder)
    for part in qualname.split("."):
        holder = namespace.get(part)
        if not issubclass(type(holder), type):
            return None
        namespace = type.__getattribute__(holder, "__dict__")
    is_exception = BaseException in type.__getattribute__(holder, "__mro__")
    return holder if is_exception else None


def _builtin(cls: type[BaseException]) -> type[BaseException]:
    """The nearest builtin class: the one whose ``__new__`` lays out the instance."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def _new(
    cls: type[BaseException], attributes: dict[str, Any], members: list[BaseException]
) -> BaseException | None:
    builtin: Any = _builtin(cls)
    try:
        if issubclass(builtin, BaseExceptionGroup):
            message = attributes.get("message")
            return builtin.__new__(cls, message if type(message) is str else "", members)  # type: ignore[no-any-return]
        return builtin.__new__(cls)  # type: ignore[no-any-return]
    except TypeError:  # members that this group cannot hold
        return None


def _restore(error: BaseException, attributes: dict[str, Any]) -> None:
    if issubclass(type(error), _READS_MEMORY) and not _is_sound_unicode_error(error, attributes):
        attributes = {}
    descriptors = _descriptors(type(error))
    for name, value in attributes.items():
        if type(name) is not str or name.startswith("__") or name in _NOT_KEPT:
            continue
        descriptor = descriptors.get(name)
        if descriptor is None:
            _names(error)[name] = value
            continue
        try:
            descriptor.__set__(error, value)
        except (AttributeError, TypeError, ValueError):  # one that cannot be set
            continue


def _is_sound_unicode_error(error: BaseException, attributes: dict[str, Any]) -> bool:
    """Whether its parts fit together: its ``__str__`` reads memory at ``start`` without a check."""
    kind = bytes if issubclass(type(error), UnicodeDecodeError) else str
    subject, start, end = (attributes.get(name) for name in ("object", "start", "end"))
    return (
        type(subject) is kind
        and type(start) is type(end) is int
        and 0 <= start < end <= len(subject)
        and type(attributes.get("reason")) is str
        and type(attributes.get("encoding", "")) is str
    )


_StandInKey = tuple[str, str, tuple[type[BaseException], ...]]
_stand_ins: dict[_StandInKey, type[BaseException]] = {}


def _stand_in_class(
    module: str, qualname: str, bases: tuple[type[BaseException], ...]
) -> type[BaseException] | None:
    key = (module, qualname, bases)
    cls = _stand_ins.get(key)
    if cls is None:
        name = qualname.rpartition(".")[2].replace("\0", "?")
        body = {"__module__": module, "__qualname__": qualname, "__str__": _recorded_text}
        try:
            metaclass: Any = type(bases[0])
            cls = metaclass(name, bases, body)
        except Exception:  # bases that do not go together, or refuse to be derived from
            return None
        return _stand_ins.setdefault(key, cls)
    return cls


def _recorded_text(error: BaseException) -> str:
    text = _names(error).get(_TEXT)
    return text if type(text) is str else BaseException.__str__(error)


def attach(revived: BaseException, original: BaseException) -> BaseException:
    """Gives the revived exception, and those that led to it, the tracebacks of the original."""
    pairs: list[tuple[BaseException | None, BaseException | None]] = [(revived, original)]
    seen: set[int] = set()
    while pairs:
        new, old = pairs.pop()
        if new is None or old is None or id(new) in seen:
            continue
        seen.add(id(new))
        _TRACEBACK.__set__(new, _TRACEBACK.__get__(old))
        pairs += [(slot.__get__(new), slot.__get__(old)) for slot in (_CAUSE, _CONTEXT)]
        if _is_group(new) and _is_group(old):
            pairs += zip(_MEMBERS.__get__(new), _MEMBERS.__get__(old), strict=False)
    return revived


_CAUSED = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"


def render_traceback(data: ErrorData) -> str:
    """The traceback as Python would print it, causes first."""
    page = _Page()
    page.chain(data)
    return "\n".join(page.lines) + "\n"


class _Page:
    """The lines of a traceback; those of a group's members are indented by its depth."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0
        self._is_open = False

    def chain(self, data: ErrorData) -> None:
        if data.cause is not None:
            self.chain(data.cause)
            self._write("", _CAUSED, "")
        elif data.context is not None and not data.suppress_context:
            self.chain(data.context)
            self._write("", _DURING, "")
        if data.members:
            self._group(data)
        else:
            self._write(*_one(data, "Traceback (most recent call last):"))

    def _group(self, data: ErrorData) -> None:
        is_outermost = self._depth == 0
        self._depth += is_outermost
        first, *rest = _one(data, "Exception Group Traceback (most recent call last):")
        self._write(first, margin="+" if is_outermost else "|")
        self._write(*rest)
        for number, member in enumerate(data.members, start=1):
            self._member(number, member, is_last=number == len(data.members))
        self._depth -= is_outermost

    def _member(self, number: int, member: ErrorData, *, is_last: bool) -> None:
        lead = "+-" if number == 1 else "  "
        self.lines.append(f"{self._indent()}{lead}+---------------- {number} ----------------")
        self._is_open = is_last
        self._depth += 1
        self.chain(member)
        if is_last and self._is_open:
            self.lines.append(f"{self._indent()}+------------------------------------")
            self._is_open = False
        self._depth -= 1

    def _write(self, *lines: str, margin: str = "|") -> None:
        lead = f"{self._indent()}{margin} " if self._depth else ""
        self.lines.extend(lead + line for line in lines)

    def _indent(self) -> str:
        return "  " * self._depth


def _one(data: ErrorData, title: str) -> Iterator[str]:
    if data.frames:
        yield title
    for number, frame in enumerate(data.frames):
        if number == OUTER_FRAMES and data.frames_left_out:
            yield f"  [{data.frames_left_out:,} frames left out]"
        yield f'  File "{frame.file}", line {frame.line}, in {frame.function}'
        if frame.source:
            yield f"    {frame.source}"
    yield from _last_line(data).split("\n")
    for note in data.notes:
        yield from note.split("\n")


def _last_line(data: ErrorData) -> str:
    shown = (
        data.qualname if data.module in ("builtins", "__main__") and data.qualname else data.type
    )
    return f"{shown}: {data.message}" if data.message else shown
