/** The executor on a real Slurm of two nodes on this machine, which `make test-slurm` brings up. */
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { RuntimeFailure, UserError } from '../../src/base/errors.ts';
import { signal } from '../../src/base/process/processes.ts';
import type { Job } from '../../src/executors/executor.ts';
import { SlurmExecutor } from '../../src/executors/slurm.ts';
import { readSweep } from '../../src/sweep/definition/file.ts';
import { folder, runners, Sweep, undisturbed } from '../fake-sweeps.ts';
import { CLIPS, coldframe, makeClips, PROJECT, until, writeConfig } from '../support.ts';
import { killLeft, logOf, own, removeOwn, shell, waitFor } from './remote-jobs.ts';

jest.setTimeout(120_000);

const cluster = (...args: string[]): void => {
  execFileSync(join(PROJECT, 'scripts', 'slurm_up.sh'), args, { stdio: 'ignore' });
};
const slurm = (program: string, ...args: string[]): string => execFileSync(program, args, { encoding: 'utf8' }).trim();
const countJobs = (): number => slurm('squeue', '--noheader', '--array').split('\n').filter(Boolean).length;

beforeAll(() => {
  if (!process.env.SLURM_TEST_HOME) throw new Error('these tests need a Slurm of their own: make test-slurm');
});
afterEach(async () => {
  for (const { child } of runners) child.kill('SIGKILL');
  for (const name of ['slurmctld', 'n1', 'n2']) cluster('start', name);
  await until(() => tryTo(() => slurm('scancel', '--me')), 30);
  killLeft('SLURM_JOB_NAME');
  await until(() => countJobs() === 0, 60);
  cluster('up'); // waits for the nodes
});
afterAll(() => {
  removeOwn();
  rmSync(folder, { recursive: true });
});

function tryTo(action: () => void): boolean {
  try {
    action();
    return true;
  } catch {
    return false;
  }
}

const NOTHING = {
  partition: null,
  account: null,
  time: null,
  gres: null,
  cpus_per_task: null,
  memory: null,
  extra: [],
};
const notes: string[] = [];
function make(settings: object = {}, more: object = {}): SlurmExecutor {
  const options = { slots: 4, dir: join(own, 'slurm'), settings: { ...NOTHING, ...settings }, pollSeconds: 0.2 };
  return new SlurmExecutor({ ...options, note: (text) => notes.push(text), stop: { requested: 0 }, ...more });
}

describe('a job', () => {
  test('ends with its exit code or its signal, and has its environment, folder, log and GPUs', async () => {
    const executor = make({ gres: 'gpu:1', cpus_per_task: 2, time: 5, memory: '100M' });
    const job = shell('echo $GIVEN; pwd; echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS; echo trouble >&2; exit 7');
    const ended = await waitFor(executor, await executor.start(job), 'ended');
    expect(ended).toEqual({ state: 'ended', code: 7, why: 'ended with exit code 7' });
    const threads = process.env.OMP_NUM_THREADS ?? '2';
    expect(logOf(job)).toBe(`it's\n${own}\n0 ${threads}\ntrouble\n`);
    const killed = await waitFor(executor, await executor.start(shell('kill -KILL $$')), 'ended');
    expect(killed).toEqual({ state: 'ended', code: null, why: 'was killed by signal 9' });
    const done = await waitFor(executor, await executor.start(shell('true')), 'ended');
    expect(done).toMatchObject({ code: 0 });
  });

  test('that Slurm refuses is an error of the user, in the words of Slurm', async () => {
    const start = make({ partition: 'nowhere' }).start(shell(''));
    await expect(start).rejects.toThrow(/invalid partition.*executor\.slurm/);
    await expect(start).rejects.toThrow(UserError);
  });

  test('that could not be launched is lost', async () => {
    const executor = make({ extra: ['--begin=now+1hour'] });
    const handle = await executor.start(shell(''));
    slurm('scontrol', 'update', `jobid=${handle.split(' ')[0]}`, 'Name=another');
    expect(await waitFor(executor, handle, 'ended')).toMatchObject({ why: 'is not known to Slurm any more' });
  });

  test('is found by a later runner, running or ended, alone or in an array', async () => {
    const jobs = [shell('sleep 60'), shell('exit 3')];
    const handles = [...(await make().startMany(jobs)), await make().start(shell('exit 4'))];
    const keys = [...jobs.map(({ key }) => key), handles[2]?.split(' ')[1] ?? ''];
    const later = make();
    expect(await Promise.all(keys.map((key) => later.find(key)))).toEqual(handles);
    expect(await later.find('shell-of-nobody')).toBeUndefined();
    const [first = '', second = '', third = ''] = handles;
    expect(first.split(' ')[0]).toMatch(/^\d+_1$/);
    expect(await waitFor(later, second, 'ended')).toMatchObject({ code: 3 });
    expect(await waitFor(later, third, 'ended')).toMatchObject({ code: 4 });
    expect(await waitFor(later, first, 'running')).toEqual({ state: 'running' });
    expect(await make().find(jobs[1]?.key ?? '')).toBe(second);
  });
});

describe('cancelling', () => {
  const started = async (executor: SlurmExecutor, job: Job): Promise<string> => {
    const handle = await executor.start(job);
    await until(() => logOf(job) !== '', 30);
    return handle;
  };

  test('asks first: a job that saves ends as it likes', async () => {
    const executor = make();
    const job = shell('trap "echo saved; exit 130" TERM; echo ready; while :; do sleep 0.05; done');
    const handle = await started(executor, job);
    await executor.cancel(handle);
    expect(await waitFor(executor, handle, 'ended')).toMatchObject({ code: 130 });
    expect(logOf(job)).toMatch(/^ready\n(.*CANCELLED.*\n)?saved\n$/); // Slurm says so, too
  });

  const DEAF = 'trap "" TERM; echo ready; while :; do sleep 0.05; done';
  test.each([
    ['after the time of grace', 0.5, 1],
    ['when asked twice', 3600, 2],
  ])('kills a deaf job %s', async (_, graceSeconds, times) => {
    const executor = make({}, { graceSeconds });
    const handle = await started(executor, shell(DEAF));
    for (let time = 0; time < times; time++) await executor.cancel(handle);
    expect(await waitFor(executor, handle, 'ended')).toMatchObject({ code: null, why: 'was cancelled' });
    await executor.close();
  });

  test('takes a waiting job from the queue', async () => {
    const executor = make({ extra: ['--begin=now+1hour'] });
    const handle = await executor.start(shell('true'));
    await executor.cancel(handle);
    expect(await waitFor(executor, handle, 'ended')).toMatchObject({ code: null, why: 'was cancelled' });
    await executor.close();
  });
});

describe('a controller that is away', () => {
  test('ends nothing: jobs go on, starts wait, and what ended meanwhile is known later', async () => {
    const executor = make();
    const job = shell('echo $$; while [ ! -e go ]; do sleep 0.05; done; exit 5');
    const handle = await executor.start(job);
    await waitFor(executor, handle, 'running');
    cluster('stop', 'slurmctld');
    notes.length = 0;
    const starting = executor.start(shell('exit 6'));
    await until(() => {
      void executor.watch([handle]);
      return notes.length > 0;
    }, 60);
    expect(notes[0]).toMatch(/^Slurm does not answer; jobs go on/);
    expect((await executor.watch([handle])).get(handle)).toEqual({ state: 'running' });
    execFileSync('touch', [join(own, 'go')]);
    cluster('start', 'slurmctld');
    expect(await waitFor(executor, await starting, 'ended')).toMatchObject({ code: 6 });
    expect(await waitFor(executor, handle, 'ended')).toMatchObject({ code: 5 });
    expect(notes.at(-1)).toBe('Slurm answers again.');
  });

  test('is not waited for once the user wants to stop', async () => {
    const stop = { requested: 0 };
    const executor = make({}, { stop });
    cluster('kill', 'slurmctld');
    const starting = executor.start(shell(''));
    stop.requested = 1;
    await expect(starting).rejects.toThrow(/controller/);
  });
});

const executorOf = (more: string): string =>
  `kind: slurm, slots: 2, poll_seconds: 0.2${more === '' ? '' : `, ${more}`}`;
const LARGE = 'slurm: {gres: "gpu:2"}'; // one on each node
const handlesOf = (sweep: Sweep): string[] => sweep.entries('launched').map(({ handle }) => handle.split(' ')[0] ?? '');

describe('a sweep', () => {
  test('starts what is ready with one array, and has the table of a local one', async () => {
    const sweep = new Sweep('array', executorOf(''));
    expect(await sweep.run()).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    const [first = '', second = '', final = ''] = handlesOf(sweep);
    expect([first, second]).toEqual([`${Number.parseInt(first, 10)}_1`, `${Number.parseInt(first, 10)}_2`]);
    expect(final).toMatch(/^\d+$/);
    expect(sweep.done('evaluate')).toHaveLength(1);
  });

  test('whose runner is killed goes on: its jobs are adopted, and no step is done twice', async () => {
    const sweep = new Sweep('adopted', executorOf(''));
    const plan = { c0001: ['wait'], c0002: ['wait'] };
    const runner = sweep.start({ plan });
    await until(() => sweep.done('start').length === 2, 60);
    await runner.kill();
    const running = sweep.run({ plan });
    sweep.release();
    expect(await running).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    expect(sweep.done('start')).toHaveLength(2);
    expect(sweep.done('step')).toHaveLength(12);
  });

  test('that is interrupted lets its jobs save, and goes on later', async () => {
    const sweep = new Sweep('interrupted', executorOf(''));
    const plan = { c0001: ['wait'], c0002: ['wait'] };
    const runner = sweep.start({ plan });
    await until(() => sweep.done('start').length === 2, 60);
    runner.child.kill('SIGTERM');
    expect(await runner.end()).toBe(130);
    expect(sweep.endings().map(([, outcome]) => outcome)).toEqual(['cancelled', 'cancelled']);
    sweep.release();
    expect(await sweep.run({ plan })).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    expect(new Set(sweep.done('step')).size).toBe(sweep.done('step').length);
  });

  test('whose jobs take more memory than Slurm gives them goes on with halves, then with parts of the batch', async () => {
    const space = '{train.lr: [1e-4]}'; // a point of two seeds, with batches of four clips
    const sweep = new Sweep('memory', executorOf('slurm: {memory: "250M"}'), '', space);
    const plan = Object.fromEntries(['c0001', 'c0002', 'c0003'].map((name) => [name, ['greedy']]));
    expect(await sweep.run({ plan, memory: 2 })).toBeUndefined();
    const retried = sweep.endings().filter(([, outcome]) => outcome === 'retry');
    const all = ['c0001', 'c0002', 'c0003'].map((name) => [name, 'retry', 'out_of_memory']);
    expect(retried.toSorted()).toEqual(all); // the halves run side by side: either may end first
    expect(sweep.entries('split').map(({ into }) => into.length)).toEqual([2, 1, 1]);
    expect(sweep.done('spared')).toEqual([]);
    expect(sweep.table()).toMatchObject([{ state: 'finished' }, { state: 'finished' }]);
  });

  test("reports a job's own error and stops", async () => {
    const sweep = new Sweep('user', executorOf(''));
    const error = await sweep.run({ plan: { c0001: ['user'] } });
    expect(error).toBeInstanceOf(UserError);
    expect(error?.message).toContain('c0001  train.txt:3  no such clip');
  });

  test('tries a job again that somebody has cancelled, and gives up after max_attempts', async () => {
    const sweep = new Sweep('cancelled', executorOf('max_attempts: 2'));
    const running = sweep.run({ plan: { c0001: ['hang', 'hang'] } }); // it saves nothing: one that gets on is no loss
    for (const numStarts of [1, 2]) {
      await until(() => sweep.done('start c0001').length === numStarts, 60);
      await until(() => sweep.entries('launched').filter(({ cohort }) => cohort === 'c0001').length === numStarts, 60);
      const handle =
        sweep
          .entries('launched')
          .findLast(({ cohort }) => cohort === 'c0001')
          ?.handle.split(' ')[0] ?? '';
      slurm('scancel', handle);
    }
    const error = await running;
    expect(error).toBeInstanceOf(RuntimeFailure);
    expect(error?.message).toMatch(/the command was cancelled[\s\S]*tried 2 times/);
  });

  test('takes a job without a sign of life as lost', async () => {
    const sweep = new Sweep('stalled', executorOf('stall_seconds: 2'));
    expect(await sweep.run({ plan: { c0001: ['hang', 'ok'] } })).toBeUndefined();
    const whys = sweep.entries('ended').map(({ why }) => why ?? '');
    expect(whys.join()).toContain('gave no sign of life for too long');
    expect(sweep.table()).toEqual(await undisturbed());
  });

  test('follows a job that is requeued without the wait of two minutes', async () => {
    const sweep = new Sweep('requeued', executorOf(''));
    const running = sweep.run({ plan: { c0001: ['wait'] } });
    await until(() => sweep.done('start c0001').length === 1 && sweep.entries('launched').length === 2, 60);
    slurm('scontrol', 'requeue', handlesOf(sweep)[0] ?? '');
    await until(() => sweep.done('start c0001').length === 2, 60);
    sweep.release();
    expect(await running).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    expect(sweep.endings().filter(([cohort]) => cohort === 'c0001')).toEqual([['c0001', 'finished', null]]);
  });

  test.each(['is gone with it', 'lives on'])('survives its node: the process %s', async (how) => {
    const sweep = new Sweep(`node-${how.split(' ')[0]}`, executorOf(LARGE));
    const running = sweep.run({ plan: { c0001: ['wait'] } });
    await until(() => sweep.done('start c0001').length === 1, 60);
    const [, , , pid = ''] = sweep.done('start c0001')[0]?.split(' ') ?? [];
    const node = slurm('squeue', '--noheader', '--name', `${sweep.entries('attempt')[0]?.key}`, '-o', '%N').split(
      '\n',
    )[0];
    cluster('kill', node ?? '');
    if (how !== 'lives on') killTree(Number(pid));
    await until(() => sweep.done('start c0001').length === 2, 60);
    sweep.release();
    expect(await running).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    expect(sweep.done('step c0001')).toHaveLength(6);
    expect(sweep.done('end c0001')).toHaveLength(1);
  });

  test('starts a job again that the controller has forgotten', async () => {
    const sweep = new Sweep('forgotten', executorOf('max_attempts: 2'));
    const running = sweep.run({ plan: { c0001: ['wait', 'ok'] } });
    await until(() => sweep.entries('launched').length === 2, 60);
    slurm('scontrol', 'update', `jobid=${handlesOf(sweep)[0]?.split('_')[0]}_1`, 'Name=another');
    expect(await running).toBeUndefined();
    expect(sweep.endings()[0]).toEqual(['c0001', 'retry', 'lost']);
    expect(sweep.table()).toEqual(await undisturbed());
  });
});

test('the real program trains, prunes and evaluates under Slurm', async () => {
  await makeClips();
  writeConfig(own);
  const lines = readFileSync(join(CLIPS, 'train.txt'), 'utf8').trimEnd().split('\n');
  writeFileSync(join(own, 'select.txt'), `${lines.slice(0, 8).join('\n')}\n`);
  writeFileSync(join(own, 'fit.txt'), `${lines.slice(8).join('\n')}\n`);
  const written = `base: small.yaml
set: {data.train_list: fit.txt, data.root: ${CLIPS}, train.steps: 4, eval.every: 4}
selection_list: select.txt
selection_root: ${CLIPS}
space: {train.lr: [1e-3, 1e-2]}
bracket: {rungs: [2], keep: 0.5}
executor: {kind: slurm, poll_seconds: 0.2, slurm: {gres: "gpu:1"}}
`;
  writeFileSync(join(own, 'grid.yaml'), written);
  const { code, stdout, stderr } = await coldframe([
    'sweep',
    '--config',
    join(own, 'grid.yaml'),
    '--run-dir',
    join(own, 'sweep'),
    '--json',
  ]);
  expect([code, stderr]).toEqual([0, expect.anything()]);
  const events = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  const states = events.filter(({ kind }) => kind === 'result').map(({ state }) => state);
  expect(states.sort()).toEqual(['finished', 'pruned']);
  expect(events.find(({ kind }) => kind === 'final')).toMatchObject({ num_videos: 12 });
});

/** Kills a job's process and the daemon that watches it, as a power cut does: the daemon first, or it would tell. */
function killTree(pid: number): void {
  const parent = Number(execFileSync('ps', ['-o', 'ppid=', '-p', String(pid)], { encoding: 'utf8' }));
  signal(parent, 'SIGKILL');
  signal(pid, 'SIGKILL');
}

test('a sweep file knows the keys of slurm', () => {
  const { file } = new Sweep('keys', executorOf('slurm: {time: "1:00:00", extra: ["--nice"]}'));
  expect(readSweep(file).sweep.executor.slurm).toMatchObject({ time: '1:00:00', extra: ['--nice'] });
});
