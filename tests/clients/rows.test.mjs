// Every row of the shipped routes.toml, both directions: Node's `ws` as the old client, and the npm packages `pusher-js`,
// authorized by the bridge's own endpoints, and `pusher` on the other side. tests/e2e/scenarios.rs starts all of them, for
// each server that UPSTREAM can name, and checks what the backend got.
import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { BRIDGE_HTTP, OldClient, limit, mint, newClient, next, server, subscribed } from "./world.mjs";

const { UPSTREAM, NOTIFY_TOKEN } = process.env;

/** What a server cannot do, by its name. */
const CANNOT = {
  sandbox: [],
  // Client events on presence channels lack the sender's id.
  sockudo: ["user_id of client events"],
}[UPSTREAM];
assert.ok(CANNOT, `UPSTREAM is ${UPSTREAM}`);

const data = { n: 1.5, text: 'é 😀 \n "', list: [null, true] };
const shown = ({ type, data }) => [type, data];

test("/ws/content/{session_id}", limit, async () => {
  const client = await OldClient.login("/ws/content/node");
  await server.trigger("content-generation-node", "progress_update", data);
  assert.deepEqual(shown(await client.next()), ["progress_update", data]);
  client.send({ type: "run", data });
  assert.equal((await client.next()).data.error_code, "UNKNOWN_MESSAGE_TYPE", "nothing goes up here");
});

test("/ws/roblox", limit, async () => {
  const client = await OldClient.login("/ws/roblox");
  client.send({ type: "subscribe", environment_id: "env_1" });
  client.send({ type: "run", data });
  assert.equal((await client.next()).data.error_code, "UNKNOWN_MESSAGE_TYPE", "nothing goes up here");
  for (const environment_id of ["env_2", "env_1"]) {
    await server.trigger("roblox-sync", "asset_ready", { environment_id });
  }
  assert.deepEqual(shown(await client.next()), ["asset_ready", { environment_id: "env_1" }]);
});

test("/ws/plugin/{plugin_id}", limit, async () => {
  const channel = await subscribed("private-plugin-node", { token: mint() });
  const client = await OldClient.login("/ws/plugin/node");
  const arrived = next(channel, "client-run");
  client.send({ type: "run", data });
  assert.deepEqual((await arrived).data, data);
  assert.ok(channel.trigger("client-answer", data));
  assert.deepEqual(shown(await client.next()), ["client-answer", data]);
  const stranger = newClient({ token: mint({ more: { plugin_ids: [] } }) }).subscribe("private-plugin-node");
  assert.equal((await next(stranger, "pusher:subscription_error")).data.status, 403);
});

test("/ws/agent/{agent_id}", limit, async () => {
  const client = await OldClient.login("/ws/agent/agent_7");
  for (const agent_id of ["agent_8", "agent_7"]) await server.trigger("agent-status", "agent_status", { agent_id });
  assert.deepEqual(shown(await client.next()), ["agent_status", { agent_id: "agent_7" }]);
  client.send({ type: "run", data });
  assert.equal((await client.next()).data.error_code, "UNKNOWN_MESSAGE_TYPE", "nothing goes up here");
});

test("/ws/agent-session/{session_id}", limit, async () => {
  const client = await OldClient.login("/ws/agent-session/s1");
  const message = { type: "text", message: "é", role: "agent", sessionId: "s1" };
  await server.trigger("agent-s1", "agent-message", message);
  assert.deepEqual(shown(await client.next()), ["agent-message", message]);
  const status = await new Promise((resolve) => {
    const socket = new WebSocket(`${process.env.BRIDGE_URL}/ws/agent-session/status`);
    socket.on("unexpected-response", (_, response) => resolve(response.statusCode));
    socket.on("error", () => {});
  });
  assert.equal(status, 400, "the channel of all agents is nobody's session");
});

test("/ws/native", limit, async () => {
  const socket = new WebSocket(`${process.env.BRIDGE_URL}/ws/native`);
  await new Promise((resolve) => socket.on("open", resolve));
  const answer = new Promise((resolve) => socket.on("message", (text) => resolve(text.toString())));
  socket.send("{ not JSON é");
  assert.equal(await answer, "{ not JSON é");
  socket.close();
});

test("/ws", limit, async () => {
  const client = new OldClient("/ws");
  await new Promise((resolve) => client.socket.on("open", resolve));
  client.send({ type: "subscribe", channel: "files" });
  // Nothing confirms a subscription in this dialect: an error comes behind it, as one does to the message with a token.
  client.send({ type: "subscribe", channel: "secrets" });
  for (const allowed of [undefined, "files"]) {
    const { type, details } = await client.next();
    assert.deepEqual([type, details.allowed?.[0]], ["error", allowed]);
  }
  let frame;
  const came = client.next().then((event) => (frame = event));
  while (!frame) {
    await server.trigger("files", "change", data);
    await Promise.race([came, new Promise((resolve) => setImmediate(resolve))]);
  }
  assert.deepEqual([frame.type, frame.channel, frame.data], ["event", "files", data]);
});

test("/ws/command/{session_id}", limit, async () => {
  const channel = await subscribed("private-command-node", { token: mint() });
  const client = await OldClient.login("/ws/command/node");
  // Its POST is for tests/e2e/scenarios.rs to see.
  client.send({ type: "input", data: "ls\n" });
  const both = [client.next(), next(channel, "output")];
  await server.trigger("private-command-node", "output", { type: "stdout", data: "é" });
  const [frame, event] = await Promise.all(both);
  assert.deepEqual([shown(frame), event.data], [["output", { type: "stdout", data: "é" }], { type: "stdout", data: "é" }]);
});

test("/ws/room/{room_id}", limit, async () => {
  const claims = (name) => ({ user: name, more: { name, email: `${name}@example.com` } });
  const info = (name) => ({ name, email: `${name}@example.com`, role: "teacher" });
  const ann = await OldClient.login("/ws/room/r1", claims("ann"));
  const list = await ann.next();
  assert.deepEqual(shown(list), ["presence_members", { count: 1, members: [{ id: "ann", info: info("ann") }] }]);
  const room = await subscribed("presence-r1", { token: mint(claims("bob")) });
  assert.deepEqual([room.members.me, room.members.get("ann")], [
    { id: "bob", info: info("bob") }, { id: "ann", info: info("ann") },
  ]);
  assert.deepEqual(shown(await ann.next()), ["member_added", { id: "bob", info: info("bob") }]);

  await server.trigger("presence-r1", "news", data);
  assert.deepEqual(shown(await ann.next()), ["news", data]);
  assert.ok(room.trigger("client-wave", data));
  assert.deepEqual(shown(await ann.next()), ["client-wave", data]);
  const said = next(room, "client-say");
  ann.send({ type: "say", data });
  const event = await said;
  assert.deepEqual(event.data, data);
  if (!CANNOT.includes("user_id of client events")) assert.equal(event.user_id, "ann");

  // Another connection of the same user is no other member, and hears what the first says.
  const twin = await OldClient.login("/ws/room/r1", claims("ann"));
  assert.equal((await twin.next()).data.count, 2);
  const again = next(room, "client-say");
  ann.send({ type: "say", data });
  assert.deepEqual([shown(await twin.next()), (await again).data], [["client-say", data], data]);

  const left = next(room, "pusher:member_removed");
  ann.stop();
  twin.stop();
  assert.equal((await left).data.id, "ann");
});

test("/ws/secure/{name}", limit, async () => {
  const channel = await subscribed("private-encrypted-s1", { token: mint() });
  const client = await OldClient.login("/ws/secure/s1");
  await server.trigger("private-encrypted-s1", "secret", data);
  assert.deepEqual(shown(await client.next()), ["secret", data]);
  const arrived = next(channel, "client-answer");
  client.send({ type: "answer", data });
  assert.deepEqual((await arrived).data, data);
});

test("/ws/state/{id}", limit, async () => {
  const first = await OldClient.login("/ws/state/x1");
  await server.trigger("private-cache-state-x1", "state", data);
  const frame = await first.next();
  assert.deepEqual(shown(frame), ["state", data]);
  const late = await OldClient.login("/ws/state/x1");
  assert.deepEqual(await late.next(), frame, "with the time when it first came");
  const fresh = next(newClient({ token: mint() }).subscribe("private-cache-state-x1"), "state");
  assert.deepEqual((await fresh).data, data);
});

test("/ws/user", limit, async () => {
  const [client, other] = [await OldClient.login("/ws/user", { user: "u1" }), await OldClient.login("/ws/user", { user: "u2" })];
  const native = newClient({ token: mint({ user: "u1" }) });
  const signedIn = next(native, "pusher:signin_success");
  native.signin();
  await signedIn;
  const own = native.user.serverToUserChannel;
  if (!own.subscribed) await next(own, "pusher:subscription_succeeded");
  const came = next(native.user, "greeting");
  await server.sendToUser("u1", "greeting", data);
  assert.deepEqual([shown(await client.next()), (await came).data], [["greeting", data], data]);
  await server.sendToUser("u2", "fence", {});
  assert.equal((await other.next()).type, "fence", "nothing that was another's");
  const closed = new Promise((resolve) => client.socket.once("close", (code, reason) => resolve([code, reason.toString()])));
  await server.terminateUserConnections("u1");
  assert.equal((await closed)[0], 1008);
});

test("/ws/feed", limit, async () => {
  const client = await OldClient.login("/ws/feed", { user: "u1" });
  await server.trigger("user-u2", "new-message", { message: "not yours" });
  await server.trigger("user-u1", "new-message", { message: "é", timestamp: "t" });
  assert.deepEqual(shown(await client.next()), ["new-message", { message: "é", timestamp: "t" }]);
});

test("[endpoints]", limit, async () => {
  const client = await OldClient.login("/ws/content/notified");
  const notify = (body, token = NOTIFY_TOKEN) => fetch(`${BRIDGE_HTTP}/api/internal/notify`, {
    method: "POST", headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" }, body,
  });
  const channel = "content-generation-notified";
  const exact = '{"n":1.50,"big":12345678901234567890}';
  const done = await notify(`{"channel":"${channel}","event":"note","data":${exact}}`);
  assert.deepEqual([done.status, await done.json()], [200, { success: true }]);
  let text;
  client.socket.once("message", (message) => (text = message.toString()));
  assert.equal((await client.next()).type, "note");
  if (text) assert.ok(text.includes(`"data":${exact}`), text);
  const incomplete = await notify("{}");
  assert.equal(incomplete.status, 400);
  const why = JSON.stringify(await incomplete.json());
  for (const field of ["channel", "event", "data"]) assert.ok(why.includes(field), why);
  assert.equal((await notify("{}", "wrong")).status, 401);

  // The filter of a shared channel is nothing that Pusher could apply.
  for (const name of ["agent-status", "private-nobodys"]) {
    const answer = await fetch(`${BRIDGE_HTTP}/pusher/auth`, {
      method: "POST", headers: { Authorization: `Bearer ${mint()}` },
      body: new URLSearchParams({ socket_id: "1.2", channel_name: name }),
    });
    assert.equal(answer.status, 403, name);
  }
});
