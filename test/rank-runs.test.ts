/** Training on two ranks from the user's side: the real program, real clips, and a rank that is killed on the way. */
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { loadConfig } from '../src/config/load.ts';
import type { CohortFile } from '../src/run/cohort-types.ts';
import { findMembers, killMember } from './rank-processes.ts';
import {
  coldframe,
  findFreePort,
  findLateVideo,
  Gate,
  hashFiles,
  hashTensors,
  makeClips,
  Running,
  readEvents,
  readJson,
  readSeed,
  until,
  writeConfig,
} from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'rank-runs-test-')));
const config = writeConfig(folder);
const TWO = ['--set', 'launch.devices=2', '--set', 'launch.max_restarts=1'];

beforeAll(makeClips);
afterAll(() => rmSync(folder, { recursive: true }));

/** Trains with rank 1 killed after the third step, which is after the last checkpoint. */
async function trainDisturbed(runDir: string, args: string[], seed: number): Promise<void> {
  const gate = new Gate(`${runDir}-gate`, findLateVideo(seed));
  const running = new Running([...args, '--run-dir', runDir, '--json'], { env: gate.env });
  await running.event('step', 3);
  const before = findMembers(runDir);
  expect(before.map(({ kind, rank }) => [kind, rank])).toEqual(
    expect.arrayContaining([
      ['agent', null],
      ['rank', 0],
      ['rank', 1],
      ['worker', 0],
      ['worker', 1],
    ]),
  );
  killMember(runDir, 'rank', 1);
  expect(await running.event('restarted')).toMatchObject({
    why: expect.stringMatching(
      /^python {2}rank 1 on \S+ was killed by SIGKILL .* Its output is in \S+runtime-rank-1\.log$/,
    ),
  });
  gate.open();
  const left = new Set(findMembers(runDir).map(({ pid }) => pid));
  expect(before.filter(({ pid }) => left.has(pid))).toEqual([]); // the next ones find nobody in their way
  const { code, stderr } = await running.ended;
  expect([code, stderr]).toEqual([0, '']);
  await until(() => findMembers(runDir).length === 0, 60);
}

/** What each step and evaluation of each trial gave, without what depends on the clock. */
function courseOf(runDir: string): Map<string, object> {
  const course = new Map<string, object>();
  for (const { kind, step, trial, loss, lr, grad_norm, top1, top5 } of readEvents(runDir))
    if (kind === 'step' || kind === 'evaluated')
      course.set(`${kind} ${step} ${trial}`, { loss, lr, grad_norm, top1, top5 });
  return course;
}

test('a run on two ranks, one of which is killed, ends with the bytes of an undisturbed one', async () => {
  const [undisturbed, disturbed] = [join(folder, 'undisturbed'), join(folder, 'disturbed')];
  const args = ['train', '--config', config, ...TWO];
  const { code, stdout, stderr } = await coldframe([...args, '--run-dir', undisturbed]);
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout).toContain('\nDevice: cpu, 2 processes. Loading ');
  expect(readFileSync(join(undisturbed, 'runtime.log'), 'utf8')).toBe('');
  await trainDisturbed(disturbed, args, readSeed(undisturbed));
  expect(hashFiles(join(disturbed, 'checkpoints', 'step-8'))).toEqual(
    hashFiles(join(undisturbed, 'checkpoints', 'step-8')),
  );
  expect(courseOf(disturbed)).toEqual(courseOf(undisturbed));
  expect(courseOf(disturbed).size).toBe(10);
  // An evaluation is one process's: the batches of a training need not be cut for it.
  const evaluated = await coldframe(['evaluate', '--checkpoint', disturbed, '--set', 'launch.devices=3']);
  expect([evaluated.code, evaluated.stderr]).toEqual([
    0,
    '--set launch.devices=3  has no effect here: only training works on several devices or machines.\n',
  ]);
});

test('so does a cohort of four, one of which diverges: with those of one process with twice the micro-batches', async () => {
  const sets = { t1: 'train.seed=1', t2: 'train.lr=2e-3', t3: 'train.lr=1e30', t4: 'model.decoder.num_layers=1' };
  const write = (name: string, ...more: string[]): string[] => {
    const trials = Object.entries(sets).map(([trial, set]) => {
      const { config: settings } = loadConfig(config, { set: ['data.seed=0', set, ...more] });
      return { name: trial, point: trial, params: {}, seed: settings.train.seed, settings };
    });
    const cohort: CohortFile = { format: 1, name, metric: 'top5', bracket: null, trials };
    writeFileSync(join(folder, `${name}.json`), JSON.stringify(cohort));
    return ['train', '--cohort', join(folder, `${name}.json`)];
  };
  const [alone, disturbed] = [join(folder, 'alone'), join(folder, 'cohort')];
  const { code } = await coldframe([...write('one', 'train.micro_batches=2'), '--run-dir', alone]);
  expect(code).toBe(0);
  await trainDisturbed(disturbed, write('two', 'launch.devices=2', 'launch.max_restarts=1'), 0);
  const { trials } = readJson<{ trials: Record<string, object> }>(disturbed, 'status.json');
  expect(trials.t3).toMatchObject({ state: 'diverged', step: 2 });
  expect(hashTensors(disturbed, 8)).toEqual(hashTensors(alone, 8));
  expect(Object.keys(hashTensors(disturbed, 8)).length).toBeGreaterThanOrEqual(3);
  expect(courseOf(disturbed)).toEqual(courseOf(alone));
});

test('a run that waited for its machines is refused what another one has left in its folder meanwhile', async () => {
  const [runDir, port] = [join(folder, 'waiting'), await findFreePort()];
  const set = ['launch.nodes=2', `launch.rendezvous=localhost:${port}`, 'train.lr=2e-3'];
  const machine = ['train', '--config', config, '--run-dir', runDir, ...set.flatMap((one) => ['--set', one])];
  const first = new Running(machine);
  await first.said(/Waiting for 1 more machine of 2\./);
  expect(await coldframe(['train', '--config', config, '--run-dir', runDir])).toMatchObject({ code: 0, stderr: '' });
  const before = hashFiles(runDir);
  const [here, there] = await Promise.all([first.ended, coldframe(machine)]);
  const told = /^train\.lr {2}is 0\.002; the run in \S+ was started with 0\.001\.$/m;
  expect([here.code, here.stderr]).toEqual([2, expect.stringMatching(told)]);
  expect([there.code, there.stderr]).toEqual([2, expect.stringContaining('the first machine has ended the run: ')]);
  const other = Object.fromEntries(
    ['lock', 'runtime.log', 'runtime-rank-1.log'].map((name) => [name, expect.anything()]),
  );
  expect(hashFiles(runDir)).toEqual({ ...before, ...other });
});
