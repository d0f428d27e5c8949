"""The process of one attempt of an isolated checkpoint: it reads the request, and answers.

It ends with its runner, however that ends: then nobody could record what it does.
"""

import asyncio
import os
import signal
import sys
import threading
from typing import Any, BinaryIO

import msgspec
from msgspec import Raw

from kitaru.domain.execution.events import TAGS, ArtifactSaved, MetadataLogged
from kitaru.engine.codec import Codec
from kitaru.engine.context import CheckpointScope, scope
from kitaru.engine.definitions import CheckpointDefinition
from kitaru.engine.failures import describe
from kitaru.engine.isolated_frames import (
    Answer,
    Failed,
    Noted,
    Request,
    Returned,
    decode_request,
    framed,
    read_frame,
)
from kitaru.engine.source import load_checkpoint
from kitaru.engine.values import Blobs


class _Recorder:
    """What the body's `log` and `save` write to: the runner, which has the lease."""

    def __init__(self, request: Request, answers: BinaryIO) -> None:
        self.exec_id = request.exec_id
        self.unshared: set[str] = set()
        self._path = request.path
        self._answers = answers
        self._lock = threading.Lock()
        self._ended = False

    def note(self, event: MetadataLogged | ArtifactSaved, blobs: Blobs = ()) -> None:
        """Records an event together with the outcome."""
        self.unshared.add(self._path)
        tag, _ = TAGS[type(event)]
        self._send(Noted(tag, Raw(msgspec.json.encode(event)), tuple(blobs)))

    def end(self, answer: Answer) -> None:
        """Says what came of it; what threads of the body still note is not heard."""
        with self._lock:
            self._ended = True
            self._answers.write(framed(answer))
            self._answers.flush()

    def _send(self, answer: Answer) -> None:
        with self._lock:
            if not self._ended:
                self._answers.write(framed(answer))
                self._answers.flush()


def main(requests: BinaryIO, answers: BinaryIO) -> None:
    """Runs the attempt that is asked for."""
    data = read_frame(requests)
    if data is None:
        return
    threading.Thread(target=_end_with_the_runner, args=(requests,), daemon=True).start()
    request = decode_request(data)
    recorder = _Recorder(request, answers)
    codec = Codec()
    try:
        definition: CheckpointDefinition = load_checkpoint(request.function).definition
        scope.set(CheckpointScope(recorder, request.path, request.attempt, request.identity))
        result = _run(definition, codec, request)
        encoded = codec.encode(result, where="result", types=definition.types)
    except BaseException as error:
        recorder.end(Failed(describe(error, codec), request.path in recorder.unshared))
    else:
        recorder.end(Returned(Raw(encoded), request.path in recorder.unshared))


def _run(definition: CheckpointDefinition, codec: Codec, request: Request) -> Any:
    named: dict[str, Any] = codec.decode(request.arguments, definition.types)
    args, kwargs = definition.binder.spread(named)
    if definition.asynchronous:
        return asyncio.run(definition.function(*args, **kwargs))
    return definition.function(*args, **kwargs)


def _end_with_the_runner(requests: BinaryIO) -> None:
    # The runner holds the other end for as long as it wants this attempt.
    requests.read(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    for number in sys.argv[1:]:
        # What the body starts has no business with them.
        os.set_inheritable(int(number), False)
    with open(int(sys.argv[1]), "rb") as opened, open(int(sys.argv[2]), "wb") as answering:
        main(opened, answering)
        # Not by the usual way out: what the body has left running must not keep the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
