"""A proxy before a server of the Tinker protocol: it counts the tokens that the server is given, and kills clients."""

import http.client
import json
import os
import signal
import threading
from collections import Counter
from urllib.parse import urlsplit

from loopback_server import LoopbackServer
from tinker_server import tokens_of


class TinkerProxy(LoopbackServer):
    """`kill` is (endpoint, number, "before" or "after"): `pid` is killed before that request of a session is passed on,
    or after the server has answered it; the client never has the answer.
    """

    def __init__(self, upstream):
        super().__init__()
        self.upstream, self.tokens, self.samples = urlsplit(upstream).netloc, 0, 0
        self.kill, self.pid = None, 0
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def arm(self, kill):
        """For the next session: when its process is killed."""
        self.kill, self.asked = kill, Counter()

    def answer_request(self, handler, body):
        endpoint = handler.path.rpartition("/")[2]
        with self._lock:
            self.asked[endpoint] += 1
            moment = endpoint, self.asked[endpoint]
        if self.kill == (*moment, "before"):
            os.kill(self.pid, signal.SIGKILL)
            return
        if endpoint == "forward_backward":
            self.tokens += tokens_of(json.loads(body))
        server = http.client.HTTPConnection(self.upstream)
        headers = {name: value for name, value in handler.headers.items() if name.lower() != "host"}
        server.request(handler.command, handler.path, body, headers)
        answer = server.getresponse()
        content = answer.read()
        server.close()
        if self.kill == (*moment, "after"):
            os.kill(self.pid, signal.SIGKILL)
            return
        try:
            handler.send_response(answer.status)
            handler.send_header("content-length", str(len(content)))
            for name in ("content-type", "location"):
                if value := answer.headers.get(name):
                    handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:  # the client was killed meanwhile
            handler.close_connection = True
