/** What the tests of the whole program share: clips, a small configuration, and running `coldframe` as a user does. */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { z } from 'zod';
import { UserError } from '../src/base/errors.ts';
import { EVENTS } from '../src/base/events/kinds.ts';

export const PROJECT = fileURLToPath(new URL('..', import.meta.url));
export const FIXTURES = join(PROJECT, 'test', 'fixtures');
export const CLIPS = join(PROJECT, '.cache', 'test-clips');
export const PYTHON = process.env.COLDFRAME_PYTHON ?? join(PROJECT, '.venv', 'bin', 'python');
const PROGRAM = join(PROJECT, 'scripts', 'coldframe');

/** One thread: on a machine that others use too, OpenMP's waiting threads make these small steps twenty times slower. */
export const ENVIRONMENT: NodeJS.ProcessEnv = {
  ...process.env,
  NODE_OPTIONS: '',
  OMP_NUM_THREADS: '1',
  CUDA_VISIBLE_DEVICES: '',
  FORCE_COLOR: undefined, // jest gives it to its workers when it has a terminal itself
};

/** Real clips of eight motions, made once: 24 to train on, 12 to evaluate on. */
export async function makeClips(): Promise<void> {
  const lock = `${CLIPS}.lock`; // two workers of jest may come at once
  mkdirSync(join(PROJECT, '.cache'), { recursive: true });
  const end = Date.now() + 60_000;
  while (!tryToMake(lock)) {
    if (Date.now() > end) throw new Error(`${lock} is left over from a killed test: remove it`);
    await sleep(100);
  }
  try {
    const script = join(PROJECT, 'scripts', 'make_demo_clips.py');
    const counts = ['--train', '24', '--val', '12', '--seed', '7'];
    await promisify(execFile)(PYTHON, [script, '--out', CLIPS, ...counts]);
  } finally {
    rmSync(lock, { recursive: true });
  }
}

function tryToMake(folder: string): boolean {
  try {
    mkdirSync(folder);
    return true;
  } catch {
    return false;
  }
}

/** Bundles a program of the fixtures, which starts in a sixth of the time that translating it takes; returns its path. */
export function bundle(name: string): string {
  const file = join(PROJECT, '.cache', 'drivers', `${name}-${process.env.JEST_WORKER_ID}.mjs`);
  const made = `${file}.${process.pid}`; // it takes its place whole, for another jest in this checkout
  const require = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);";
  const form = ['--bundle', '--platform=node', '--format=esm', '--target=node20', '--external:pythonia'];
  const about = [`--banner:js=${require}`, `--outfile=${made}`, '--log-level=warning'];
  execFileSync(join(PROJECT, 'node_modules', '.bin', 'esbuild'), [join(FIXTURES, `${name}.ts`), ...form, ...about]);
  renameSync(made, file);
  return file;
}

/** The smallest configuration that uses every part: all temporal modules, dropout, RandAugment, loader workers. */
const CONFIG = `
data:
  train_list: ${CLIPS}/train.txt
  val_list: ${CLIPS}/val.txt
  classes: ${CLIPS}/classes.txt
  num_frames: 4
  stride: 4
  size: 32
  num_workers: 1
model:
  backbone: {preset: tiny}
  decoder: {num_layers: 2}
train: {steps: 8, batch_size: 4, precision: fp32, lr: 1e-3}
eval: {temporal_views: 1, every: 4, batch_size: 4}
run: {print_every: 1, save_every: 2, keep_checkpoints: null, tensorboard: false}
launch: {device: cpu}
`;

/** Writes the configuration as `NAME.yaml` into a folder; returns its path. */
export function writeConfig(folder: string, name = 'small'): string {
  const file = join(folder, `${name}.yaml`);
  writeFileSync(file, CONFIG);
  return file;
}

export interface Event {
  time: string;
  kind: string;
  step: number | null;
  [field: string]: unknown;
}

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  seconds: number;
}

export interface Options {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** A program that starts the program, for example nohup. */
  before?: string[];
}

/** A `coldframe` that runs, in a process group of its own, as a terminal gives it. */
export class Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  readonly events: Event[] = [];
  #changed: () => void = () => {};
  #isClosed = false;
  #stderr = '';
  /** What a line of `--json` should not have been. */
  #fault: Error | undefined;

  constructor(args: string[], { cwd, env, before = [] }: Options = {}) {
    const begin = performance.now();
    const [program = PROGRAM, ...rest] = [...before, PROGRAM, ...args];
    const child = spawn(program, rest, {
      ...(cwd === undefined ? {} : { cwd }),
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...ENVIRONMENT, ...env },
    });
    this.child = child;
    const lines: string[] = [];
    if (args.includes('--json')) createInterface({ input: child.stdout }).on('line', (line) => this.#take(line));
    child.stdout.on('data', (chunk) => lines.push(String(chunk)));
    const notes: string[] = [];
    child.stderr.on('data', (chunk) => {
      notes.push(String(chunk));
      this.#stderr = notes.join('');
      this.#changed();
    });
    this.ended = new Promise<Ended>((settle, fail) => {
      child.on('close', (code, signal) => {
        this.#isClosed = true;
        this.#changed();
        const seconds = (performance.now() - begin) / 1000;
        if (this.#fault !== undefined) fail(this.#fault);
        settle({ code, signal, stdout: lines.join(''), stderr: this.#stderr, seconds });
      });
    });
  }

  #take(line: string): void {
    try {
      this.events.push(checkEvent(JSON.parse(line)));
    } catch (error) {
      this.#fault ??= error as Error; // also of a line that is no JSON
    }
    this.#changed();
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error('the program did not start');
    return this.child.pid;
  }

  /** Waits for an event (with `--json` only). */
  async event(kind: string, step?: number): Promise<Event> {
    for (;;) {
      const found = this.events.find((event) => event.kind === kind && (step === undefined || event.step === step));
      if (found !== undefined) return found;
      if (this.#isClosed) throw new Error(`the program ended without \`${kind}\`: ${JSON.stringify(await this.ended)}`);
      await new Promise<void>((settle) => {
        this.#changed = settle;
      });
    }
  }

  /** Waits until it has said something on stderr. */
  async said(what: RegExp): Promise<void> {
    while (!what.test(this.#stderr)) {
      if (this.#isClosed) throw new Error(`the program ended without ${what}: ${JSON.stringify(await this.ended)}`);
      await new Promise<void>((settle) => {
        this.#changed = settle;
      });
    }
  }

  /** Signals the whole process group, as Ctrl-C does. */
  signalGroup(signal: NodeJS.Signals): void {
    process.kill(-this.pid, signal);
  }

  /** Kills the Python process of this run, or one of its loader workers. */
  killPython(which: 'main' | 'worker'): void {
    const pythons = livingProcesses().filter(({ group, command }) => group === this.pid && isPython(command));
    const found = pythons.find(({ parent }) => (parent === this.pid) === (which === 'main'));
    if (found === undefined) throw new Error(`no ${which} Python to kill`);
    process.kill(found.pid, 'SIGKILL');
  }

  /** What is left of the process group. */
  members(): number[] {
    return livingProcesses()
      .filter(({ group }) => group === this.pid)
      .map(({ pid }) => pid);
  }

  /** Resolves when nothing of it lives. What is left over lives for ever, so a busy machine is given its time. */
  async gone(): Promise<void> {
    await until(() => this.members().length === 0, 60);
  }
}

/** A video that Python opens only when told: `env` is for the program, which waits there once `reached` is over. */
export class Gate {
  readonly env: NodeJS.ProcessEnv;
  readonly #path: string;

  constructor(path: string, video: string) {
    this.#path = path;
    this.env = { COLDFRAME_PYTHONPATH: join(FIXTURES, 'gate'), GATE: path, GATE_VIDEO: video };
  }

  reached(): Promise<void> {
    return until(() => existsSync(`${this.#path}.ready`), 120);
  }

  open(): void {
    writeFileSync(`${this.#path}.go`, '');
  }
}

/** Returns a video that stands in no batch before the fifth, by `data.seed`: a run that waits for it has saved something. */
export function findLateVideo(seed: number): string {
  const code = `from coldframe.data.clips import sample_order; print(sample_order(24, ${seed}, 16, 4)[0])`;
  const env = { ...ENVIRONMENT, PYTHONPATH: join(PROJECT, 'py') };
  const index = execFileSync(PYTHON, ['-c', code], { env, encoding: 'utf8' });
  const lines = readFileSync(join(CLIPS, 'train.txt'), 'utf8').split('\n');
  return lines[Number(index)]?.split(' ')[0] ?? '';
}

/** Returns the event. Throws where docs/events.md has none of its kind with exactly these fields. */
export function checkEvent(event: Event): Event {
  const { time, ...rest } = event;
  const kinds = Object.values(EVENTS).flat();
  const found = kinds.filter(({ shape }) => shape.kind.value === event.kind).map((schema) => schema.safeParse(rest));
  if (!Number.isNaN(Date.parse(time)) && found.some(({ success }) => success)) return event;
  const why = found.flatMap(({ error }) => (error === undefined ? [] : z.prettifyError(error)));
  throw new Error(`${JSON.stringify(event)} is no event that docs/events.md describes: ${why.join('\n')}`);
}

/** Runs `coldframe` to its end. */
export function coldframe(args: string[], options: Options = {}): Promise<Ended> {
  return new Running(args, options).ended;
}

const isPython = (command: string): boolean => basename(command).startsWith('python');

function livingProcesses(): { pid: number; parent: number; group: number; command: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        // /proc/PID/stat: pid (command) state ppid pgrp ...
        const [, state, parent, group] = /\) (\S) (\d+) (\d+) /.exec(readFileSync(`/proc/${name}/stat`, 'utf8')) ?? [];
        const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0')[0] ?? '';
        return state === 'Z' ? [] : [{ pid: Number(name), parent: Number(parent), group: Number(group), command }];
      } catch {
        return []; // it has just ended
      }
    });
}

/** Returns what a dry run refuses, without the verdict that comes first. */
export function belowVerdict({ stderr }: Ended): string {
  const [verdict = '', ...problems] = stderr.split('\n');
  if (!/^This cannot be trained: \d+ problems?\. Dry run: nothing was written\.$/.test(verdict))
    throw new Error(stderr);
  return problems.join('\n');
}

/** Returns what a UserError tells, line by line; nothing where nothing is refused. Other errors go through. */
export function problemsOf(work: () => unknown): string[] {
  try {
    work();
  } catch (error) {
    if (error instanceof UserError) return error.problems;
    throw error;
  }
  return [];
}

export async function until(condition: () => boolean, seconds: number): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not so within ${seconds} s: ${condition}`);
    await sleep(20);
  }
}

export function readJson<T>(...parts: string[]): T {
  return JSON.parse(readFileSync(join(...parts), 'utf8'));
}

export const readSeed = (runDir: string): number =>
  readJson<{ data: { seed: number } }>(runDir, 'config.json').data.seed;

export function readEvents(runDir: string): Event[] {
  const lines = readFileSync(join(runDir, 'events.jsonl'), 'utf8').trimEnd().split('\n');
  return lines.map((line) => checkEvent(JSON.parse(line)));
}

/** SHA-256 of every file of a folder, by its path in there. */
export function hashFiles(folder: string): Record<string, string> {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
  const hash = (file: string) =>
    createHash('sha256')
      .update(readFileSync(join(folder, file)))
      .digest('hex');
  return Object.fromEntries(
    files.filter((file) => statSync(join(folder, file)).isFile()).map((file) => [file, hash(file)]),
  );
}

/** What training computed: SHA-256 of the tensors of a checkpoint, by file. Beside them stands how it was launched. */
export function hashTensors(runDir: string, step: number): Record<string, string> {
  const files = Object.entries(hashFiles(join(runDir, 'checkpoints', `step-${step}`)));
  return Object.fromEntries(files.filter(([file]) => file.endsWith('.safetensors')));
}

export async function findFreePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  const { port } = server.address() as { port: number };
  await new Promise((settle) => server.close(settle));
  return port;
}

/** Names, shapes and values (float32) of a safetensors file: 8 bytes of length, a JSON header, the numbers. */
export function readTensors(file: string): Map<string, { shape: number[]; values: Float32Array }> {
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header: Record<string, { shape: number[]; data_offsets: [number, number] }> = JSON.parse(
    bytes.toString('utf8', 8, start),
  );
  delete header.__metadata__;
  return new Map(
    Object.entries(header).map(([name, { shape, data_offsets }]) => {
      const part = bytes.subarray(start + data_offsets[0], start + data_offsets[1]);
      return [name, { shape, values: new Float32Array(Uint8Array.from(part).buffer) }];
    }),
  );
}
