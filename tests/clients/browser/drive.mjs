// Opens ./index.html in Chromium for the test, as a person would: reads commands
// from stdin and prints what the page shows, a JSON object a line, with the
// number of its command.
//
//   {"n": 1, "do": "watch", "page": URL}       prints what it shows, at each change
//   {"n": 2, "do": "ask", "page": URL, "who": {...}, "ask": ["stats", "alice"]}
//                                              asks with the page's `ask`, and prints the answers

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { chromium } from "playwright-core";

const FLAGS = [
  "--disable-gpu", "--disable-background-networking", "--disable-quic", "--no-first-run",
  "--disable-component-update", "--disable-sync",
];

const say = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);

/** Runs in the page: reports what it shows, whenever that changes. */
function reporting() {
  let reported = "";
  const report = () => {
    const text = (id) => document.getElementById(id)?.textContent ?? "";
    const shown = { state: text("state"), unread: text("badge") === "" ? null : Number(text("badge")) };
    if (text("problem")) [shown.error, shown.message] = text("problem").split(": ");
    if (JSON.stringify(shown) === reported) return;
    reported = JSON.stringify(shown);
    window.report(shown);
  };
  const observer = new MutationObserver(report);
  observer.observe(document, { subtree: true, childList: true, characterData: true });
}

/** Runs in the page: the questions that the other clients have, too. */
async function asked({ who, question: [kind, ...ids] }) {
  const { ask } = await import("/badge.mjs");
  const ofUser = (stats) => ({
    user: stats.user_id,
    unread: stats.total_unread_count,
    unread_dialogs: stats.unread_dialogs_count,
    dialogs: stats.dialog_count,
    sent: stats.total_messages_count,
    by_sender: stats.unread_by_sender_type,
  });
  const tenant = `tenants/${encodeURIComponent(who.tenant)}`;
  const user = `${tenant}/users/${encodeURIComponent(ids[0])}`;
  const questions = {
    stats: async () => [ofUser(await ask(who, `${user}/stats`))],
    dialog: async () => {
      const found = await ask(who, `${user}/dialogs/${encodeURIComponent(ids[1])}`);
      return [{ dialog: found.dialog_id, member: found.member, unread: found.unread_count }];
    },
    batch: async () => (await ask(who, `${tenant}/users/stats`, { user_ids: ids })).user_stats.map(ofUser),
    unread: async () => {
      const pages = [];
      for (let token = ""; token !== undefined; ) {
        const query = new URLSearchParams({ unread_only: true, page_size: 2, page_token: token });
        const page = await ask(who, `${user}/dialogs?${query}`);
        pages.push(Object.fromEntries(page.user_dialog_stats.map((found) => [found.dialog_id, found.unread_count])));
        token = page.next_page_token || undefined;
      }
      return pages;
    },
  };
  try {
    return await questions[kind]();
  } catch (error) {
    return [{ error: error.code ?? error.name, reason: error.reason ?? "", message: error.message }];
  }
}

/** Runs in the page: GetUserStats over gRPC-Web, as a generated client would ask. */
async function askedByGrpcWeb({ who, question: [, user] }) {
  const text = (field, value) => {
    const bytes = new TextEncoder().encode(value);
    return [(field << 3) | 2, bytes.length, ...bytes];
  };
  const message = [...text(1, who.tenant), ...text(2, user)];
  const response = await fetch(`${who.service}/chatcounters.v1.CounterService/GetUserStats`, {
    method: "POST",
    headers: {
      "content-type": "application/grpc-web+proto",
      "x-grpc-web": "1",
      ...(who.token && { authorization: `Bearer ${who.token}` }),
    },
    body: new Uint8Array([0, 0, 0, 0, message.length, ...message]),
  });
  const bytes = new Uint8Array(await response.arrayBuffer());
  // A refusal has no message, and its status among the headers.
  if (bytes.length === 0) return [{ status: response.headers.get("grpc-status") }];
  const length = new DataView(bytes.buffer).getUint32(1);
  const fields = {};
  let at = 5;
  const number = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < 5 + length) {
    const tag = number();
    const value = number();
    if (tag & 7) at += value; // of the others, the length
    else fields[tag >> 3] = value;
  }
  const trailers = new TextDecoder().decode(bytes.subarray(5 + length + 5));
  return [{ unread: fields[5], status: /^grpc-status: ?(\d+)/m.exec(trailers)?.[1] }];
}

async function carryOut(context, command) {
  const { n } = command;
  const page = await context.newPage();
  page.on("pageerror", (error) => say({ n, crash: String(error) }));
  if (command.do === "watch") {
    await page.exposeFunction("report", (shown) => say({ n, ...shown }));
    await page.addInitScript(reporting);
    await page.goto(command.page);
    return;
  }
  await page.goto(command.page);
  const how = command.ask[0] === "grpc_web" ? askedByGrpcWeb : asked;
  const answers = await page.evaluate(how, { who: command.who, question: command.ask });
  for (const answer of answers) say({ n, ...answer });
  say({ n, done: true });
  await page.close();
}

const profile = await mkdtemp(join(tmpdir(), "chat-counters-chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  chromiumSandbox: false,
  args: FLAGS,
});
try {
  for await (const line of createInterface(process.stdin)) {
    const command = JSON.parse(line);
    carryOut(context, command).catch((error) => say({ n: command.n, crash: String(error) }));
  }
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
