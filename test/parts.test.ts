/** Lists of parts as a user meets them: train, evaluate, store features, predict. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { CLIPS, coldframe, ENVIRONMENT, makeClips, PROJECT, readEvents, writeConfig } from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'parts-test-')));
const config = writeConfig(folder);
const run = join(folder, 'run');
const checkpoint = join(run, 'checkpoints', 'latest');
const set = (...pairs: string[]): string[] => pairs.flatMap((pair) => ['--set', pair]);

/** Both halves of each clip, which takes two seconds or more, in lists as long again. */
function writeHalves(name: string): string {
  const lines = readFileSync(join(CLIPS, `${name}.txt`), 'utf8')
    .trimEnd()
    .split('\n');
  const halves = lines.flatMap((line) => [`${CLIPS}/${line} 0 1`, `${CLIPS}/${line}\t1  2.0`]);
  const file = join(folder, `${name}.txt`);
  writeFileSync(file, `# columns: path label start end\n${halves.join('\n')}\n`);
  return file;
}

beforeAll(async () => {
  await makeClips();
  const lists = ['train', 'val'].map((name) => `data.${name}_list=${writeHalves(name)}`);
  const ended = await coldframe([
    ...['train', '--config', config, '--run-dir', run, '--json'],
    ...set(...lists, 'train.steps=2', 'eval.every=2'),
  ]);
  expect([ended.code, ended.stderr]).toEqual([0, '']);
});
afterAll(() => rmSync(folder, { recursive: true }));

test('a training counts parts, and keeps their times', () => {
  expect(readEvents(run).find(({ kind }) => kind === 'evaluated')).toMatchObject({ num_videos: 24, num_bad: 0 });
  const [first, second] = readFileSync(join(run, 'lists', 'train.tsv'), 'utf8').split('\n');
  expect([first?.split('\t').slice(1), second?.split('\t').slice(1)]).toEqual([
    ['0', '0', '1'],
    ['0', '1', '2'],
  ]);
});

test('a feature cache is of the parts that it was built for, and of no others', async () => {
  const lists = set(
    `data.train_list=${folder}/train.txt`,
    `data.val_list=${folder}/val.txt`,
    `data.features=${folder}/cache`,
  );
  const built = await coldframe([
    'features',
    'build',
    '--config',
    config,
    '--json',
    ...lists,
    ...set('features.train_views=1'),
  ]);
  expect([built.code, built.stdout]).toEqual([0, expect.stringContaining('"num_records":72')]);
  const dryRun = (): ReturnType<typeof coldframe> =>
    coldframe(['train', '--dry-run', '--config', config, ...lists, ...set('features.train_views=1')]);
  expect((await dryRun()).code).toBe(0);
  writeFileSync(join(folder, 'val.txt'), readFileSync(join(folder, 'val.txt'), 'utf8').replace(' 0 1\n', ' 0 1.1\n'));
  const refused = await dryRun();
  expect([refused.code, refused.stderr]).toEqual([
    2,
    expect.stringContaining('the cache holds no features of this list'),
  ]);
});

test('predict takes a part of a file, and a list of parts', async () => {
  const [line = ''] = readFileSync(join(CLIPS, 'val.txt'), 'utf8').split('\n');
  const clip = join(CLIPS, line.split(' ')[0] ?? '');
  const list = join(folder, 'stdin.txt');
  writeFileSync(list, `# columns: path label start end\n${clip} 0 0 1\n${clip} 3\t1 2\n${clip} 1 0.000 1.00\n`);
  const program = join(PROJECT, 'scripts', 'coldframe');
  const shell = `"${program}" predict --checkpoint "${checkpoint}" --json "${clip}" "${clip}#t=7,9" - < "${list}"`;
  const ended = await promisify(execFile)('sh', ['-c', shell], { env: ENVIRONMENT }).then(
    () => undefined,
    (error: { code: number; stdout: string; stderr: string }) => error,
  );
  const events = (ended?.stdout ?? '')
    .split('\n')
    .filter((one) => one.includes('"classes"'))
    .map((one) => JSON.parse(one));
  expect(events.map(({ path }) => path.replace(clip, 'CLIP'))).toEqual([
    'CLIP',
    'CLIP#t=0,1',
    'CLIP#t=1,2',
    'CLIP#t=0.000,1.00',
  ]);
  const [whole, first, second, again] = events.map(({ classes }) => JSON.stringify(classes));
  expect(again).toBe(first);
  expect(new Set([whole, first, second]).size).toBe(3);
  expect([ended?.code, ended?.stdout]).toEqual([2, expect.stringContaining('before its part from 7 to 9 s')]);
});

test('what is no part is told before anything starts', async () => {
  const [line = ''] = readFileSync(join(CLIPS, 'val.txt'), 'utf8').split('\n');
  const clip = join(CLIPS, line.split(' ')[0] ?? '');
  const names = [`${clip}#t=3,2`, `${clip}#t=a,2`, `${clip}.none#t=1,2`];
  const ended = await coldframe(['predict', '--checkpoint', checkpoint, ...names]);
  expect(ended.code).toBe(2);
  for (const name of names.slice(0, 2)) expect(ended.stderr).toContain(`${name}  is no part of a file.`);
  expect(ended.stderr).toContain(`${names[2]}  does not exist.`);
});
