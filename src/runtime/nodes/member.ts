/** One of several machines that is not the first: it starts its ranks when the first one says so, until it says that all is over. */

import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { connect as connectTo, type Socket } from 'node:net';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Interrupted, RuntimeFailure, UserError } from '../../base/errors.ts';
import { onStop } from '../../base/process/stop.ts';
import { findPython } from '../runtime.ts';
import { awaitAgent, startAgent } from '../transports/agent.ts';
import { describeExit } from '../transports/endings.ts';
import { type FromMember, type Launch, Line, type ToMember, toMemberSchema } from './messages.ts';
import { findInterface, type MachineOptions, type Place } from './place.ts';

const RETRY_SECONDS = 0.5;
const CONNECT_SECONDS = 5;

const foundSchema = z.object({
  id: z.string(),
  addresses: z.array(z.string()),
  port: z.number(),
  token: z.string(),
});

interface Way {
  addresses: string[];
  port: number;
  token: string;
  node: number | null;
}

/** Throws what ended the run, if it was not that it is through. */
export async function joinMeeting(place: Place, options: MachineOptions): Promise<void> {
  const { socket, way } = await findFirst(place, options);
  await new Member(socket, way, options).run();
}

async function findFirst(
  place: Place,
  { file, waitSeconds, note }: MachineOptions,
): Promise<{ socket: Socket; way: Way }> {
  const end = performance.now() + waitSeconds * 1000;
  let isStopped = false;
  const release = onStop(() => {
    isStopped = true;
  });
  try {
    for (let isTold = false; performance.now() < end; isTold = true) {
      if (isStopped) throw new Interrupted('stopped before the first machine was there');
      const way = findWay(place, file);
      for (const address of way?.addresses ?? []) {
        const socket = await tryConnect(address, way?.port ?? 0);
        if (socket !== undefined && way !== undefined) return { socket, way };
      }
      if (!isTold) note(`Waiting for the first machine: ${describePlace(place, file)}.`);
      await sleep(RETRY_SECONDS * 1000);
    }
  } finally {
    release();
  }
  throw new RuntimeFailure(
    `launch.nodes  the first machine was not there for ${waitSeconds} s (launch.stall_seconds): ${describePlace(place, file)}.`,
  );
}

const describePlace = (place: Place, file: string): string =>
  place.by === 'address' ? `${place.host}:${place.port} (launch.rendezvous)` : `it tells its address in ${file}`;

function findWay(place: Place, file: string): Way | undefined {
  if (place.by === 'address') return { addresses: [place.address], port: place.port, token: '', node: null };
  if (!existsSync(file)) return undefined;
  const found = foundSchema.safeParse(JSON.parse(readFileSync(file, 'utf8')));
  return found.success && found.data.id === place.id ? { ...found.data, node: place.node } : undefined;
}

function tryConnect(host: string, port: number): Promise<Socket | undefined> {
  return new Promise((settle) => {
    const socket = connectTo({ host, port });
    const fail = (): void => {
      socket.destroy();
      settle(undefined);
    };
    socket.setTimeout(CONNECT_SECONDS * 1000, fail);
    socket.once('error', fail);
    socket.once('connect', () => {
      socket.off('error', fail);
      socket.removeAllListeners('timeout');
      settle(socket);
    });
  });
}

class Member {
  readonly #options: MachineOptions;
  readonly #way: Way;
  readonly #socket: Socket;
  /** Where the first machine is; a socket that is closed does not tell. */
  readonly #first: { address: string; port: number };
  readonly #line: Line<FromMember, ToMember>;
  readonly #over: Promise<void>;
  #settle: (error?: Error) => void = () => {};
  #agent: { id: string; process: ChildProcess; ended: Promise<void> } | undefined;
  #isWelcome = false;
  #isStopping = false;

  constructor(socket: Socket, way: Way, options: MachineOptions) {
    this.#options = options;
    this.#way = way;
    this.#socket = socket;
    this.#over = new Promise((settle, fail) => {
      this.#settle = (error) => (error === undefined ? settle() : fail(error));
    });
    this.#over.catch(() => {}); // run() asks
    this.#first = { address: socket.remoteAddress ?? '', port: socket.remotePort ?? 0 };
    this.#line = new Line(socket, toMemberSchema, {
      silentSeconds: options.hangSeconds,
      take: (heard) => this.#take(heard),
      lost: () => this.#settle(new RuntimeFailure(this.#describeLoss())),
    });
  }

  async run(): Promise<void> {
    const { runDir, nodes, devices, settings } = this.#options;
    const { token, node } = this.#way;
    this.#line.send({ kind: 'hello', token, node, run_dir: runDir, host: hostname(), nodes, devices, settings });
    const release = onStop(() => this.#stop());
    try {
      await this.#over;
    } finally {
      this.#agent?.process.kill('SIGKILL');
      await this.#agent?.ended;
      await this.#line.end();
      release();
    }
  }

  #describeLoss(): string {
    const first = `${this.#first.address}:${this.#first.port}`;
    const how = `closed its connection, or was silent for ${this.#options.hangSeconds} s`;
    return this.#isWelcome
      ? `launch.nodes  the first machine (${first}) is gone: it ${how}. Start the run again on all.`
      : `launch.nodes  what answers at ${first} is not the first machine of this run, or no more: it ${how}.`;
  }

  /** The first machine decides; asked twice, this one goes at once. */
  #stop(): void {
    if (this.#isStopping) this.#settle(new Interrupted('stopped at once; the first machine has the run'));
    if (this.#isStopping) return;
    this.#isStopping = true;
    this.#options.note('Stopping; the first machine saves the state. Once more ends this one at once.');
    this.#line.send({ kind: 'stop' });
  }

  #take(heard: ToMember): void {
    if (heard.kind === 'welcome') this.#greet();
    else if (heard.kind === 'launch') this.#start(heard);
    else if (heard.kind === 'signal') {
      if (this.#agent?.id === heard.id) this.#agent.process.kill(heard.name);
    } else if (heard.kind === 'refused') this.#settle(new UserError(heard.problems));
    else if (heard.kind === 'over') this.#settle(describeOver(heard.how, heard.why));
  }

  #greet(): void {
    this.#isWelcome = true;
    this.#options.note(
      `Machine ${hostname()} is one of ${this.#options.nodes}; the first one (${this.#first.address}) has the run.`,
    );
  }

  #start({ id, module, address, port, node }: Launch): void {
    const { runDir, nodes, devices } = this.#options;
    const networkInterface = findInterface(this.#socket.localAddress?.replace(/^::ffff:/, '') ?? '');
    const among = { nodes, node, address, port, networkInterface };
    const mark = `${id}.${node}`; // two machines may be one, which a test or a trial makes of it
    const about = { id, mark, python: findPython(), logFile: `${runDir}/runtime.log`, module, devices, among, env: {} };
    const agent = startAgent(about);
    const ended = awaitAgent(agent, mark).then(({ report, code, signal }) => {
      const { how } = describeExit(code, signal, undefined);
      this.#line.send({ kind: 'ended', id, report: report ?? null, how: `torchrun ${how}` });
    });
    this.#agent = { id, process: agent, ended };
  }
}

function describeOver(how: string, why: string): Error | undefined {
  if (how === 'finished') return undefined;
  if (how === 'interrupted') return new Interrupted(why);
  const text = `the first machine has ended the run: ${why}`;
  return how === 'user' ? new UserError(text) : new RuntimeFailure(text);
}
