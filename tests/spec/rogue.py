#!/usr/bin/env python3
"""A server that answers in a bad way, for bad_input_spec.lua: rogue.py MODE. Prints its port and serves until its
standard input ends. A MODE "prompt-X" or "frames-X" is a ComfyUI server as far as /system_stats and the socket go."""
import base64
import hashlib
import json
import os
import socket
import struct
import sys
import threading

mode = sys.argv[1]
STATS = json.dumps({"system": {"os": "posix", "comfyui_version": "0.18.1", "python_version": "3"}, "devices": []}).encode()


def reply(c, status, body, kind="application/json", extra=b"", length=None):
    c.sendall(b"HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n" % (status, kind.encode(), len(body) if length is None else length, extra) + body)


def bad(c, how):
    """One bad answer; False: the connection is over."""
    if how == "html":
        reply(c, 200, b"<!DOCTYPE html><title>nginx</title>", "text/html")
    elif how == "redirect":
        reply(c, 302, b"", "text/html", b"Location: /login\r\n")
    elif how == "loop":
        reply(c, 302, b"", "text/html", b"Location: /system_stats\r\n")
    elif how.isdigit():
        reply(c, int(how), b"<h1>no</h1>", "text/html")
    elif how == "cut":
        reply(c, 200, b'{"system": {"comf', length=1000)
        return False
    elif how == "cuthead":
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Ty")
        return False
    elif how == "nothttp":
        c.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        return False
    elif how == "nothing":
        return False
    elif how == "empty":
        reply(c, 200, b"")
    elif how == "json":
        reply(c, 200, b"[]")
    elif how == "object":
        reply(c, 200, b"{}")
    elif how == "deep":
        reply(c, 200, b"[" * 200000)
    elif how == "nul":
        reply(c, 200, b'{"prompt_id": "\0", "system": "\xff\xfe"}')
    elif how == "manyheaders":
        c.sendall(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 100) for i in range(3000)) + b"Content-Length: 0\r\n\r\n")
        return False
    elif how == "longline":
        c.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 500000)
        return False
    elif how == "neglength":
        reply(c, 200, b"{}", length=-5)
        return False
    return True


def frame(op, data, fin=0x80):
    n = len(data)
    head = struct.pack("!BB", fin | op, n) if n < 126 else struct.pack("!BBH", fin | op, 126, n) if n < 65536 else struct.pack("!BBQ", fin | op, 127, n)
    return head + data


def text(value):
    return frame(1, json.dumps(value).encode())


def be(*numbers):
    return struct.pack("!%dI" % len(numbers), *numbers)


FRAMES = {
    "short": [frame(2, b""), frame(2, b"\0\0\0"), frame(2, be(1)), frame(1, b"")],
    "length": [frame(2, be(4, 0xFFFFFFFF) + b"{}"), frame(2, be(3, 500) + b"x"), frame(2, be(4, 2) + b"[]"), frame(2, be(4, 3) + b"{]}x")],
    "kind": [frame(2, be(99, 1) + b"x"), frame(2, be(0, 0)), frame(2, be(0xFFFFFFFF, 0xFFFFFFFF))],
    "utf8": [frame(1, b'{"type": "status\xff\xfe", "data": {"\xc0\x80": 1}}'), frame(1, b"\xff\xff\xff\xff")],
    "unknown": [text({"type": "no_such_type", "data": {"a": [1, {"b": None}]}}), text({"type": "crystools.monitor", "data": 5})],
    "nojson": [frame(1, b"hello"), frame(1, b"{"), frame(1, b'{"type": "status", "data": '), frame(1, b"[1, 2]"), frame(1, b"null"), frame(1, b'"x"'), frame(1, b"{}")],
    "types": [text({"type": 5, "data": {}}), text({"type": "status", "data": []}), text({"type": "status", "data": {"status": 7}}), text({"type": "progress", "data": {"value": "x", "max": {}, "node": 3}}),
              text({"type": "executing", "data": {"node": [], "prompt_id": 7}}), text({"type": "executed", "data": "x"}), text({"type": "execution_cached", "data": {"nodes": {}}}),
              text({"type": "progress_state", "data": {"nodes": [1]}}), text({"type": "execution_error", "data": None}), frame(1, b'{"type": "progress", "data": {"value": 1e999, "max": NaN}}')],
    "deep": [frame(1, b'{"type": "status", "data": ' + b"[" * 100000 + b"]" * 100000 + b"}"), frame(1, b'{"type": "x", "data": ' + b'{"a":' * 100000 + b"1" + b"}" * 100000 + b"}"), frame(1, b"[" * 1000000)],
    "huge": [struct.pack("!BBQ", 0x81, 127, 100 << 20) + b'{"type": "' + b"x" * (2 << 20)],
    "endless": [frame(1, b"x" * 65536, 0)] + [frame(0, b"x" * 65536, 0)] * 2000,
    "absurd": [struct.pack("!BBQ", 0x82, 127, 0x7FFFFFFFFFFFFFFF) + b"x" * 1000],
    "negative": [struct.pack("!BBQ", 0x82, 127, 0xFFFFFFFFFFFFFFFF) + b"x" * 1000],
    "opcode": [frame(5, b"x"), frame(15, b"y")],
    "reserved": [frame(1, b"x", 0xF0)],
    "masked": [struct.pack("!BB", 0x81, 0x82) + b"abcd" + b"xy"],
    "control": [struct.pack("!BBH", 0x89, 126, 1000) + b"x" * 1000],
    "orphan": [frame(0, b"continuation of nothing")],
    "close": [frame(8, b"\x03"), frame(8, struct.pack("!H", 5) + b"\xff\xff")],
    "pings": [frame(9, b"ping")] * 2000,
    "raw": [os.urandom(65536)],
    "flood": [text({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": i}}}}) for i in range(20000)],
    "ours": [text({"type": "executing", "data": {"node": None, "prompt_id": "no-prompt-of-anybody"}}), text({"type": "execution_success", "data": {"prompt_id": ""}})],
}


def socket_of(c, key):
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    c.sendall(text({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "x"}}))
    if mode.startswith("frames-"):
        for f in FRAMES[mode[7:]]:
            c.sendall(f)
    while c.recv(4096):
        pass


def request(c, data):
    """Reads one request; its head and the bytes after its body."""
    while b"\r\n\r\n" not in data:
        more = c.recv(65536)
        if not more:
            return None
        data += more
    head, rest = data.split(b"\r\n\r\n", 1)
    fields = {k.strip().lower(): v.strip() for k, v in (line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)}
    n = int(fields.get(b"content-length", 0))
    while len(rest) < n:
        more = c.recv(65536)
        if not more:
            return None
        rest += more
    return head.split(b" "), fields, rest[:n], rest[n:]


def good(c, path, fields, body):
    if path.startswith(b"/ws"):
        if mode == "ws-403":
            reply(c, 403, b"")
            return True
        if mode == "ws-200":
            reply(c, 200, b"{}")
            return True
        if mode == "ws-accept":
            c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n")
            return False
        socket_of(c, fields[b"sec-websocket-key"])
        return False
    if path == b"/system_stats":
        reply(c, 200, STATS)
    elif path == b"/prompt" and mode == "prompt-forget":
        reply(c, 200, json.dumps({"prompt_id": json.loads(body).get("prompt_id", "x"), "number": 1, "node_errors": {}}).encode())
    elif path == b"/prompt":
        return bad(c, mode[7:] if mode.startswith("prompt-") else "500")
    elif path == b"/queue" and mode.startswith("queue-"):
        return bad(c, mode[6:])
    elif path == b"/queue":
        reply(c, 200, b'{"queue_running": [], "queue_pending": []}')
    else:
        reply(c, 200, b"{}")
    return True


def serve(c):
    data = b""
    try:
        while True:
            r = request(c, data)
            if not r:
                break
            first, fields, body, data = r
            comfy = mode.startswith(("prompt-", "frames-", "ws-", "queue-"))
            if not (good(c, first[1], fields, body) if comfy else bad(c, mode)):
                break
    except OSError:
        pass
    c.close()


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(64)
print(listener.getsockname()[1], flush=True)


def accept():
    while True:
        c, _ = listener.accept()
        threading.Thread(target=serve, args=(c,), daemon=True).start()


threading.Thread(target=accept, daemon=True).start()
sys.stdin.read()
os._exit(0)
