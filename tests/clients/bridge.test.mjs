// Node's `ws` as an unmodified old client of the bridge at BRIDGE_URL; the npm packages `pusher-js` and
// `pusher` on the other side. tests/e2e/scenarios.rs starts all of them, with a heartbeat of 100 ms that must be
// answered within a second.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { after, test } from "node:test";
import Channels from "pusher";
import Client from "pusher-js";
import WebSocket from "ws";

const { BRIDGE_URL, JWT_SECRET, PUSHER_HOST, PUSHER_PORT, PUSHER_APP_ID, PUSHER_KEY, PUSHER_SECRET } = process.env;
assert.ok(BRIDGE_URL && JWT_SECRET && PUSHER_HOST && PUSHER_PORT, "run by tests/e2e/scenarios.rs");

const server = new Channels({
  appId: PUSHER_APP_ID, key: PUSHER_KEY, secret: PUSHER_SECRET, host: PUSHER_HOST, port: PUSHER_PORT, useTLS: false,
});
const closing = [];
after(() => closing.forEach((close) => close()));

function mint(secondsToLive = 3600) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = {
    sub: "node", role: "teacher", permissions: ["content:generate", "roblox:read"], plugin_ids: ["node"],
    exp: Math.floor(Date.now() / 1000) + secondsToLive,
  };
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", JWT_SECRET).update(signed).digest("base64url")}`;
}

/** The old client, as the old API's documentation had it: it comes back up to 5 times in a row. */
class OldClient {
  constructor(path, tokenOf = () => mint()) {
    Object.assign(this, { path, tokenOf, attempts: 0, pings: 0, opened: 0, frames: [], waiting: [], delays: [] });
    closing.push(() => this.stop());
    this.connect();
  }

  connect() {
    this.socket = new WebSocket(BRIDGE_URL + this.path);
    this.socket.on("open", () => {
      this.attempts = 0;
      this.opened += 1;
      this.socket.send(JSON.stringify({ type: "auth", token: `Bearer ${this.tokenOf()}` }));
    });
    this.socket.on("message", (data) => this.receive(JSON.parse(data.toString())));
    this.socket.on("error", () => {});
    this.socket.on("close", () => {
      if (this.stopped || this.attempts >= 5) return;
      const delay = 1000 * 2 ** this.attempts++;
      this.delays.push(delay);
      setTimeout(() => this.connect(), delay);
    });
  }

  receive(frame) {
    if (frame.type === "ping") {
      this.pings += 1;
      this.socket.send(JSON.stringify({ type: "pong", timestamp: frame.timestamp }));
      return;
    }
    const waiting = this.waiting.shift();
    if (waiting) waiting(frame);
    else this.frames.push(frame);
  }

  /** The next frame that is no ping. */
  next() {
    if (this.frames.length > 0) return Promise.resolve(this.frames.shift());
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  send(message) {
    this.socket.send(JSON.stringify(message));
  }

  stop() {
    this.stopped = true;
    this.socket.close();
  }
}

/** A pusher-js client, subscribed. */
async function subscribed(name) {
  const client = new Client(PUSHER_KEY, {
    cluster: "", wsHost: PUSHER_HOST, wsPort: Number(PUSHER_PORT), forceTLS: false, enabledTransports: ["ws"],
    disableStats: true,
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, callback) => callback(null, server.authorizeChannel(socketId, channelName)),
    },
  });
  closing.push(() => client.disconnect());
  const channel = client.subscribe(name);
  await new Promise((resolve) => channel.bind("pusher:subscription_succeeded", resolve));
  return channel;
}

const limit = { timeout: 30_000 };

test("an old client authenticates and gets events of the new publishers", limit, async () => {
  const client = new OldClient("/ws/content/node");
  assert.deepEqual((await client.next()).data, {
    authenticated: true, user_id: "node", role: "teacher", permissions: ["content:generate", "roblox:read"],
  });
  const data = { session_id: "node", stage: "é 😀 \n \"", progress_percent: 12.5 };
  await server.trigger("content-generation-node", "progress_update", data);
  const frame = await client.next();
  assert.deepEqual([frame.type, frame.data], ["progress_update", data]);
  assert.match(frame.timestamp, /^\d{4}-\d\d-\d\dT/);
  const envelope = { type: "stage_complete", data, timestamp: "2025-01-21T10:01:00Z" };
  await server.trigger("content-generation-node", "stage_complete", envelope);
  assert.deepEqual(await client.next(), envelope);
});

test("its messages reach pusher-js, and those of pusher-js reach it", limit, async () => {
  const channel = await subscribed("private-plugin-node");
  const client = new OldClient("/ws/plugin/node");
  assert.equal((await client.next()).type, "auth_response");
  const arrived = new Promise((resolve) => channel.bind("client-run", resolve));
  client.send({ type: "run", data: { script: "print('é')\n", speed: 1.5 } });
  assert.deepEqual(await arrived, { script: "print('é')\n", speed: 1.5 });
  assert.ok(channel.trigger("client-answer", { ok: true }));
  const frame = await client.next();
  assert.deepEqual([frame.type, frame.data], ["client-answer", { ok: true }]);
});

test("pings are answered, and keep a client that says nothing else", limit, async () => {
  const client = new OldClient("/ws/agent/node");
  assert.equal((await client.next()).type, "auth_response");
  // Longer than the bridge waits for a sign of life.
  while (client.pings < 15) await new Promise((resolve) => client.socket.once("message", resolve));
  await server.trigger("agent-status", "agent_status", { agent_id: "node", status: "idle" });
  assert.equal((await client.next()).data.status, "idle");
  assert.equal(client.opened, 1);
});

test("when its token has expired it comes back with another, by its own backoff", limit, async () => {
  let lives = 2;
  const client = new OldClient("/ws/agent/again", () => {
    const token = mint(lives);
    lives = 3600;
    return token;
  });
  assert.equal((await client.next()).type, "auth_response");
  const expired = await client.next();
  assert.deepEqual([expired.type, expired.data.error], ["auth_error", "INVALID_TOKEN"]);
  assert.equal((await client.next()).type, "auth_response");
  assert.deepEqual([client.opened, client.delays], [2, [1000]]);
  await server.trigger("agent-status", "agent_status", { agent_id: "again", status: "back" });
  assert.equal((await client.next()).data.status, "back");
});
