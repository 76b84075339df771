"""A server on loopback whose owner is given every request whole."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LoopbackServer:
    """`with LoopbackServer() as server:`; a subclass says what becomes of a request, in `answer_request`."""

    def __init__(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet

            def handle_any(self):
                server.answer_request(self, self.rfile.read(int(self.headers.get("content-length") or 0)))

            do_GET = do_POST = do_DELETE = handle_any

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def answer_request(self, handler, body):
        """Answer by the methods of the handler (`http.server`); `body` is in bytes."""
        raise NotImplementedError
