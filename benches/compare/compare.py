#!/usr/bin/env python3
"""CPU time for one request: the gateway beside nginx, which checks nothing, and HAProxy, which checks every token anew.
Run after `cargo build --release`; README.md tells how to read the table."""

import argparse
import os
import re
import shutil
import ssl
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

from stage import BINARY, Stage, free_port

# about, path, token, TLS, program, expected status
CASES = {
    "open": ("no token asked for", "/open/1", None, False, "wrk", 200),
    "token": ("one RS256 token, a scope", "/orders/1", "good", False, "wrk", 200),
    "tokens": ("1,000 RS256 tokens in turn", "/orders/1", "many", False, "wrk", 200),
    "tls": ("as token, TLS 1.3", "/orders/1", "good", True, "wrk", 200),
    "h2": ("as token, HTTP/2 over TLS 1.3", "/orders/1", "good", True, "h2load", 200),
    "handshake": ("a TLS connection for each request", "/open/1", None, True, "close", 200),
    "expired": ("an expired token", "/orders/1", "expired", False, "wrk", 401),
    "scope": ("a token without the scope", "/orders/1", "poor", False, "wrk", 403),
    "large": ("1 MiB answers", "/large", None, False, "wrk", 200),
    "large-tls": ("1 MiB answers, TLS 1.3", "/large", None, True, "wrk", 200),
}
WRK = """
local tokens, requests, turn = {}, {}, 0
for token in io.lines(os.getenv("BENCH_TOKENS")) do tokens[#tokens + 1] = token end
function init()
  for number, token in ipairs(tokens) do
    wrk.headers["Authorization"] = "Bearer " .. token
    requests[number] = wrk.format()
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
"""


class Peer:
    """A proxy under load. What checks no token answers 200 to all of them and is left out where that is not the case's."""

    def __init__(self, stage, name, arguments):
        self.name, self.checks = name, name != "nginx"
        self.ports = {"HTTP": free_port(), "TLS": free_port(), "ADMIN": free_port()}
        if name == "tollgate":
            routes = "".join(f'\n[[routes]]\nname = "r{n}"\npath = "/api{n}/**"\nupstream = "api"\nallow = [{{ public = true }}]\n' for n in range(arguments.routes))
            access = "true" if arguments.access_log else "false"
            config = stage.write("tollgate.toml", ACCESS=access, ROUTES=routes, **self.ports)
            command = [arguments.binary, "run", "-c", config]
        elif name == "nginx":
            command = ["nginx", "-e", "stderr", "-p", stage.folder, "-c", stage.write("nginx.conf", **self.ports)]
        else:
            command = ["haproxy", "-db", "-f", stage.write("haproxy.cfg", **self.ports)]
        self.process = stage.start(name, command, "gateway", wait_for=self.ports["HTTP"])

    def url(self, case):
        _, path, _, tls, _, _ = CASES[case]
        return f"https://127.0.0.1:{self.ports['TLS']}{path}" if tls else f"http://127.0.0.1:{self.ports['HTTP']}{path}"

    def runs(self, case):
        return self.checks or CASES[case][5] == 200

    def cpu(self):
        """Nanoseconds of all threads so far."""
        tasks = f"/proc/{self.process.pid}/task"
        return sum(int(open(f"{tasks}/{task}/schedstat").read().split()[0]) for task in os.listdir(tasks))

    def memory(self):
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{self.process.pid}/status").read()).group(1)) / 1024


def load(stage, peer, case, arguments):
    """Requests answered as the case wants, within its seconds."""
    _, _, token, _, program, status = CASES[case]
    seconds, connections = str(arguments.seconds), str(arguments.connections)
    file = stage.path(f"{token}.txt")
    field = ["-H", "Authorization: Bearer " + open(file).readline().strip()] if token and token != "many" else []
    if program == "h2load":
        command = ["h2load", "-t1", "-c", connections, "-m1", "-D", seconds, *field, peer.url(case)]
    else:
        close = ["-H", "Connection: close"] if program == "close" else []
        script = ["-s", stage.path("many.lua")] if token == "many" else []
        command = ["wrk", "-t1", "-c", connections, "-d", seconds + "s", *field, *close, *script, peer.url(case)]
    pinned = ["taskset", "-c", str(arguments.load_core), *command]
    out = subprocess.run(pinned, capture_output=True, text=True, timeout=arguments.seconds + 60, env={**os.environ, "BENCH_TOKENS": file})
    text = out.stdout
    if program == "h2load":
        done, wrong = (int(number) for number in re.search(r"(\d+) succeeded, (\d+) failed", text).groups())
        return done, wrong
    done = int(re.search(r"(\d+) requests in", text).group(1))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    refused = int(refused.group(1)) if refused else 0
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    # With a connection for each request, wrk counts some of the ends that it asked for as errors of reading.
    broken = 0 if broken is None or program == "close" else sum(map(int, broken.groups()))
    return done, broken + (refused if status == 200 else done - refused)


def check(stage, peer, case):
    """Whether the first answer is what the case is about."""
    _, _, token, tls, _, status = CASES[case]
    request = urllib.request.Request(peer.url(case))
    if token:
        request.add_header("Authorization", "Bearer " + open(stage.path(f"{token}.txt")).readline().strip())
    context = ssl._create_unverified_context() if tls else None
    try:
        got = urllib.request.urlopen(request, timeout=10, context=context).status
    except urllib.error.HTTPError as error:
        got = error.code
    if got != status:
        sys.exit(f"{peer.name} answers {got} in place of {status} in case {case}")


def tokens(stage, many):
    single = {"good": stage.token(1), "expired": stage.token(2, exp=1), "poor": stage.token(3, scope="profile")}
    for name, token in single.items():
        open(stage.path(f"{name}.txt"), "w").write(token + "\n")
    if many:
        open(stage.path("many.txt"), "w").writelines(stage.token(number) + "\n" for number in range(10, 1010))
    open(stage.path("many.lua"), "w").write(WRK)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default=BINARY)
    parser.add_argument("--peers", default="tollgate,nginx,haproxy")
    parser.add_argument("--cases", default="open,token,tokens,tls,h2,handshake,expired,scope", help="of: " + ", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2, help="of each round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--gateway-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1, help="of the load generator and the upstream")
    parser.add_argument("--routes", type=int, default=0, help="further routes in the gateway's configuration")
    parser.add_argument("--access-log", action="store_true", help="have the gateway write its access log")
    arguments = parser.parse_args()
    peers, cases = arguments.peers.split(","), arguments.cases.split(",")
    programs = {"haproxy" if "haproxy" in peers else "nginx", "taskset", "h2load" if "h2" in cases else "wrk", "wrk"}
    missing = [program for program in sorted(programs) if not shutil.which(program)]
    if missing:
        sys.exit("please install: " + " ".join(missing))
    with Stage(arguments.gateway_core, arguments.load_core) as stage:
        tokens(stage, "tokens" in cases)
        peers = [Peer(stage, name, arguments) for name in peers]
        print("| case | " + " | ".join(f"{peer.name} us | MiB" for peer in peers) + " | wrong |")
        print("| --- |" + " ---: | ---: |" * len(peers) + " ---: |")
        for case in cases:
            here = [peer for peer in peers if peer.runs(case)]
            cost, memory, wrong = {peer: [] for peer in here}, {}, 0
            for peer in here:
                check(stage, peer, case)
            for turn in range(arguments.rounds + 1):
                # A B C, C B A, ...: what slows the machine down slows all of them down. The first round warms up.
                for peer in here if turn % 2 else reversed(here):
                    before = peer.cpu()
                    done, bad = load(stage, peer, case, arguments)
                    if turn:
                        cost[peer].append((peer.cpu() - before) / 1000 / max(1, done))
                        memory[peer] = peer.memory()
                        wrong += bad
            cells = [f"{statistics.median(cost[peer]):.1f} | {memory[peer]:.1f}" if peer in cost else "- | -" for peer in peers]
            print(f"| {case}: {CASES[case][0]} | " + " | ".join(cells) + f" | {wrong} |", flush=True)


if __name__ == "__main__":
    main()
