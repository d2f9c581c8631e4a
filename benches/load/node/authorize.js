// Channels authorized for Pusher's new clients, as a good engineer would do it: npm's pusher and jsonwebtoken.

import { createSecretKey } from 'node:crypto';

import jwt from 'jsonwebtoken';
import Pusher from 'pusher';

const env = process.env;
// The secret as jsonwebtoken's manual has it, or, if asked for, a key made once: of a string jsonwebtoken makes one for
// each token, after it has tried to read it as a public key, which takes nine tenths of an authorization.
export const tokenKey = env.TOKEN_KEY_ONCE ? createSecretKey(env.JWT_SECRET, 'utf8') : env.JWT_SECRET;
const BODY_BYTES_MAX = 16 << 10;
const REQUESTS_PER_MINUTE = 600;
const PATHS = new Set(['/pusher/auth', '/api/v1/pusher/auth', '/api/pusher/auth']);

const pusher = new Pusher({
  appId: env.PUSHER_APP_ID,
  key: env.PUSHER_KEY,
  secret: env.PUSHER_SECRET,
  host: env.PUSHER_HOST,
  port: env.PUSHER_PORT,
  useTLS: env.PUSHER_TLS === 'true',
});

// user -> requests in this minute
let requests = new Map();
setInterval(() => {
  requests = new Map();
}, 60_000).unref();

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function claimsOf(request) {
  const [scheme, token] = (request.headers.authorization ?? '').split(' ');
  if (scheme.toLowerCase() !== 'bearer' || !token) throw new Refused(401, 'a token is needed');
  try {
    return jwt.verify(token, tokenKey, { algorithms: ['HS256'] });
  } catch {
    throw new Refused(401, 'the token is invalid or expired');
  }
}

// The member of a presence channel, null on other channels.
function memberOf(channel, claims) {
  let match;
  if ((match = /^private-plugin-(.+)$/.exec(channel)) && claims.plugin_ids?.includes(match[1])) return null;
  if (/^private-cache-state-.+$/.test(channel)) return null;
  if (/^presence-.+$/.test(channel)) {
    const { sub: user_id, name, email, role } = claims;
    return { user_id, user_info: { name, email, role } };
  }
  throw new Refused(403, 'this is not for this user');
}

function decide(request, body, told) {
  const claims = claimsOf(request);
  told.user = claims.sub;
  const count = (requests.get(claims.sub) ?? 0) + 1;
  if (count > REQUESTS_PER_MINUTE) throw new Refused(429, 'too many requests');
  requests.set(claims.sub, count);
  const form = new URLSearchParams(body);
  const [socketId, channel] = [form.get('socket_id'), form.get('channel_name')];
  if (!socketId || !channel) throw new Refused(400, 'socket_id or channel_name is missing');
  told.channel = channel;
  const member = memberOf(channel, claims);
  return member ? pusher.authorizeChannel(socketId, channel, member) : pusher.authorizeChannel(socketId, channel);
}

function answer(request, response, body) {
  const told = {};
  let status = 200;
  let result;
  try {
    result = decide(request, body, told);
  } catch (error) {
    // What npm's pusher throws is about the socket id or the channel.
    status = error.status ?? 400;
    result = { success: false, message: error.message };
  }
  const text = JSON.stringify(result);
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Cache-Control': 'no-store',
    'Content-Length': Buffer.byteLength(text),
  });
  response.end(text);
  const address = request.socket.remoteAddress;
  const line = { time: new Date().toISOString(), endpoint: 'channel_auth', address, ...told, status, why: result.message };
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

export function authorize(request, response) {
  if (request.method !== 'POST' || !PATHS.has(request.url.split('?')[0])) {
    response.writeHead(404, { 'Content-Length': 0 }).end();
    return;
  }
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (piece) => {
    body += piece;
    if (body.length > BODY_BYTES_MAX) request.destroy();
  });
  request.on('end', () => answer(request, response, body));
}
