"""What the measurements stand on: throw-away keys and tokens, configuration files made from the `.in` files beside this
one, and the processes, which are ended when the stage is left. Everything listens on 127.0.0.1, on free ports."""

import base64
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BINARY = os.path.join(HERE, "../../target/release/tollgate")
ISSUER, AUDIENCE = "https://issuer.example", "https://api.example"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, **options).stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stage:
    """A folder with keys, tokens and an upstream that answers 1 KiB, or 1 MiB under /large."""

    def __init__(self, gateway_core=None, load_core=None):
        # In the order of the table, so that one who starts them by hand finds the same.
        self.cores = {"gateway": gateway_core, "load": load_core}
        self.processes = []

    def __enter__(self):
        missing = [program for program in ("openssl", "nginx") if not shutil.which(program)]
        if missing:
            sys.exit("please install: " + " ".join(missing))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        self.folder = tempfile.mkdtemp(prefix="tollgate-bench-")
        os.chmod(self.folder, 0o755)
        self.ports = {"UPSTREAM": free_port()}
        self.keys()
        with open(self.path("large"), "wb") as large:
            large.write(os.urandom(1 << 20))
        self.start("upstream", ["nginx", "-e", "stderr", "-p", self.folder, "-c", self.write("upstream.conf")], "load")
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        shutil.rmtree(self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def keys(self):
        """An RSA key for tokens, as PEM and as a key set; a P-256 certificate for TLS."""
        openssl("genrsa", "-out", self.path("token.key"), "2048")
        openssl("rsa", "-in", self.path("token.key"), "-pubout", "-out", self.path("token.pub"))
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                "-subj", "/CN=localhost", "-keyout", self.path("tls.key"), "-out", self.path("tls.crt"))
        with open(self.path("tls.pem"), "w") as both:
            both.write(open(self.path("tls.crt")).read() + open(self.path("tls.key")).read())
        modulus = openssl("rsa", "-in", self.path("token.key"), "-noout", "-modulus").decode().strip().split("=")[1]
        key = {"kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig", "e": "AQAB", "n": base64url(bytes.fromhex(modulus))}
        with open(self.path("jwks.json"), "w") as jwks:
            json.dump({"keys": [key]}, jwks)

    def token(self, number=0, **claims):
        now = int(time.time())
        header = {"alg": "RS256", "typ": "at+jwt", "kid": "k1"}
        body = {"iss": ISSUER, "aud": AUDIENCE, "sub": f"user-{number:06}", "client_id": "bench", "jti": f"{number:032x}",
                "iat": now - 60, "exp": now + 6 * 3600, "scope": "profile orders:read orders:write", **claims}
        parts = [base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, body)]
        signed = ".".join(parts).encode()
        signature = openssl("dgst", "-sha256", "-sign", self.path("token.key"), input=signed)
        return f"{signed.decode()}.{base64url(signature)}"

    def write(self, name, **values):
        """The file that `name`.in makes, with its @NAMES@ filled in."""
        values = {"DIR": self.folder, "ISSUER": ISSUER, "AUDIENCE": AUDIENCE, "BODY": "0123456789abcdef" * 64, **self.ports, **values}
        text = open(os.path.join(HERE, name + ".in")).read()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def start(self, name, command, role, wait_for=None, limit=60, environment=None):
        core = self.cores[role]
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
        log = self.path(name + ".log")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=open(log, "wb"), stderr=subprocess.STDOUT,
                                   env={**os.environ, **(environment or {})})
        self.processes.append(process)
        port = wait_for or self.ports["UPSTREAM"]
        end = time.monotonic() + limit
        while time.monotonic() < end and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return process
            except OSError:
                time.sleep(0.05)
        sys.exit(f"{name} did not start:\n{open(log, errors='replace').read()[-2000:]}")
