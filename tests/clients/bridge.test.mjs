// Node's `ws` as an unmodified old client of the bridge at BRIDGE_URL; the npm packages `pusher-js` and
// `pusher` on the other side. tests/e2e/scenarios.rs starts all of them, with a heartbeat of 100 ms that must be
// answered within a second.
import assert from "node:assert/strict";
import { test } from "node:test";
import { OldClient, limit, mint, server, subscribed } from "./world.mjs";

test("an old client authenticates and gets events of the new publishers", limit, async () => {
  const client = new OldClient("/ws/content/node");
  assert.deepEqual((await client.next()).data, {
    authenticated: true, user_id: "node", role: "teacher", permissions: ["content:generate", "roblox:read", "command:run"],
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
    const token = mint({ secondsToLive: lives });
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
