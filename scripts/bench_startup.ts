/** From `train` to its first finished step, whole and in parts, against `import torch` alone.
 *
 *   coldframe bench startup [--quick]
 */
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { Report } from '../src/base/printer.ts';
import { loadConfig } from '../src/config/load.ts';
import { checkLists } from '../src/data/checks.ts';
import { startRuntime } from '../src/runtime/runtime.ts';
import { Session } from '../src/runtime/session.ts';
import { emit, median } from './timing.ts';

const PROJECT = fileURLToPath(new URL('..', import.meta.url));
const PYTHON = join(PROJECT, 'py', 'python.sh');
const PROGRAM = join(PROJECT, 'scripts', 'coldframe');
const CLIPS = join(PROJECT, 'data', 'bench', 'startup');
const run = promisify(execFile);
const { values } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, part: { type: 'string' }, config: { type: 'string' } },
});
const seconds = (since: number): number => (performance.now() - since) / 1000;

const DATA = `train_list: ${CLIPS}/train.txt, val_list: ${CLIPS}/val.txt, classes: ${CLIPS}/classes.txt, num_workers: 1`;
const REST = 'eval: {temporal_views: 1}\nrun: {print_every: 1}\nlaunch: {device: cpu}\n';
const CONFIGS: Record<string, string> = {
  demo: `
data: {${DATA}, stride: 4, size: 64}
model:
  backbone: {preset: custom, width: 128, num_layers: 2, num_heads: 4, patch_size: 8, input_size: 64, weights: random}
  decoder: {num_layers: 2, num_heads: 4}
train: {steps: 1, batch_size: 16, precision: fp32}
${REST}`,
  'B/16': `
data: {${DATA}, stride: 4}
model: {backbone: {preset: ViT-B/16, weights: random}}
train: {steps: 1, batch_size: 1, precision: fp32}
${REST}`,
};

interface Whole {
  total: number;
  first_batch: number;
  first_step: number;
}

/** Starts the program as a user does and returns when its first step was reported, in seconds. */
async function trainOnce(config: string, runDir: string): Promise<Whole> {
  const started = performance.now();
  const child = spawn(PROGRAM, ['train', '--config', config, '--run-dir', runDir, '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let whole: Whole | undefined;
  let errors = '';
  child.stderr.on('data', (text) => (errors += String(text)));
  for await (const line of createInterface({ input: child.stdout })) {
    const event = JSON.parse(line) as { kind: string; data_seconds: number; step_seconds: number };
    if (event.kind !== 'step' || whole !== undefined) continue;
    whole = { total: seconds(started), first_batch: event.data_seconds, first_step: event.step_seconds };
  }
  rmSync(runDir, { recursive: true, force: true });
  if (whole === undefined) throw new Error(`train gave no step: ${errors}`);
  return whole;
}

async function timeOf(command: string, args: string[]): Promise<number> {
  const started = performance.now();
  await run(command, args, { env: { ...process.env, COLDFRAME_LOG: '' } });
  return seconds(started);
}

/** The same one after another in this process: what each part would take by itself. */
async function timeParts(file: string): Promise<void> {
  const parts: Record<string, number> = { 'node and the rooms': performance.now() / 1000 };
  const time = async <T>(name: string, work: () => T | Promise<T>): Promise<T> => {
    const started = performance.now();
    const result = await work();
    parts[name] = seconds(started);
    return result;
  };
  const { config } = await time('configuration', () => loadConfig(file));
  const folder = mkdtempSync(join(tmpdir(), 'bench-startup-'));
  const lists = await time('lists', () => checkLists(config, ['train', 'val'], folder, new Report({ json: true })));
  const runtime = await time('Python', () => startRuntime());
  try {
    const session = new Session(runtime);
    await time('import torch and the session', () => session.describe(null));
    await time('backbone, trial, run folder', () =>
      session.open({
        ...{ mode: 'train', trials: [{ name: 'main', settings: config }], classes: lists.classes ?? null },
        ...{ run_dir: join(folder, 'run'), resume: 'never' },
        lists: { train: lists.train?.checkedFile ?? null, val: lists.val?.checkedFile ?? null },
      }),
    );
    const { steps } = await time('first call', () => session.advance(1));
    const [step] = steps;
    parts['of it waiting for the first batch'] = step?.data_seconds ?? 0;
  } finally {
    await runtime.close();
    rmSync(folder, { recursive: true });
  }
  process.stdout.write(JSON.stringify(parts));
}

async function partsOf(file: string): Promise<Record<string, number>> {
  const args = [...process.execArgv, fileURLToPath(import.meta.url), '--part', 'yes', '--config', file];
  return JSON.parse((await run(process.execPath, args)).stdout) as Record<string, number>;
}

async function compare(name: string, file: string, runDir: string, rounds: number): Promise<void> {
  const [torch, whole]: [number[], Whole[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    torch.push(await timeOf(PYTHON, ['-c', 'import torch']));
    whole.push(await trainOnce(file, runDir));
  }
  const parts = await partsOf(file);
  const totals = whole.map(({ total }) => total);
  emit(`${name}: from train to the first step, s`, totals, {
    first_batch: median(whole.map((one) => one.first_batch)),
    first_step: median(whole.map((one) => one.first_step)),
    parts,
  });
  emit(
    `${name}: the same / import torch alone`,
    totals.map((total, i) => total / (torch[i] ?? 0)),
    { torch: median(torch) },
  );
  const one = Object.entries(parts).filter(([part]) => !part.startsWith('of it'));
  emit(`${name}: parts one after another / whole`, one.reduce((sum, [, part]) => sum + part, 0) / median(totals));
  for (const [part, value] of Object.entries(parts)) emit(`  ${part}, s`, value);
}

async function main(): Promise<void> {
  if (!existsSync(join(CLIPS, 'train.txt'))) {
    const script = join(PROJECT, 'scripts', 'make_demo_clips.py');
    await timeOf(PYTHON, [script, '--out', CLIPS, '--train', '24', '--val', '12', '--seed', '7']);
  }
  const folder = mkdtempSync(join(tmpdir(), 'bench-startup-'));
  try {
    for (const [name, text] of Object.entries(CONFIGS)) {
      const file = join(folder, `${name.replace('/', '')}.yaml`);
      writeFileSync(file, text);
      await compare(name, file, join(folder, 'run'), values.quick ? 1 : 5);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

if (values.part !== undefined && values.config !== undefined) await timeParts(values.config);
else await main();
