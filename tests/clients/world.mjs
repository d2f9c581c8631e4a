// What tests with the npm packages share: an unmodified old client of the bridge at BRIDGE_URL, made of Node's `ws`, a
// backend made of `pusher`, and new clients made of `pusher-js`.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { after } from "node:test";
import Channels from "pusher";
import Client from "pusher-js";
import WebSocket from "ws";

const {
  BRIDGE_URL, JWT_SECRET, PUSHER_HOST, PUSHER_PORT, PUSHER_APP_ID, PUSHER_KEY, PUSHER_SECRET,
  PUSHER_ENCRYPTION_MASTER_KEY,
} = process.env;
assert.ok(BRIDGE_URL && JWT_SECRET && PUSHER_HOST && PUSHER_PORT, "run by tests/e2e/scenarios.rs");

/** The bridge's own HTTP endpoints. */
export const BRIDGE_HTTP = BRIDGE_URL.replace("ws:", "http:");
export const limit = { timeout: 30_000 };

export const server = new Channels({
  appId: PUSHER_APP_ID, key: PUSHER_KEY, secret: PUSHER_SECRET, host: PUSHER_HOST, port: PUSHER_PORT, useTLS: false,
  encryptionMasterKeyBase64: PUSHER_ENCRYPTION_MASTER_KEY || undefined,
});
const closing = [];
after(() => closing.forEach((close) => close()));

/** A token of `user` with every permission of the shipped routes. */
export function mint({ user = "node", secondsToLive = 3600, more = {} } = {}) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = {
    sub: user, role: "teacher", permissions: ["content:generate", "roblox:read", "command:run"], plugin_ids: ["node"],
    exp: Math.floor(Date.now() / 1000) + secondsToLive, ...more,
  };
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", JWT_SECRET).update(signed).digest("base64url")}`;
}

/** The old client, as the old API's documentation had it: it comes back up to 5 times in a row. */
export class OldClient {
  constructor(path, tokenOf = () => mint()) {
    Object.assign(this, { path, tokenOf, attempts: 0, pings: 0, opened: 0, frames: [], waiting: [], delays: [] });
    closing.push(() => this.stop());
    this.connect();
  }

  /** One that has authenticated. */
  static async login(path, claims = {}) {
    const client = new OldClient(path, () => mint(claims));
    assert.equal((await client.next()).type, "auth_response");
    return client;
  }

  connect() {
    if (this.stopped) return;
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

/** A new client. It is authorized by the backend, or with `token` at the bridge's endpoints. */
export function newClient({ token } = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  const client = new Client(PUSHER_KEY, {
    cluster: "", wsHost: PUSHER_HOST, wsPort: Number(PUSHER_PORT), forceTLS: false, enabledTransports: ["ws"],
    disableStats: true,
    userAuthentication: { endpoint: `${BRIDGE_HTTP}/pusher/user-auth`, headers },
    channelAuthorization: token ? { endpoint: `${BRIDGE_HTTP}/pusher/auth`, headers } : {
      customHandler: ({ socketId, channelName }, callback) => callback(null, server.authorizeChannel(socketId, channelName)),
    },
  });
  closing.push(() => client.disconnect());
  return client;
}

/** The next `event` of something with `bind`, and what is told beside its data. */
export function next(emitter, event) {
  return new Promise((resolve) => {
    const listener = (data, metadata) => {
      emitter.unbind(event, listener);
      resolve({ data, ...metadata });
    };
    emitter.bind(event, listener);
  });
}

/** A new client's channel, subscribed. */
export async function subscribed(name, options) {
  const channel = newClient(options).subscribe(name);
  const refused = next(channel, "pusher:subscription_error").then(({ data }) => assert.fail(JSON.stringify(data)));
  await Promise.race([refused, next(channel, "pusher:subscription_succeeded")]);
  return channel;
}
