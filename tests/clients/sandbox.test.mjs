// The npm packages `pusher-js` and `pusher` against the sandbox at SANDBOX_PORT. tests/suite/sandbox_clients.rs
// starts both, closes every connection with 4200 when somebody subscribes to `close-me`, and checks what was
// published.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import Channels from "pusher";
import Client from "pusher-js";

const { SANDBOX_PORT, SANDBOX_APP_ID, SANDBOX_KEY, SANDBOX_SECRET } = process.env;
assert.ok(SANDBOX_PORT && SANDBOX_APP_ID && SANDBOX_KEY && SANDBOX_SECRET, "run by tests/suite/sandbox_clients.rs");

const server = new Channels({
  appId: SANDBOX_APP_ID,
  key: SANDBOX_KEY,
  secret: SANDBOX_SECRET,
  host: "127.0.0.1",
  port: SANDBOX_PORT,
  useTLS: false,
  encryptionMasterKeyBase64: Buffer.alloc(32, 7).toString("base64"),
});

const clients = [];
after(() => clients.forEach((client) => client.disconnect()));

function newClient(key = SANDBOX_KEY) {
  const client = new Client(key, {
    cluster: "",
    wsHost: "127.0.0.1",
    wsPort: Number(SANDBOX_PORT),
    forceTLS: false,
    enabledTransports: ["ws"],
    disableStats: true,
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, callback) => {
        if (channelName.endsWith("-forged")) {
          callback(null, { auth: `${SANDBOX_KEY}:${"0".repeat(64)}` });
        } else {
          callback(null, server.authorizeChannel(socketId, channelName));
        }
      },
    },
  });
  clients.push(client);
  return client;
}

/** The next `event` of something with `bind`. */
function next(emitter, event) {
  return new Promise((resolve) => {
    const listener = (data) => {
      emitter.unbind(event, listener);
      resolve(data);
    };
    emitter.bind(event, listener);
  });
}

async function subscribed(client, name) {
  const channel = client.subscribe(name);
  await next(channel, "pusher:subscription_succeeded");
  return channel;
}

/** Collects what a channel gets, to be read in order. */
function inbox(channel, event) {
  const queue = [];
  let wake = () => {};
  channel.bind(event, (data) => {
    queue.push(data);
    wake();
  });
  return async () => {
    while (queue.length === 0) await new Promise((resolve) => (wake = resolve));
    return queue.shift();
  };
}

const limit = { timeout: 30_000 };

test("an event reaches every subscriber but the excluded one", limit, async () => {
  const [one, two] = [newClient(), newClient()];
  const [first, second] = [await subscribed(one, "news"), await subscribed(two, "news")];
  const [read, readSecond] = [inbox(first, "added"), inbox(second, "added")];
  await server.trigger("news", "added", { for: "all" });
  assert.deepEqual([await read(), await readSecond()], [{ for: "all" }, { for: "all" }]);
  await server.trigger("news", "added", { for: "two" }, { socket_id: one.connection.socket_id });
  await server.trigger(["news", "more"], "added", { for: "all again" });
  assert.deepEqual(await read(), { for: "all again" });
  assert.deepEqual([await readSecond(), await readSecond()], [{ for: "two" }, { for: "all again" }]);
});

test("data arrives as it was published", limit, async () => {
  const read = inbox(await subscribed(newClient(), "data"), "e");
  const values = [
    { nested: [1, -0.5, 1e21, null, true, { "": "" }], text: 'é "quoted" \\ \n \u2028 😀 </script>' },
    [],
    "not JSON {",
    7,
    "",
    "x".repeat(10_000),
  ];
  for (const value of values) {
    await server.trigger("data", "e", value);
    assert.deepEqual(await read(), value);
  }
  await server.trigger("data", "e", '{"n":1.50,"big":12345678901234567890}');
  assert.equal((await read()).n, 1.5);
});

test("a batch arrives in order, on each channel", limit, async () => {
  const client = newClient();
  const readA = inbox(await subscribed(client, "batch-a"), "e");
  const readB = inbox(await subscribed(client, "batch-b"), "e");
  await server.triggerBatch([
    { channel: "batch-a", name: "e", data: 1 },
    { channel: "batch-b", name: "e", data: "two" },
    { channel: "batch-a", name: "e", data: { three: 3 } },
  ]);
  assert.deepEqual([await readA(), await readA(), await readB()], [1, { three: 3 }, "two"]);
});

test("private channels need the right signature, and carry client events", limit, async () => {
  const [one, two] = [newClient(), newClient()];
  const [first, second] = [await subscribed(one, "private-room"), await subscribed(two, "private-room")];
  const [read, readSecond] = [inbox(first, "client-typing"), inbox(second, "client-typing")];
  assert.ok(first.trigger("client-typing", { who: "one", at: 1.5 }));
  assert.deepEqual(await readSecond(), { who: "one", at: 1.5 });
  assert.ok(second.trigger("client-typing", { who: "two" }));
  assert.deepEqual(await read(), { who: "two" }, "the sender did not get its own");

  const refused = next(one.connection, "error");
  one.subscribe("private-forged");
  const { data } = await refused;
  assert.equal(data.code, 4009);
  assert.match(data.message, /^Invalid signature: Expected HMAC SHA256 hex digest of [\d.]+:private-forged/);
  assert.equal(one.connection.state, "connected");
});

test("encrypted channels pass through", limit, async () => {
  const read = inbox(await subscribed(newClient(), "private-encrypted-room"), "secret");
  await server.trigger("private-encrypted-room", "secret", { hidden: "é" });
  assert.deepEqual(await read(), { hidden: "é" });
});

test("channels can be queried", limit, async () => {
  const client = newClient();
  await subscribed(client, "query-a");
  await subscribed(client, "query-b=1");
  const json = async (path, params) => (await server.get({ path, params })).json();
  assert.deepEqual(await json("/channels", { filter_by_prefix: "query-" }), {
    channels: { "query-a": {}, "query-b=1": {} },
  });
  assert.deepEqual(await json("/channels/query-a", { info: "subscription_count" }), {
    occupied: true,
    subscription_count: 1,
  });
  client.unsubscribe("query-a");
  await subscribed(client, "query-c");
  assert.deepEqual(await json("/channels/query-a"), { occupied: false });
});

test("mistakes are refused with the documented status", limit, async () => {
  const status = (promise) => promise.then(() => 200, (error) => error.status);
  assert.equal(await status(server.trigger("a", "e", "x".repeat(10_241))), 413);
  assert.equal(await status(server.trigger("a", "pusher:x", "")), 400);
  const many = Array.from({ length: 11 }, () => ({ channel: "a", name: "e", data: "" }));
  assert.equal(await status(server.triggerBatch(many)), 400);
  const stranger = new Channels({
    appId: SANDBOX_APP_ID, key: SANDBOX_KEY, secret: "wrong", host: "127.0.0.1", port: SANDBOX_PORT,
  });
  assert.equal(await status(stranger.trigger("a", "e", "")), 401);
});

test("a wrong key is final", limit, async () => {
  const client = newClient("no-such-key");
  const { error } = await next(client.connection, "error");
  assert.equal(error.data.code, 4001);
  if (client.connection.state !== "disconnected") await next(client.connection, "disconnected");
});

test("after 4200 a client comes back with its subscriptions", limit, async () => {
  const client = newClient();
  const channel = await subscribed(client, "private-stays");
  const before = client.connection.socket_id;
  const back = next(channel, "pusher:subscription_succeeded");
  client.subscribe("close-me");
  await back;
  assert.notEqual(client.connection.socket_id, before);
  const read = inbox(channel, "e");
  await server.trigger("private-stays", "e", "welcome back");
  assert.equal(await read(), "welcome back");
});
