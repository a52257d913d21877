/** A sweep of thousands of trials: planning it, `sweep status`, and the memory of its runner; whole processes.
 *
 *   coldframe bench sweep [--quick] [-- --trials N]
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Report } from '../src/base/printer.ts';
import { FORECAST } from '../test/fixtures/forecast.ts';
import { type Asked, emit, median } from './timing.ts';

const PROJECT = fileURLToPath(new URL('..', import.meta.url));
const PROGRAM = join(PROJECT, 'scripts', 'coldframe');
const TRAINING = [process.execPath, join(PROJECT, 'test', 'fixtures', 'fake-coldframe.mjs')]; // makes its numbers up
const FULL = 5000;

const BASE = `
data: {dummy: true, num_classes: 4, num_frames: 4, stride: 4, size: 32, num_workers: 0}
model: {backbone: {preset: tiny}}
train: {steps: 1, batch_size: 4, precision: fp32}
launch: {device: cpu}
`;
const describeSweep = (numTrials: number): string => `
base: base.yaml
space:
  train.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  train.weight_decay: {low: 1.0e-3, high: 1.0e-1, log: true}
  model.decoder.num_layers: [1, 2]
  model.decoder.mlp_dropout: {values: [0, 0.5], when: {model.decoder.num_layers: [2]}}
method: random
trials: ${numTrials}
selection: validation
cohort: {max_trials: 100}
executor: {slots: 2}
`;

const silent = new Report();
silent.print = () => {};

/** Work that has no command of its own is done in a process that loads and does nothing else. */
const PARTS = {
  /** Without Python and its forecast. */
  plan: async (file: string, dir: string) => {
    const [{ readSweep }, { showPlan }] = [
      await import('../src/sweep/definition/file.ts'),
      await import('../src/sweep/show-plan.ts'),
    ];
    await showPlan(readSweep(file).sweep, dir, silent, async (shapes) => shapes.map(() => FORECAST));
  },
  run: async (file: string, dir: string) => {
    const [{ readSweep }, { runSweep }] = [
      await import('../src/sweep/definition/file.ts'),
      await import('../src/sweep/sweep.ts'),
    ];
    await runSweep({ sweep: readSweep(file).sweep, dir, program: TRAINING }, silent);
  },
};

interface Cost {
  /** By the clock, and of the processor (user and system). */
  seconds: number;
  cpu: number;
  said: string;
}

/** Returns what a whole process costs, with all that it starts and waits for. */
function measure(...command: string[]): Cost {
  const started = performance.now();
  const said = execFileSync('sh', ['-c', '"$@" && times', 'sh', ...command], {
    ...{ encoding: 'utf8', maxBuffer: 1e9 },
    env: { ...process.env, COLDFRAME_LOG: '', FAKE_STEP_SECONDS: '0', FAKE_LOG: '/dev/null', FAKE_MEMORY: 'Infinity' },
  });
  const seconds = (performance.now() - started) / 1000;
  // The last line of two is that of the children: `0m1.250s 0m0.180s`.
  const times = said.trimEnd().split('\n').at(-1) ?? '';
  const cpu = [...times.matchAll(/(\d+)m([\d.]+)s/g)].reduce(
    (sum, [, min, sec]) => sum + 60 * Number(min) + Number(sec),
    0,
  );
  return { seconds, cpu, said };
}

const measurePart = (part: keyof typeof PARTS, file: string, dir: string): Cost =>
  measure(process.execPath, ...process.execArgv, fileURLToPath(import.meta.url), '--part', part, file, dir);

/** Bytes of this process at its peak. Not getrusage's: that may be of the process which has started this one. */
function readPeak(): number {
  const [, kilobytes = ''] = /VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return 1024 * Number(kilobytes);
}

function tell(name: string, costs: Cost[], asked: Asked = {}): void {
  emit(
    name,
    costs.map(({ seconds }) => seconds),
    { ...asked, cpu_seconds: median(costs.map(({ cpu }) => cpu)) },
  );
}

function compare(numTrials: number, rounds: number): void {
  const folder = mkdtempSync(join(tmpdir(), 'bench-sweep-'));
  try {
    const [file, dir] = [join(folder, 'many.yaml'), join(folder, 'sweep')];
    writeFileSync(join(folder, 'base.yaml'), BASE);
    writeFileSync(file, describeSweep(numTrials));
    const repeat = (work: () => Cost): Cost[] => Array.from({ length: rounds }, work);
    const limit = (least: number, goal: number): Asked => (numTrials === FULL ? { least, goal } : {});
    tell(
      `planning ${numTrials} trials, s of the process`,
      repeat(() => measurePart('plan', file, dir)),
      limit(2, 1),
    );
    tell(
      'sweep --dry-run, with what Python forecasts, s',
      repeat(() => measure(PROGRAM, 'sweep', '--config', file, '--run-dir', dir, '--dry-run')),
      limit(2, 1.5),
    );
    const run = measurePart('run', file, dir);
    emit('peak memory of their runner, MB', Number(/^peak (\d+)$/m.exec(run.said)?.[1]) / 1e6, limit(300, 150));
    tell('  the whole sweep, with a training that does nothing, s', [run]);
    tell(
      `sweep status of ${numTrials} trials, s`,
      repeat(() => measure(PROGRAM, 'sweep', 'status', dir)),
      limit(1, 0.7),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    trials: { type: 'string', default: String(FULL) },
    part: { type: 'string' },
  },
});
const [file = '', dir = ''] = positionals;
if (values.part === 'plan' || values.part === 'run') {
  await PARTS[values.part](file, dir);
  process.stdout.write(`peak ${readPeak()}\n`);
} else {
  compare(Number(values.trials), values.quick ? 1 : 5);
}
