#!/usr/bin/env python3
"""mongo.py VERB ROOT PORT[,PORT...]: a private MongoDB replica set of our own.

  start   one port is a single-node set, three are a cluster; returns when it takes writes (for one
          node of a cluster: when that node is healthy). On data that is there already, it comes back
          with it. Running nodes are left alone.
  stop    SIGTERM and wait      kill    SIGKILL; both keep the data
  pause   SIGSTOP               resume  SIGCONT
  purge   kill, and delete the nodes' data
  pid     prints a process id a line
  url     prints the connection URL

Every verb works on the ports it is given: one node of a cluster, or all.
Files: ROOT/PORT/pid, ROOT/PORT/log, ROOT/PORT/db. Listens on 127.0.0.1 only.

  MONGOD          the server to run (else get-mongod.sh finds or fetches one)
  MONGO_CACHE_GB  cache of each node (0.25; 6 for MONGO_BENCH)
  MONGO_BENCH=1   the server's own log settings and timings, no fault injection: for measurements
  MONGO_TLS_DIR   a directory with server.pem (certificate and key) and ca.crt: takes TLS, too
  MONGO_AUTH=1    asks who one is; the first user is made without, from this machine
  MONGO_MEMBERS   HOST:PORT,... that the first start announces instead of 127.0.0.1:PORT (proxies)
"""
import os
import shutil
import signal
import subprocess
import sys
import time

from mini_mongo import Mini, hello, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
# A dead or frozen node is noticed, and a new primary elected, within about a second.
QUICK_ELECTIONS = {
    "electionTimeoutMillis": 1000,
    "heartbeatIntervalMillis": 200,
    "heartbeatTimeoutSecs": 1,
    "catchUpTimeoutMillis": 500,
}


class Node:
    def __init__(self, root, port):
        self.port = int(port)
        self.dir = os.path.join(os.path.abspath(root), port)
        self.host = f"127.0.0.1:{port}"

    def pid(self):
        """Of the running server, None without one."""
        try:
            with open(f"{self.dir}/pid") as file:
                pid = int(file.read())
            # The number may have been given to another process since.
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return pid if f"{self.dir}/db".encode() in file.read().split(b"\0") else None
        except (OSError, ValueError):
            return None

    def spawn(self, mongod):
        os.makedirs(f"{self.dir}/db", exist_ok=True)
        bench = os.environ.get("MONGO_BENCH")
        args = [mongod, "--dbpath", f"{self.dir}/db", "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        args += ["--logpath", f"{self.dir}/log", "--logappend", "--nounixsocket", "--replSet", "rs0"]
        args += ["--wiredTigerCacheSizeGB", os.environ.get("MONGO_CACHE_GB") or ("6" if bench else "0.25")]
        args += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        # Else a stop of a cluster's node waits 15 s for operations to end by themselves.
        args += ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"]
        if not bench:  # small on disk, quick TTLs, failpoints
            args += ["--oplogSize", "64", "--wiredTigerEngineConfigString", "log=(file_max=8MB,prealloc=false)"]
            args += ["--setParameter", "ttlMonitorSleepSecs=1", "--setParameter", "enableTestCommands=1"]
        if tls := os.environ.get("MONGO_TLS_DIR"):
            args += ["--tlsMode", "preferTLS", "--tlsAllowConnectionsWithoutCertificates"]
            args += ["--tlsCertificateKeyFile", f"{tls}/server.pem", "--tlsCAFile", f"{tls}/ca.crt"]
        if os.environ.get("MONGO_AUTH"):
            args += ["--keyFile", self.key_file()]
        null = subprocess.DEVNULL
        process = subprocess.Popen(args, stdin=null, stdout=null, stderr=null, start_new_session=True)
        with open(f"{self.dir}/pid", "w") as file:
            file.write(str(process.pid))
        self.process = process

    def key_file(self):
        """What members of a set know each other by; there is but one here."""
        path = f"{self.dir}/key"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(os.urandom(30).hex())
        return path

    def wait_for_port(self):
        def answers():
            if self.process.poll() is not None:
                sys.exit(f"mongod on port {self.port} ended at once; its log: {self.dir}/log")
            return hello(self.port)

        wait_until(answers, 60, f"mongod answers on port {self.port}")

    def send(self, *signals):
        pid = self.pid()
        for number in signals if pid else ():
            os.kill(pid, number)

    def healthy(self):
        state = hello(self.port)
        return state.get("isWritablePrimary") or state.get("secondary")


def start(nodes):
    started = time.monotonic()
    down = [node for node in nodes if not node.pid()]
    mongod = subprocess.check_output([f"{HERE}/get-mongod.sh"], text=True).strip() if down else None
    for node in down:
        node.spawn(mongod)
    for node in down:
        node.wait_for_port()
    initiate(nodes)
    wait_until(lambda: all(node.healthy() for node in nodes), 60, "every node is a primary or a secondary")
    if len(hello(nodes[0].port).get("hosts", [])) == len(nodes):
        wait_until(lambda: any(hello(n.port).get("isWritablePrimary") for n in nodes), 60, "the set has a primary")
    print(f"MongoDB ready in {time.monotonic() - started:.1f} s: {url(nodes)}", file=sys.stderr)


def initiate(nodes):
    announced = os.environ.get("MONGO_MEMBERS", "").split(",")
    hosts = announced if announced != [""] else [node.host for node in nodes]
    config = {"_id": "rs0", "members": [{"_id": i, "host": host} for i, host in enumerate(hosts)]}
    if len(nodes) > 1:
        config["settings"] = QUICK_ELECTIONS
    with Mini(nodes[0].port, timeout=30) as first:
        reply = first.command(replSetInitiate=config)
        if reply["ok"] == 1 and len(nodes) > 1:  # do not wait for the first election
            wait_until(lambda: first.command(replSetStepUp=1)["ok"] == 1, 30, "the first node steps up")
        elif reply["ok"] != 1 and reply.get("codeName") != "AlreadyInitialized":
            sys.exit(f"replSetInitiate: {reply.get('errmsg')}")


def end(nodes, number):
    for node in nodes:
        node.send(number, signal.SIGCONT)
    for node in nodes:
        wait_until(lambda: not node.pid(), 30, f"mongod on port {node.port} ends")


def url(nodes):
    return f"mongodb://{','.join(node.host for node in nodes)}/?replicaSet=rs0"


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C without a traceback
    verb, root, ports = sys.argv[1:]
    nodes = [Node(root, port) for port in ports.split(",")]
    if verb == "start":
        start(nodes)
    elif verb == "stop":
        end(nodes, signal.SIGTERM)
    elif verb == "kill":
        end(nodes, signal.SIGKILL)
    elif verb == "pause":
        for node in nodes:
            node.send(signal.SIGSTOP)
    elif verb == "resume":
        for node in nodes:
            node.send(signal.SIGCONT)
    elif verb == "purge":
        end(nodes, signal.SIGKILL)
        for node in nodes:
            shutil.rmtree(node.dir, ignore_errors=True)
        if os.path.isdir(root) and not os.listdir(root):
            os.rmdir(root)
    elif verb == "pid":
        for node in nodes:
            print(node.pid() or sys.exit(f"nothing runs on port {node.port}"))
    elif verb == "url":
        print(url(nodes))
    else:
        sys.exit(f"no such verb: {verb}")


main()
