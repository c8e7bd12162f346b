"""A bare client of Postgres's protocol, for measurements that must know what is sent in which write.

One connection without a password, blocking, standard library only. What a driver does by itself it does not.
"""

import socket
import struct


class Connection:
    """A logged-in connection to 127.0.0.1:PORT as user and database "postgres"."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        parameters = b"user\0postgres\0database\0postgres\0\0"
        self.socket.sendall(struct.pack("!II", len(parameters) + 8, 196608) + parameters)
        self.until_ready()

    def until_ready(self):
        """Reads answers up to ReadyForQuery; returns their tags. An ErrorResponse is raised."""
        tags, at, data = bytearray(), 0, self.received
        while True:
            while len(data) - at >= 5:
                end = at + 1 + struct.unpack_from("!I", data, at + 1)[0]
                if len(data) < end:
                    break
                tag = data[at]
                if tag == ord("E"):
                    raise RuntimeError(data[at + 5 : end].replace(b"\0", b" ").decode(errors="replace"))
                tags.append(tag)
                at = end
                if tag == ord("Z"):
                    self.received = data[at:]
                    return bytes(tags)
            more = self.socket.recv(1 << 20)
            if not more:
                raise RuntimeError("the server closed the connection")
            data, at = data[at:] + more, 0

    def run(self, messages):
        """Sends messages in one write and waits for ReadyForQuery."""
        self.socket.sendall(messages)
        return self.until_ready()


def message(tag, body):
    return tag + struct.pack("!I", len(body) + 4) + body


def query(text):
    return message(b"Q", text.encode() + b"\0")


def parse(name, text):
    return message(b"P", name.encode() + b"\0" + text.encode() + b"\0" + struct.pack("!H", 0))


def bind(name, *values):
    """Binds text values to a statement, for the unnamed portal."""
    body = b"\0" + name.encode() + b"\0" + struct.pack("!HH", 0, len(values))
    for value in values:
        text = str(value).encode()
        body += struct.pack("!I", len(text)) + text
    return message(b"B", body + struct.pack("!H", 0))


DESCRIBE = message(b"D", b"P\0")
EXECUTE = message(b"E", b"\0" + struct.pack("!I", 0))
SYNC = message(b"S", b"")
