/** The local executor with real processes: ends, cancelling, and what a later runner finds. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, jest, test } from '@jest/globals';
import { UserError } from '../src/base/errors.ts';
import { findBirth, findByVariable, signal } from '../src/base/process/processes.ts';
import type { Job, JobState } from '../src/executors/executor.ts';
import { LocalExecutor, leaseSlot } from '../src/executors/local.ts';
import { until } from './support.ts';

jest.setTimeout(120_000);
const folder = mkdtempSync(join(tmpdir(), 'executors-test-'));
const keys: string[] = [];
const processesOf = (key: string) => findByVariable('COLDFRAME_JOB').filter(({ value }) => value.startsWith(`${key} `));
afterEach(() => {
  for (const key of keys) for (const { pid } of processesOf(key)) signal(pid, 'SIGKILL');
});
afterAll(() => rmSync(folder, { recursive: true }));

const make = (graceSeconds = 60): LocalExecutor => new LocalExecutor({ slots: 2, devices: ['0', '1'], graceSeconds });

function shell(script: string): Job {
  const key = `test-${process.pid}-${keys.length}`;
  keys.push(key);
  const command = ['sh', '-c', script];
  return { key, command, cwd: folder, env: { GIVEN: 'yes' }, logFile: join(folder, `${key}.log`) };
}

const logOf = (job: Job): string => (existsSync(job.logFile) ? readFileSync(job.logFile, 'utf8') : '');

async function look(executor: LocalExecutor, handle: string): Promise<JobState | undefined> {
  return (await executor.watch([handle])).get(handle);
}

async function waitForEnd(executor: LocalExecutor, handle: string): Promise<JobState> {
  for (;;) {
    const state = await look(executor, handle);
    if (state?.state === 'ended') return state;
    await new Promise((settle) => setTimeout(settle, 20));
  }
}

describe('a job', () => {
  test('ends with its exit code or its signal, and its output is in its log', async () => {
    const executor = make();
    const job = shell('echo $GIVEN $OMP_NUM_THREADS; echo trouble >&2; exit 7');
    const state = await waitForEnd(executor, await executor.start(job));
    expect(state).toEqual({ state: 'ended', code: 7, why: 'ended with exit code 7' });
    expect(logOf(job)).toMatch(/^yes [1-9]\d*\ntrouble\n$/);
    const killed = await waitForEnd(executor, await executor.start(shell('kill -KILL $$')));
    expect(killed).toEqual({ state: 'ended', code: null, why: 'was killed by SIGKILL' });
  });

  test('that cannot be started is an error of the user', async () => {
    const start = make().start({ ...shell(''), command: [join(folder, 'nothing')] });
    await expect(start).rejects.toThrow(UserError);
  });

  test('has devices of its own, and gives them back', async () => {
    const executor = make();
    const show = 'echo $CUDA_VISIBLE_DEVICES; sleep 60';
    const jobs = [shell(show), shell(show)];
    const handles = await Promise.all(jobs.map((job) => executor.start(job)));
    await until(() => jobs.every((job) => logOf(job) !== ''), 60);
    expect(jobs.map(logOf).sort()).toEqual(['0\n', '1\n']);
    const first = handles[0] ?? '';
    const device = logOf(jobs[0] as Job);
    await executor.cancel(first);
    await waitForEnd(executor, first);
    const third = shell(show);
    await executor.start(third);
    await until(() => logOf(third) !== '', 60);
    expect(logOf(third)).toBe(device);
  });
});

describe('a later runner', () => {
  test('finds a job by its key, watches it to its end, and counts its slot', async () => {
    const job = shell('echo $$; while [ ! -e go ]; do sleep 0.05; done');
    const handle = await make().start(job);
    const later = make();
    expect(await later.find(job.key)).toBe(handle);
    expect(await look(later, handle)).toEqual({ state: 'running' });
    const other = shell('echo $CUDA_VISIBLE_DEVICES');
    await waitForEnd(later, await later.start(other));
    expect(logOf(other)).toBe('1\n');
    writeFileSync(join(folder, 'go'), '');
    expect(await waitForEnd(later, handle)).toMatchObject({ state: 'ended', code: null });
    expect(await later.find(job.key)).toBeUndefined();
  });

  test('does not take another process with the same number for its job', async () => {
    const job = shell('sleep 60');
    const handle = await make().start(job);
    const [pid = '', birth = '', ...rest] = handle.split(' ');
    const stale = [pid, birth.replace(/\d+$/, (ticks) => String(Number(ticks) - 1)), 0, 'another-key'].join(' ');
    expect(rest).toHaveLength(2);
    const later = make();
    expect(await look(later, stale)).toMatchObject({ state: 'ended', code: null });
    await later.cancel(stale);
    expect(findBirth(Number(pid))).toBe(birth);
  });
});

describe('cancelling', () => {
  // A grandchild in a session of its own, as the workers of torchrun are.
  const DEAF = 'trap "" TERM; setsid sleep 60 & while :; do sleep 0.05; done';

  test('asks first: a job that saves ends as it likes', async () => {
    const executor = make();
    const job = shell('trap "echo saved; exit 130" TERM; echo ready; while :; do sleep 0.05; done');
    const handle = await executor.start(job);
    await until(() => logOf(job) !== '', 60);
    await executor.cancel(handle);
    expect(await waitForEnd(executor, handle)).toMatchObject({ code: 130 });
    expect(logOf(job)).toMatch(/saved\n$/);
  });

  test('kills a deaf job and all below it after the time of grace, also one of an earlier runner', async () => {
    const job = shell(DEAF);
    const handle = await make().start(job);
    const later = make(0.3);
    await until(() => processesOf(job.key).length >= 3, 60);
    await later.cancel(handle);
    await until(() => processesOf(job.key).length === 0, 60);
    expect(await waitForEnd(later, handle)).toMatchObject({ state: 'ended' });
  });

  test('twice ends it at once', async () => {
    const executor = make(3600);
    const job = shell(DEAF);
    const handle = await executor.start(job);
    await until(() => processesOf(job.key).length >= 3, 60);
    await executor.cancel(handle);
    expect(await look(executor, handle)).toEqual({ state: 'running' }); // deaf, and with an hour of grace
    await executor.cancel(handle);
    expect(await waitForEnd(executor, handle)).toEqual({ state: 'ended', code: null, why: 'was killed by SIGKILL' });
    await until(() => processesOf(job.key).length === 0, 60);
    await executor.close();
  });
});

describe('the machine is shared out', () => {
  test('one slot alone has all of it', () => expect(leaseSlot(0, 1, ['0', '1'])).toEqual({}));
  test.each([
    [0, 2, ['3', '5', '6', '7'], '3,5'],
    [1, 2, ['3', '5', '6', '7'], '6,7'],
    [2, 3, ['0', '1'], '0'],
    [4, 2, ['0', '1'], '0'], // more were running when the slots became fewer
  ])('slot %d of %d with %j has %s', (slot, slots, devices, expected) => {
    expect(leaseSlot(slot, slots, devices)).toMatchObject({ CUDA_VISIBLE_DEVICES: expected });
  });
  test('without a GPU there are shares of the cores', () => {
    const lease = leaseSlot(1, 2, []);
    expect(Object.keys(lease)).toEqual(['OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'COLDFRAME_CPUS']);
    expect(lease.COLDFRAME_CPUS).toBe(String(Math.max(1, Math.floor(availableParallelism() / 2))));
  });
  test('several processes of a slot share its cores', () => {
    const before = process.env;
    process.env = { ...before, COLDFRAME_CPUS: undefined, OMP_NUM_THREADS: undefined };
    delete process.env.COLDFRAME_CPUS;
    delete process.env.OMP_NUM_THREADS;
    const threads = (processes: number) => leaseSlot(0, 2, ['0', '1', '2', '3'], processes, 8).OMP_NUM_THREADS;
    expect([1, 3, 99].map(threads)).toEqual(['8', '2', '1']);
    process.env = before;
  });
});
