/** What every transport to Python shares: calls one by one, the death of the process, the watchdog, the log, the form of replies. */
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { fromPython, MemoryKill, PythonBug, RuntimeFailure } from '../base/errors.ts';
import type { Log } from './log.ts';
import type { Ending } from './transports/endings.ts';

const START_SECONDS = 60; // an interpreter that starts gives no sign of life yet, and a busy machine takes its time
const DUMP_SECONDS = 1; // for faulthandler to write every thread's stack
// While Python closes it gives a sign of life every second (heartbeat.py): TensorBoard is flushed, W&B waits for a network.
const CLOSE_SECONDS = 20; // without a sign, or altogether where a call has failed before
const MOST_CLOSE_SECONDS = 900;
const LEAVE_SECONDS = 10; // for the interpreter to leave after that

/** A process that answers requests, or several that do so as one. `request` need not settle when it dies: `ended` does, with how it ended. */
export interface Transport {
  readonly pid: number;
  readonly ended: Promise<Ending>;
  connect(): Promise<void>;
  request(text: string): Promise<string>;
  /** Closes the channel, upon which the process leaves. */
  hangUp(): void;
  kill(signal: NodeJS.Signals): void;
}

const replySchema = z.discriminatedUnion('ok', [
  z.object({ ok: z.literal(true), result: z.unknown(), non_finite: z.array(z.string()) }),
  z.object({
    ok: z.literal(false),
    error: z.object({ kind: z.enum(['user', 'bug']), code: z.string(), message: z.string(), traceback: z.string() }),
  }),
]);

function parseReply<T>(verb: string, text: string, schema: z.ZodType<T>): T {
  const reply = replySchema.parse(JSON.parse(text));
  if (!reply.ok) throw fromPython(reply.error);
  const result = schema.safeParse(reply.result);
  if (result.success) return result.data;
  const nonFinite = reply.non_finite.length > 0 ? ` (not finite in Python: ${reply.non_finite.join(', ')})` : '';
  throw new PythonBug(`the reply to \`${verb}\` has the wrong form${nonFinite}\n${z.prettifyError(result.error)}`, '');
}

/** One call at a time over a transport, each raced against the process's end and against the watchdog. */
export class Supervisor {
  readonly #transport: Transport;
  readonly #log: Log;
  readonly #stallSeconds: number;
  #queue: Promise<unknown> = Promise.resolve();
  #pending: { verb: string; reject: (error: Error) => void } | undefined;
  #hasFailed = false;
  #cause: string | undefined;
  #end: string | undefined;
  #lackedMemory = false;
  #lines: string[] = [];
  #closed: Promise<void> | undefined;

  constructor(transport: Transport, log: Log, stallSeconds: number) {
    this.#transport = transport;
    this.#log = log;
    this.#stallSeconds = stallSeconds;
    transport.ended.then(({ how, lackedMemory = false, output }) => {
      const when = this.#pending ? `during \`${this.#pending.verb}\`` : 'between two calls';
      const { path, lines } = (this.#cause === undefined ? output : undefined) ?? { path: log.path, lines: log.tail() };
      this.#end = `python  ${this.#cause ?? how} ${when}. Its output is in ${path}`;
      this.#lines = lines;
      this.#lackedMemory = lackedMemory && this.#cause === undefined; // else it was this side that killed it
      this.#pending?.reject(this.#failure());
    });
  }

  async call<T>(verb: string, args: object, schema: z.ZodType<T>): Promise<T> {
    try {
      const text = JSON.stringify({ ...args, verb });
      return parseReply(verb, await this.run(verb, () => this.#transport.request(text)), schema);
    } catch (error) {
      this.#hasFailed = true;
      throw error;
    }
  }

  run<T>(verb: string, send: () => Promise<T>): Promise<T> {
    const call = this.#queue.then(() => this.#exchange(verb, send));
    this.#queue = call.catch(() => {});
    return call;
  }

  /** Kills Python; the pending call fails with this reason. */
  fail(reason: string): void {
    this.#cause ??= reason;
    this.#transport.kill('SIGKILL');
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  // Not Promise.race against `ended`: a promise that stays pending for days would keep every reply it was raced with.
  async #exchange<T>(verb: string, send: () => Promise<T>): Promise<T> {
    if (this.#end !== undefined) throw this.#failure();
    const stopWatching = this.#watch(verb);
    try {
      return await new Promise<T>((settle, reject) => {
        this.#pending = { verb, reject };
        send().then(settle, reject);
      });
    } finally {
      this.#pending = undefined;
      stopWatching();
    }
  }

  /** The watchdog of a call. */
  #watch(verb: string): () => void {
    const seconds = verb === 'start' ? Math.max(START_SECONDS, this.#stallSeconds) : this.#stallSeconds;
    const giveUp = () => void this.#dumpAndFail(`was killed after ${seconds} s without progress`);
    return this.#guard(seconds, Number.POSITIVE_INFINITY, giveUp);
  }

  /**
   * Calls `giveUp` when Python has given no sign of life for so long, or at last; returns what ends the watch. It counts its
   * own ticks, so a suspended machine or a stopped job does not look like a stall.
   */
  #guard(stillSeconds: number, mostSeconds: number, giveUp: () => void): () => void {
    const period = Math.min(1, stillSeconds / 4);
    let last = this.#log.modified();
    let [still, all] = [0, 0];
    const timer = setInterval(() => {
      const now = this.#log.modified();
      still = now === last ? still + period : 0;
      all += period;
      last = now;
      if (still < stillSeconds && all < mostSeconds) return;
      clearInterval(timer);
      giveUp();
    }, period * 1000);
    return () => clearInterval(timer);
  }

  async #dumpAndFail(reason: string): Promise<void> {
    this.#cause ??= reason;
    this.#transport.kill('SIGUSR1');
    await sleep(DUMP_SECONDS * 1000);
    this.fail(reason);
  }

  async #close(): Promise<void> {
    const hadFailed = this.#hasFailed;
    const still = Math.min(CLOSE_SECONDS, this.#stallSeconds);
    const most = hadFailed ? CLOSE_SECONDS : MOST_CLOSE_SECONDS;
    const stopWatching = this.#guard(still, most, () => this.fail(`did not close: no sign of life for ${still} s`));
    try {
      if (this.#end === undefined) await this.call('close', {}, z.unknown());
    } catch (error) {
      if (!hadFailed) throw error;
    } finally {
      stopWatching();
      await this.leave();
    }
  }

  /** Waits until the process is gone, and sees to it. */
  async leave(): Promise<void> {
    const clean = this.#end === undefined && this.#cause === undefined;
    this.#transport.hangUp();
    const overdue = setTimeout(() => this.#transport.kill('SIGKILL'), LEAVE_SECONDS * 1000);
    await this.#transport.ended;
    clearTimeout(overdue);
    this.#log.close(clean);
  }

  #failure(): RuntimeFailure {
    const detail = { lines: this.#lines };
    return new (this.#lackedMemory ? MemoryKill : RuntimeFailure)(this.#end ?? '', detail);
  }
}
