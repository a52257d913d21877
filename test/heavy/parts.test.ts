/** Large jobs in parts, some of them killed, leave the files of one process: `make test-parts`. */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { findByVariable, signal } from '../../src/base/process/processes.ts';
import { CLIPS, coldframe, type Event, hashFiles, makeClips, Running, until, writeConfig } from '../support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'parts-test-')));
const config = writeConfig(folder);
const cluster = join(folder, 'cluster.yaml');

const eventsOf = ({ stdout }: { stdout: string }): Event[] =>
  stdout
    .trimEnd()
    .split('\n')
    .map((line): Event => JSON.parse(line));
/** Kills what belongs to a part of the job in this folder. */
function killPart(parts: string, part: string): void {
  const { id } = JSON.parse(readFileSync(join(parts, 'journal.jsonl'), 'utf8').split('\n')[0] ?? '');
  for (const { pid, value } of findByVariable('COLDFRAME_JOB'))
    if (value.startsWith(`${id}-${part}-`)) signal(pid, 'SIGKILL');
}
const endsOf = (events: Event[], name: string) =>
  events.filter(({ kind, part, state }) => kind === 'part' && part === name && state !== 'started').map((e) => e.state);

beforeAll(async () => {
  await makeClips();
  writeFileSync(config, `${readFileSync(config, 'utf8')}features: {precision: fp32, train_views: 4}\n`);
  writeFileSync(cluster, 'executor: {kind: local, slots: 2}\n');
});
afterAll(() => rmSync(folder, { recursive: true }));

test('a feature cache', async () => {
  const cache = join(folder, 'cache');
  const parts = join(cache, 'parts');
  const build = (into: string, ...more: string[]): string[] => [
    'features',
    'build',
    '--config',
    config,
    '--json',
    '--set',
    `data.features=${into}`,
    ...more,
  ];
  const inParts = (count: number): string[] => build(cache, '--parts', String(count), '--executor', cluster);
  const filesOf = (dir: string): Record<string, string> => {
    const { lock: _, ...files } = hashFiles(dir);
    return files;
  };
  expect(await coldframe(build(join(folder, 'whole')))).toMatchObject({ code: 0 });

  const stopped = new Running(inParts(3));
  await until(() => existsSync(join(parts, 'p0001', 'features.json')), 120);
  stopped.child.kill('SIGINT');
  expect((await stopped.ended).code).toBe(130);
  for (const other of [build(cache), inParts(2)]) {
    const refused = await coldframe(other);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch(/parts {2}holds the same work, begun in 3 parts\. `--parts 3` goes on with it/);
  }

  const going = new Running(inParts(3));
  await until(() => existsSync(join(parts, 'p0003', 'features.json')), 120);
  const written = (): number[] =>
    ['job.json', 'lists/train.tsv', 'lists/val.tsv'].map((name) => statSync(join(parts, name)).mtimeMs);
  const before = written();
  const second = await coldframe(inParts(3));
  expect([second.code, second.stderr]).toEqual([2, expect.stringMatching(/parts {2}process \d+ on .* does this work/)]);
  expect(written()).toEqual(before); // it has not touched what the first one works with
  killPart(parts, 'p0003');
  const ended = await going.ended;
  expect([ended.code, ended.stderr]).toEqual([0, expect.anything()]);
  const events = eventsOf(ended);
  expect(endsOf(events, 'p0003')).toEqual(['retry', 'finished']);
  expect(events.at(-1)).toMatchObject({ kind: 'features_built', num_records: 24 * 4 + 12, num_bad: 0, parts: 3 });
  expect(existsSync(parts)).toBe(false);
  expect(filesOf(cache)).toEqual(filesOf(join(folder, 'whole')));
});

test('what is refused leaves nothing', async () => {
  const cache = join(folder, 'none');
  const wrong = ['features', 'build', '--config', config, '--parts', '2', '--set', `data.features=${cache}`];
  const refused = await coldframe([...wrong, '--set', 'data.train_root=/nowhere']);
  expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('/nowhere')]);
  expect(existsSync(join(cache, 'parts'))).toBe(false);
});

test('prepared clips', async () => {
  const output = join(folder, 'prepared');
  const parts = join(output, 'parts');
  const prepare = (into: string, ...more: string[]): string[] => [
    'clips',
    'prepare',
    '--config',
    config,
    '--json',
    '--output',
    into,
    '--set',
    'prepare.short_side=48',
    ...more,
  ];
  const inParts = prepare(output, '--parts', '2', '--executor', cluster);
  const filesOf = (dir: string): Record<string, string> => {
    const { lock: _, 'manifest.jsonl': __, ...files } = hashFiles(dir); // its lines are in the order of their ends
    return files;
  };
  expect(await coldframe(prepare(join(folder, 'one')))).toMatchObject({ code: 0 });

  const going = new Running(inParts);
  const manifest = join(parts, 'p0002', 'manifest.jsonl');
  await until(() => existsSync(manifest) && readFileSync(manifest, 'utf8').split('\n').length > 3, 120);
  killPart(parts, 'p0002');
  const ended = await going.ended;
  expect([ended.code, ended.stderr]).toEqual([0, expect.anything()]);
  const events = eventsOf(ended);
  expect([endsOf(events, 'p0001'), endsOf(events, 'p0002')]).toEqual([['finished'], ['retry', 'finished']]);
  expect(events.at(-1)).toMatchObject({ kind: 'clips_prepared', num_clips: 36, num_bad: 0, folder: output });
  expect(existsSync(parts)).toBe(false);
  expect(readdirSync(join(output, 'clips'), { recursive: true })).toHaveLength(
    readdirSync(join(folder, 'one', 'clips'), { recursive: true }).length,
  );
  expect(filesOf(output)).toEqual(filesOf(join(folder, 'one')));
});

test('clips that are mended after a job has ended over them are prepared', async () => {
  const clips = join(folder, 'mended');
  mkdirSync(clips);
  const names = ['a.mp4', 'b.mp4', 'c.mp4', 'd.mp4'];
  const [line = ''] = readFileSync(join(CLIPS, 'train.txt'), 'utf8').split('\n');
  const video = join(CLIPS, line.split(/[ \t]/)[0] ?? '');
  for (const name of names) copyFileSync(video, join(clips, name));
  writeFileSync(join(clips, 'list.txt'), names.map((name) => `${name} 0\n`).join(''));
  const set = ['train_list', 'val_list', 'root'].flatMap((key) => [
    '--set',
    `data.${key}=${{ train_list: join(clips, 'list.txt'), val_list: 'null', root: clips }[key]}`,
  ]);
  const output = join(folder, 'mended-output');
  const prepare = ['clips', 'prepare', '--config', config, '--json', '--output', output, '--parts', '2', ...set];
  for (const name of ['a.mp4', 'b.mp4']) writeFileSync(join(clips, name), 'no video'); // one in each part
  const refused = await coldframe(prepare);
  expect([refused.code, refused.stderr]).toEqual([2, expect.stringMatching(/2 of 4 videos cannot be prepared/)]);
  for (const name of ['a.mp4', 'b.mp4']) copyFileSync(video, join(clips, name));
  const ended = await coldframe(prepare);
  expect([ended.code, ended.stderr]).toEqual([0, expect.anything()]);
  expect(eventsOf(ended).at(-1)).toMatchObject({ kind: 'clips_prepared', num_clips: 4, num_bad: 0 });
});
