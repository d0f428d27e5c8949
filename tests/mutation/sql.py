"""Small changes of SQL statements: a comparison, a join of conditions, an order, a whole clause."""

import re

_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|BEGIN|PRAGMA|AND|WHERE)\b")
_CHANGES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), with_)
    for pattern, with_ in (
        (r"(?<![<>!])=(?!=)", "<>"),
        (r"<>|!=", "="),
        (r"<=", "<"),
        (r">=", ">"),
        (r"<(?![=>])", "<="),
        (r"(?<!<)>(?!=)", ">="),
        (r"\bAND\b", "OR"),
        (r"\bOR\b(?! IGNORE| REPLACE)", "AND"),
        (r"\bIS NOT\b", "IS"),
        (r"\bIS\b(?! NOT)", "IS NOT"),
        (r"\bNOT EXISTS\b", "EXISTS"),
        (r"\bNOT IN\b", "IN"),
        (r"(?<!NOT )\bIN\b", "NOT IN"),
        (r" DESC\b", " ASC"),
        (r"\bORDER BY [^()]*?(?= LIMIT|$|\))", ""),
        (r"\bLIMIT \?", "LIMIT -1 + 0 * ?"),
        (r"\bmax\(", "min("),
        (r"\bmin\(", "max("),
        (r"\bcoalesce\((\w+\(\w+\)), 0\)", r"coalesce(\1, 1)"),
        (r" OR IGNORE\b", ""),
        (r"\bON CONFLICT[^;]*DO NOTHING\b", ""),
        (r"\bLEFT JOIN\b", "JOIN"),
        (r"\bBEGIN IMMEDIATE\b", "BEGIN"),
        (r"\bFULL\b", "NORMAL"),
        (r" \+ 1\b", " + 2"),
    )
)
Place = tuple[re.Match[str], str]


def is_statement(text: str) -> bool:
    """Whether a text of the code is SQL, or a part of it."""
    return _STATEMENT.match(text) is not None and " " in text.strip()


def changes(text: str) -> int:
    """In how many ways a statement can be changed."""
    return len(_found(text))


def changed(text: str, change: int) -> str:
    """The statement with one of its changes."""
    match, with_ = _found(text)[change]
    return text[: match.start()] + match.expand(with_) + text[match.end() :]


def _found(text: str) -> list[Place]:
    # Parameters of SET and VALUES are no conditions: `x = ?` in front of WHERE is an assignment.
    sets = re.search(r"\bSET\b.*?(?=\bWHERE\b|$)", text, re.DOTALL)
    return [
        (match, with_)
        for pattern, with_ in _CHANGES
        for match in pattern.finditer(text)
        if not (sets and with_ == "<>" and sets.start() <= match.start() < sets.end())
    ]
