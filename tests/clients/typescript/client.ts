// Reads and watches counters over gRPC.
//
//   node dist/client.js stats TENANT USER            how a user stands
//   node dist/client.js dialog TENANT USER DIALOG    the same in one dialog
//   node dist/client.js batch TENANT USER...         several users, as of one moment
//   node dist/client.js unread TENANT USER           the dialogs with something unread
//   node dist/client.js watch TENANT USER            the badge, as it changes, until Ctrl-C
//
// CHAT_COUNTERS_ADDRESS says where (127.0.0.1:50051), CHAT_COUNTERS_TOKEN who asks.
// Prints a JSON object a line. Once, from this folder: npm ci && npm run build

import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";

import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";

import type { CounterServiceClient } from "./generated/chatcounters/v1/CounterService.js";
import type { BatchGetUserStatsResponse__Output as Batch } from "./generated/chatcounters/v1/BatchGetUserStatsResponse.js";
import type { ListUserDialogStatsResponse__Output as Page } from "./generated/chatcounters/v1/ListUserDialogStatsResponse.js";
import type { UserDialogStats__Output as UserDialogStats } from "./generated/chatcounters/v1/UserDialogStats.js";
import type { UserStats__Output as UserStats } from "./generated/chatcounters/v1/UserStats.js";
import type { WatchUserStatsResponse__Output as Told } from "./generated/chatcounters/v1/WatchUserStatsResponse.js";
import type { ProtoGrpcType } from "./generated/counter_service.js";

const PROTO = fileURLToPath(new URL("../../../../proto", import.meta.url));
const DEADLINE = 5_000; // milliseconds for one answer
const FIRST_PAUSE = 200; // milliseconds between tries
const LONGEST_PAUSE = 5_000;

// The same call would be answered the same again: trying on helps nobody.
const FINAL = new Set([
  grpc.status.UNAUTHENTICATED,
  grpc.status.PERMISSION_DENIED,
  grpc.status.INVALID_ARGUMENT,
  grpc.status.FAILED_PRECONDITION,
  grpc.status.UNIMPLEMENTED,
]);

const CHANNEL: grpc.ChannelOptions = {
  // A connection that was lost without a word is noticed within a minute.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // The channel has pauses of its own, up to two minutes unless told otherwise.
  "grpc.initial_reconnect_backoff_ms": FIRST_PAUSE,
  "grpc.max_reconnect_backoff_ms": LONGEST_PAUSE,
};

function connect(): CounterServiceClient {
  // The options that `npm run types` has, or the types would not be true.
  const definition = loader.loadSync("chatcounters/v1/counter_service.proto", {
    includeDirs: [PROTO],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  const { chatcounters } = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
  const address = process.env["CHAT_COUNTERS_ADDRESS"] ?? "127.0.0.1:50051";
  // Beyond this machine: createSsl, or whoever reads along has the token.
  return new chatcounters.v1.CounterService(address, grpc.credentials.createInsecure(), CHANNEL);
}

/** Says who asks. (Call credentials do the same on channels with TLS, and on no others.) */
function bearer(): grpc.Metadata {
  const metadata = new grpc.Metadata();
  const token = process.env["CHAT_COUNTERS_TOKEN"];
  if (token) metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

function show(shown: object): void {
  console.log(JSON.stringify(shown));
}

function ofUser(stats: UserStats): object {
  return {
    user: stats.user_id,
    unread: stats.total_unread_count,
    unread_dialogs: stats.unread_dialogs_count,
    dialogs: stats.dialog_count,
    sent: stats.total_messages_count,
    by_sender: stats.unread_by_sender_type,
  };
}

/** One call with a deadline, as a promise. */
function call<Answer>(
  make: (metadata: grpc.Metadata, options: grpc.CallOptions, done: grpc.requestCallback<Answer>) => unknown,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    make(bearer(), { deadline: Date.now() + DEADLINE }, (error, answer) => {
      if (error) reject(error);
      else resolve(answer as Answer);
    });
  });
}

async function stats(counters: CounterServiceClient, tenant_id: string, user_id: string): Promise<void> {
  show(ofUser(await call<UserStats>((...rest) => counters.getUserStats({ tenant_id, user_id }, ...rest))));
}

async function dialog(counters: CounterServiceClient, tenant_id: string, user_id: string, dialog_id: string) {
  const request = { tenant_id, user_id, dialog_id };
  const found = await call<UserDialogStats>((...rest) => counters.getUserDialogStats(request, ...rest));
  show({ dialog: found.dialog_id, member: found.member, unread: found.unread_count });
}

async function batch(counters: CounterServiceClient, tenant_id: string, user_ids: string[]) {
  const request = { tenant_id, user_ids };
  const found = await call<Batch>((...rest) => counters.batchGetUserStats(request, ...rest));
  for (const stats of found.user_stats) show(ofUser(stats));
}

async function unread(counters: CounterServiceClient, tenant_id: string, user_id: string) {
  let page_token = "";
  do {
    const request = { tenant_id, user_id, unread_only: true, page_size: 2, page_token };
    const page = await call<Page>((...rest) => counters.listUserDialogStats(request, ...rest));
    show(Object.fromEntries(page.user_dialog_stats.map((found) => [found.dialog_id, found.unread_count])));
    page_token = page.next_page_token;
  } while (page_token);
}

/** What an application would show, printed when it changes. */
class Badge {
  #shown = { state: "connecting", unread: null as number | null, resume: "" };

  set(changes: Partial<typeof this.shown>): void {
    const changed = { ...this.#shown, ...changes };
    if (JSON.stringify(changed) === JSON.stringify(this.#shown)) return;
    this.#shown = changed;
    show(changed);
  }

  get shown() {
    return this.#shown;
  }

  take(told: Told): void {
    for (const { user_stats } of told.updates) {
      if (user_stats) this.set({ unread: user_stats.total_unread_count });
    }
    if (told.all_told) this.set({ state: "live" });
    if (told.resume_token) this.set({ resume: told.resume_token });
  }
}

async function watch(counters: CounterServiceClient, tenant_id: string, user_id: string): Promise<never> {
  const badge = new Badge();
  for (let tries = 0; ; tries++) {
    const request = { tenant_id, user_ids: [user_id], resume_token: badge.shown.resume };
    try {
      for await (const told of counters.watchUserStats(request, bearer())) {
        tries = 0;
        badge.take(told as Told);
      }
    } catch (error) {
      if (!isRefusal(error) || FINAL.has(error.code)) throw error;
    }
    badge.set({ state: "reconnecting" });
    await sleep(pause(tries));
  }
}

/**
 * Longer each time, and of random length, so that not all clients of a service
 * that was away come back at the same moment. A service that ends a stream asks
 * for 100 to 1,000 ms, in a RetryInfo: ../python/client.py reads it.
 */
function pause(tries: number): number {
  const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** tries);
  return longest * (0.5 + Math.random() / 2);
}

function isRefusal(error: unknown): error is grpc.ServiceError {
  return error instanceof Error && "code" in error && "details" in error;
}

function ask(counters: CounterServiceClient, [command, tenant, ...rest]: string[]): Promise<void> {
  const [user, dialogId] = rest;
  if (tenant && user) {
    if (command === "stats") return stats(counters, tenant, user);
    if (command === "dialog" && dialogId) return dialog(counters, tenant, user, dialogId);
    if (command === "batch") return batch(counters, tenant, rest);
    if (command === "unread") return unread(counters, tenant, user);
    if (command === "watch") return watch(counters, tenant, user);
  }
  throw new Error("stats|dialog|batch|unread|watch TENANT USER...: see the head of client.ts");
}

const counters = connect();
try {
  await ask(counters, process.argv.slice(2));
} catch (error) {
  if (!isRefusal(error)) throw error;
  show({ error: grpc.status[error.code], message: error.details });
  process.exitCode = 1;
} finally {
  counters.close();
}
