"""The API that was there before the bridge, as Python's own servers have it: `http.server` answers by HTTP/1.0, so each
answer ends with its connection, and `websockets` listens elsewhere. It says where on stdout, and ends with its stdin."""

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from websockets.sync.server import serve


class OldApi(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/api/me":
            return self.send_error(404)
        names = {"by": "X-Forwarded-For", "proto": "X-Forwarded-Proto", "via": "Via", "host": "Host"}
        self.answer({name: self.headers[field] for name, field in names.items()})

    def do_POST(self):
        # Proxies may have made the chunks one piece.
        parts = self.rfile.read(int(self.headers["Content-Length"] or 0))
        while not self.headers["Content-Length"] and (size := int(self.rfile.readline(), 16)):
            parts += self.rfile.read(size)
            self.rfile.readline()
        self.answer({"parts": parts.decode()})

    def answer(self, value):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_):
        pass


def live(socket):
    socket.send(json.dumps({"address": socket.request.headers["X-Forwarded-For"]}))
    for message in socket:
        if message == "bye":
            return socket.close(4001, "later")
        socket.send(message)


http = ThreadingHTTPServer(("127.0.0.1", 0), OldApi)
websockets = serve(live, "127.0.0.1", 0)
for server in http, websockets:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print("LISTENING", json.dumps([http.server_port, websockets.socket.getsockname()[1]]), flush=True)
sys.stdin.read()
os._exit(0)
