/** What a call over the bridge costs, and its share of the time of training steps on a model so small that it shows.
 *
 *   coldframe bench bridge [--quick]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { loadConfig } from '../src/config/load.ts';
import { type Runtime, startRuntime } from '../src/runtime/runtime.ts';
import { Session } from '../src/runtime/session.ts';
import { emit, median } from './timing.ts';

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false } } });
const numCalls = values.quick ? 200 : 2000;
const rounds = values.quick ? 2 : 6;
const WARM_CALLS = 20;
/** About the demo's model; made-up clips, so that only steps and calls take time. */
const CONFIG = `
data: {dummy: true, num_classes: 8, num_workers: 0, size: 64}
model:
  backbone: {preset: custom, width: 128, num_layers: 2, num_heads: 4, patch_size: 8, input_size: 64, weights: random}
  decoder: {num_layers: 2, num_heads: 4}
train: {steps: 100000, batch_size: 4, precision: fp32}
launch: {device: cpu}
`;

async function measureCalls(runtime: Runtime, paths: string[]): Promise<number[]> {
  const milliseconds: number[] = [];
  for (let call = -WARM_CALLS; call < numCalls; call++) {
    const started = performance.now();
    const request = { paths, reader: 'pyav', sampling: null, seconds: 60, num_processes: 1, limit_seconds: 60 };
    await runtime.call('probe', request, z.object({ videos: z.array(z.unknown()) }));
    if (call >= 0) milliseconds.push(performance.now() - started);
  }
  return milliseconds.toSorted((a, b) => a - b);
}

/** Returns the share of time in calls of `advance` that no step accounts for. */
async function measureShare(session: Session, stepsPerCall: number): Promise<number> {
  const started = performance.now();
  const { steps } = await session.advance(stepsPerCall);
  const seconds = (performance.now() - started) / 1000;
  return 1 - steps.reduce((sum, step) => sum + step.step_seconds, 0) / seconds;
}

async function main(runtime: Runtime, folder: string): Promise<void> {
  const [idle, long] = [await measureCalls(runtime, []), await measureCalls(runtime, [join(folder, 'x'.repeat(200))])];
  const tail = idle[Math.floor(0.99 * idle.length)];
  emit('call over the bridge, ms', median(idle), {
    low: idle[0],
    high: tail,
    calls: numCalls,
    high_is: '99th percentile',
  });
  emit('the same, while another process looks for a file that is not there, ms', median(long), {
    low: long[0],
    high: long.at(-1),
  });
  const file = join(folder, 'bridge.yaml');
  writeFileSync(file, CONFIG);
  const { config } = loadConfig(file);
  const session = new Session(runtime);
  const trials = [{ name: 'main', settings: config }];
  const lists = { train: null, val: null };
  await session.open({ mode: 'train', trials, lists, classes: null, run_dir: null, resume: 'never' });
  const { steps } = await session.advance(5);
  const stepsPerSecond = Math.max(1, Math.round(1 / median(steps.map((step) => step.step_seconds))));
  for (const [name, count] of [
    ['one step a call', 1],
    ['calls of a second, as train makes them', stepsPerSecond],
  ] as const) {
    const shares: number[] = [];
    for (let round = 0; round < rounds; round++) shares.push(await measureShare(session, count));
    emit(`share of a training step, ${name}`, shares, { steps_per_call: count });
  }
}

const folder = mkdtempSync(join(tmpdir(), 'bench-bridge-'));
const runtime = await startRuntime();
try {
  await main(runtime, folder);
} finally {
  await runtime.close();
  rmSync(folder, { recursive: true });
}
