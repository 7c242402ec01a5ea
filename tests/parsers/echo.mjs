// Answers each request with what Node read of it, in hexadecimal. Arguments: a port, and one to read leniently on.
import http from "node:http";

const [strict, lenient] = process.argv.slice(2);
for (const [port, insecureHTTPParser] of [[strict, false], [lenient, true]]) {
  http.createServer({ insecureHTTPParser, maxHeaderSize: 1 << 20 }, (request, response) => {
    const body = [];
    request.on("data", (data) => body.push(data));
    request.on("end", () => {
      const host = request.rawHeaders.filter((_, at) => at % 2 === 1 && /^host$/i.test(request.rawHeaders[at - 1]));
      const seen = [request.method, request.url, host.join(","), ""].join("\n");
      const hex = Buffer.concat([Buffer.from(seen, "latin1"), ...body]).toString("hex");
      response.writeHead(204, { "X-Seen": hex }).end();
    });
  }).listen(port, "127.0.0.1");
}
