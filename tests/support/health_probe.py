"""How fast a server's /health answers, asked again and again over new connections, as a program of its own.

python health_probe.py URL SECONDS

Prints the latencies and the worst delay of a timer here, in seconds, as JSON. In the process of a crowd's clients the
probe would wait for them, too, and take that for the server's latency.
"""

import json
import sys
import time
import urllib.request

PAUSE_SECONDS = 0.1


def main() -> None:
    url, seconds = sys.argv[1], float(sys.argv[2])
    took, late = [], 0.0
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        with urllib.request.urlopen(f"{url}/health", timeout=30) as response:
            assert json.load(response)["status"] == "ok"
        took.append(time.monotonic() - began)
        asleep = time.monotonic()
        time.sleep(PAUSE_SECONDS)
        late = max(late, time.monotonic() - asleep - PAUSE_SECONDS)
    print(json.dumps({"took": took, "late": late}))


main()
