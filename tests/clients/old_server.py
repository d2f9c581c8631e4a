"""Python's `websockets` as an old server and as its clients, with compression. tests/e2e/tunnel.rs starts it: it prints the
server's port, reads the URL of the bridge's route, and exits with 0 when all is as it should be."""

import asyncio
import sys

import websockets

LIMIT_SECONDS = 15
LARGE = "x" * (1 << 20)


async def echo(socket):
    try:
        while (message := await socket.recv()) != "close":
            await socket.send(message)
        await socket.close(4003, "as you wish")
    except websockets.ConnectionClosed:
        pass


async def ask(url):
    async with websockets.connect(url, max_size=None) as client:
        assert client.response.headers.get("Sec-WebSocket-Extensions", "").startswith("permessage-deflate")
        for message in ["text", b"binary \0\xff", "", "\u00e4\u20ac\U0001f600", LARGE]:
            await client.send(message)
            assert await client.recv() == message
        # A message in fragments.
        await client.send(part for part in ["a ", "b ", "c"])
        assert await client.recv() == "a b c"
        await (await client.ping())
        await client.send("close")
        try:
            await client.recv()
        except websockets.ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4003, "as you wish"), closed
        else:
            raise AssertionError("not closed")
    async with websockets.connect(url) as client:
        await client.close(4004, "enough")


async def main():
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        url = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await ask(url.strip())


asyncio.run(asyncio.wait_for(main(), LIMIT_SECONDS))
