"""Python's `websockets` as an unmodified old client of the bridge at BRIDGE_URL; the PyPI package `pusher` on
the other side. tests/e2e/scenarios.rs starts all of them, with a heartbeat of 100 ms that must be answered
within a second. Exits with 0 when all is as it should be."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time

import pusher
import websockets

URL = os.environ["BRIDGE_URL"]
LIMIT_SECONDS = 30

SERVER = pusher.Pusher(
    app_id=os.environ["PUSHER_APP_ID"],
    key=os.environ["PUSHER_KEY"],
    secret=os.environ["PUSHER_SECRET"],
    host=os.environ["PUSHER_HOST"],
    port=int(os.environ["PUSHER_PORT"]),
    ssl=False,
)


def mint():
    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {
        "sub": "python",
        "role": "student",
        "permissions": "content:generate roblox:read",
        "plugin_ids": ["python"],
        "exp": int(time.time()) + 3600,
    }
    signed = b".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    signature = hmac.new(os.environ["JWT_SECRET"].encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + encode(signature)).decode()


class OldClient:
    def __init__(self, path):
        self.path = path
        self.pings = 0

    async def __aenter__(self):
        self.socket = await websockets.connect(URL + self.path)
        return self

    async def __aexit__(self, *_):
        await self.socket.close()

    async def send(self, message):
        await self.socket.send(json.dumps(message))

    async def receive(self):
        frame = json.loads(await self.socket.recv())
        if frame["type"] == "ping":
            self.pings += 1
            await self.send({"type": "pong", "timestamp": frame["timestamp"]})
        return frame

    async def next(self):
        while (frame := await self.receive())["type"] == "ping":
            pass
        return frame


async def trigger(channel, event, data):
    await asyncio.to_thread(SERVER.trigger, channel, event, data)


async def plugin():
    async with OldClient("/ws/plugin/python") as one, OldClient("/ws/plugin/python") as two:
        for client in (one, two):
            await client.send({"type": "auth", "token": mint()})
            answer = await client.next()
            assert answer["type"] == "auth_response", answer
            assert answer["data"]["role"] == "student", answer
        data = {"script": 'print("é 😀")\n', "n": 1.5}
        await one.send({"type": "run", "data": data})
        frame = await two.next()
        assert (frame["type"], frame["data"]) == ("client-run", data), frame
        await trigger("private-plugin-python", "fence", {"whole": True})
        for client in (one, two):
            frame = await client.next()
            assert (frame["type"], frame["data"]) == ("fence", {"whole": True}), frame


async def roblox():
    async with OldClient("/ws/roblox") as client:
        # Back to back, as the old clients do.
        await client.send({"type": "auth", "token": f"Bearer {mint()}"})
        await client.send({"type": "subscribe", "environment_id": "env_python"})
        await client.send({"type": "unknown"})
        assert (await client.next())["type"] == "auth_response"
        assert (await client.next())["data"]["error_code"] == "UNKNOWN_MESSAGE_TYPE"
        source = "-- é 😀 日本語\r\nlocal x = \"\\n\"\n\tprint('\u2028')\n" * 20
        for environment in ("env_other", "env_python"):
            script = {"environment_id": environment, "script_content": source}
            await trigger("roblox-sync", "script_update", script)
        frame = await client.next()
        assert frame["data"] == {"environment_id": "env_python", "script_content": source}, frame
        while client.pings < 15:
            await client.receive()


async def main():
    await asyncio.wait_for(asyncio.gather(plugin(), roblox()), LIMIT_SECONDS)


asyncio.run(main())
