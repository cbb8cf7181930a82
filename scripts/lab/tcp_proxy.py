"""A TCP proxy that can be told to misbehave: connections are refused, reset or swallowed."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

# close() then sends a reset instead of an orderly end.
RESET = struct.pack("ii", 1, 0)
# In an update of samples that get heatmaps.
UPDATE = (b"update\x00", b"samples.", b"npy_path")


class TcpProxy:
    """Passes connections on to a local port until the block is left.

    `mode` says what happens meanwhile: `pass`; `refuse` (nobody listens, existing connections end); `reset` (every
    connection ends with a reset); `blackhole` (connections stay and take data, and nothing ever comes out of them).
    """

    def __init__(self, target_port: int):
        self.target_port = target_port
        self.mode = "pass"
        self.changed = threading.Condition()
        self.ended = False
        self.pairs: set[tuple[socket.socket, socket.socket]] = set()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.listener: socket.socket | None = None

    def __enter__(self):
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True
        self.set_mode("refuse")

    def listen(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def set_mode(self, mode: str) -> None:
        """Takes effect at once, on existing connections too."""
        with self.changed:
            self.mode = mode
            self.changed.notify_all()
        if mode == "refuse" and self.listener:
            # Wakes accept(), which close() alone does not.
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
        if mode in ("refuse", "reset"):
            for pair in list(self.pairs):
                self.end(pair, reset=mode == "reset")
        if mode != "refuse" and self.listener is None:
            self.listen()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket()
            pair = (client, server)
            if self.mode == "reset":
                self.end(pair, reset=True)
                continue
            try:
                server.connect(("127.0.0.1", self.target_port))
            except OSError:
                self.end(pair, reset=True)
                continue
            self.pairs.add(pair)
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self.pump, args=(pair, source, sink), daemon=True).start()

    def pump(self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.mode == "blackhole":
                    # What was swallowed is lost: the connection is never whole again.
                    with self.changed:
                        self.changed.wait_for(lambda: self.mode != "blackhole" or self.ended)
                    break
                sink.sendall(data)
        self.end(pair, reset=False)

    def end(self, pair: tuple[socket.socket, socket.socket], reset: bool) -> None:
        self.pairs.discard(pair)
        for one in pair:
            with contextlib.suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                else:
                    one.shutdown(socket.SHUT_RDWR)
            one.close()


class Gate(TcpProxy):
    """Passes everything on but what contains all of `parts`, from whichever connection; that waits until it is decided.

    A client that loses patience sends it again over another one.
    """

    def __init__(self, target_port: int, *parts: bytes):
        super().__init__(target_port)
        self.parts = parts
        self.reached, self.decided = threading.Event(), threading.Event()
        self.passes = True

    def open(self) -> None:
        self.decided.set()

    def drop(self) -> None:
        """What waits is lost, with its connection."""
        self.passes = False
        self.decided.set()

    def pump(self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if source is pair[0] and all(part in data for part in self.parts):
                    self.reached.set()
                    self.decided.wait()
                    if not self.passes:
                        break
                sink.sendall(data)
        self.end(pair, reset=False)

    def __exit__(self, *_: object) -> None:
        self.drop()
        super().__exit__()
