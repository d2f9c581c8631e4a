// The bridge as a good engineer would write it in an afternoon: ws, one pusher-js connection, jsonwebtoken.
// Each event is serialised once and the same buffer is sent to every client. It is measured, not shipped.

import { createHash, createHmac } from 'node:crypto';
import { createServer } from 'node:http';

import jwt from 'jsonwebtoken';
import PusherModule from 'pusher-js';
import { WebSocketServer } from 'ws';

import { authorize, tokenKey } from './authorize.js';
import { presence } from './presence.js';

const Pusher = PusherModule.Pusher ?? PusherModule.default ?? PusherModule;

const env = process.env;
const HEARTBEAT_MS = 30_000;
const AUTH_DEADLINE_MS = 30_000;
const BUFFERED_BYTES_MAX = 1 << 20;
const MESSAGE_BYTES_MAX = 64 << 10;
const CONNECTIONS_PER_USER = 10;
const CONNECTIONS_PER_ADDRESS = 50;
const MESSAGES_PER_MINUTE = 100;

// `member`: { user_id, user_info }, for presence channels.
function connect(member) {
  const sign = (text) => `${env.PUSHER_KEY}:${createHmac('sha256', env.PUSHER_SECRET).update(text).digest('hex')}`;
  return new Pusher(env.PUSHER_KEY, {
    cluster: 'mt1',
    wsHost: env.PUSHER_HOST,
    wsPort: Number(env.PUSHER_PORT),
    forceTLS: env.PUSHER_TLS === 'true',
    enabledTransports: ['ws', 'wss'],
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, done) => {
        if (channelName.startsWith('presence-')) {
          const data = JSON.stringify(member);
          done(null, { auth: sign(`${socketId}:${channelName}:${data}`), channel_data: data });
          return;
        }
        const answer = { auth: sign(`${socketId}:${channelName}`) };
        if (channelName.startsWith('private-encrypted-')) {
          const key = createHash('sha256').update(channelName);
          key.update(Buffer.from(env.PUSHER_ENCRYPTION_MASTER_KEY, 'base64'));
          answer.shared_secret = key.digest('base64');
        }
        done(null, answer);
      },
    },
  });
}

const pusher = connect();
const rooms = presence({ connect, send, frame });

// name -> { upstream, all: Set<ws>, byAgent: Map<agent_id, Set<ws>>, last: the last event, on a cache channel }
const channels = new Map();
const users = new Map();
const addresses = new Map();

function frame(message) {
  return Buffer.from(JSON.stringify(message));
}

function send(ws, buffer) {
  if (ws.bufferedAmount > BUFFERED_BYTES_MAX) {
    ws.close(1013, 'too slow');
    return;
  }
  ws.send(buffer, { binary: false });
}

function subscribe(ws, name, agent) {
  let channel = channels.get(name);
  if (!channel) {
    channel = { upstream: pusher.subscribe(name), all: new Set(), byAgent: new Map() };
    const { upstream, all, byAgent } = channel;
    const cached = name.startsWith('private-cache-');
    upstream.bind_global((event, data) => {
      if (event.startsWith('pusher:')) return;
      const timestamp = new Date().toISOString();
      if (all.size > 0) {
        const plain = [...all][0].route.inBand
          ? { type: 'event', channel: name, data, timestamp }
          : { type: event, data, timestamp };
        const buffer = frame(plain);
        if (cached) channel.last = buffer;
        for (const client of all) send(client, buffer);
      }
      const chosen = byAgent.get(data?.agent_id);
      if (chosen) {
        const buffer = frame({ type: event, data, timestamp });
        for (const client of chosen) send(client, buffer);
      }
    });
    channels.set(name, channel);
  }
  let members = channel.all;
  if (agent) {
    members = channel.byAgent.get(agent) ?? new Set();
    channel.byAgent.set(agent, members);
  }
  members.add(ws);
  ws.subscriptions.push({ name, agent, members });
  return channel;
}

function leave({ name, agent, members }, ws) {
  members.delete(ws);
  const channel = channels.get(name);
  if (agent && members.size === 0) channel.byAgent.delete(agent);
  if (channel.all.size === 0 && channel.byAgent.size === 0) {
    channels.delete(name);
    pusher.unsubscribe(name);
  }
}

function routeOf(path) {
  let match;
  if ((match = /^\/ws\/plugin\/([^/]+)$/.exec(path))) {
    const [, id] = match;
    return { channel: `private-plugin-${id}`, permitted: (claims) => claims.plugin_ids?.includes(id) };
  }
  if ((match = /^\/ws\/state\/([^/]+)$/.exec(path))) {
    return { channel: `private-cache-state-${match[1]}`, permitted: () => true };
  }
  if ((match = /^\/ws\/secure\/([^/]+)$/.exec(path))) {
    return { channel: `private-encrypted-${match[1]}`, permitted: () => true };
  }
  if ((match = /^\/ws\/room\/([^/]+)$/.exec(path))) {
    return { channel: `presence-${match[1]}`, room: true, permitted: () => true };
  }
  if ((match = /^\/ws\/agent\/([^/]+)$/.exec(path))) {
    return { channel: 'agent-status', agent: match[1], permitted: () => true };
  }
  return path === '/ws' ? { inBand: true } : null;
}

function count(map, key, most) {
  const value = (map.get(key) ?? 0) + 1;
  if (value > most) return false;
  map.set(key, value);
  return true;
}

function uncount(map, key) {
  const value = map.get(key) - 1;
  if (value > 0) map.set(key, value);
  else map.delete(key);
}

function refuse(ws, code, message) {
  send(ws, frame({ type: 'error', data: { error_code: code, message, details: {} } }));
}

function authenticate(ws, message) {
  try {
    const claims = jwt.verify(String(message.token).replace(/^Bearer /, ''), tokenKey, { algorithms: ['HS256'] });
    if (!ws.route.permitted(claims)) throw new Error('not permitted');
    let last;
    let isNew = false;
    if (!ws.user) {
      if (!count(users, claims.sub, CONNECTIONS_PER_USER)) throw new Error('too many connections');
      ws.user = claims.sub;
      if (!ws.route.room) ({ last } = subscribe(ws, ws.route.channel, ws.route.agent));
      isNew = true;
    }
    clearTimeout(ws.deadline);
    const { sub: user_id, role, permissions } = claims;
    send(ws, frame({ type: 'auth_response', data: { authenticated: true, user_id, role, permissions } }));
    if (last) send(ws, last);
    if (isNew && ws.route.room) rooms.join(ws, ws.route.channel, user_id, { role });
  } catch {
    const data = { error: 'INVALID_TOKEN', message: 'JWT token is invalid or expired' };
    send(ws, frame({ type: 'auth_error', data }));
  }
}

function receive(ws, text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    refuse(ws, 'INVALID_MESSAGE', 'not JSON');
    return;
  }
  ws.alive = true;
  if (message.type === 'pong') return;
  const now = Date.now();
  if (now - ws.windowStart > 60_000) {
    ws.windowStart = now;
    ws.messages = 0;
  }
  if (++ws.messages > MESSAGES_PER_MINUTE) {
    refuse(ws, 'RATE_LIMIT_EXCEEDED', 'too many messages');
  } else if (ws.route.inBand) {
    if (message.type === 'subscribe' && typeof message.channel === 'string') subscribe(ws, `bench-${message.channel}`);
  } else if (message.type === 'auth') {
    authenticate(ws, message);
  } else if (!ws.user) {
    refuse(ws, 'WEBSOCKET_AUTH_REQUIRED', 'Authentication required for this WebSocket endpoint');
  }
}

function open(ws, route, address) {
  Object.assign(ws, { route, alive: true, subscriptions: [], windowStart: Date.now(), messages: 0 });
  if (!route.inBand) {
    ws.deadline = setTimeout(() => ws.close(3000, 'not authenticated'), AUTH_DEADLINE_MS);
  }
  ws.on('message', (data) => receive(ws, data.toString()));
  ws.on('pong', () => {
    ws.alive = true;
  });
  ws.on('error', () => ws.terminate());
  ws.on('close', () => {
    clearTimeout(ws.deadline);
    uncount(addresses, address);
    if (ws.user) uncount(users, ws.user);
    for (const subscription of ws.subscriptions) leave(subscription, ws);
    if (ws.user && ws.route.room) rooms.leave(ws, ws.route.channel, ws.user);
  });
}

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: MESSAGE_BYTES_MAX });
const server = createServer(authorize);
server.on('upgrade', (request, socket, head) => {
  const route = routeOf(request.url.split('?')[0]);
  const address = socket.remoteAddress;
  if (!route) {
    socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n');
  } else if (!count(addresses, address, route.inBand ? Infinity : CONNECTIONS_PER_ADDRESS)) {
    socket.end('HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n');
  } else {
    sockets.handleUpgrade(request, socket, head, (ws) => open(ws, route, address));
  }
});

setInterval(() => {
  const ping = frame({ type: 'ping', timestamp: new Date().toISOString() });
  for (const ws of sockets.clients) {
    if (!ws.alive) {
      ws.terminate();
      continue;
    }
    ws.alive = false;
    if (ws.route.inBand) ws.ping();
    else send(ws, ping);
  }
}, HEARTBEAT_MS);

// Listening says that the connection to Pusher stands.
pusher.connection.bind('connected', () => {
  if (!server.listening) server.listen({ port: Number(env.PORT), host: '127.0.0.1', backlog: 4096 });
});
