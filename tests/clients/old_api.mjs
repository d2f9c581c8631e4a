// The API that was there before the bridge: pages, JSON, streams, uploads, server-sent events and WebSockets, by Node's
// own HTTP server and `ws`. It knows nothing of what stands before it. It says on stdout where it listens and what pages
// tell it, a line each, and ends with its stdin.
import { createHash } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const page = readFileSync(new URL("old_page.html", import.meta.url));
const etag = '"v1"';
/** What pages tell: `part`. */
const told = new EventEmitter();
let dictated = "";
const say = (what, value) => process.stdout.write(`${what} ${JSON.stringify(value)}\n`);

async function bodyOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts);
}

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

function cookies(request) {
  const all = (request.headers.cookie ?? "").split("; ").filter(Boolean);
  return Object.fromEntries(all.map((one) => one.split("=")));
}

function json(response, value, headers = {}) {
  response.writeHead(200, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(value));
}

const handlers = {
  "GET /": (_, response) => response.writeHead(302, { Location: "/app/" }).end(),

  "GET /app/": (_, response) => response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end(page),

  "POST /api/login": async (request, response) => {
    const form = new URLSearchParams((await bodyOf(request)).toString());
    const lasts = "Path=/; SameSite=Lax";
    response.setHeader("Set-Cookie", [`session=of-${form.get("user")}; HttpOnly; ${lasts}`, `theme=dark; ${lasts}`]);
    response.writeHead(204).end();
  },

  "GET /api/me": (request, response) => {
    const { host, via, forwarded } = request.headers;
    const { "x-forwarded-for": by, "x-forwarded-proto": proto, "x-forwarded-host": asked } = request.headers;
    json(response, { cookies: cookies(request), host, via, forwarded, by, proto, asked, token: process.env.TOKEN });
  },

  "GET /api/config": (request, response) => {
    const known = request.headers["if-none-match"] === etag;
    const headers = { ETag: etag, "Cache-Control": "no-cache", "X-Answer": known ? "304" : "200" };
    if (known) response.writeHead(304, headers).end();
    else json(response, { version: 1 }, headers);
  },

  // Each part is sent when the page has told of the one before.
  "POST /api/story": async (request, response) => {
    const { parts } = JSON.parse(await bodyOf(request));
    response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
    for (const part of parts) {
      response.write(`${part}\n`);
      await once(told, part);
    }
    response.end();
  },

  "POST /api/heard": async (request, response) => {
    const part = new URL(request.url, "http://old").searchParams.get("part");
    response.writeHead(204).end();
    told.emit(part);
    say("HEARD", part);
  },

  "POST /api/upload": async (request, response) => {
    const headers = { "Content-Type": request.headers["content-type"] };
    const form = await new Response(await bodyOf(request), { headers }).formData();
    const file = form.get("file");
    const bytes = Buffer.from(await file.arrayBuffer());
    json(response, { name: file.name, note: form.get("note"), bytes: bytes.length, sha256: sha256(bytes) });
  },

  // A body without a length: each part comes when the page has made it.
  "POST /api/dictation": async (request, response) => {
    let parts = "";
    dictated = "";
    for await (const part of request) {
      parts += part;
      dictated = parts;
      told.emit("dictated");
    }
    json(response, { parts, coding: request.headers["transfer-encoding"] });
  },

  // Answered when so much of it has come.
  "GET /api/dictated": async (request, response) => {
    const length = Number(new URL(request.url, "http://old").searchParams.get("length"));
    while (dictated.length < length) await once(told, "dictated");
    json(response, {});
  },

  // Of two events, the second comes when the browser has come back for it.
  "GET /api/events": (request, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    const last = request.headers["last-event-id"];
    if (last) response.write(`id: 8\nevent: news\ndata: after ${last}\n\n`);
    else response.end("retry: 20\nid: 7\nevent: news\ndata: first\n\n");
  },

  "POST /api/report": async (request, response) => {
    const report = JSON.parse(await bodyOf(request));
    response.writeHead(204).end();
    say("REPORT", report);
  },
};

const server = createServer((request, response) => {
  const handler = handlers[`${request.method} ${request.url.split("?")[0]}`];
  if (!handler) return response.writeHead(404).end();
  Promise.resolve(handler(request, response)).catch((error) => {
    say("FAILED", String(error));
    response.destroy();
  });
});

const chooses = (offered) => (offered.has("chat.v1") ? "chat.v1" : false);
const live = new WebSocketServer({ server, path: "/live", handleProtocols: chooses });
live.on("connection", (socket, request) => {
  const address = request.headers["x-forwarded-for"];
  socket.send(JSON.stringify({ session: cookies(request).session, origin: request.headers.origin, address }));
  socket.on("pong", (data) => socket.send(`pong ${data}`));
  socket.on("message", (data, isBinary) => {
    const text = isBinary ? "" : data.toString();
    if (text === "ping me") socket.ping("now");
    else if (text === "bye") socket.close(4001, "later");
    else socket.send(data, { binary: isBinary });
  });
});

process.stdin.resume().on("end", () => process.exit());
server.listen(0, "127.0.0.1", () => say("LISTENING", Array(2).fill(server.address().port)));
