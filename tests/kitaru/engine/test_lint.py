"""Each code of the lint with what it finds and what it leaves alone, and where it looks."""

import textwrap
from pathlib import Path

import pytest

import kitaru
from kitaru.engine.lint import CODES, Finding, lint
from kitaru.engine.lint.page import reference_page

HEAD = """\
import asyncio, concurrent.futures, datetime as dt, hashlib, http.client, os, os.path, pathlib
import platform, random, secrets, shutil, socket, subprocess, sys, tempfile, threading, time
import urllib.parse, urllib.request, uuid
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import sleep as pause
import httpx, requests
import numpy as np
import kitaru
from kitaru import checkpoint, flow

KNOWN = {"a": 1}
SEEN = []
COUNTS = defaultdict(int)
LIMIT = 3

@checkpoint
def fetch(url):
    SEEN.append(url)
    COUNTS[url] += 1
    return requests.get(url, timeout=time.time()).text

"""

FOUND = {
    "KIT101": [
        "time.time()",
        "time.monotonic_ns()",
        "time.perf_counter()",
        "datetime.now()",
        "datetime.now(UTC)",
        "datetime.utcnow()",
        "dt.datetime.now()",
        "dt.date.today()",
        "date.today()",
        "fetch(time.time())",
        "deadline = datetime.now(UTC) + timedelta(days=1)",
        "import time as clock; clock.time()",
        "from time import time; time()",
    ],
    "KIT102": [
        "random.random()",
        "random.choice([1, 2])",
        "random.Random()",
        "secrets.token_hex()",
        "os.urandom(3)",
        "np.random.rand()",
        "from random import shuffle; shuffle([1])",
    ],
    "KIT103": ["uuid.uuid4()", "uuid.uuid1()", "str(uuid.uuid4())"],
    "KIT104": [
        "os.environ['HOME']",
        "os.environ.get('HOME')",
        "from os import environ; environ['A']",
        "os.getenv('HOME')",
        "sys.argv",
        "os.getpid()",
        "os.getcwd()",
        "socket.gethostname()",
        "platform.system()",
        "Path.home()",
    ],
    "KIT105": [
        "open('x')",
        "with open('x') as file: pass",
        "Path('x').read_text()",
        "(Path('a') / 'b').exists()",
        "pathlib.Path('a').parent.mkdir()",
        "here = Path('a'); here.write_text('b')",
        "os.listdir('.')",
        "os.path.exists('a')",
        "shutil.rmtree('a')",
        "tempfile.mkdtemp()",
    ],
    "KIT106": [
        "requests.get('u')",
        "httpx.Client()",
        "urllib.request.urlopen('u')",
        "http.client.HTTPSConnection('u')",
        "socket.create_connection(('a', 1))",
    ],
    "KIT107": ["subprocess.run(['ls'])", "os.system('ls')", "os.popen('ls')"],
    "KIT108": [
        "threading.Thread(target=print).start()",
        "threading.Lock()",
        "concurrent.futures.ThreadPoolExecutor()",
        "asyncio.to_thread(print)",
        "asyncio.get_event_loop().run_in_executor(None, print)",
        "asyncio.run(None)",
    ],
    "KIT109": [
        "for name in {'a', 'b'}: fetch(name)",
        "for name in set(['a']): fetch(name)",
        "[fetch(name) for name in frozenset('ab')]",
        "{name: 1 for name in {'a'} | {'b'}}",
        "names = {'a'}\nfor name in names: fetch(name)",
        "names = {'a'}\nfor name in names.union({'b'}) - {'c'}: fetch(name)",
        "list({'a'})",
        "tuple({'a'})",
        "enumerate({'a'})",
        "','.join({'a', 'b'})",
        "fetch(*{'a'})",
        "{'a'}.pop()",
        "names = {'a'}\nnames.pop()",
        "first, second = {'a', 'b'}",
        "fetch(x for x in {'a'})",
    ],
    "KIT110": [
        "SEEN.append(1)",
        "KNOWN['b'] = 2",
        "del KNOWN['a']",
        "KNOWN['a'] += 1",
        "KNOWN['a']['b'] = 1",
        "KNOWN.update(b=2)",
        "return len(SEEN)",
        "return COUNTS['a']",
        "for seen in SEEN: fetch(seen)",
    ],
    "KIT111": ["global LIMIT\nLIMIT = 4"],
    "KIT112": ["input()", "input('Go on?')", "sys.stdin.readline()"],
    "KIT113": ["time.sleep(1)", "pause(1)", "from time import sleep; sleep(1)"],
    "KIT114": ["hash('a')", "id(fetch)", "sorted([1], key=lambda it: id(it))"],
}

NOT_FOUND = {
    "KIT101": [
        "kitaru.now()",
        "datetime(2026, 1, 1)",
        "timedelta(1)",
        "datetime.fromisoformat('')",
    ],
    "KIT102": ["kitaru.random()", "random.Random(7).random()", "random = 3; random"],
    "KIT103": ["kitaru.uuid4()", "uuid.uuid5(uuid.NAMESPACE_URL, 'a')", "uuid.UUID(int=1)"],
    "KIT104": ["os.path.join('a', 'b')", "os.sep", "sys.maxsize"],
    "KIT105": [
        "Path('a') / 'b'",
        "Path('a').name",
        "os.path.basename('a')",
        "open = fetch; open('x')",
        "door = fetch('x'); door.open()",
        "here = Path('a'); here = fetch(here); here.exists()",
    ],
    "KIT106": [
        "urllib.parse.quote('a')",
        "try:\n    fetch('u')\nexcept requests.RequestException: pass",
        "requests = fetch('u'); requests.get('x')",
    ],
    "KIT107": ["os.fspath('a')", "try:\n    fetch('u')\nexcept subprocess.SubprocessError: pass"],
    "KIT108": ["asyncio.gather()", "asyncio.Lock()", "asyncio.create_task(None)"],
    "KIT109": [
        "for name in sorted({'a', 'b'}): fetch(name)",
        "'a' in {'a', 'b'}",
        "len({'a'})",
        "sum(len(x) for x in {'a'})",
        "any(x == 'a' for x in {'a', 'b'})",
        "{x.upper() for x in {'a'}}",
        "for name in {'a': 1}: fetch(name)",
        "names = {'a'}\nnames = sorted(names)\nfor name in names: fetch(name)",
        "names = {'a'}\nnames.add('b')\nreturn sorted(names)",
        "set = fetch\nfor name in set('a'): pass",
        "[1].pop()",
    ],
    "KIT110": [
        "return KNOWN['a']",
        "return LIMIT",
        "SEEN = []\nSEEN.append(1)",
        "seen = []\nseen.append(1)",
        "return sorted(KNOWN)",
    ],
    "KIT111": ["total = 0\ndef add():\n    nonlocal total\n    total += 1\nadd()"],
    "KIT112": ["kitaru.wait()", "input = fetch; input('u')"],
    "KIT113": ["kitaru.sleep(1)", "asyncio.sleep(1)"],
    "KIT114": ["hashlib.sha256(b'')", "id = 3; id", "fetch('u', id='x')"],
}


def bodies(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(code, body) for code, several in table.items() for body in several]


def found_in(folder: Path, body: str, *, colour: str = "def", head: str = HEAD) -> list[Finding]:
    file = folder / "flows.py"
    text = f"{head}@flow\n{colour} agent(url):\n{textwrap.indent(body, '    ')}\n"
    file.write_text(text, encoding="utf-8")
    return lint([str(file)])


@pytest.mark.parametrize("colour", ["def", "async def"])
@pytest.mark.parametrize(("code", "body"), bodies(FOUND))
def test_what_a_replay_cannot_repeat_is_found(
    code: str, body: str, colour: str, tmp_path: Path
) -> None:
    findings = found_in(tmp_path, body, colour=colour)
    assert {finding.code for finding in findings} == {code}, findings
    for finding in findings:
        assert finding.flow == "agent"
        assert finding.line > HEAD.count("\n")
        assert CODES[code].instead in finding.message


@pytest.mark.parametrize(("code", "body"), bodies(NOT_FOUND))
def test_what_only_looks_like_it_is_left_alone(code: str, body: str, tmp_path: Path) -> None:
    assert found_in(tmp_path, body) == []


def test_every_code_has_cases_of_both_kinds() -> None:
    assert {*FOUND} == {*NOT_FOUND} == {*CODES} - {"KIT100"}
    assert list(CODES) == sorted(CODES)


@pytest.mark.parametrize(
    "text",
    [
        "from kitaru import flow\n@flow\ndef a(): BAD",
        "from kitaru import flow\n@flow(retries=2)\nasync def a(): BAD",
        "from kitaru import flow as durable\n@durable\ndef a(): BAD",
        "import kitaru\n@kitaru.flow\ndef a(): BAD",
        "import kitaru as k\n@k.flow(retries=2)\ndef a(): BAD",
        "import kitaru\ndurable = kitaru.flow\n@durable\ndef a(): BAD",
        "import kitaru\ndurable = kitaru.flow(retries=2)\n@durable\ndef a(): BAD",
        "from kitaru import flow\ndef a(): BAD\nnightly = flow(a)",
        "from kitaru import flow\ndef a(): BAD\nnightly = flow(retries=2)(a)",
        "try:\n    from kitaru import flow\nexcept ImportError:\n    raise\n@flow\ndef a(): BAD",
        "from kitaru import flow\ndef make():\n    @flow\n    def a(): BAD\n    return a",
        "from kitaru import flow\nclass Flows:\n    @flow\n    def a(): BAD",
        "from kitaru import flow\n@flow\ndef a():\n    def inner(): BAD\n    return inner()",
        "from kitaru import flow\n@flow\ndef a(): return [lambda: (yield_) for yield_ in [BAD]]",
    ],
)
def test_a_flow_is_known_however_it_is_written(text: str, tmp_path: Path) -> None:
    file = tmp_path / "flows.py"
    file.write_text("import time\n" + text.replace("BAD", "time.time()"), encoding="utf-8")
    assert [finding.code for finding in lint([str(file)])] == ["KIT101"]


@pytest.mark.parametrize(
    "text",
    [
        "def a(): time.time()",
        "from other import flow\n@flow\ndef a(): time.time()",
        "from kitaru import checkpoint\n@checkpoint\ndef a(): time.time()",
        "import kitaru\n@kitaru.flow\ndef a():\n    @kitaru.checkpoint\n    def b(): time.time()",
        "time.time()",
    ],
)
def test_what_is_in_no_flow_may_do_what_it_wants(text: str, tmp_path: Path) -> None:
    file = tmp_path / "flows.py"
    file.write_text("import time\n" + text, encoding="utf-8")
    assert lint([str(file)]) == []


def test_a_function_that_a_flow_calls_is_looked_at_and_no_deeper(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    for name, text in {
        "package/__init__.py": "",
        "package/near.py": "import time\nfrom kitaru import checkpoint\n"
        "def stamp():\n    return time.time()\n"
        "@checkpoint\ndef fetched():\n    return time.time()\n"
        "def unused():\n    return time.time()\n",
        "package/flows.py": "import random\nfrom kitaru import flow\n"
        "from . import near\nfrom .near import fetched, stamp as when\nimport package.near\n"
        "def helper():\n    deeper()\n    return random.random()\n"
        "def deeper():\n    return random.random()\n"
        "@flow\ndef one():\n    return helper(), when(), fetched()\n"
        "@flow\ndef two():\n    return list(map(near.stamp, package.near.stamp()))\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    findings = lint([str(tmp_path)])
    told = [(Path(it.file).name, it.line, it.code, it.flow, it.function) for it in findings]
    assert told == [
        ("flows.py", 8, "KIT102", "one", "helper"),
        ("near.py", 4, "KIT101", "one", "stamp"),
    ], "each place once, whoever comes to it"
    assert "in flow one (in helper, which it calls)" in findings[0].message


def test_a_comment_silences_its_line_and_its_code_alone(tmp_path: Path) -> None:
    body = (
        "time.time()  # kitaru: ignore[KIT101]\n"
        "time.time()  # noqa: X  # kitaru: ignore[KIT102, KIT101] - the log only\n"
        "time.time()  # kitaru: ignore[KIT102]\n"
        "'# kitaru: ignore[KIT101]', time.time()\n"
        "# kitaru: ignore[KIT101]\n"
        "time.time()\n"
    )
    first = HEAD.count("\n") + 3
    lines = [finding.line for finding in found_in(tmp_path, body)]
    assert lines == [first + 2, first + 3, first + 5]


@pytest.mark.parametrize("content", [b"def (:\n", b"x = 1\n\x00", b"# coding: utf-8\nx = '\xff'\n"])
def test_a_file_that_cannot_be_read_is_a_finding(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_bytes(content)
    (finding,) = lint([str(tmp_path)])
    assert finding.code == "KIT100"
    assert finding.file.endswith("bad.py")
    assert "mend the syntax" in finding.message


def test_folders_that_hold_nobodys_flows_are_left_out(tmp_path: Path) -> None:
    text = "import time\nfrom kitaru import flow\n@flow\ndef a(): time.time()\n"
    for name in (".hidden", "venv", "own-venv", "node_modules", "__pycache__", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flows.py").write_text(text, encoding="utf-8")
    (tmp_path / "own-venv" / "pyvenv.cfg").touch()
    assert [Path(it.file).parent.name for it in lint([str(tmp_path)])] == ["kept"]
    with pytest.raises(kitaru.KitaruUsageError, match="There is no file or folder"):
        lint([str(tmp_path / "nothing")])


def test_our_own_flows_are_well() -> None:
    root = Path(__file__).parents[3]
    assert lint([str(root / "docs"), str(root / "tests" / "histories")]) == []


def test_nothing_of_what_is_looked_at_runs(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    (tmp_path / "flows.py").write_text(
        "import evil\nfrom kitaru import flow\nraise SystemExit\n@flow\ndef a(): evil.x()\n"
    )
    assert lint([str(tmp_path)]) == []
    assert not (tmp_path / "canary").exists()


def test_the_reference_page_is_made_of_the_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "lint-codes.md"
    assert page.read_text(encoding="utf-8") == reference_page(), (
        "python -m kitaru.engine.lint.page > docs/reference/lint-codes.md"
    )
