"""What the test of the clients needs: the service, a connection that can be cut,
programs that print JSON lines, a browser that does so, and a site for its page."""
import asyncio
import contextlib
import functools
import http.server
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).parent
PATIENCE = 30  # seconds after which what has not come is a failure


class Failed(Exception):
    """A client does not do what it should."""


def check(found, expected, what):
    if found != expected:
        raise Failed(f"{what}: expected {expected}, found {found}")


class Service:
    """The real service, which can be killed and started again."""

    def __init__(self, binary, folder, ports, origin):
        self.binary, self.folder, self.ports = binary, folder, ports
        self.process = None
        self.log = (folder / "service.log").open("ab")
        self.config = folder / "config.toml"
        self.tokens = {}
        # Names of its own: the servers may be somebody else's, too.
        own = f"clients_{os.getpid()}"
        self.config.write_text(f"""
[bus]
exchange = "{own}_events"
queue = "{own}"
dead_letter_queue = "{own}.dlq"
[store]
database = "{own}"
[grpc]
listen = "127.0.0.1:{ports['grpc']}"
[admin]
listen = ""
[http]
listen = "127.0.0.1:{ports['http']}"
allowed_origins = "{origin}"
[shutdown]
delay_seconds = 0
[metrics]
listen = "127.0.0.1:{ports['metrics']}"
[auth]
mode = "token"
token_file = "{folder}/tokens.toml"
""")

    def run(self, *arguments, stdin=""):
        command = [self.binary, *arguments, "--config", str(self.config)]
        return subprocess.run(command, check=True, input=stdin, stdout=subprocess.PIPE, text=True).stdout

    def make_token(self, name, *arguments):
        file = self.folder / f"{name}.token"
        entry = self.run("token", name, "--out", str(file), *arguments)
        with (self.folder / "tokens.toml").open("a") as entries:
            entries.write(entry)
        self.tokens[name] = file.read_text().strip()

    async def start(self):
        command = [self.binary, "serve", "--config", str(self.config)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        await until("the service is ready", self.is_ready)

    def is_ready(self):
        if self.process.poll() is not None:
            raise Failed(f"the service ended with status {self.process.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/healthz", timeout=1).close()
            return True
        except OSError:
            return False

    async def end(self, how):
        if self.process:
            self.process.send_signal(how)
            await asyncio.to_thread(self.process.wait, PATIENCE)

    async def publish(self, name):
        """Publishes the events of a file, and says the id of the last one."""
        file = HERE / "events" / f"{name}.jsonl"
        await asyncio.to_thread(self.run, "publish", str(file))
        return json.loads(file.read_text().splitlines()[-1])["eventId"]

    async def publish_event(self, event):
        await asyncio.to_thread(self.run, "publish", "-", stdin=json.dumps(event) + "\n")

    async def counted(self, tenant, user, event):
        """Returns once the event is counted; the answer waits for it."""
        path = f"/v1/tenants/{tenant}/users/{user}/stats?after_event_id={event}"
        url = f"http://127.0.0.1:{self.ports['http']}{path}"
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {self.tokens['reader']}"})
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=PATIENCE).close())


async def until(what, is_so):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise Failed(f"still not so after {PATIENCE} s: {what}")
        await asyncio.sleep(0.02)


class Line:
    """A connection to a port that can be cut, and remembers what went over it."""

    def __init__(self, port, to):
        self.port, self.to = port, to
        self.server, self.open = None, set()
        self.sent, self.received = bytearray(), bytearray()

    async def mend(self):
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", self.port)

    def cut(self):
        """Drops all connections, and refuses others until it is mended."""
        self.server.close()
        for writer in self.open:
            writer.transport.abort()

    async def carry(self, reader, writer):
        self.open.add(writer)
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.to)
            self.open.add(to_writer)
            pumps = [self.pump(reader, to_writer, self.sent), self.pump(to_reader, writer, self.received)]
            await asyncio.gather(*pumps)
            self.open.discard(to_writer)
        except OSError:  # nobody there: a service that was killed
            writer.transport.abort()
        self.open.discard(writer)

    async def pump(self, reader, writer, record):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                record += data
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class Shown:
    """What a client has shown, the latest last."""

    def __init__(self):
        self.lines = asyncio.Queue()
        self.latest = {}

    async def until(self, **expected):
        """Reads on until the client shows this."""
        try:
            async with asyncio.timeout(PATIENCE):
                while any(self.latest.get(key) != value for key, value in expected.items()):
                    self.latest = await self.lines.get()
                    if "crash" in self.latest:
                        raise Failed(self.latest["crash"])
        except TimeoutError:
            raise Failed(f"expected to be shown {expected}, last was {self.latest}") from None
        return self.latest


class Program:
    """A client that is a program of its own for each question."""

    def __init__(self, name, command, line, address):
        self.name, self.command, self.line = name, command, line
        self.address = address
        self.processes, self.reading = [], []

    async def start(self):
        pass

    async def spawn(self, arguments, token):
        environment = {**os.environ, "CHAT_COUNTERS_ADDRESS": self.address, "CHAT_COUNTERS_TOKEN": token}
        process = await asyncio.create_subprocess_exec(
            *self.command, *arguments, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, start_new_session=True)
        self.processes.append(process)
        return process

    async def ask(self, token, tenant, kind, *ids):
        process = await self.spawn([kind, tenant, *ids], token)
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        answers = [json.loads(line) for line in output.splitlines()]
        check(process.returncode, 1 if "error" in answers[-1] else 0, f"status of {kind}")
        return answers

    async def watch(self, token, tenant, user):
        process, shown = await self.spawn(["watch", tenant, user], token), Shown()
        self.reading.append(asyncio.create_task(self.read(process, shown)))
        return shown

    async def read(self, process, shown):
        async for line in process.stdout:
            shown.lines.put_nowait(json.loads(line))

    def resume_token(self, shown):
        """Where the client would go on from."""
        while not shown.lines.empty():
            shown.latest = shown.lines.get_nowait()
        return shown.latest["resume"]

    def resumes(self, token):
        """How that is said on the wire: in a message or a header, in the clear."""
        return token.encode()

    async def stop(self):
        for process in self.processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


class Browser:
    """A page in Chromium."""

    def __init__(self, name, line, address, site):
        self.name, self.line, self.address, self.site = name, line, address, site
        self.process, self.reading, self.commands = None, None, []

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            "node", str(HERE / "browser/drive.mjs"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True)
        self.reading = asyncio.create_task(self.read())

    async def read(self):
        async for line in self.process.stdout:
            said = json.loads(line)
            self.commands[said.pop("n")].lines.put_nowait(said)

    def command(self, **command):
        shown = Shown()
        command["n"] = len(self.commands)
        self.commands.append(shown)
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        return shown

    async def ask(self, token, tenant, kind, *ids, site=None):
        who = {"service": self.address, "tenant": tenant, "token": token}
        shown = self.command(do="ask", page=f"{site or self.site}/", who=who, ask=[kind, *ids])
        answers = []
        while "done" not in (answer := await asyncio.wait_for(shown.lines.get(), PATIENCE)):
            answers.append(answer)
            if "crash" in answer:
                raise Failed(answer["crash"])
        return answers

    async def watch(self, token, tenant, user):
        fields = {"service": self.address, "tenant": tenant, "user": user, "token": token}
        return self.command(do="watch", page=f"{self.site}/#{urllib.parse.urlencode(fields)}")

    def resume_token(self, shown):
        """The page shows none: the last that it was sent."""
        ids = re.findall(rb"\nid: (\S+)\n", self.line.received)
        return ids[-1].decode() if ids else ""

    def resumes(self, token):
        return f"last-event-id: {token}".encode()

    async def stop(self):
        if not self.process:
            return
        self.process.stdin.close()  # it closes the browser
        try:
            await asyncio.wait_for(self.process.wait(), 10)
        except TimeoutError:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()


def serve_page(port):
    """The site of the page: files, and nothing that knows of the service. Returns
    where it is, and what it is asked for, line by line."""
    asked = []

    class Files(http.server.SimpleHTTPRequestHandler):
        extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

        def log_message(self, _, line, *__):
            asked.append(line)

    handler = functools.partial(Files, directory=HERE / "browser")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{port}", asked
