/** Sweeps with a program in the place of `coldframe` that does as it is told: fixtures/fake-coldframe.mjs. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { Report } from '../src/base/printer.ts';
import { readSweep } from '../src/sweep/definition/file.ts';
import type { TimedEntry } from '../src/sweep/journal.ts';
import { runSweep } from '../src/sweep/sweep.ts';
import { FORECAST } from './fixtures/forecast.ts';
import { bundle, ENVIRONMENT, FIXTURES, until } from './support.ts';

export const folder = mkdtempSync(join(tmpdir(), 'scheduler-test-'));
writeFileSync(
  join(folder, 'base.yaml'),
  `data: {dummy: true, num_classes: 4, num_frames: 4, stride: 4, size: 32, num_workers: 0}
model: {backbone: {preset: tiny}, decoder: {num_layers: 2}}
train: {steps: 6, batch_size: 4, precision: fp32}
launch: {device: cpu}
`,
);
let driver: string | undefined; // made with the first runner
const PROGRAM = [process.execPath, join(FIXTURES, 'fake-coldframe.mjs')];
export const runners = new Set<Runner>();
export interface Behaviour {
  /** By cohort: what each attempt does; the last for all later ones. */
  plan?: Record<string, string[]>;
  memory?: number;
}

export class Runner {
  readonly child: ChildProcess;
  readonly stderr: Promise<string>;

  constructor(child: ChildProcess) {
    this.child = child;
    this.stderr = child.stderr === null ? Promise.resolve('') : text(child.stderr);
  }

  get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  async end(): Promise<number | null> {
    await until(() => this.hasEnded, 120);
    return this.child.exitCode;
  }

  /** Kills it, and waits until it is gone. */
  async kill(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.end();
  }
}

export class Silent extends Report {
  override print(_line: string): void {}
  override note(): void {}
}

/** A sweep of four points with two seeds, in two cohorts. */
export class Sweep {
  readonly dir: string;
  readonly file: string;
  readonly #log: string;

  constructor(
    name: string,
    executor = 'slots: 2',
    more = 'cohort: {max_trials: 4}',
    space = '{train.lr: [1e-4, 2e-4, 3e-4, 4e-4]}',
  ) {
    const own = join(folder, name);
    mkdirSync(own);
    this.dir = join(own, 'sweep');
    this.file = join(own, 'fake.yaml');
    this.#log = join(own, 'log.txt');
    const written = `base: ../base.yaml
space: ${space}
seeds: [0, 1]
bracket: {rungs: [3], keep: 0.5}
executor: {${executor.includes('kind: ') ? '' : 'kind: local, '}${executor}}
selection: validation
${more}
`;
    writeFileSync(this.file, written);
  }

  #environment({ plan = {}, memory = 100 }: Behaviour): Record<string, string> {
    return { FAKE: JSON.stringify(plan), FAKE_LOG: this.#log, FAKE_MEMORY: String(memory) };
  }

  /** The same for `env`, where jobs have another environment than their runner. */
  variables(behaviour: Behaviour): string[] {
    return Object.entries(this.#environment(behaviour)).map(([name, value]) => `${name}=${value}`);
  }

  /** Starts a runner of its own. */
  start(behaviour: Behaviour = {}, before: string[] = []): Runner {
    driver ??= bundle('sweep-driver');
    const child = spawn(process.execPath, [driver, this.file, this.dir, ...before, ...PROGRAM], {
      env: { ...ENVIRONMENT, ...this.#environment(behaviour) },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const runner = new Runner(child);
    runners.add(runner);
    return runner;
  }

  /** Runs the sweep in this process; returns the error that it ended with. */
  async run(behaviour: Behaviour = {}, before: string[] = []): Promise<Error | undefined> {
    Object.assign(process.env, this.#environment(behaviour));
    try {
      const { sweep } = readSweep(this.file);
      const forecast = async (shapes: object[]) => shapes.map(() => FORECAST);
      await runSweep({ sweep, dir: this.dir, program: [...before, ...PROGRAM], forecast }, new Silent());
      return undefined;
    } catch (error) {
      return error as Error;
    }
  }

  /** Lets the cohorts go on that were told to wait. */
  release(): void {
    writeFileSync(`${this.#log}.go`, '');
  }

  entries<Kind extends TimedEntry['kind']>(kind: Kind): Extract<TimedEntry, { kind: Kind }>[] {
    const file = join(this.dir, 'journal.jsonl');
    const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : [];
    const entries = lines.map((line) => JSON.parse(line) as TimedEntry);
    return entries.filter((entry): entry is Extract<TimedEntry, { kind: Kind }> => entry.kind === kind);
  }

  /** What the program has done: lines such as `step c0001 3`. */
  done(word = ''): string[] {
    const lines = existsSync(this.#log) ? readFileSync(this.#log, 'utf8').trimEnd().split('\n') : [];
    return lines.filter((line) => line.startsWith(word));
  }

  /** The final table: every trial's result, once. */
  table(): object[] {
    const byTrial = new Map(this.entries('result').map(({ time: _, ...result }) => [result.trial, result]));
    return [...byTrial.values()].sort((a, b) => (a.trial < b.trial ? -1 : 1));
  }

  numLines(): number {
    const file = join(this.dir, 'journal.jsonl');
    return existsSync(file) ? readFileSync(file, 'utf8').split('\n').length : 0;
  }

  endings(): [string, string, string | null][] {
    return this.entries('ended').map(({ cohort, outcome, class: failure }) => [cohort, outcome, failure]);
  }
}

let reference: Promise<object[]> | undefined;
/** The table of a sweep that nothing disturbed. */
export function undisturbed(): Promise<object[]> {
  reference ??= (async () => {
    const sweep = new Sweep('undisturbed');
    const error = await sweep.run();
    if (error !== undefined) throw error;
    return sweep.table();
  })();
  return reference;
}
