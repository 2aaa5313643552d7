"""That processes which train together end together.

JAX by itself waits for a process that died, or aborts with a page of internals. So each process holds a connection to
process 0: the system closes it when a process ends, however it ends, and then all are told who that was, and end too.
"""

import atexit
import contextlib
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time

import numpy as np

from lipgan.training.machines import CONNECT_S, from_first, meet

SILENCE_S = 30  # after which a machine that does not answer is taken for dead
ECHO_S = 20  # that an error waits for the news that another process died: then it is only an echo of that
BYE = b"bye\n"


class Peers:
    """The connections of this process: of process 0 to all, of the others to process 0."""

    def __init__(self, machines, advice):
        """machines: those that `machines.join` joined. advice: what the user can do when a process has died."""
        self._id, self._advice = machines.process_id, advice
        host = machines.coordinator.rpartition(":")[0].strip("[]")
        if self._id:
            port, token = from_first(np.zeros(2, "int32")).tolist()
            self._sockets, self._hosts = {0: socket.create_connection((host, port), timeout=CONNECT_S)}, {0: host}
            self._tell({"token": token, "process": self._id, "host": socket.gethostname()})
        else:
            self._sockets, self._hosts = {}, {}
            with socket.create_server(("", 0), backlog=machines.num_processes) as server:
                token = secrets.randbits(31)
                from_first(np.array([server.getsockname()[1], token], "int32"))
                self._accept(server, token, machines.num_processes - 1)
        for connection in self._sockets.values():
            connection.settimeout(None)
            _keep_alive(connection)
        self._watch = threading.Thread(target=self._run, daemon=True)
        self._watch.start()

    def _accept(self, server, token, number):
        server.settimeout(CONNECT_S)
        while len(self._sockets) < number:
            connection, _ = server.accept()
            connection.settimeout(10)
            try:
                hello = json.loads(connection.recv(4096))
                if hello["token"] != token:
                    raise ValueError("somebody else")
                self._sockets[hello["process"]], self._hosts[hello["process"]] = connection, hello["host"]
            except (OSError, ValueError, KeyError, TypeError):
                connection.close()

    def _tell(self, message):
        for connection in self._sockets.values():
            with contextlib.suppress(OSError):  # it is gone itself
                connection.sendall(json.dumps(message).encode() + b"\n")

    def _run(self):
        """Wait for a connection that ends, or for the news of one; then end this process."""
        with selectors.DefaultSelector() as selector:
            for process, connection in self._sockets.items():
                selector.register(connection, selectors.EVENT_READ, process)
            while selector.get_map():
                for key, _ in selector.select():
                    try:
                        data = key.fileobj.recv(4096)
                    except OSError:  # reset, or silent for too long
                        data = b""
                    if data != BYE:
                        gone = {
                            "process": key.data,
                            "host": self._hosts[key.data],
                            "reason": "it was killed or crashed",
                        }
                        self._end(json.loads(data.splitlines()[0]) if data else gone)
                    selector.unregister(key.fileobj)

    def _end(self, gone):
        self._tell(gone)
        told = f"process {gone['process']} on {gone['host']} is gone ({gone['reason']}), so this one ends too"
        print(f"process {self._id}: {told}; {self._advice}", file=sys.stderr, flush=True)
        os._exit(1)

    def fail(self, error):
        """Tell the others that this process ends, and let it end without waiting for them."""
        if isinstance(error, RuntimeError | ValueError):  # JAX's, when another process is gone
            self._watch.join(ECHO_S)
        self._tell({"process": self._id, "host": socket.gethostname(), "reason": str(error).split("\n")[0]})
        atexit.register(_leave)

    def close(self):
        """Part in peace, when all have come to the same end."""
        for connection in self._sockets.values():
            with contextlib.suppress(OSError):
                connection.sendall(BYE)


def _keep_alive(connection):
    """Let the system notice a machine that is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", SILENCE_S // 3), ("TCP_KEEPINTVL", SILENCE_S // 6), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _leave():
    """End now: JAX's own way out waits for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.5)  # for what was sent to the others
    os._exit(1)


@contextlib.contextmanager
def together(machines, advice):
    """Context in which joined processes live and die together."""
    peers = Peers(machines, advice)
    try:
        yield
        meet("the end")
    except BaseException as e:
        peers.fail(e)
        raise
    peers.close()
