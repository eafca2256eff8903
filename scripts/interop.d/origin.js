// An HTTP/1.1 server in Node, as its users run it: it closes idle connections after 5 s. `node origin.js PORT`
"use strict";
const crypto = require("crypto");
const http = require("http");

let opened = 0;
let closedIdle = 0;

function digest(request, response) {
  const hash = crypto.createHash("sha256");
  let length = 0;
  request.on("data", (part) => {
    hash.update(part);
    length += part.length;
  });
  request.on("end", () => {
    const { method, url, headers, httpVersion } = request;
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({ method, url, httpVersion, headers, length, sha256: hash.digest("hex") }));
  });
}

// Answers at once and hangs up, without having read the body.
function refuse(request, response) {
  const body = "too large\n";
  response.writeHead(413, { "Content-Length": body.length, Connection: "close" });
  response.end(body, () => request.socket.end());
}

function serve(request, response) {
  const path = request.url.split("?")[0];
  if (path === "/refuse") return refuse(request, response);
  if (path === "/stats") return response.end(JSON.stringify({ opened, closedIdle }));
  if (path === "/chunked") {
    for (let part = 0; part < 100; part += 1) response.write(`part ${part} `.repeat(50));
    return response.end();
  }
  if (path === "/trailers") {
    response.writeHead(200, { Trailer: "X-Checksum" });
    response.write("with a trailer\n");
    response.addTrailers({ "X-Checksum": "abc" });
    return response.end();
  }
  if (path === "/none") {
    response.writeHead(204);
    return response.end();
  }
  return digest(request, response);
}

const server = http.createServer(serve);
// Without this handler Node answers 100 to each such request.
server.on("checkContinue", (request, response) => {
  if (request.url === "/refuse") return refuse(request, response);
  response.writeContinue();
  return serve(request, response);
});
server.on("connection", () => {
  opened += 1;
});
// The default, which newer releases stretch by a second.
server.keepAliveTimeout = 5000;
server.on("timeout", (socket) => {
  closedIdle += 1;
  socket.destroy();
});
server.listen(Number(process.argv[2]), "127.0.0.1");
