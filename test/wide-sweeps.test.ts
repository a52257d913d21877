/** Sweeps whose cohorts take several devices or machines each: what fits, what memory holds, and what Slurm is asked for. */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { LocalExecutor } from '../src/executors/local.ts';
import { makeTrials, planPoints, readSweep } from '../src/sweep/definition/file.ts';
import type { Sweep as Resolved } from '../src/sweep/definition/types.ts';
import { emptyState } from '../src/sweep/journal.ts';
import { planRound } from '../src/sweep/plan.ts';
import { Sweep, folder as sweeps } from './fake-sweeps.ts';
import { FORECAST } from './fixtures/forecast.ts';
import { problemsOf } from './support.ts';

jest.setTimeout(120_000);
const folder = mkdtempSync(join(tmpdir(), 'wide-test-'));
const { PATH: path, CUDA_VISIBLE_DEVICES: shown } = process.env;
const GIB = 2 ** 30;

beforeEach(() => {
  process.env.CUDA_VISIBLE_DEVICES = '0,1,2,3';
});
afterAll(() => {
  process.env.PATH = path;
  if (shown === undefined) delete process.env.CUDA_VISIBLE_DEVICES;
  else process.env.CUDA_VISIBLE_DEVICES = shown;
  for (const dir of [folder, sweeps]) rmSync(dir, { recursive: true });
});

const BASE = `data: {dummy: true, num_classes: 4, num_frames: 4, stride: 4, size: 32}
model: {backbone: {preset: tiny}, decoder: {num_layers: 2}}
train: {steps: 6, batch_size: 8, precision: fp32}
`;

function read(launch: string, executor: string, space = '{train.lr: [1e-4, 2e-4, 3e-4, 4e-4]}'): Resolved {
  writeFileSync(join(folder, 'base.yaml'), `${BASE}launch: {${launch}}\n`);
  const written = `base: base.yaml\nselection: validation\nspace: ${space}\nexecutor: {${executor}}\n`;
  writeFileSync(join(folder, 'wide.yaml'), written);
  return readSweep(join(folder, 'wide.yaml'), { env: {} }).sweep;
}

describe('what a sweep asks for', () => {
  test.each([
    ['devices: 2, device: cuda', 'slots: 2'],
    ['devices: 1, device: cuda', 'slots: 9'], // they share
    ['devices: 4, device: cpu', 'slots: 9'], // processes
    ['devices: 2, device: cuda, nodes: 2', 'kind: slurm, slurm: {gres: "gpu:a100:2", extra: ["--nice", "-pgpu"]}'],
    ['devices: 2, device: cuda', 'kind: ray, ray: {num_gpus: 2}'],
    ['devices: 2, device: cuda, nodes: 2', 'kind: ray, ray: {num_gpus: 2}'],
  ])('may be %s with %s', (launch, executor) => {
    expect(read(launch, executor).executor.slots).toBeGreaterThan(0);
  });

  test.each<[string, string, RegExp]>([
    ['devices: 2, device: cuda', 'slots: 3', /slots: 3 slots of 2 devices \(launch.devices\) need 6, .* shows 4/],
    ['devices: 2, device: cuda', 'slots: 3', /fits: executor.slots up to 2, or launch.devices up to 1\.$/],
    ['devices: 8', 'slots: 2', /shows 4\. What fits: launch.devices up to 2\.$/],
    ['nodes: 2', '', /executor.kind: local is this machine alone, and launch.nodes is 2/],
    ['nodes: 2, device: cuda', 'kind: ray', /num_gpus: not set, and launch.devices is 1/],
    ['nodes: 2, rendezvous: "head:29500"', 'kind: slurm', /launch.rendezvous: cohorts cannot share one address/],
    ['devices: 4', 'kind: slurm, slurm: {gres: "gpu:2"}', /gres: gpu:2 is less than launch.devices, 4/],
    [
      'nodes: 2',
      'kind: slurm, slurm: {extra: ["--nodes=3"]}',
      /extra: --nodes=3: machines follow from launch.nodes, 2/,
    ],
    ['devices: 2, device: cuda', 'kind: ray', /num_gpus: not set, and launch.devices is 2/],
    ['devices: 2, device: cuda', 'kind: ray, ray: {num_gpus: 1}', /num_gpus: 1 is less, and launch.devices is 2/],
  ])('is refused as %s with %s', (launch, executor, said) => {
    const problems = problemsOf(() => read(launch, executor));
    expect(problems).toEqual([expect.stringMatching(said)]);
  });

  test('is the same for all cohorts', () => {
    const problems = problemsOf(() => read('devices: 1', '', '{launch.devices: [1, 2]}'));
    expect(problems).toEqual([expect.stringMatching(/space.launch.devices: a sweep sets this key itself/)]);
  });
});

/** Of each trial 1 GiB, and 1 GiB of what they share. */
async function countCohorts(launch: string, executor: string): Promise<number> {
  const sweep = read(launch, executor);
  const forecast = { ...FORECAST, shared_bytes: GIB, features_bytes: 0, transient_bytes: 0, trial_bytes: GIB };
  const trials = makeTrials(sweep, planPoints(sweep));
  const { lines } = await planRound(sweep, trials, emptyState(), async (shapes) => shapes.map(() => forecast));
  return lines.length;
}

test.each([
  ['of each GPU', 'device: cuda, devices: 2', 1],
  ['which the processes on a CPU share', 'device: cpu, devices: 2', 2],
  ['of a slot with one process', 'device: cpu, devices: 1', 1],
])('memory is that %s', async (_, launch, numCohorts) => {
  expect(await countCohorts(launch, 'memory: 6GiB')).toBe(numCohorts);
});

test('a local job has the devices of its slot, and its processes share the cores of it', async () => {
  const before = process.env;
  process.env = { ...before, COLDFRAME_CPUS: '8' };
  delete process.env.OMP_NUM_THREADS;
  const file = join(folder, 'lease');
  const command = ['sh', '-c', `echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS >>'${file}'`];
  const executor = new LocalExecutor({ slots: 2, devices: ['0', '1', '2', '3'] });
  const job = { key: `wide-${process.pid}`, command, cwd: folder, env: {}, logFile: join(folder, 'log'), devices: 2 };
  const handle = await executor.start(job);
  while ((await executor.watch([handle])).get(handle)?.state !== 'ended') await new Promise((go) => setTimeout(go, 20));
  process.env = before;
  const [devices, threads] = readFileSync(file, 'utf8').trim().split(' ');
  const cores = (await import('../src/base/process/processes.ts')).shareCores(2);
  expect([devices, threads]).toEqual(['0,1', String(Math.max(1, Math.floor(Math.min(4, cores) / 2)))]);
});

test('Slurm starts a cohort once on each node by srun, and the last evaluation on one', async () => {
  const bin = join(folder, 'bin');
  const jobs = join(folder, 'jobs');
  for (const dir of [bin, jobs]) mkdirSync(dir);
  const programs: Record<string, string> = {
    sbatch: `cd '${jobs}'; job=$(ls | grep -c name)
echo "$@" >>asked
for word; do case $word in --job-name=*) echo "\${word#*=}" >$job.name;; esac; done
cat >$job.sh
(SLURM_CPUS_PER_TASK=9 sh $job.sh; echo $? >$job.code) >/dev/null 2>&1 &
echo $job`,
    srun: `echo "$@" >>'${jobs}/srun'; while [ "\${1#-}" != "$1" ]; do shift; done; exec "$@"`,
    squeue: `cd '${jobs}'
for name in *.name; do
  job=\${name%.name}
  case $(cat $job.code 2>/dev/null) in '') state='RUNNING 0';; 0) state='COMPLETED 0';; *) state='FAILED 256';; esac
  echo "$job $job $(cat $name) $state 0 None"
done`,
    scancel: '',
    scontrol: '',
  };
  for (const [program, code] of Object.entries(programs)) {
    writeFileSync(join(bin, program), `#!/bin/sh\n${code}\n`);
    chmodSync(join(bin, program), 0o755);
  }
  process.env.PATH = `${bin}:${path}`;
  delete process.env.OMP_NUM_THREADS;
  const more = 'set: {launch.nodes: 2, launch.devices: 2}\ncohort: {max_trials: 8}';
  const sweep = new Sweep('wide', 'kind: slurm, slots: 1, poll_seconds: 0.05', more);
  expect(await sweep.run({})).toBeUndefined();
  const asked = readFileSync(join(jobs, 'asked'), 'utf8').trim().split('\n');
  expect(asked.map((line) => /--nodes=2 --ntasks-per-node=1$/.test(line))).toEqual([true, false]);
  const started = readFileSync(join(jobs, 'srun'), 'utf8').trim().split('\n');
  expect(started).toEqual([
    expect.stringMatching(/^--nodes=2 --ntasks-per-node=1 --cpus-per-task=9 .* train --cohort /),
  ]);
  expect(sweep.done('start')[0]?.split(' ')[4]).toBe('4'); // nine cores for two processes
});

test('a trial that lacks memory computes its share of the batch in more parts, not the batch', async () => {
  const more = 'set: {launch.devices: 2, train.batch_size: 8}';
  const sweep = new Sweep('shares', 'slots: 1', more, '{train.lr: [1e-4]}');
  const error = await sweep.run({ memory: 1 });
  expect(error?.message).toContain('out of memory');
  const parts = sweep.entries('cohort').flatMap(({ micro_batches: one }) => one ?? []);
  expect(new Set(parts)).toEqual(new Set([2, 4])); // a share has four clips
});
