#!/usr/bin/env python3
"""User instructions of the gateway for one request, counted by callgrind: no clock, so no noise. Two runs that differ in
the number of requests are compared, so that start and end cancel out. Run after `cargo build --release`."""

import argparse
import os
import re
import socket
import ssl
import sys

from stage import BINARY, Stage, free_port

# path, which token, over TLS
CASES = {
    "open": ("/open/1", None, False),
    "token": ("/orders/1", "good", False),
    "expired": ("/orders/1", "expired", False),
    "scope": ("/orders/1", "poor", False),
    "tls": ("/orders/1", "good", True),
}


def ask(connections, request, rounds):
    """Each round is one request on every connection, written before the first answer is read."""
    for _ in range(rounds):
        for connection in connections:
            connection.sendall(request)
        for connection in connections:
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536) or sys.exit("the gateway closed the connection")
            head, _, body = answer.partition(b"\r\n\r\n")
            length = int(re.search(rb"\r\ncontent-length: *(\d+)", head.lower()).group(1))
            while len(body) < length:
                body += connection.recv(65536)
    return head


def run(stage, case, arguments, rounds):
    path, token, tls = CASES[case]
    ports = {"HTTP": free_port(), "TLS": free_port(), "ADMIN": free_port()}
    access = "true" if arguments.access_log else "false"
    config = stage.write("tollgate.toml", ACCESS=access, ROUTES="", **ports)
    out = arguments.keep or stage.path("callgrind.out")
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--", arguments.binary, "run", "-c", config]
    process = stage.start("tollgate", command, "gateway", wait_for=ports["TLS"])
    field = f"Authorization: Bearer {stage.tokens[token]}\r\n" if token else ""
    request = f"GET {path} HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench\r\nAccept: */*\r\n{field}\r\n".encode()
    connections = [socket.create_connection(("127.0.0.1", ports["TLS" if tls else "HTTP"])) for _ in range(arguments.connections)]
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connections = [context.wrap_socket(connection) for connection in connections]
    head = ask(connections, request, rounds)
    for connection in connections:
        connection.close()
    process.terminate()
    process.wait(60)
    # One file for the process and none for each thread; its last total is that of the whole run.
    count = int(re.findall(r"^(?:summary|totals): (\d+)", open(out).read(), re.M)[-1])
    return count, head.split(b"\r\n")[0].decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default=BINARY)
    parser.add_argument("--cases", default=",".join(case for case in CASES if case != "tls"), help="of: " + ", ".join(CASES))
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=250)
    parser.add_argument("--access-log", action="store_true")
    parser.add_argument("--keep", help="leave callgrind's file of the last run here")
    arguments = parser.parse_args()
    with Stage() as stage:
        stage.tokens = {"good": stage.token(1), "expired": stage.token(2, exp=1), "poor": stage.token(3, scope="profile")}
        for case in arguments.cases.split(","):
            few, _ = run(stage, case, arguments, 50)
            many, status = run(stage, case, arguments, 50 + arguments.rounds)
            each = (many - few) / (arguments.rounds * arguments.connections)
            print(f"{case:12} {each:9.0f} instructions  {status}", flush=True)


if __name__ == "__main__":
    main()
