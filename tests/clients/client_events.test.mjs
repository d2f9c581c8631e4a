// An old client's messages as genuine client events at pusher-js: tests/e2e/publish_rules.rs has the route, whose messages
// leave `via = "client_event"`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { OldClient, limit, server, subscribed } from "./world.mjs";

const MESSAGES = 25;
const dataOf = (n) => `{"n":${n},"x":1.50,"big":12345678901234567890}`;

test("more than a second takes reach pusher-js in order, each once and with every digit", limit, async () => {
  // What pusher-js parses is what came, before a number is made of its digits.
  const parsed = [];
  const parse = JSON.parse;
  JSON.parse = (text, ...rest) => {
    if (String(text).startsWith('{"n":')) parsed.push(text);
    return parse(text, ...rest);
  };
  const got = [];
  const channel = await subscribed("private-said");
  const fence = new Promise((resolve) => channel.bind("fence", resolve));
  const all = new Promise((resolve) => channel.bind("client-m", ({ n }) => {
    got.push(n);
    if (got.length === MESSAGES) resolve();
  }));
  const client = await OldClient.login("/said", { user: "ann" });
  const began = Date.now();
  for (let n = 0; n < MESSAGES; n++) client.socket.send(`{"type":"m","data":${dataOf(n)}}`);
  await all;
  // Ten a second, the first ten at once: the last five come in the third second.
  assert.ok(Date.now() - began >= 2000, "they were shaped");
  await server.trigger("private-said", "fence", {});
  await fence;
  assert.deepEqual(got, [...Array(MESSAGES).keys()], "none is lost, none comes twice");
  assert.deepEqual(parsed, got.map(dataOf));
  assert.equal((await client.next()).type, "fence", "none comes back to its sender");
});

test("a new client's client event reaches old clients as it is", limit, async () => {
  const channel = await subscribed("private-said");
  const client = await OldClient.login("/said", { user: "bob" });
  assert.ok(channel.trigger("client-answer", { n: 1.5 }));
  const { type, data } = await client.next();
  assert.deepEqual([type, data], ["client-answer", { n: 1.5 }]);
});
