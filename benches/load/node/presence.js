// Presence channels: each user has a pusher-js connection of its own, and one of a channel's is the one whose events are
// handed on.

export function presence({ connect, send, frame }) {
  // user -> { pusher, joined: Map<name, { upstream, count }> }
  const users = new Map();
  // name -> { clients: Set<ws>, reader: the user whose connection is read }
  const rooms = new Map();

  function broadcast(name, user, message) {
    const room = rooms.get(name);
    if (!room || room.reader !== user) return;
    const buffer = frame(message);
    for (const client of room.clients) send(client, buffer);
  }

  function listOf(upstream) {
    const members = [];
    upstream.members.each(({ id, info }) => members.push({ id, info }));
    return { type: 'presence_members', data: { count: members.length, members } };
  }

  function join(ws, name, user, info) {
    if (!rooms.has(name)) rooms.set(name, { clients: new Set(), reader: user });
    if (!users.has(user)) users.set(user, { pusher: connect({ user_id: user, user_info: info }), joined: new Map() });
    const { pusher, joined } = users.get(user);
    const enter = (upstream) => {
      rooms.get(name)?.clients.add(ws);
      send(ws, frame(listOf(upstream)));
    };
    const known = joined.get(name);
    if (known) {
      known.count += 1;
      if (known.upstream.subscribed) enter(known.upstream);
      else known.upstream.bind('pusher:subscription_succeeded', () => enter(known.upstream));
      return;
    }
    const upstream = pusher.subscribe(name);
    joined.set(name, { upstream, count: 1 });
    upstream.bind('pusher:subscription_succeeded', () => enter(upstream));
    upstream.bind('pusher:member_added', ({ id, info }) => {
      broadcast(name, user, { type: 'member_added', data: { id, info } });
    });
    upstream.bind('pusher:member_removed', ({ id }) => {
      broadcast(name, user, { type: 'member_removed', data: { id } });
    });
    upstream.bind_global((type, data) => {
      if (type.startsWith('pusher:')) return;
      broadcast(name, user, { type, data, timestamp: new Date().toISOString() });
    });
  }

  function leave(ws, name, user) {
    const member = users.get(user);
    const room = rooms.get(name);
    room.clients.delete(ws);
    const known = member.joined.get(name);
    known.count -= 1;
    if (known.count > 0) return;
    member.pusher.unsubscribe(name);
    member.joined.delete(name);
    if (member.joined.size === 0) {
      member.pusher.disconnect();
      users.delete(user);
    }
    if (room.reader === user) room.reader = [...users].find(([, { joined }]) => joined.has(name))?.[0];
    if (!room.reader) rooms.delete(name);
  }

  return { join, leave };
}
