/** What a run is told of its machine, and a dry run as well: its processors, its shared memory. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, jest, test } from '@jest/globals';
import { loadConfig } from '../src/config/load.ts';
import { describeWorkers } from '../src/data/workers.ts';
import { CLIPS, coldframe, makeClips, writeConfig } from './support.ts';
import { testOnDisk } from './tiny-disk.ts';

jest.setTimeout(300_000);
const folder = mkdtempSync(join(tmpdir(), 'machine-test-'));
const config = writeConfig(folder);
const share = process.env.COLDFRAME_CPUS;
beforeAll(async () => {
  await makeClips();
  const lines = readFileSync(join(CLIPS, 'train.txt'), 'utf8').trimEnd().split('\n');
  writeFileSync(join(folder, 'fit.txt'), `${lines.slice(8).join('\n')}\n`);
  const set = `{data: {train_list: fit.txt, root: ${CLIPS}, num_workers: 3}}`;
  const space = 'space: {train.lr: [1e-3, 1e-2]}\nexecutor: {slots: 2}';
  writeFileSync(join(folder, 'sweep.yaml'), `base: small.yaml\nset: ${set}\nselection: validation\n${space}\n`);
});
afterEach(() => {
  delete process.env.COLDFRAME_CPUS;
  if (share !== undefined) process.env.COLDFRAME_CPUS = share;
});
afterAll(() => rmSync(folder, { recursive: true }));

test('loader workers beyond the cores are told, of this machine and of the slots of a sweep', () => {
  const describe = (workers: number, slots?: number, more: string[] = []) =>
    describeWorkers(loadConfig(config, { set: [`data.num_workers=${workers}`, ...more] }).config, slots);
  process.env.COLDFRAME_CPUS = '1';
  expect([describe(0), describe(1)]).toEqual([undefined, undefined]);
  expect(describe(12)).toBe(
    'data.num_workers  12 are asked for, and this machine has 1 core: 1 decodes. The clips are the same.',
  );
  expect(describe(12, 2)).toMatch(
    /^data.num_workers {2}12 are asked for, and each of 2 slots has 1 of 1 core: 1 decodes\./,
  );
  process.env.COLDFRAME_CPUS = '2';
  expect(describe(12, 1, ['launch.devices=2'])).toMatch(
    /and each of 2 processes has 1 of (1 core|2 cores): 1 decodes\./,
  );
  expect(describe(1, 1, ['launch.devices=2'])).toBeUndefined();
  expect(describe(12, 1, [`data.features=${folder}`])).toBeUndefined(); // nothing is decoded
});

const NOTE =
  /^data\.num_workers {2}3 are asked for, and this machine has 1 core: 1 decodes\. The clips are the same\.$/gm;

test.each([
  ['a dry run', ['--dry-run']],
  ['a run', []],
])('%s says so once', async (_, more) => {
  const set = ['--set', 'data.num_workers=3', '--set', 'train.steps=1'];
  const args = ['train', '--config', config, '--run-dir', join(folder, 'run'), ...set, ...more];
  const { code, stderr } = await coldframe(args, { env: { COLDFRAME_CPUS: '1' } });
  expect([code, stderr.match(NOTE)?.length]).toEqual([0, 1]);
});

test('so does a sweep, of its slots', async () => {
  const args = ['sweep', '--config', join(folder, 'sweep.yaml'), '--run-dir', join(folder, 'sweep'), '--dry-run'];
  const { code, stderr } = await coldframe(args, { env: { COLDFRAME_CPUS: '2' } });
  expect([code, stderr]).toEqual([0, expect.stringContaining('3 are asked for, and each of 2 slots has 1 of 2 cores')]);
});

test('a run on two machines can be planned where there is one, and the plan says what it lacks to find the other', async () => {
  const args = ['train', '--config', config, '--run-dir', join(folder, 'two'), '--set', 'launch.nodes=2'];
  const [planned, run] = [await coldframe([...args, '--dry-run']), await coldframe(args)];
  const lack = /launch\.nodes {2}found 2, and nothing says where the other machines are\. Give launch\.rendezvous, /;
  expect([planned.code, planned.stdout]).toEqual([
    0,
    expect.stringMatching(/^This can be trained on another machine: /),
  ]);
  expect([planned.stderr, run.stderr]).toEqual([expect.stringMatching(lack), expect.stringMatching(lack)]);
  expect([run.code, existsSync(join(folder, 'two'))]).toEqual([2, false]);
});

test('a sweep for a GPU can be planned on a machine without one, and is refused before anything is written', async () => {
  const args = ['sweep', '--config', join(folder, 'sweep.yaml'), '--run-dir', join(folder, 'cuda')];
  const options = ['--set', 'set.launch.device=cuda', '--json'];
  const planned = await coldframe([...args, ...options, '--dry-run'], { env: { CUDA_VISIBLE_DEVICES: '' } });
  expect(planned.code).toBe(0);
  expect(JSON.parse(planned.stdout)).toMatchObject({ kind: 'planned', num_trials: 2, num_cohorts: 1 });
  const run = await coldframe([...args, ...options], { env: { CUDA_VISIBLE_DEVICES: '' } });
  expect([run.code, existsSync(join(folder, 'cuda'))]).toEqual([2, false]);
  expect(run.stderr).toMatch(/launch\.device.*cuda/);
});

testOnDisk('a dry run finds that /dev/shm has no room for semaphores, as the run does', async () => {
  const small = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$0" "$@"';
  const run = (...more: string[]) =>
    coldframe(['train', '--config', config, '--run-dir', join(folder, 'shm'), ...more], {
      before: ['unshare', '-m', 'sh', '-c', small],
    });
  const [dry, real] = [await run('--dry-run'), await run()];
  const told = /^\/dev\/shm {2}has 64 KiB free, and .* of loader workers take 88 KiB here\. .*data\.num_workers: 0\.$/m;
  expect([dry.code, dry.stdout, existsSync(join(folder, 'shm'))]).toEqual([2, '', false]);
  expect(dry.stderr).toMatch(told);
  expect(real.code).toBe(2);
  expect(real.stderr).toContain(told.exec(dry.stderr)?.[0] ?? 'nothing');
});
