/** A closed terminal, a reader that leaves: the run is saved, or goes on. Ctrl-C and kills are in train.test.ts. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { CLIPS, FIXTURES, Gate, makeClips, Running, readJson, until, writeConfig } from './support.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'signals-test-')));
const config = writeConfig(folder);

beforeAll(makeClips);
afterAll(() => rmSync(folder, { recursive: true }));

/** Of one cancelled job both may come: from the scheduler, and from another machine of the same run. */
test.each([
  ['SIGUSR1', 'SIGUSR1'],
  ['SIGUSR1', 'SIGTERM'],
  ['SIGTERM', 'SIGUSR1'],
] as const)('%s saves the run and ends it, and %s after it hurries nothing', async (first, second) => {
  const name = `${first}-${second}`;
  const [video = ''] = readFileSync(join(CLIPS, 'train.txt'), 'utf8').split(' ');
  const gate = new Gate(join(folder, name), video);
  const runDir = join(folder, `${name}-run`);
  const args = ['train', '--config', config, '--run-dir', runDir, '--set', 'train.steps=6', '--json'];
  const running = new Running(args, { env: gate.env });
  await gate.reached();
  process.kill(running.pid, first);
  await running.said(/Stopping/);
  process.kill(running.pid, second);
  gate.open();
  expect((await running.ended).code).toBe(130);
  const { kind, step } = running.events.at(-1) ?? {};
  expect([kind, existsSync(join(runDir, 'checkpoints', `step-${step}`))]).toEqual(['interrupted', true]);
});

test.each([
  ['saves the run and ends', 'saved', [], 130],
  ['changes nothing under nohup', 'kept', ['nohup'], 0],
] as const)('a closed terminal %s', async (_, name, before, code) => {
  const args = ['train', '--config', config, '--run-dir', join(folder, name), '--set', 'train.steps=6', '--json'];
  const running = new Running(args, { before: [...before] });
  await running.event('step', 1);
  running.signalGroup('SIGHUP');
  expect((await running.ended).code).toBe(code);
  const last = running.events.at(-1);
  expect(last?.kind).toBe(code === 0 ? 'finished' : 'interrupted');
});

/** Twice: what saves when it is asked to ends at once when it is asked again. `weights fetch` is in weights.test.ts. */
test.each([
  ['train', 2, ['train', '--config', config, '--run-dir', join(folder, 'stuck')]],
  ['evaluate', 1, ['evaluate', '--config', config, '--checkpoint', join(folder, 'checkpoint')]],
  ['predict', 1, ['predict', '--checkpoint', join(folder, 'checkpoint'), join(CLIPS, 'train.txt')]],
  ['features build', 2, ['features', 'build', '--config', config, '--set', `data.features=${join(folder, 'cache')}`]],
  ['clips prepare', 2, ['clips', 'prepare', '--config', config, '--output', join(folder, 'ready')]],
])('a closed terminal stops a long call of %s', async (name, times, args) => {
  mkdirSync(join(folder, 'checkpoint'), { recursive: true });
  const header = readFileSync(join(FIXTURES, 'format-1', 'checkpoint.json'), 'utf8').replaceAll('CLIPS', CLIPS);
  writeFileSync(join(folder, 'checkpoint', 'checkpoint.json'), header);
  const stuck = join(folder, `${name} is there`);
  const running = new Running(args, { env: { COLDFRAME_PYTHONPATH: join(FIXTURES, 'stuck'), STUCK: stuck } });
  await until(() => existsSync(stuck), 60);
  running.signalGroup('SIGHUP');
  if (times === 2) running.signalGroup('SIGTERM'); // another one: of two alike that wait a process is told once
  expect(await running.ended).toMatchObject({ code: 130, signal: null });
  expect(running.members()).toEqual([]);
});

test('a reader that leaves ends no run: Ctrl-C beside `tee` saves, and without it the run comes to its end', async () => {
  const runDir = join(folder, 'unread');
  const [video = ''] = readFileSync(join(CLIPS, 'train.txt'), 'utf8').split(' ');
  const gate = new Gate(join(folder, 'gate'), video);
  const args = ['train', '--config', config, '--run-dir', runDir, '--set', 'train.steps=6'];
  const first = new Running(args, { env: gate.env });
  await gate.reached();
  first.child.stdout?.destroy(); // the terminal's Ctrl-C has ended `tee`
  first.signalGroup('SIGINT');
  await first.said(/Stopping/);
  gate.open();
  expect((await first.ended).code).toBe(130);
  expect(readJson(runDir, 'status.json')).toMatchObject({ state: 'interrupted' });
  expect(first.members()).toEqual([]);

  const second = new Running(args);
  second.child.stdout?.destroy();
  expect(await second.ended).toMatchObject({ code: 0, stdout: '', stderr: '' });
  expect(readJson(runDir, 'status.json')).toMatchObject({ state: 'finished', step: 6 });
  expect(existsSync(join(runDir, 'checkpoints', 'step-6'))).toBe(true);
});
