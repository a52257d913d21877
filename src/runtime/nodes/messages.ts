/** What the machines of one training tell each other: lines of JSON between the first one and each of the others. */

import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { z } from 'zod';

/** Of an agent (py/coldframe/serve/agent.py): how its ranks failed, the first one first. */
export const reportSchema = z.object({
  failures: z.array(z.object({ rank: z.number(), host: z.string(), pid: z.number(), code: z.number() })),
});
export type Report = z.infer<typeof reportSchema>;

/** Of which run a machine is, and which of its machines. */
export const helloSchema = z.object({
  kind: z.literal('hello'),
  token: z.string(),
  run_dir: z.string(),
  host: z.string(),
  /** null: the next one that is free. */
  node: z.number().nullable(),
  nodes: z.number(),
  devices: z.number(),
  /** Of its command: those of the first machine are the ones that count, so they have to be the same. */
  settings: z.record(z.string(), z.unknown()),
});
export type Hello = z.infer<typeof helloSchema>;

/** One start of all ranks. */
export const launchSchema = z.object({
  kind: z.literal('launch'),
  id: z.string(),
  module: z.string(),
  /** Of the store that torchrun keeps on the first machine. */
  address: z.string(),
  port: z.number(),
  node: z.number(),
});
export type Launch = z.infer<typeof launchSchema>;

export const OVER = ['finished', 'interrupted', 'user', 'failed'] as const;

const alive = z.object({ kind: z.literal('alive') });
export const toMemberSchema = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('welcome') }),
  launchSchema,
  z.object({ kind: z.literal('signal'), id: z.string(), name: z.enum(['SIGUSR1', 'SIGKILL']) }),
  z.object({ kind: z.literal('refused'), problems: z.array(z.string()) }),
  z.object({ kind: z.literal('over'), how: z.enum(OVER), why: z.string() }),
  alive,
]);
export const fromMemberSchema = z.discriminatedUnion('kind', [
  helloSchema,
  z.object({ kind: z.literal('ended'), id: z.string(), report: reportSchema.nullable(), how: z.string() }),
  z.object({ kind: z.literal('stop') }),
  alive,
]);
export type ToMember = z.infer<typeof toMemberSchema>;
export type FromMember = z.infer<typeof fromMemberSchema>;

const BEAT_SECONDS = 2;

/**
 * One end of a connection: messages both ways, and signs of life without which it counts as lost. It counts its own beats,
 * so a machine that was suspended does not take the other for silent.
 */
export class Line<Sent extends { kind: string }, Heard extends { kind: string }> {
  readonly socket: Socket;
  readonly #beat: NodeJS.Timeout;
  #stillSeconds = 0;

  constructor(
    socket: Socket,
    schema: z.ZodType<Heard>,
    { silentSeconds, take, lost }: { silentSeconds: number; take: (heard: Heard) => void; lost: () => void },
  ) {
    this.socket = socket;
    socket.setNoDelay(true);
    const lines = createInterface({ input: socket });
    lines.on('line', (line) => {
      const heard = schema.safeParse(parse(line));
      if (!heard.success)
        socket.destroy(); // whoever it is, it speaks another language
      else if (heard.data.kind !== 'alive') take(heard.data);
    });
    for (const one of [socket, lines]) one.on('error', () => {}); // 'close' follows
    socket.on('data', () => {
      this.#stillSeconds = 0;
    });
    const period = Math.min(BEAT_SECONDS, silentSeconds / 4);
    this.#beat = setInterval(() => {
      this.#write({ kind: 'alive' });
      this.#stillSeconds += period;
      if (this.#stillSeconds >= silentSeconds) socket.destroy(); // what it sends itself says nothing of the other side
    }, period * 1000).unref();
    socket.once('close', () => {
      clearInterval(this.#beat);
      lost();
    });
  }

  send(message: Sent): void {
    this.#write(message);
  }

  #write(message: object): void {
    if (this.socket.writable) this.socket.write(`${JSON.stringify(message)}\n`);
  }

  /** What was sent before arrives first. */
  end(): Promise<void> {
    if (this.socket.closed) return Promise.resolve();
    return new Promise((settle) => {
      this.socket.once('close', () => settle());
      this.socket.end();
      setTimeout(() => this.socket.destroy(), BEAT_SECONDS * 1000).unref();
    });
  }
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

export const newSecret = (): string => randomBytes(32).toString('hex');
