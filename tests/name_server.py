"""A name server on loopback: living names, names that do not exist, and names that nobody answers
for."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

# Names that begin so do not exist, or get no answer; all others are 127.0.0.1.
GONE, SILENT = "gone", "silent"
_ADDRESS, _NO_SUCH_NAME = 1, 3


class NameServer:
    """Answers questions for addresses over UDP."""

    def __init__(self, port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        self.place = f"127.0.0.1:{self.socket.getsockname()[1]}"
        # Names asked for, one entry a question.
        self.asked: list[str] = []

    def run(self) -> None:
        """Until the socket is closed."""
        with contextlib.suppress(OSError):
            while True:
                question, whence = self.socket.recvfrom(4096)
                if not question:
                    return
                reply = self.reply(question)
                if reply is not None:
                    self.socket.sendto(reply, whence)

    def reply(self, question: bytes) -> bytes | None:
        """RFC 1035; None for silence."""
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        name, kind = ".".join(labels), int.from_bytes(question[at + 1 : at + 3])
        self.asked.append(name)
        if name.startswith(SILENT):
            return None
        code = _NO_SUCH_NAME if name.startswith(GONE) else 0
        answers = 1 if kind == _ADDRESS and not code else 0
        head = question[:2] + bytes([0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0])
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton("127.0.0.1")
        return head + question[12 : at + 5] + answer * answers


@contextlib.contextmanager
def answering_names(port: int = 0) -> Iterator[NameServer]:
    """A name server for the length of the block, at a free port if none is given."""
    server = NameServer(port)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", server.socket.getsockname())
        thread.join(10)
        server.socket.close()
