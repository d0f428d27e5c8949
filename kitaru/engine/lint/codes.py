"""What the lint looks for: a table of codes, and the names that lead to each."""

from msgspec import Struct


class Code(Struct, frozen=True):
    """One kind of finding."""

    code: str
    title: str
    why: str
    """What goes wrong in a replay."""
    instead: str


_TABLE = (
    Code(
        "KIT100",
        "this file cannot be read",
        "It is no valid Python source, so nothing in it was looked at.",
        "mend the syntax",
    ),
    Code(
        "KIT101",
        "the time of the clock",
        "It is another one in each replay.",
        "`kitaru.now()`, or take it in a @checkpoint",
    ),
    Code(
        "KIT102",
        "a random value",
        "It is another one in each replay.",
        "`kitaru.random()`, or draw it in a @checkpoint; `random.Random(seed)` with a seed is fine",
    ),
    Code(
        "KIT103",
        "a random UUID",
        "It is another one in each replay.",
        "`kitaru.uuid4()`; `uuid.uuid5()` is fine",
    ),
    Code(
        "KIT104",
        "the process's environment",
        "Another process, or a later one, has another environment.",
        "an argument of the flow, or read it in a @checkpoint",
    ),
    Code(
        "KIT105",
        "a file",
        "Its content may have changed by then, and what is written is written again.",
        "read and write files in a @checkpoint",
    ),
    Code(
        "KIT106",
        "the network",
        "A replay asks again, and may get another answer.",
        "ask in a @checkpoint",
    ),
    Code(
        "KIT107",
        "another process",
        "A replay starts it again.",
        "start it in a @checkpoint",
    ),
    Code(
        "KIT108",
        "a thread",
        "The order in which threads go on is another one in each replay.",
        "`.submit()` and `.map()` of a @checkpoint, or asyncio's tasks in an async flow",
    ),
    Code(
        "KIT109",
        "the order of a set",
        "A set of texts has another order in each process.",
        "`sorted(...)`, or a list or dict",
    ),
    Code(
        "KIT110",
        "a module's value that changes",
        "A replay in another process finds other content, and a change is made again.",
        "an argument or a local variable; or keep it in what a @checkpoint reads and writes",
    ),
    Code(
        "KIT111",
        "a global statement",
        "What one execution leaves behind reaches the next, and not its replay elsewhere.",
        "a local variable, or a @checkpoint's result",
    ),
    Code(
        "KIT112",
        "input at the terminal",
        "A replay asks again.",
        "`kitaru.wait()`",
    ),
    Code(
        "KIT113",
        "a sleep that is not recorded",
        "It takes its time again in each replay, and blocks the loop in an async flow.",
        "`kitaru.sleep()`, or `asyncio.sleep()` in an async flow",
    ),
    Code(
        "KIT114",
        "an identity or hash",
        "`id()` and the hash of a text are others in each process.",
        "compare the values themselves, or `hashlib`",
    ),
)

CODES = {code.code: code for code in _TABLE}
"""The codes by name, in order."""

CALLS: dict[str, str] = {
    # A dotted name that is called → the code; with a dot at the end, all that begins with it.
    "time.time": "KIT101",
    "time.time_ns": "KIT101",
    "time.monotonic": "KIT101",
    "time.monotonic_ns": "KIT101",
    "time.perf_counter": "KIT101",
    "time.perf_counter_ns": "KIT101",
    "time.process_time": "KIT101",
    "time.process_time_ns": "KIT101",
    "time.localtime": "KIT101",
    "time.gmtime": "KIT101",
    "time.ctime": "KIT101",
    "datetime.datetime.now": "KIT101",
    "datetime.datetime.utcnow": "KIT101",
    "datetime.datetime.today": "KIT101",
    "datetime.date.today": "KIT101",
    "random.": "KIT102",
    "secrets.": "KIT102",
    "os.urandom": "KIT102",
    "os.getrandom": "KIT102",
    "numpy.random.": "KIT102",
    "uuid.uuid1": "KIT103",
    "uuid.uuid4": "KIT103",
    "uuid.getnode": "KIT104",
    "os.getenv": "KIT104",
    "os.getpid": "KIT104",
    "os.getcwd": "KIT104",
    "os.cpu_count": "KIT104",
    "os.uname": "KIT104",
    "socket.gethostname": "KIT104",
    "socket.getfqdn": "KIT104",
    "platform.": "KIT104",
    "getpass.getuser": "KIT104",
    "pathlib.Path.cwd": "KIT104",
    "pathlib.Path.home": "KIT104",
    "open": "KIT105",
    "io.open": "KIT105",
    "codecs.open": "KIT105",
    "os.open": "KIT105",
    "os.listdir": "KIT105",
    "os.scandir": "KIT105",
    "os.walk": "KIT105",
    "os.stat": "KIT105",
    "os.remove": "KIT105",
    "os.unlink": "KIT105",
    "os.rename": "KIT105",
    "os.replace": "KIT105",
    "os.mkdir": "KIT105",
    "os.makedirs": "KIT105",
    "os.rmdir": "KIT105",
    "os.path.exists": "KIT105",
    "os.path.isfile": "KIT105",
    "os.path.isdir": "KIT105",
    "os.path.getsize": "KIT105",
    "os.path.getmtime": "KIT105",
    "shutil.": "KIT105",
    "tempfile.": "KIT105",
    "glob.": "KIT105",
    "sqlite3.connect": "KIT105",
    "requests.": "KIT106",
    "httpx.": "KIT106",
    "httpx2.": "KIT106",
    "aiohttp.": "KIT106",
    "urllib.request.": "KIT106",
    "urllib3.": "KIT106",
    "http.client.": "KIT106",
    "socket.": "KIT106",
    "smtplib.": "KIT106",
    "ftplib.": "KIT106",
    "websockets.": "KIT106",
    "boto3.": "KIT106",
    "asyncio.open_connection": "KIT106",
    "asyncio.start_server": "KIT106",
    "subprocess.": "KIT107",
    "multiprocessing.": "KIT107",
    "os.system": "KIT107",
    "os.popen": "KIT107",
    "os.fork": "KIT107",
    "os.execv": "KIT107",
    "os.kill": "KIT107",
    "asyncio.create_subprocess_exec": "KIT107",
    "asyncio.create_subprocess_shell": "KIT107",
    "threading.": "KIT108",
    "concurrent.futures.": "KIT108",
    "asyncio.to_thread": "KIT108",
    "asyncio.run": "KIT108",
    "asyncio.run_coroutine_threadsafe": "KIT108",
    "anyio.to_thread.": "KIT108",
    "input": "KIT112",
    "time.sleep": "KIT113",
    "id": "KIT114",
    "hash": "KIT114",
}

READS: dict[str, str] = {
    # A dotted name that is read, called or not → the code.
    "os.environ": "KIT104",
    "os.environb": "KIT104",
    "sys.argv": "KIT104",
    "sys.stdin": "KIT112",
}

PATH_METHODS = frozenset(
    {
        "exists",
        "glob",
        "is_dir",
        "is_file",
        "iterdir",
        "lstat",
        "mkdir",
        "open",
        "read_bytes",
        "read_text",
        "rename",
        "replace",
        "resolve",
        "rglob",
        "rmdir",
        "stat",
        "symlink_to",
        "touch",
        "unlink",
        "walk",
        "write_bytes",
        "write_text",
    }
)
"""What a `pathlib.Path` is asked for with a look at the disk."""

CHANGING_METHODS = frozenset(
    {
        "add",
        "append",
        "appendleft",
        "clear",
        "discard",
        "extend",
        "extendleft",
        "insert",
        "pop",
        "popitem",
        "popleft",
        "remove",
        "reverse",
        "setdefault",
        "sort",
        "update",
    }
)
"""What changes the list, dict or set that it is called on."""


def code_of_call(name: str) -> str | None:
    """The code for a call of this dotted name."""
    exact = CALLS.get(name)
    if exact is not None:
        return exact
    parts = name.split(".")
    prefixes = (".".join(parts[:count]) + "." for count in range(len(parts) - 1, 0, -1))
    return next((CALLS[prefix] for prefix in prefixes if prefix in CALLS), None)
