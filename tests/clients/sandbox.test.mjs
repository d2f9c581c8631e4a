// The npm packages `pusher-js` and `pusher` against the sandbox at SANDBOX_PORT. tests/suite/sandbox_clients.rs
// starts both, closes every connection with 4200 when somebody subscribes to `close-me`, sends webhooks to port 1234
// when somebody subscribes to `webhooks-to-1234`, says `ready` there, and checks what was published.
import assert from "node:assert/strict";
import { createServer } from "node:http";
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

// When a server has closed a connection, pusher-js closes it once more, and its WebSocket then waits 30 s for an answer
// that nobody gives: nothing that this process has to wait for.
const { setTimeout } = globalThis;
globalThis.setTimeout = (...timer) => {
  const timeout = setTimeout(...timer);
  return timer[1] === 30_000 ? timeout.unref() : timeout;
};

const clients = [];
after(() => clients.forEach((client) => client.disconnect()));

/** A client; with `member` that one on presence channels; with `user` it can sign in as that one. */
function newClient(key = SANDBOX_KEY, { member, user } = {}) {
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
          callback(null, server.authorizeChannel(socketId, channelName, member));
        }
      },
    },
    userAuthentication: {
      customHandler: ({ socketId }, callback) => callback(null, server.authenticateUser(socketId, user)),
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

test("members come, say something, and go with their last connection", limit, async () => {
  const ann = newClient(SANDBOX_KEY, { member: { user_id: "ann", user_info: { name: "Ann", n: 1.5 } } });
  const first = await subscribed(ann, "presence-room");
  assert.deepEqual([first.members.count, first.members.me], [1, { id: "ann", info: { name: "Ann", n: 1.5 } }]);
  const read = { added: inbox(first, "pusher:member_added"), removed: inbox(first, "pusher:member_removed") };
  const bobs = [1, 2].map(() => newClient(SANDBOX_KEY, { member: { user_id: "bob", user_info: { name: "Bob" } } }));
  const [second] = [await subscribed(bobs[0], "presence-room"), await subscribed(bobs[1], "presence-room")];
  assert.deepEqual(await read.added(), { id: "bob", info: { name: "Bob" } });
  assert.deepEqual(Object.keys(second.members.members).sort(), ["ann", "bob"]);
  const users = await (await server.get({ path: "/channels/presence-room/users" })).json();
  assert.deepEqual(users, { users: [{ id: "ann" }, { id: "bob" }] });
  const info = await (await server.get({ path: "/channels/presence-room", params: { info: "user_count" } })).json();
  assert.deepEqual(info, { occupied: true, user_count: 2 });

  const said = new Promise((resolve) => first.bind("client-hello", (data, { user_id }) => resolve([data, user_id])));
  assert.ok(second.trigger("client-hello", { n: 2.5 }));
  assert.deepEqual(await said, [{ n: 2.5 }, "bob"]);
  bobs[0].disconnect();
  const still = next(first, "still");
  await server.trigger("presence-room", "still", {});
  await still;
  assert.equal(first.members.count, 2, "one of two connections is left");
  bobs[1].disconnect();
  assert.deepEqual(await read.removed(), { id: "bob", info: { name: "Bob" } });
  assert.equal(first.members.count, 1);
});

test("a user who signed in gets what is sent to the user, until the backend ends it", limit, async () => {
  const user = { id: "ann", user_info: { name: "Ann" }, watchlist: ["bob", "cid"] };
  const client = newClient(SANDBOX_KEY, { user });
  const watched = inbox({ bind: (event, on) => client.user.watchlist.bind(event, on) }, "online");
  const offline = next(client.user.watchlist, "offline");
  client.signin();
  assert.deepEqual((await offline).user_ids, ["bob", "cid"]);
  const own = client.user.serverToUserChannel;
  if (!own.subscribed) await next(own, "pusher:subscription_succeeded");
  const got = next(client.user, "greeting");
  await server.sendToUser("ann", "greeting", { n: 1.5 });
  assert.deepEqual(await got, { n: 1.5 });
  const bob = newClient(SANDBOX_KEY, { user: { id: "bob" } });
  bob.signin();
  assert.deepEqual((await watched()).user_ids, ["bob"]);
  const gone = next(client.user.watchlist, "offline");
  bob.disconnect();
  assert.deepEqual((await gone).user_ids, ["bob"]);
  const ended = next(client.connection, "disconnected");
  await server.terminateUserConnections("ann");
  await ended;
});

test("a late subscriber of a cache channel gets its last event, or hears that there is none", limit, async () => {
  const client = newClient();
  const missed = next(client.subscribe("cache-state"), "pusher:cache_miss");
  await missed;
  await server.trigger("cache-state", "state", { n: 1 });
  await server.trigger("cache-state", "state", { n: 2 });
  assert.deepEqual(await next(newClient().subscribe("cache-state"), "state"), { n: 2 });
  const { cache } = await (await server.get({ path: "/channels/cache-state", params: { info: "cache" } })).json();
  assert.deepEqual([cache.data, cache.ttl > 1700 && cache.ttl <= 1800], ['{"n":2}', true]);
});

test("subscribers hear how many they are", limit, async () => {
  const counts = inbox(newClient().subscribe("counted"), "pusher:subscription_count");
  assert.deepEqual(await counts(), { subscription_count: 1 });
  const other = newClient();
  await subscribed(other, "counted");
  assert.deepEqual(await counts(), { subscription_count: 2 });
  other.disconnect();
  assert.deepEqual(await counts(), { subscription_count: 1 });
});

test("a backend is told what happens, signed, and again until it has heard", limit, async () => {
  const heard = [];
  let refusals = 1;
  let wake = () => {};
  const backend = createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const webhook = server.webhook({ headers: request.headers, rawBody: Buffer.concat(chunks).toString() });
      assert.ok(webhook.isValid());
      response.writeHead(refusals > 0 ? 500 : 200).end();
      if (refusals-- > 0) return;
      heard.push(...webhook.getEvents());
      wake();
    });
  });
  await new Promise((resolve) => backend.listen(0, "127.0.0.1", resolve));
  after(() => {
    backend.close();
    backend.closeAllConnections();
  });
  const has = async (wanted) => {
    const same = (event) => Object.entries(wanted).every(([field, value]) => event[field] === value);
    while (!heard.some(same)) await new Promise((resolve) => (wake = resolve));
  };
  await next(newClient().subscribe(`webhooks-to-${backend.address().port}`), "ready");
  const member = newClient(SANDBOX_KEY, { member: { user_id: "cid" } });
  const channel = await subscribed(member, "presence-told");
  await has({ name: "channel_occupied", channel: "presence-told" });
  await has({ name: "member_added", channel: "presence-told", user_id: "cid" });
  assert.ok(channel.trigger("client-x", { n: 1.5 }));
  await has({ name: "client_event", channel: "presence-told", event: "client-x", data: '{"n":1.5}', user_id: "cid" });
  member.subscribe("cache-told");
  await has({ name: "cache_miss", channel: "cache-told" });
  member.disconnect();
  await has({ name: "member_removed", channel: "presence-told", user_id: "cid" });
  await has({ name: "channel_vacated", channel: "presence-told" });
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
