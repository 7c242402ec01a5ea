"""Answers each request with what h11 read of it, in hexadecimal. Usage: echo.py PORT"""

import socketserver
import sys

import h11


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        try:
            while self.answer(connection):
                connection.start_next_cycle()
        except (h11.RemoteProtocolError, h11.LocalProtocolError):
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        except OSError:
            pass

    def answer(self, connection):
        seen = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(self.request.recv(65536))
            elif isinstance(event, h11.Request):
                host = b",".join(value for name, value in event.headers if name == b"host")
                seen = b"\n".join([event.method, event.target, host, b""])
            elif isinstance(event, h11.Data):
                seen += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        head = h11.Response(status_code=204, headers=[("X-Seen", seen.hex())])
        self.request.sendall(connection.send(head) + connection.send(h11.EndOfMessage()))
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


Server(("127.0.0.1", int(sys.argv[1])), Connection).serve_forever()
