/**
 * The transport to several processes, the ranks of one training: torchrun starts them (py/coldframe/serve/agent.py), and the
 * first of them connects back on loopback with a token that is good once. It hands every request to all of them.
 */
import type { ChildProcess } from 'node:child_process';
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { statSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { join, parse } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { countMemoryKills } from '../../base/process/processes.ts';
import { tailFrom } from '../log.ts';
import type { EndedElsewhere, Meeting } from '../nodes/meeting.ts';
import type { Report } from '../nodes/messages.ts';
import type { Transport } from '../supervisor.ts';
import { type AgentEnd, awaitAgent, startAgent } from './agent.ts';
import { describeExit, type Ending, nameSignal } from './endings.ts';
import { HangWatch, stateSchema } from './hang-watch.ts';

export interface Ranks {
  /** Processes on this machine. */
  devices: number;
  /** One that shows no progress for so long, while others wait for it, is given up. */
  hangSeconds: number;
  /** Of several machines: where the others are. */
  meeting?: Meeting | undefined;
}

const HELLO_SECONDS = 10;
const SETTLE_SECONDS = 15; // from the first rank's end to torchrun's, which ends the others first
const DUMP_SECONDS = 1; // for every rank to write its stacks
const ERROR_LINE = /^(\[rank\d+\]: )?[A-Za-z_][\w.]*(Error|Exception|Exit|Lost|Died)\b/; // the last one of a traceback
const STOPPED = 128 + 15; // how a rank leaves that torchrun ends because of another one

const helloSchema = z.object({ token: z.string(), pid: z.number() });
const answerSchema = z.object({ id: z.number(), reply: z.string(), rank: z.number(), is_broken: z.boolean() });
const lineSchema = z.union([answerSchema, z.object({ states: z.array(stateSchema) })]);

export async function startTorchrun(python: string, logFile: string, module: string, ranks: Ranks): Promise<Transport> {
  const { devices, hangSeconds, meeting } = ranks;
  await meeting?.gather();
  const server = createServer();
  await new Promise<void>((settle, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', settle);
  });
  const id = randomBytes(8).toString('hex');
  const token = randomBytes(32).toString('hex');
  const logs = new RankLogs(logFile, devices * (meeting?.nodes ?? 1));
  const elsewhere: { tell: (ended: EndedElsewhere) => void } = { tell: () => {} };
  const among = (await meeting?.launch(id, module, (ended) => elsewhere.tell(ended))) ?? null;
  const env = { COLDFRAME_PORT: String((server.address() as AddressInfo).port), COLDFRAME_TOKEN: token };
  const agent = startAgent({ id, mark: id, python, logFile, module, devices, among, env });
  const torchrun = new Torchrun(agent, server, { id, token, logs, hangSeconds, meeting });
  elsewhere.tell = (ended) => torchrun.hearElsewhere(ended);
  return torchrun;
}

interface Launch {
  id: string;
  token: string;
  logs: RankLogs;
  hangSeconds: number;
  meeting: Meeting | undefined;
}

class Torchrun implements Transport {
  readonly pid: number;
  readonly ended: Promise<Ending>;
  readonly #agent: ChildProcess;
  readonly #launch: Launch;
  readonly #connected: Promise<Socket>;
  readonly #watch: HangWatch;
  #channel: Socket | undefined;
  #hasHungUp = false;
  #cause: Ending | undefined;
  #numRequests = 0;
  #killsBefore = countMemoryKills();
  #pending: { id: number; settle: (text: string) => void } | undefined;

  constructor(agent: ChildProcess, server: Server, launch: Launch) {
    this.#agent = agent;
    this.#launch = launch;
    this.pid = agent.pid ?? 0;
    this.#watch = new HangWatch(launch.hangSeconds, (rank, how) => this.#giveUp(rank, how));
    this.#connected = acceptRank(server, launch.token);
    this.ended = this.#end().finally(() => {
      server.close();
      this.#watch.stop();
      this.#channel?.destroy();
    });
  }

  async connect(): Promise<void> {
    const channel = await this.#connected;
    this.#channel = channel;
    const lines = createInterface({ input: channel }).on('line', (line) => this.#take(line));
    for (const one of [channel, lines]) one.on('error', () => {}); // 'close' follows
    channel.once('close', () => {
      if (!this.#hasHungUp) setTimeout(() => this.#lose({ how: 'lost its channel' }), SETTLE_SECONDS * 1000).unref();
    });
    this.#watch.start();
  }

  request(text: string): Promise<string> {
    const id = this.#numRequests++;
    this.#killsBefore = countMemoryKills(); // a run takes days: only a kill during this call can be its own
    this.#watch.begin(JSON.parse(text).verb);
    return new Promise((settle) => {
      this.#pending = { id, settle };
      this.#channel?.write(`${JSON.stringify({ id, request: text })}\n`);
    });
  }

  hangUp(): void {
    this.#hasHungUp = true;
    this.#watch.stop();
    this.#channel?.end();
  }

  /** The ranks go with torchrun; what asks for stacks it hands on. */
  kill(name: NodeJS.Signals): void {
    if (name === 'SIGUSR1') this.#launch.meeting?.signal(this.#launch.id, name);
    this.#agent.kill(name);
  }

  #take(line: string): void {
    const told = lineSchema.parse(JSON.parse(line));
    if ('states' in told) this.#watch.take(told.states);
    else this.#settle(told);
  }

  #settle(told: z.infer<typeof answerSchema>): void {
    const pending = this.#pending;
    if (pending?.id !== told.id) return;
    this.#pending = undefined;
    this.#watch.end();
    if (told.is_broken) this.#lose({ how: 'was ended because a rank failed', output: this.#launch.logs.of(told.rank) });
    pending.settle(told.reply);
  }

  #lose(cause: Ending): void {
    this.#cause ??= cause;
    this.kill('SIGKILL');
  }

  async #giveUp(rank: number, how: string): Promise<void> {
    this.#cause ??= { how };
    this.kill('SIGUSR1');
    await sleep(DUMP_SECONDS * 1000);
    this.#cause.output ??= this.#launch.logs.of(rank);
    this.kill('SIGKILL');
  }

  /** Another machine has ended its ranks, or is lost; what follows from this one's own end is no cause. */
  hearElsewhere({ host, how, report }: EndedElsewhere): void {
    if (this.#agent.exitCode !== null || this.#agent.signalCode !== null) return;
    if (report === null) this.#lose({ how: `lost a machine: ${host} ${how}` });
    else if (report.failures.length > 0) this.#lose(this.#describeFailure(report, undefined));
  }

  async #end(): Promise<Ending> {
    const { id, meeting } = this.#launch;
    const end = await awaitAgent(this.#agent, id);
    await meeting?.clear(id);
    return this.#cause ?? this.#describe(end);
  }

  #describe({ report, code, signal }: AgentEnd): Ending {
    if (report !== undefined && report.failures.length > 0) return this.#describeFailure(report, this.#killsBefore);
    return { how: `torchrun ${describeExit(code, signal, undefined).how}` };
  }

  #describeFailure({ failures }: Report, killsBefore: number | undefined): Ending {
    const first = failures.find((one) => one.code !== STOPPED) ?? failures[0];
    if (first === undefined) return { how: 'torchrun failed' };
    const output = this.#launch.logs.of(first.rank);
    const ending = describeExit(first.code, nameSignal(first.code), killsBefore);
    const error = first.code > 0 ? output.lines.findLast((line) => ERROR_LINE.test(line)) : undefined;
    const words = error === undefined ? '' : ` (${error})`;
    return { ...ending, how: `rank ${first.rank} on ${first.host} ${ending.how}${words}`, output };
  }
}

/** Where every rank writes; the first one into the log of the runtime. */
class RankLogs {
  readonly #logs: { path: string; start: number }[];

  constructor(logFile: string, numRanks: number) {
    const { dir, name, ext } = parse(logFile);
    this.#logs = Array.from({ length: numRanks }, (_, rank) => {
      const path = rank === 0 ? logFile : join(dir, `${name}-rank-${rank}${ext}`);
      return { path, start: statSync(path, { throwIfNoEntry: false })?.size ?? 0 };
    });
  }

  of(rank: number): { path: string; lines: string[] } {
    const { path, start } = this.#logs[rank] ?? { path: '', start: 0 };
    return { path, lines: tailFrom(path, start) };
  }
}

/** Waits for the rank that knows the token; whoever else connects is sent away. */
function acceptRank(server: Server, token: string): Promise<Socket> {
  return new Promise((settle) => {
    server.on('connection', (socket) => {
      socket.setTimeout(HELLO_SECONDS * 1000, () => socket.destroy());
      socket.on('error', () => socket.destroy());
      let text = '';
      const listen = (chunk: Buffer): void => {
        text += chunk.toString('latin1');
        const end = text.indexOf('\n');
        if (end < 0 && text.length < 1000) return;
        socket.off('data', listen);
        if (!isToken(text.slice(0, end), token)) return void socket.destroy();
        socket.pause();
        socket.unshift(Buffer.from(text.slice(end + 1), 'latin1'));
        socket.setTimeout(0);
        server.close();
        settle(socket);
      };
      socket.on('data', listen);
    });
  });
}

function isToken(line: string, token: string): boolean {
  try {
    const given = Buffer.from(helloSchema.parse(JSON.parse(line)).token);
    return given.length === token.length && timingSafeEqual(given, Buffer.from(token));
  } catch {
    return false;
  }
}
