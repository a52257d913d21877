/** A large job as an array on a real Slurm of two nodes, which `make test-slurm` brings up. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { findByVariable, signal } from '../../src/base/process/processes.ts';
import { coldframe, type Event, hashFiles, makeClips, Running, until, writeConfig } from '../support.ts';

jest.setTimeout(300_000);
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'slurm-parts-test-')));
const config = writeConfig(folder);
const cluster = join(folder, 'cluster.yaml');

beforeAll(async () => {
  if (!process.env.SLURM_TEST_HOME) throw new Error('these tests need a Slurm of their own: make test-slurm');
  await makeClips();
  writeFileSync(config, `${readFileSync(config, 'utf8')}features: {precision: fp32, train_views: 4}\n`);
  writeFileSync(cluster, 'executor: {kind: slurm, poll_seconds: 0.5}\n');
});
afterAll(() => {
  execFileSync('scancel', ['--me']);
  rmSync(folder, { recursive: true });
});

test('an array of four parts, of which one is killed, builds the feature cache of one process', async () => {
  const cache = join(folder, 'cache');
  const build = (into: string, ...more: string[]): string[] => {
    return ['features', 'build', '--config', config, '--json', '--set', `data.features=${into}`, ...more];
  };
  const filesOf = (dir: string): Record<string, string> => {
    const { lock: _, ...files } = hashFiles(dir);
    return files;
  };
  expect(await coldframe(build(join(folder, 'whole')))).toMatchObject({ code: 0 });

  const going = new Running(build(cache, '--parts', '4', '--executor', cluster));
  await until(() => existsSync(join(cache, 'parts', 'p0002', 'part.json')), 200);
  const tasks = findByVariable('SLURM_ARRAY_TASK_ID').filter(({ value }) => value === '2');
  expect(tasks.length).toBeGreaterThan(0); // it is the second of an array
  for (const { pid } of tasks) signal(pid, 'SIGKILL');
  const ended = await going.ended;
  expect([ended.code, ended.stderr]).toEqual([0, expect.anything()]);
  const events = ended.stdout
    .trimEnd()
    .split('\n')
    .map((line): Event => JSON.parse(line));
  const ends = events.filter(({ kind, state }) => kind === 'part' && state !== 'started');
  expect(ends.filter(({ part }) => part === 'p0002').map(({ state }) => state)).toEqual(['retry', 'finished']);
  expect(ends.filter(({ state }) => state === 'finished').map(({ part }) => part)).toHaveLength(4);
  expect(events.at(-1)).toMatchObject({ kind: 'features_built', num_records: 24 * 4 + 12, num_bad: 0, parts: 4 });
  expect(filesOf(cache)).toEqual(filesOf(join(folder, 'whole')));
});
