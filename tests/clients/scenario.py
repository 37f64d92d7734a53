#!/usr/bin/env python3
"""scenario.py BINARY [CLIENT...]: the same story with each client, and a line about
each: what it reads, how it is refused, a badge that changes while one looks, a
connection that is cut, a service that is killed.

The events are in events/, what is to be read in expected.json, by hand. The servers
are those of the environment (deploy/dev/servers.sh with).
"""
import asyncio
import json
import pathlib
import signal
import subprocess
import sys
import tempfile

from kit import HERE, Browser, Failed, Line, Program, Service, check, serve_page

TENANT = "tnt_1"
EXPECTED = json.loads((HERE / "expected.json").read_text())
NAMES = ["curl", "python", "typescript", "browser"]
COMMANDS = {
    "curl": [HERE / "curl/client.sh"],
    "python": [sys.executable, HERE / "python/client.py"],
    "typescript": ["node", HERE / "typescript/dist/client.js"],
}


async def starts(client):
    await client.start()


async def reads(client, tokens):
    ask = lambda *question: client.ask(tokens["reader"], TENANT, *question)  # noqa: E731
    check(await ask("stats", "alice"), [EXPECTED["stats"]], "stats")
    check(await ask("stats", " Alice "), [EXPECTED["stats"]], "stats by another spelling")
    check(await ask("dialog", "alice", "general"), [EXPECTED["dialog"]], "dialog")
    check(await ask("batch", "bob", "alice", "nobody"), EXPECTED["batch"], "batch")
    check(await ask("unread", "alice"), EXPECTED["unread"], "unread dialogs, page by page")
    if client.name == "curl":
        check(await ask("again", "alice"), [{"first": 200, "again": 304}], "with an ETag")
    if client.name == "browser":
        expected = {"unread": EXPECTED["stats"]["unread"], "status": "0"}
        check(await ask("grpc_web", "alice"), [expected], "gRPC-Web")
        refused = await client.ask("guessed", TENANT, "grpc_web", "alice")
        check(refused, [{"status": "16"}], "gRPC-Web with a wrong token")


async def refusals(client, tokens):
    reader, own, other = tokens["reader"], tokens["alice"], "another-tenant"
    many = ["batch", *(f"user-{number}" for number in range(1_001))]
    for what, token, tenant, question, code, reason in [
        ("no token", "", TENANT, ["stats", "alice"], "UNAUTHENTICATED", "CREDENTIALS_MISSING"),
        ("a wrong token", "guessed", TENANT, ["stats", "alice"], "UNAUTHENTICATED", "CREDENTIALS_INVALID"),
        ("a forged tenant", reader, other, ["stats", "alice"], "PERMISSION_DENIED", "TENANT_DENIED"),
        ("another user", own, TENANT, ["stats", "bob"], "PERMISSION_DENIED", "USER_DENIED"),
        ("too many users", reader, TENANT, many, "INVALID_ARGUMENT", None),
    ]:
        answer = (await client.ask(token, tenant, *question))[0]
        check(answer.get("error"), code, what)
        if client.name != "typescript":  # which leaves the details of errors alone
            check(answer["reason"] or None, reason, what)
    check(answer["message"], "invalid request: user_ids: at most 1000 ids, found 1001", "why too many are refused")
    if client.name == "browser":
        answer = (await client.ask(reader, TENANT, "stats", "alice", site=client.stranger))[0]
        check(answer["error"], "TypeError", "a page of a site that may not ask")


async def refused_watches(client, tokens):
    """Whoever may not look is told so, and does not try on."""
    for token, user, code in [("guessed", "alice", "UNAUTHENTICATED"), (tokens["alice"], "bob", "PERMISSION_DENIED")]:
        shown = await client.watch(token, TENANT, user)
        await shown.until(error=code)


def joins(user, dialog):
    return {
        "eventId": f"join-{dialog}-{user}", "tenantId": TENANT, "eventType": "dialog.member.add",
        "entityType": "dialogMember", "createdAt": 1763551369000,
        "data": {"context": {"dialogId": dialog, "userId": user}},
    }


class Story:
    """What happens, to all clients at once; a client that fails is out of it."""

    def __init__(self, clients, service):
        self.clients, self.service = clients, service
        self.failures, self.shown, self.last = {}, {}, {}

    async def each(self, step, *arguments):
        async def tried(client):
            try:
                await step(client, *arguments)
            except Failed as failed:
                self.failures[client.name] = f"{step.__name__}: {failed}"
            except Exception as error:  # whatever it is, it is this client's
                self.failures[client.name] = f"{step.__name__}: {error!r}"

        await asyncio.gather(*(tried(client) for client in self.clients if client.name not in self.failures))

    async def publish(self, name):
        last = await self.service.publish(name)
        await self.service.counted(TENANT, "alice", last)

    async def told(self):
        tokens = self.service.tokens
        await self.publish("first")
        await self.each(starts)
        await self.each(reads, tokens)
        await self.each(refusals, tokens)
        await self.each(refused_watches, tokens)
        await self.each(self.looks)
        await self.publish("looking")
        await self.each(self.sees, "looking")
        await self.cut()
        await self.restart("killed", signal.SIGKILL, before="cut")
        await self.restart("stopped", signal.SIGTERM, before="killed")

    async def looks(self, client):
        # The token of a user, not of a service: what a page may have.
        self.shown[client] = await client.watch(self.service.tokens["alice"], TENANT, "alice")
        await self.sees(client, "first")

    async def sees(self, client, when):
        await self.shown[client].until(state="live", unread=EXPECTED["badge"][when])

    async def cut(self):
        """All connections end, none is to be had, and meanwhile something happens."""
        await self.all_can_resume()
        for client in self.clients:
            client.line.cut()
        await self.each(self.is_lost, "looking")
        await self.publish("cut")
        await self.each(self.comes_back, "cut")

    async def restart(self, when, how, before):
        """The service ends, and what happens meanwhile waits at the broker."""
        await self.all_can_resume()
        await self.service.end(how)
        await self.each(self.is_lost, before)
        last = await self.service.publish(when)
        await self.service.start()
        await self.service.counted(TENANT, "alice", last)
        await self.each(self.comes_back, when)

    async def all_can_resume(self):
        """Where to go on from is said with a change, once a second at most: so
        Alice joins dialogs without messages, which leave her badge as it is."""
        left, rooms = [client for client in self.clients if client.name not in self.failures], 0
        while any(not client.resume_token(self.shown[client]) for client in left) and rooms < 100:
            rooms += 1
            await self.service.publish_event(joins("alice", f"room-{rooms}"))
        await self.each(self.can_resume)

    async def can_resume(self, client):
        check(client.resume_token(self.shown[client]) != "", True, "it knows where to go on from")

    async def is_lost(self, client, before):
        """It says so, and goes on showing what it knows."""
        await self.shown[client].until(state="reconnecting", unread=EXPECTED["badge"][before])
        self.last[client] = client.resume_token(self.shown[client])
        client.line.sent.clear()

    async def comes_back(self, client, when):
        if not client.line.server.is_serving():
            await client.line.mend()
        await self.sees(client, when)
        has_asked = client.resumes(self.last[client]) in bytes(client.line.sent)
        check(has_asked, True, "it has asked to go on from where it was")


def clients_of(names, ports, site, stranger):
    """The clients of these names, each behind a connection of its own."""
    for name in names:
        is_grpc = name in ("python", "typescript")
        line = Line(ports[name], ports["grpc" if is_grpc else "http"])
        address = f"{'' if is_grpc else 'http://'}127.0.0.1:{ports[name]}"
        if name == "browser":
            client = Browser(name, line, address, site)
            client.stranger = stranger
        else:
            client = Program(name, COMMANDS[name], line, address)
        yield client


async def run(binary, names, folder):
    first = int(subprocess.check_output([HERE.parent.parent / "deploy/dev/free_ports.py", "9"]))
    ports = dict(zip(["grpc", "http", "metrics", "site", "stranger", *NAMES], range(first, first + 9)))
    (site, asked), (stranger, _) = serve_page(ports["site"]), serve_page(ports["stranger"])
    service = Service(binary, folder, ports, site)
    service.make_token("reader", "--role", "reader", "--tenant", TENANT)
    service.make_token("alice", "--role", "user", "--user", "alice", "--tenant", TENANT)
    clients = list(clients_of(names, ports, site, stranger))
    story = Story(clients, service)
    try:
        for client in clients:
            await client.line.mend()
        await service.start()
        await story.told()
        shows_token = any(token in line for token in service.tokens.values() for line in asked)
        check(shows_token, False, "a token was sent to the site of the page")
    finally:
        await asyncio.gather(*(client.stop() for client in clients))
        await service.end(signal.SIGKILL)
    for name in names:
        print(f"{name:<12}{'FAILED: ' + story.failures[name] if name in story.failures else 'ok'}")
    return 1 if story.failures else 0


def main():
    binary, names = sys.argv[1], sys.argv[2:] or NAMES
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not before all is stopped
    with tempfile.TemporaryDirectory(prefix="chat-counters-clients-") as folder:
        folder = pathlib.Path(folder)
        try:
            status = asyncio.run(run(binary, names, folder))
        except (Failed, OSError, subprocess.SubprocessError) as error:
            print(f"FAILED: {type(error).__name__}: {error}")
            status = 1
        if status:
            sys.stderr.write((folder / "service.log").read_text())
    return status


if __name__ == "__main__":
    sys.exit(main())
