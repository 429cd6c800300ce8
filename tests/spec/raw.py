"""raw.py PORT: bytes to a server, and what comes back. A step a line of standard input:
"> TEXT" sends (with backslash escapes), "=" prints the next reply (status and body), "f" the next WebSocket frame (its
first byte, its size, how it begins), "$" all until the end of the connection, "!" ends our side, "?" asks something on a connection of its own, after which all sent before has been seen."""
import socket, sys

port = int(sys.argv[1])


def connect():
    s = socket.create_connection(("127.0.0.1", port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.settimeout(30)
    return s


class Reader:
    def __init__(self, s):
        self.s, self.data = s, b""

    def more(self):
        try:
            got = self.s.recv(65536)
        except ConnectionResetError:
            got = b""
        self.data += got
        return got

    def reply(self):
        while b"\r\n\r\n" not in self.data:
            if not self.more():
                return "closed"
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        status, length = head.split(b" ")[1].decode(), 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        while len(self.data) < length:
            if not self.more():
                return status + " cut"
        body, self.data = self.data[:length], self.data[length:]
        return (status + " " + body[:60].decode(errors="replace")).strip()

    def take(self, n):
        while len(self.data) < n and self.more():
            pass
        got, self.data = self.data[:n], self.data[n:]
        return got

    def frame(self):
        head = self.take(2)
        if len(head) < 2:
            return "closed"
        size, wide = head[1], {126: 2, 127: 8}.get(head[1], 0)
        if wide:
            size = int.from_bytes(self.take(wide), "big")
        return "%02x %d %s" % (head[0], size, self.take(size)[:60].decode(errors="replace"))


s = connect()
r = Reader(s)
for step in sys.stdin.read().split("\n"):
    if step.startswith("> "):
        s.sendall(step[2:].encode().decode("unicode_escape").encode("latin-1"))
    elif step == "=":
        print(r.reply())
    elif step == "f":
        print(r.frame(), flush=True)
    elif step == "$":
        while r.more():
            pass
        print(r.data.decode(errors="replace"))
    elif step == "!":
        s.shutdown(socket.SHUT_WR)
    elif step == "?":
        other = connect()
        other.sendall(b"GET /prompt HTTP/1.1\r\nHost: x\r\n\r\n")
        Reader(other).reply()
        other.close()
