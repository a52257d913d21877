/** The kind of trained part: which keys it reads, what is stored of it, and a sweep over both kinds. */
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { findChanges } from '../src/config/effects.ts';
import { type Config, loadConfig } from '../src/config/load.ts';
import { readStoredConfig } from '../src/config/migrate.ts';
import { refuseOtherModel } from '../src/run/changes.ts';
import { makeTrials, planPoints, readSweep } from '../src/sweep/definition/file.ts';
import { CLIPS, coldframe, FIXTURES, makeClips, problemsOf, readEvents, readJson, writeConfig } from './support.ts';

jest.setTimeout(300_000);
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'decoder-kind-')));
let small: string;

beforeAll(async () => {
  await makeClips();
  small = writeConfig(folder);
  const lines = readFileSync(join(CLIPS, 'train.txt'), 'utf8').trimEnd().split('\n');
  writeFileSync(join(folder, 'select.txt'), `${lines.slice(0, 4).join('\n')}\n`);
  writeFileSync(join(folder, 'fit.txt'), `${lines.slice(4).join('\n')}\n`);
});
afterAll(() => rmSync(folder, { recursive: true }));

const load = (...set: string[]): Config => loadConfig(small, { set }).config;

function writeSweep(space: string): string {
  const file = join(folder, 'kinds.yaml');
  const set = `{data.train_list: fit.txt, data.root: ${CLIPS}, model.decoder.mlp_factor: 2, train.steps: 2}`;
  const text = `base: small.yaml\nset: ${set}\nselection_list: select.txt\nselection_root: ${CLIPS}\nspace: ${space}\n`;
  writeFileSync(file, text);
  return file;
}

test('is evl where nothing is said, in what an earlier version stored too', () => {
  const evl = { kind: 'evl', pool: 'class', frames: 'mean' };
  expect(load().model.decoder).toMatchObject(evl);
  const file = join(FIXTURES, 'format-1', 'config.json');
  const stored = JSON.parse(readFileSync(file, 'utf8'));
  expect(Object.keys(stored.model.decoder)).not.toContain('kind');
  expect(readStoredConfig(stored, { file }).model.decoder).toEqual({ ...stored.model.decoder, ...evl });
});

test.each([
  [['pool=both'], 'model.decoder.pool', '"both"', 'evl', 'linear'],
  [['frames=concat'], 'model.decoder.frames', '"concat"', 'evl', 'linear'],
  [['kind=linear', 'mlp_dropout=0.1'], 'model.decoder.mlp_dropout', '0.1', 'linear', 'evl'],
  [['kind=linear', 'qkv_dim=64'], 'model.decoder.qkv_dim', '64', 'linear', 'evl'],
])('refuses a key of another kind: %s', (set, key, value, kind, other) => {
  const problems = problemsOf(() => load(...set.map((one) => `model.decoder.${one}`)));
  const origin = kind === 'evl' ? 'default' : '--set model.decoder.kind=linear';
  expect(problems).toEqual([
    expect.stringContaining(
      `${key}=${value.replaceAll('"', '')}: found ${value}, but model.decoder.kind "${kind}" (${origin}) does not read it: it is of ${other}. Remove it, or set kind: ${other}.`,
    ),
  ]);
});

test('refuses temporal modules and dropout under linear, which has none; their defaults do no harm', () => {
  const set = ['model.decoder.kind=linear', 'model.temporal.conv=false', 'model.head.dropout=0'];
  expect(problemsOf(() => load(...set)).map((line) => line.split(':')[0])).toEqual([
    '--set model.temporal.conv=false',
    '--set model.head.dropout=0',
  ]);
  const { decoder } = load('model.decoder.kind=linear', 'model.temporal.conv=true', 'model.decoder.qkv_dim=128').model;
  expect(decoder).toMatchObject({ kind: 'linear', num_layers: 2, qkv_dim: 128 });
});

test('of a run is compared by the keys that it reads', () => {
  const evl = load();
  const linear = load('model.decoder.kind=linear', 'model.decoder.frames=concat');
  const never = () => false;
  expect(findChanges(evl, linear, never).map(({ key }) => key)).toEqual(['model.decoder.kind', 'model.decoder.frames']);
  const idle = { ...linear, model: { ...linear.model, head: { dropout: 0.1 } } };
  expect(findChanges(linear, idle, never)).toEqual([]);
  const shorter = { ...linear, data: { ...linear.data, num_frames: 2 } };
  expect(problemsOf(() => refuseOtherModel('c', linear, shorter))[0]).toMatch(/^data\.num_frames {2}is 2/);
  expect(problemsOf(() => refuseOtherModel('c', evl, linear))[0]).toMatch(/^model\.decoder\.kind {2}is "linear"/);
});

test('of a sweep leaves aside what the base says for the other, and refuses what varies for nothing', () => {
  const { sweep } = readSweep(writeSweep('{model.decoder.kind: [evl, linear]}'));
  const [evl, linear] = makeTrials(sweep, planPoints(sweep)).map(({ settings }) => settings.model.decoder);
  expect(evl).toMatchObject({ kind: 'evl', mlp_factor: 2 });
  expect(linear).toMatchObject({ kind: 'linear', mlp_factor: 4 }); // the default: nobody reads it
  const both = '{model.decoder.kind: [evl, linear], model.decoder.pool: [class, both]}';
  const problems = problemsOf(() => readSweep(writeSweep(both)));
  expect(problems).toEqual([
    expect.stringMatching(
      /model\.decoder\.pool: found "both", but .*does not read it: it is of linear\..* So at point p/,
    ),
  ]);
  const when = both.replace('[class, both]', '{values: [class, both], when: {model.decoder.kind: linear}}');
  const found = readSweep(writeSweep(when)).sweep;
  expect(planPoints(found)).toHaveLength(3);
});

test('is swept as one cohort of both kinds, and the best of them is a configuration to train alone', async () => {
  const dir = join(folder, 'sweep');
  const { code, stdout, stderr } = await coldframe(
    ['sweep', '--config', writeSweep('{model.decoder.kind: [evl, linear]}'), '--run-dir', dir, '--json'],
    { cwd: folder },
  );
  expect(stderr).not.toContain('Error');
  expect(code).toBe(0);
  const kinds = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(kinds.at(-1)).toMatchObject({ kind: 'finished' });
  const run = join(dir, 'cohorts', 'c0001');
  const { trials } = readJson(join(run, 'config.json')) as { trials: Record<string, Config> };
  expect(Object.values(trials).map(({ model }) => model.decoder.kind)).toEqual(['evl', 'linear']);
  const evaluated = readEvents(run).filter(({ kind }) => kind === 'evaluated');
  expect(new Set(evaluated.map(({ trial }) => trial)).size).toBe(2);
  expect(['evl', 'linear']).toContain(loadConfig(join(dir, 'best.yaml')).config.model.decoder.kind);
});
