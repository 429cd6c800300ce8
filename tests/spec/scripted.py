#!/usr/bin/env python3
"""ComfyUI servers that do as a spec tells them. Prints the port of the first one and serves until its standard input
ends. They run nothing; what a prompt gives is in the settings. POST /_new gives the port of another server with these
settings, /_set changes some, /_seen tells all requests so far, /_heard what was said on sockets, /_go runs what is held,
/_drop cuts the sockets, /_say sends texts as they are, /_end closes the server."""
import base64
import copy
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

SETTINGS = {
    "version": "0.18.1",      # as /system_stats tells it
    "prefix": "",             # every path begins with this
    "auth": {},               # headers that every request must carry
    "ws": 101,                # or the status that /ws is answered with
    "pongs": True,            # pings are answered
    "own_ids": True,          # takes our prompt ids
    "early": False,           # all messages of a prompt go out before the reply to its POST
    "hold": "",               # "pending" or "running": prompts stop there until /_go
    "errors": [],             # one for each next run: {"type", "message", "node"}, or null for none
    "outputs": {"9": {"images": [{"filename": "a_00001_.png", "subfolder": "", "type": "output"}]}},
    "frames": {},             # node -> [{"kind": 4 or 1, "format": 1 or 2, "data"}], sent while it executes
    "cached": [],             # nodes told as cached
    "models": ["sd15.safetensors", "sdxl.safetensors"],
    "without": [],            # classes that are not installed
    "status": {},             # path -> statuses for its next requests; 0: the connection is cut; -1: after it was done
                              # as asked, the connection is cut instead of a reply
    "view": {},               # file name -> {"data"} or {"size"}, "short", "hang": how many answers end too early, stop half-way
    "names": {},              # uploads: name sent -> name given
    "raw": {},                # "METHOD /path" with which a request begins -> text that it is answered with; {ID} is the path's last part
    "gone": [],               # pictures that LoadImage does not find, until they are uploaded
}

MODEL, CLIP, VAE, LATENT, IMAGE, MASK, COND = ["MODEL"], ["CLIP"], ["VAE"], ["LATENT"], ["IMAGE"], ["MASK"], ["CONDITIONING"]
INT, FLOAT, STRING = ["INT", {"default": 1}], ["FLOAT", {"default": 1.0}], ["STRING", {}]
CLASSES = {                   # name -> required inputs, outputs, whether it is an output node
    "CheckpointLoaderSimple": ({}, ["MODEL", "CLIP", "VAE"], False),
    "EmptyLatentImage": ({"width": INT, "height": INT, "batch_size": INT}, LATENT, False),
    "CLIPTextEncode": ({"text": STRING, "clip": CLIP}, COND, False),
    "KSampler": ({"model": MODEL, "seed": INT, "steps": INT, "cfg": FLOAT, "sampler_name": [["euler"]], "scheduler": [["normal"]], "positive": COND,
                  "negative": COND, "latent_image": LATENT, "denoise": FLOAT}, LATENT, False),
    "VAEDecode": ({"samples": LATENT, "vae": VAE}, IMAGE, False),
    "LoadImage": ({"image": [[], {"image_upload": True}]}, ["IMAGE", "MASK"], False),
    "LoadImageMask": ({"image": [[], {"image_upload": True}], "channel": [["alpha", "red"]]}, MASK, False),
    "ImageInvert": ({"image": IMAGE}, IMAGE, False),
    "SaveImage": ({"images": IMAGE, "filename_prefix": STRING}, [], True),
    "PreviewImage": ({"images": IMAGE}, [], True),
    "SaveImageWebsocket": ({"images": IMAGE}, [], True),
}


def frame(op, data):
    n = len(data)
    return (struct.pack("!BB", 0x80 | op, n) if n < 126 else struct.pack("!BBH", 0x80 | op, 126, n) if n < 65536 else struct.pack("!BBQ", 0x80 | op, 127, n)) + data


def parts_of(kind, body):
    mark = b"--" + kind.split("boundary=", 1)[1].strip('"').encode()
    parts = []
    for piece in body.split(mark)[1:-1]:
        head, data = piece[2:-2].split(b"\r\n\r\n", 1)
        fields = {}
        for field in head.decode("utf-8").split(";"):
            if "=" in field:
                name, value = field.strip().split("=", 1)
                fields[name] = value.split("\r\n")[0].strip('"')
        parts.append({"name": fields.get("name"), "filename": fields.get("filename"), "size": len(data), "data": data.decode("latin-1") if len(data) <= 1 << 20 else ""})
    return parts


class Prompt:
    def __init__(self, server, body):
        own = server.settings["own_ids"] and body.get("prompt_id")
        self.server = server
        self.id = own or str(uuid.uuid4())
        self.sid = body.get("client_id")
        self.number = server.number
        self.nodes = body["prompt"]
        self.extra = dict(body.get("extra_data") or {}, client_id=self.sid, create_time=int(time.time() * 1000))
        self.running = False
        self.messages = []
        server.number += 1

    def item(self):
        return [self.number, self.id, self.nodes, self.extra, [n for n in self.nodes if n in self.server.settings["outputs"]]]

    def say(self, kind, **data):
        self.server.say(self.sid, kind, dict(data, prompt_id=self.id))

    def stamped(self, kind, **data):
        data = dict(data, prompt_id=self.id, timestamp=int(time.time() * 1000))
        self.messages.append([kind, data])
        self.server.say(self.sid, kind, data)

    def start(self):
        self.running = True
        self.server.status()
        self.stamped("execution_start")
        self.stamped("execution_cached", nodes=self.server.settings["cached"])

    def frames(self, node):
        """What a sampler or SaveImageWebsocket sends while it executes."""
        frames = self.server.settings["frames"].get(node, [])
        for i, f in enumerate(frames):
            data = f["data"].encode("latin-1")
            if f["kind"] == 4:
                meta = json.dumps({"node_id": node, "prompt_id": self.id, "display_node_id": node, "parent_node_id": None, "real_node_id": node,
                                   "image_type": "image/png" if f["format"] == 2 else "image/jpeg"}).encode()
                self.server.to(self.sid, 2, struct.pack("!II", 4, len(meta)) + meta + data)
            self.say("progress", value=i, max=len(frames), node=node)
            if f["kind"] == 1:
                self.server.to(self.sid, 2, struct.pack("!II", 1, f["format"]) + data)

    def execute(self):
        """The outputs, and whether all went well."""
        s = self.server.settings
        outputs = {}
        error = s["errors"].pop(0) if s["errors"] else None
        for node, n in self.nodes.items():
            if node not in s["cached"]:
                self.say("executing", node=node, display_node=node)
            if error and node == error.get("node", node):
                self.stamped("execution_error", node_id=node, node_type=n["class_type"], executed=[], exception_message=error["message"] + "\n",
                             exception_type=error["type"], traceback=[], current_inputs={}, current_outputs=[])
                return outputs, False
            self.frames(node)
            if node in s["outputs"]:
                self.say("executed", node=node, display_node=node, output=s["outputs"][node])
                if s["outputs"][node] is not None:
                    outputs[node] = s["outputs"][node]
        self.stamped("execution_success")
        return outputs, True

    def end(self, interrupted=False):
        outputs, good = {}, False
        if interrupted:
            node, n = next(iter(self.nodes.items()))
            self.stamped("execution_interrupted", node_id=node, node_type=n["class_type"], executed=[])
        else:
            outputs, good = self.execute()
        self.server.history[self.id] = {"prompt": self.item(), "outputs": outputs, "meta": {},
                                        "status": {"status_str": "success" if good else "error", "completed": good, "messages": self.messages}}
        self.server.queue.remove(self)
        self.server.status()
        self.say("executing", node=None)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, settings):
        super().__init__(("127.0.0.1", 0), Handler)
        self.settings = dict(copy.deepcopy(SETTINGS), **settings)
        self.lock = threading.RLock()
        self.seen, self.heard, self.sockets, self.queue, self.history = [], [], {}, [], {}
        self.number = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def server_bind(self):
        socket.socket.bind(self.socket, self.server_address)             # without asking for the host's name
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address

    def handle_error(self, *_):
        pass

    def to(self, sid, op, data):
        """To one client, or with sid None to all."""
        for key in [sid] if sid is not None else list(self.sockets):
            if key in self.sockets:
                try:
                    self.sockets[key].sendall(frame(op, data))
                except OSError:
                    pass

    def say(self, sid, kind, data):
        self.to(sid, 1, json.dumps({"type": kind, "data": data}).encode())

    def status(self):
        self.say(None, "status", {"status": {"exec_info": {"queue_remaining": len(self.queue)}}})

    def drop(self):
        for s in self.sockets.values():
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def work(self):
        """Runs what may run."""
        while self.queue and self.settings["hold"] != "pending":
            if not self.queue[0].running:
                self.queue[0].start()
            if self.settings["hold"] == "running":
                return
            self.queue[0].end()

    def catalogue(self):
        info = {}
        for name, (required, output, is_output) in CLASSES.items():
            if name in self.settings["without"]:
                continue
            if name == "CheckpointLoaderSimple":
                required = {"ckpt_name": [self.settings["models"]]}
            info[name] = {"input": {"required": required}, "input_order": {"required": list(required)}, "output": output, "output_is_list": [False] * len(output),
                          "output_name": output, "name": name, "display_name": name, "description": "", "python_module": "nodes", "category": "x", "output_node": is_output}
        return info

    def refusal(self, prompt):
        """The body of a 400, or None."""
        info, models, errors = self.catalogue(), self.settings["models"], {}
        for node, n in prompt.items():
            c = n.get("class_type")
            if c not in info:
                return {"error": {"type": "missing_node_type", "message": "Node '%s' not found. The custom node may not be installed." % c, "details": "Node ID '#%s'" % node,
                                  "extra_info": {"node_id": node, "class_type": c, "node_title": c}}, "node_errors": {}}
            value = n["inputs"].get("image")
            if c == "LoadImage" and value in self.settings["gone"]:
                errors[node] = {"errors": [{"type": "custom_validation_failed", "message": "Custom validation failed for node",
                                            "details": "image - Invalid image file: " + value, "extra_info": {"input_name": "image"}}],
                                "dependent_outputs": ["9"], "class_type": c}
            value = n["inputs"].get("ckpt_name")
            if c == "CheckpointLoaderSimple" and value not in models:
                errors[node] = {"errors": [{"type": "value_not_in_list", "message": "Value not in list", "details": "ckpt_name: '%s' not in %s" % (value, models),
                                            "extra_info": {"input_name": "ckpt_name", "input_config": [models, {}], "received_value": value}}],
                                "dependent_outputs": ["9"], "class_type": c}
        if not errors:
            return None
        return {"error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": "", "extra_info": {}}, "node_errors": errors}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    mute = hang = False

    def log_message(self, *_):
        pass

    def give(self, code, body=b"", kind="application/json", length=None):
        if self.mute:
            self.mute = False
            self.close_connection = True
            return
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self):
        self.serve(b"")

    def do_POST(self):
        self.serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def control(self, path, value):
        s, answer = self.server, {}
        with s.lock:
            if path == "/_new":
                answer = Server(value).server_address[1]
            elif path == "/_set":
                s.settings.update(value)
                s.work()
            elif path == "/_seen":
                answer = s.seen
            elif path == "/_heard":
                answer = s.heard
            elif path == "/_go":
                held, s.settings["hold"] = s.settings["hold"], ""
                s.work()
                s.settings["hold"] = held
            elif path == "/_say":
                for text in value:
                    s.to(None, 1, text.encode())
            else:
                s.drop()
            self.give(200, answer)
        if path == "/_end":
            s.shutdown()
            s.server_close()

    def serve(self, body):
        server, url = self.server, urlsplit(self.path)
        path, settings = url.path, self.server.settings
        if path.startswith("/_"):
            self.control(path, json.loads(body or b"null"))
            return
        kind = self.headers.get("Content-Type", "")
        seen = {"method": self.command, "path": path, "query": url.query, "headers": {k.lower(): v for k, v in self.headers.items()}}
        if kind.startswith("multipart/"):
            seen["parts"] = parts_of(kind, body)
        else:
            seen["body"] = body.decode("utf-8", "replace")
        with server.lock:
            server.seen.append(seen)
            if not path.startswith(settings["prefix"] + "/"):
                self.give(404)
                return
            path = path[len(settings["prefix"]):]
            if path.startswith("/api/") and not path.startswith("/api/jobs"):
                path = path[4:]
            if any(self.headers.get(k) != v for k, v in settings["auth"].items()):
                self.give(401, b"<h1>401</h1>", "text/html")
                return
            due = settings["status"].get(path)
            code = due.pop(0) if due else 200
            if code < 0:
                self.mute, code = True, 200
            if code == 0:
                self.close_connection = True
            elif code != 200:
                self.give(code, b"<h1>no</h1>", "text/html")
            elif path != "/ws":
                self.answer(path, {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}, body, seen)
            elif settings["ws"] != 101:
                self.give(settings["ws"])
        if self.hang:                                # until whoever asked has hung up
            self.rfile.read(1)
        elif code == 200 and path == "/ws" and settings["ws"] == 101:
            self.socket_of(parse_qs(url.query).get("clientId", ["x"])[0])

    def answer(self, path, query, body, seen):
        s = self.server
        raw = next((text for begin, text in s.settings["raw"].items() if (self.command + " " + path).startswith(begin)), None)
        if raw is not None:
            self.give(200, raw.replace("{ID}", path.rsplit("/", 1)[-1]).encode())
        elif path == "/system_stats":
            self.give(200, {"system": {"os": "linux", "comfyui_version": s.settings["version"], "python_version": "3", "argv": []},
                            "devices": [{"name": "scripted", "type": "cuda", "index": 0, "vram_total": 1 << 34, "vram_free": 1 << 34, "torch_vram_total": 0, "torch_vram_free": 0}]})
        elif path == "/prompt" and self.command == "POST":
            value = json.loads(body)
            bad = s.refusal(value["prompt"])
            if bad:
                self.give(400, bad)
                return
            p = Prompt(s, value)
            s.queue.append(p)
            s.status()
            if s.settings["early"]:
                s.work()
            self.give(200, {"prompt_id": p.id, "number": p.number, "node_errors": {}})
            s.work()
        elif path == "/queue" and self.command == "POST":
            for gone in json.loads(body).get("delete", []):
                for p in [p for p in s.queue if p.id == gone and not p.running]:
                    s.queue.remove(p)
                    s.status()
            self.give(200, b"", "application/octet-stream")
        elif path == "/queue":
            self.give(200, {"queue_running": [p.item() for p in s.queue if p.running], "queue_pending": [p.item() for p in s.queue if not p.running]})
        elif path == "/interrupt":
            wanted = json.loads(body or b"{}").get("prompt_id")
            if s.queue and s.queue[0].running and wanted in (None, s.queue[0].id):
                s.queue[0].end(True)
            self.give(200, b"", "application/octet-stream")
            s.work()
        elif path.startswith("/history/"):
            key = unquote(path[9:])
            self.give(200, {key: s.history[key]} if key in s.history else {})
        elif path == "/history":
            self.give(200, s.history)
        elif path == "/object_info":
            self.give(200, s.catalogue())
        elif path.startswith("/object_info/"):
            name = unquote(path[13:])
            self.give(200, {name: s.catalogue()[name]} if name in s.catalogue() else {})
        elif path in ("/upload/image", "/upload/mask"):
            fields = {p["name"]: p for p in seen["parts"]}
            name = fields["image"]["filename"]
            s.settings["gone"] = [n for n in s.settings["gone"] if n != name]
            self.give(200, {"name": s.settings["names"].get(name, name), "subfolder": fields.get("subfolder", {}).get("data", ""), "type": fields.get("type", {}).get("data", "input")})
        elif path == "/view":
            self.view(query["filename"])
        elif path == "/free":
            self.give(200, b"", "application/octet-stream")
        elif path == "/features":
            self.give(200, {"supports_preview_metadata": True, "max_upload_size": 104857600})
        elif path == "/models/checkpoints":
            self.give(200, s.settings["models"])
        else:
            self.give(404, b"404: Not Found", "text/plain")

    def view(self, name):
        how = self.server.settings["view"].get(name, {"data": "bytes of " + name})
        data = how["data"].encode("utf-8") if "data" in how else b"0123456789abcdef" * (how["size"] // 16)
        end = next((k for k in ("short", "hang") if how.get(k, 0) > 0), None)
        if end:
            how[end] -= 1
            self.close_connection, self.hang = True, end == "hang"
            self.give(200, data[:len(data) // 2], "application/octet-stream", len(data))
        else:
            self.give(200, data, "application/octet-stream")

    def socket_of(self, sid):
        server, c = self.server, self.connection
        accept = base64.b64encode(hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self.close_connection = True
        with server.lock:
            c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            server.sockets[sid] = c
            server.say(sid, "status", {"status": {"exec_info": {"queue_remaining": len(server.queue)}}, "sid": sid})
        try:
            while True:
                head = self.rfile.read(2)
                if len(head) < 2:
                    break
                op, n = head[0] & 15, head[1] & 127
                n = n if n < 126 else struct.unpack("!H", self.rfile.read(2))[0] if n == 126 else struct.unpack("!Q", self.rfile.read(8))[0]
                mask = self.rfile.read(4)
                data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(n)))
                with server.lock:
                    if op == 8:
                        c.sendall(frame(8, data))
                        break
                    if op == 1:
                        server.heard.append({"sid": sid, "text": data.decode("utf-8", "replace")})
                    if op == 9 and server.settings["pongs"]:
                        c.sendall(frame(10, data))
        except OSError:
            pass
        with server.lock:
            if server.sockets.get(sid) is c:
                del server.sockets[sid]


print(Server({}).server_address[1], flush=True)
sys.stdin.read()
os._exit(0)
