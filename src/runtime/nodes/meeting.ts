/**
 * The first of several machines: here the others come, are told what to start, and say how it ended. The run is this one's
 * alone.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Interrupted, RuntimeFailure, UserError } from '../../base/errors.ts';
import { writeWhole } from '../../base/files.ts';
import { onStop } from '../../base/process/stop.ts';
import { plural } from '../../base/words.ts';
import { explainChanges, listChanges } from '../../config/effects.ts';
import type { Among } from '../transports/agent.ts';
import {
  type FromMember,
  fromMemberSchema,
  type Hello,
  Line,
  newSecret,
  type OVER,
  type Report,
  type ToMember,
} from './messages.ts';
import { findInterface, listAddresses, type MachineOptions, type Place } from './place.ts';

const POLL_SECONDS = 0.1;
/** What each machine may know by itself, or what is asked for by name. */
const OF_MACHINE = /^launch\.(devices|nodes|rendezvous|hang_seconds|stall_seconds)$/;
const GONE_SECONDS = 15; // a machine ends its ranks, and says so

interface Member {
  line: Line<ToMember, FromMember>;
  hello: Hello;
  /** What it has started and not ended. */
  launch: string | undefined;
}

/** How a launch ended elsewhere; without a report the machine itself is lost. */
export interface EndedElsewhere {
  host: string;
  how: string;
  report: Report | null;
}

export class Meeting {
  readonly #options: MachineOptions;
  readonly #place: Place;
  readonly #server: Server;
  readonly #token: string;
  /** By the number of the machine, from 1 on. */
  readonly #members = new Map<number, Member>();
  #hasLost = false;
  #tell: ((ended: EndedElsewhere) => void) | undefined;
  /** Of this machine, as the others reach it. */
  #address = '127.0.0.1';

  private constructor(options: MachineOptions, place: Place, server: Server) {
    this.#options = options;
    this.#place = place;
    this.#server = server;
    this.#token = place.by === 'scheduler' ? newSecret() : '';
    server.on('connection', (socket) => this.#welcome(socket));
  }

  /** Returns undefined where another process here has the address: then that is the first machine's. */
  static async open(place: Place, options: MachineOptions): Promise<Meeting | undefined> {
    const server = createServer();
    const where = place.by === 'scheduler' ? { port: 0 } : { port: place.port, host: place.address };
    try {
      await new Promise<void>((settle, reject) => server.once('error', reject).listen(where, settle));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') return undefined;
      throw new UserError(`launch.rendezvous  ${(error as Error).message}. Choose another port.`);
    }
    const meeting = new Meeting(options, place, server);
    if (place.by === 'scheduler') meeting.#announce(place.id);
    return meeting;
  }

  #announce(id: string): void {
    const { port } = this.#server.address() as AddressInfo;
    const found = { id, addresses: listAddresses(), port, token: this.#token };
    writeWhole(this.#options.file, JSON.stringify(found), 0o600);
  }

  #welcome(socket: Socket): void {
    const about: { node: number | undefined } = { node: undefined };
    const line: Member['line'] = new Line(socket, fromMemberSchema, {
      silentSeconds: this.#options.hangSeconds,
      take: (heard) => {
        if (heard.kind === 'hello') about.node ??= this.#admit(heard, line);
        else this.#hear(heard, about.node);
      },
      lost: () => this.#lose(about.node, line),
    });
  }

  /** Returns which machine it is, undefined for one that is sent away. */
  #admit(hello: Hello, line: Member['line']): number | undefined {
    if (hello.token !== this.#token) {
      line.socket.destroy();
      return undefined;
    }
    const problems = this.#objectTo(hello);
    const free = Array.from({ length: this.#options.nodes - 1 }, (_, index) => index + 1).find(
      (node) => !this.#members.has(node),
    );
    const node = hello.node ?? free;
    if (node === undefined)
      problems.push(`launch.nodes  all ${this.#options.nodes} machines of this run are here already.`);
    if (problems.length > 0 || node === undefined) {
      this.#options.note(`Machine ${hello.host} was sent away: ${problems.join(' ')}`);
      line.send({ kind: 'refused', problems });
      void line.end();
      return undefined;
    }
    line.send({ kind: 'welcome' });
    this.#members.get(node)?.line.socket.destroy(); // the same one, come again
    this.#members.set(node, { line, hello, launch: undefined });
    this.#address = line.socket.localAddress?.replace(/^::ffff:/, '') ?? this.#address;
    return node;
  }

  /** Returns what differs on a machine that comes for this run, or that it comes for another. */
  #objectTo({ run_dir, nodes, devices, host, settings }: Hello): string[] {
    const own = this.#options;
    if (run_dir !== own.runDir)
      return [`launch.rendezvous  the run here is ${own.runDir}, not ${run_dir}; another one needs another port.`];
    const problems: string[] = [];
    if (nodes !== own.nodes)
      problems.push(`launch.nodes  is ${own.nodes} here and ${nodes} on ${host}; give the same.`);
    if (devices !== own.devices)
      problems.push(
        `launch.devices  is ${own.devices} here and ${devices} on ${host}; every machine has the same number.`,
      );
    const changes = listChanges(own.settings, settings, '').filter(({ key }) => !OF_MACHINE.test(key));
    problems.push(...explainChanges(changes, 'the first machine, whose values count, has'));
    return problems;
  }

  #hear(heard: Exclude<FromMember, { kind: 'hello' }>, node: number | undefined): void {
    const member = this.#members.get(node ?? 0);
    if (member === undefined) return;
    if (heard.kind === 'stop') process.kill(process.pid, 'SIGUSR1'); // asked twice it is one request
    if (heard.kind !== 'ended' || member.launch !== heard.id) return;
    member.launch = undefined;
    this.#tell?.({ host: member.hello.host, how: heard.how, report: heard.report });
  }

  #lose(node: number | undefined, line: Member['line']): void {
    const member = this.#members.get(node ?? 0);
    if (node === undefined || member?.line !== line) return;
    this.#members.delete(node);
    this.#hasLost = true;
    const how = `(machine ${node}) closed its connection, or was silent for ${this.#options.hangSeconds} s`;
    if (member.launch !== undefined) this.#tell?.({ host: member.hello.host, how, report: null });
  }

  /** Waits until all machines are here. */
  async gather(): Promise<void> {
    const { nodes, waitSeconds, note } = this.#options;
    const end = performance.now() + waitSeconds * 1000;
    const isAll = (): boolean => this.#members.size === nodes - 1;
    if (!isAll()) note(`Waiting for ${plural(nodes - 1 - this.#members.size, 'more machine')} of ${nodes}.`);
    let isStopped = false;
    const release = onStop(() => {
      isStopped = true;
    });
    try {
      while (!isAll()) {
        if (isStopped) throw new Interrupted('stopped before all machines were there');
        const isFinal = this.#hasLost && this.#place.by === 'scheduler'; // it starts no part of a job again
        if (isFinal || performance.now() > end) throw new RuntimeFailure(this.#describeMissing(isFinal));
        await sleep(POLL_SECONDS * 1000);
      }
    } finally {
      release();
    }
  }

  #describeMissing(isFinal: boolean): string {
    const { nodes, waitSeconds } = this.#options;
    const here = [hostname(), ...[...this.#members.values()].map(({ hello }) => hello.host)].join(', ');
    const how = isFinal ? 'one is gone' : `no more have come for ${waitSeconds} s (launch.stall_seconds)`;
    return `launch.nodes  ${this.#members.size + 1} of ${nodes} machines are here (${here}), and ${how}.`;
  }

  get nodes(): number {
    return this.#options.nodes;
  }

  /** Starts the ranks of all other machines; `tell` hears how they end. Returns what this one's agent has to know. */
  async launch(id: string, module: string, tell: (ended: EndedElsewhere) => void): Promise<Among> {
    const address = this.#address;
    const port = await findFreePort(address);
    this.#tell = tell;
    for (const [node, member] of this.#members) {
      member.launch = id;
      member.line.send({ kind: 'launch', id, module, address, port, node });
    }
    return { nodes: this.nodes, node: 0, address, port, networkInterface: findInterface(address) };
  }

  signal(id: string, name: 'SIGUSR1' | 'SIGKILL'): void {
    for (const { line } of this.#members.values()) line.send({ kind: 'signal', id, name });
  }

  /** Ends what the others still have of a launch, and waits until they say so. */
  async clear(id: string): Promise<void> {
    this.#tell = undefined;
    const isOver = (): boolean => [...this.#members.values()].every(({ launch }) => launch !== id);
    if (!isOver()) this.signal(id, 'SIGKILL');
    for (const end = performance.now() + GONE_SECONDS * 1000; !isOver() && performance.now() < end; )
      await sleep(POLL_SECONDS * 1000);
  }

  /** Tells the others that it is over, and how. */
  async end(how: (typeof OVER)[number], why: string): Promise<void> {
    this.#server.close();
    this.#removeFile();
    await Promise.all(
      [...this.#members.values()].map(({ line }) => {
        line.send({ kind: 'over', how, why });
        return line.end();
      }),
    );
  }

  #removeFile(): void {
    const { file } = this.#options;
    if (this.#place.by !== 'scheduler' || !existsSync(file)) return;
    if (readFileSync(file, 'utf8').includes(this.#token)) rmSync(file, { force: true }); // else a later start's
  }
}

async function findFreePort(host: string): Promise<number> {
  const server = createServer();
  await new Promise<void>((settle, reject) => server.once('error', reject).listen({ port: 0, host }, settle));
  const { port } = server.address() as AddressInfo;
  await new Promise((settle) => server.close(settle));
  return port;
}
