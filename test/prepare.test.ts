/** `clips prepare` as a user meets it: forecast, kill, go on, train from what it made. */
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import {
  CLIPS,
  coldframe,
  type Event,
  hashFiles,
  makeClips,
  Running,
  readEvents,
  until,
  writeConfig,
} from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'prepare-test-')));
const videos = join(folder, 'videos');
const config = writeConfig(folder);
const output = join(folder, 'ready $' + '{x}');

const prepare = (to: string, ...more: string[]): string[] => {
  const small = ['--set', 'prepare.short_side=48', '--set', 'prepare.preset=slow'];
  return ['clips', 'prepare', '--config', config, '--output', to, ...small, ...more];
};
const numPrepared = (to: string): number => {
  const journal = join(to, 'manifest.jsonl');
  return existsSync(journal) ? readFileSync(journal, 'utf8').split('\n').length - 2 : 0;
};

beforeAll(async () => {
  await makeClips();
  cpSync(CLIPS, videos, { recursive: true });
  writeFileSync(config, readFileSync(config, 'utf8').replaceAll(CLIPS, videos));
});
afterAll(() => rmSync(folder, { recursive: true }));

test('a dry run says time and disk, and writes nothing', async () => {
  const ended = await coldframe(prepare(output, '--dry-run'));
  expect(ended).toMatchObject({ code: 0, stderr: '' });
  expect(ended.stdout).toMatch(
    /^clips {5}36, 36 of them still to be prepared from .*: short side 48, an I frame every 4, CRF 23, slow\n/,
  );
  expect(ended.stdout).toMatch(/\ndisk {6}about [\d.]+ [KM]iB \([\d.]+ KiB to [\d.]+ [KM]iB\); [\d.]+ [GT]iB free in /);
  expect(ended.stdout).toMatch(/\ntime {6}about [\d:]+ \([\d:]+ to [\d:]+\) with 1 workers\nmeasured {2}on 6 clips/);
  expect(existsSync(output)).toBe(false);
});

test('it goes on after SIGKILL and after Ctrl-C, ends with the bytes of an undisturbed one, and trains', async () => {
  const killed = new Running(prepare(output));
  await until(() => numPrepared(output) >= 2, 120);
  killed.signalGroup('SIGKILL');
  await killed.ended;
  await killed.gone();
  const numKept = numPrepared(output);
  expect(numKept).toBeLessThan(36);

  const stopped = new Running(prepare(output));
  await until(() => numPrepared(output) > numKept, 120);
  stopped.signalGroup('SIGINT');
  expect(await stopped.ended).toMatchObject({
    code: 130,
    stderr: `stopped; the same command goes on with ${output}\n`,
  });
  expect(stopped.members()).toEqual([]);
  expect(numPrepared(output)).toBeLessThan(36);

  const finished = new Running(prepare(output, '--json'));
  const [forecast, prepared] = [await finished.event('clips_forecast'), await finished.event('clips_prepared')];
  expect(await finished.ended).toMatchObject({ code: 0, stderr: '' });
  expect((forecast as Event & { num_todo: number }).num_todo).toBeLessThan(36 - numKept);
  expect(prepared).toMatchObject({ folder: output, num_clips: 36, num_bad: 0 });
  expect(numPrepared(output)).toBe(36);

  const whole = join(folder, 'whole');
  await coldframe(prepare(whole));
  expect(hashFiles(join(output, 'clips'))).toEqual(hashFiles(join(whole, 'clips')));
  for (const name of ['train.txt', 'val.txt', 'classes.txt'])
    expect([name, readFileSync(join(output, name), 'utf8')]).toEqual([name, readFileSync(join(whole, name), 'utf8')]);
  const labels = (file: string): string[] => readFileSync(file, 'utf8').match(/\d+$/gm) ?? [];
  expect(labels(join(output, 'train.txt'))).toEqual(labels(join(videos, 'train.txt')));

  rmSync(videos, { recursive: true });
  const run = join(folder, 'run');
  const trained = await coldframe(['train', '--config', join(output, 'prepared.yaml'), '--run-dir', run]);
  expect(trained).toMatchObject({ code: 0, stderr: '' });
  expect(readEvents(run).filter(({ kind }) => kind === 'step')).toHaveLength(8);
  cpSync(CLIPS, videos, { recursive: true });
});

test('other settings are refused with the keys that differ', async () => {
  const ended = await coldframe(prepare(output, '--set', 'prepare.crf=30', '--set', 'prepare.gop=8'));
  expect(ended.code).toBe(2);
  expect(ended.stderr).toMatch('prepare.gop: 4 there, 8 here\n  prepare.crf: 23 there, 30 here\n');
});

test('more bad videos than data.max_bad_fraction end it, by name', async () => {
  const names = readdirSync(join(videos, 'val'), { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\.mp4$/.test(name),
  );
  const broken = names.slice(0, 2).map((name) => join(videos, 'val', name));
  for (const file of broken) writeFileSync(file, 'no video');
  const ended = await coldframe(prepare(join(folder, 'bad'), '--set', 'prepare.preset=ultrafast'));
  expect(ended.code).toBe(2);
  expect(ended.stdout).toMatch(/\.mp4 {2}is a text, not a video \(skipped, 1 of 36 so far\)/);
  expect(ended.stderr).toMatch(/2 of 36 videos cannot be prepared, .*data\.max_bad_fraction: 0\.01 allows 1\./);
});
