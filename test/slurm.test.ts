/**
 * What the executor makes of Slurm's answers, with programs in the place of Slurm's that repeat what real ones said; the real ones
 * are in heavy/slurm.test.ts.
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import type { JobState } from '../src/executors/executor.ts';
import { SlurmExecutor } from '../src/executors/slurm.ts';
import { Sweep, folder as sweeps } from './fake-sweeps.ts';
import { readJson, until } from './support.ts';

jest.setTimeout(120_000);
const folder = mkdtempSync(join(tmpdir(), 'slurm-test-'));
const path = process.env.PATH;
afterAll(() => {
  process.env.PATH = path;
  for (const dir of [folder, sweeps]) rmSync(dir, { recursive: true });
});

function writePrograms(name: string, programs: Record<string, string>): void {
  const bin = join(folder, name);
  mkdirSync(bin, { recursive: true });
  for (const [program, code] of Object.entries(programs)) {
    writeFileSync(join(bin, program), `#!/bin/sh\n${code}\n`);
    chmodSync(join(bin, program), 0o755);
  }
  process.env.PATH = `${bin}:${path}`;
}

describe('a job', () => {
  const log = join(folder, 'a job.log');
  const OVER = `slurmstepd-n1: error: StepId=17.batch exceeded memory limit (341704704 > 104857600), being killed
slurmstepd-n1: error: Exceeded job memory limit
slurmstepd-n1: error: *** JOB 17 ON n1 CANCELLED AT 2026-11-25T23:21:41 ***
`;

  /** JobArrayID, JobID, Name, State, exit_code, restartcnt, Reason. */
  async function watch(row: string): Promise<JobState | undefined> {
    const squeue = `case "$*" in *StdOut*) echo '${log}   ';; *) echo '${row}  ';; esac`;
    writePrograms('rows', { squeue });
    const settings = { partition: null, account: null, time: null, gres: null, cpus_per_task: null, memory: null };
    const about = { slots: 1, dir: folder, settings: { ...settings, extra: [] }, pollSeconds: 0.01 };
    const executor = new SlurmExecutor({ ...about, note: () => {}, stop: { requested: 0 } });
    const handle = `${row.split(/ +/)[0]} fake`;
    for (;;) {
      const state = (await executor.watch([handle])).get(handle);
      if (state?.state !== 'waiting') return state;
      await new Promise((settle) => setTimeout(settle, 20));
    }
  }
  beforeEach(() => rmSync(log, { force: true }));

  const MEMORY = 'took more memory than Slurm gave it (executor.slurm.memory)';
  test.each<[string, string, object]>([
    ['that runs', '16_1 17 fake RUNNING 0 0 None', { state: 'running' }],
    ['that ends', '17 17 fake COMPLETED 0 0 None', { code: 0, why: 'ended with exit code 0' }],
    ['that fails', '17 17 fake FAILED 1792 0 NonZeroExitCode', { code: 7, why: 'ended with exit code 7' }],
    ['out of time', '17 17 fake TIMEOUT 15 0 TimeLimit', { code: null, why: expect.stringContaining('time limit') }],
    [
      'out of memory',
      '17 17 fake OUT_OF_MEMORY 125 0 OutOfMemory',
      { code: null, why: MEMORY, class: 'out_of_memory' },
    ],
  ])('%s', async (_, row, state) => {
    expect(await watch(row)).toEqual({ state: 'ended', ...state });
  });

  test.each([
    ['and its output says that it was for its memory', OVER, { why: MEMORY, class: 'out_of_memory' }],
    [
      'as is another of its array for its memory',
      OVER.replace('17.batch', '18.batch'),
      { why: 'was killed by signal 9' },
    ],
    ['and says nothing', undefined, { why: 'was killed by signal 9' }],
  ])('that is killed, %s', async (_, output, state) => {
    if (output !== undefined) writeFileSync(log, output);
    expect(await watch('16_1 17 fake FAILED 9 0 JobLaunchFailure')).toEqual({ state: 'ended', code: null, ...state });
  });
});

test('a job of another that has our number by now is left alone', async () => {
  const said = join(folder, 'said');
  const squeue = `echo asked >>'${said}'; echo '17 17 theirs PENDING 0 1 launch failed requeued held'`;
  writePrograms('foreign', { squeue, scancel: `echo scancel >>'${said}'`, scontrol: `echo scontrol >>'${said}'` });
  const settings = { partition: null, account: null, time: null, gres: null, cpus_per_task: null, memory: null };
  const about = { slots: 1, dir: folder, settings: { ...settings, extra: [] }, pollSeconds: 0.01 };
  const executor = new SlurmExecutor({ ...about, note: () => {}, stop: { requested: 0 } });
  let state: JobState | undefined;
  while (state?.state !== 'ended') {
    state = (await executor.watch(['17 ours'])).get('17 ours');
    await new Promise((settle) => setTimeout(settle, 20));
  }
  expect(state.why).toBe('is not known to Slurm any more');
  expect(readFileSync(said, 'utf8')).toMatch(/^(asked\n)+$/);
});

test('a job is cancelled by its number and its name: the number alone may be another’s by now', async () => {
  const said = join(folder, 'cancelled');
  writePrograms('cancel', { squeue: '', scancel: `echo "$@" >>'${said}'`, scontrol: '' });
  const settings = { partition: null, account: null, time: null, gres: null, cpus_per_task: null, memory: null };
  const about = { slots: 1, dir: folder, settings: { ...settings, extra: [] }, pollSeconds: 0.01, graceSeconds: 0.01 };
  const executor = new SlurmExecutor({ ...about, note: () => {}, stop: { requested: 0 } });
  await executor.cancel('17_2 ours');
  await until(() => existsSync(said) && readFileSync(said, 'utf8').split('\n').length > 3, 60);
  await executor.close();
  expect(readFileSync(said, 'utf8').trim().split('\n').sort()).toEqual([
    '--batch --signal=TERM --name=ours 17_2',
    '--name=ours 17_2',
    '--state=PENDING --name=ours 17_2',
  ]);
});

test('a sweep whose jobs Slurm kills for their memory goes on with halves, then with parts of the batch', async () => {
  const sbatch = `job=$(ls ${folder}/jobs | grep -c name)
for word; do case $word in --job-name=*) echo "\${word#*=}" >${folder}/jobs/$job.name;; esac; done
cat >${folder}/jobs/$job.sh
(sh ${folder}/jobs/$job.sh; echo $? >${folder}/jobs/$job.code) >/dev/null 2>&1 &
echo $job`;
  const squeue = `cd ${folder}/jobs
for name in *.name; do
  job=\${name%.name}
  case $(cat $job.code 2>/dev/null) in
    '') state='RUNNING 0' ;;
    0) state='COMPLETED 0' ;;
    137) state='OUT_OF_MEMORY 125' ;;
    *) state='FAILED 256' ;;
  esac
  echo "$job $job $(cat $name) $state 0 None"
done`;
  mkdirSync(join(folder, 'jobs'));
  writePrograms('slurm', { sbatch, squeue, scancel: '', scontrol: '' });
  const space = '{train.lr: [1e-4]}'; // a point of two seeds, with batches of four clips
  const sweep = new Sweep('memory', 'kind: slurm, slots: 1, poll_seconds: 0.05', '', space);
  const plan = Object.fromEntries(['c0001', 'c0002', 'c0003'].map((name) => [name, ['killed']]));
  expect(await sweep.run({ plan, memory: 2 })).toBeUndefined();
  expect(sweep.entries('split').map(({ cohort, into }) => [cohort, into])).toEqual([
    ['c0001', ['c0002', 'c0003']],
    ['c0002', ['c0004']],
    ['c0003', ['c0005']],
  ]);
  expect(sweep.endings().slice(0, 1)).toEqual([['c0001', 'retry', 'out_of_memory']]);
  expect(sweep.entries('ended')[0]?.why).toMatch(/^the command took more memory than Slurm gave it/);
  expect(sweep.done('start c0001')).toHaveLength(1);
  const { trials } = readJson<{ trials: { settings: object }[] }>(sweep.dir, 'cohorts', 'c0004', 'cohort.json');
  expect(trials[0]?.settings).toMatchObject({ train: { micro_batches: 2 } });
  expect(sweep.table()).toMatchObject([{ state: 'finished' }, { state: 'finished' }]);
});
