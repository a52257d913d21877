/** `check --probe`: what it tells of clips, what it keeps of them, and what training makes of it. */
import {
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { Findings } from '../src/data/check/findings.ts';
import { ProbeCache, type ProbeRules, type SeenClip } from '../src/data/probe/cache.ts';
import { ProbeFindings } from '../src/data/probe/findings.ts';
import { findKnown, keepKnown } from '../src/data/probe/known.ts';
import { describeDistribution, Tally } from '../src/data/probe/tables.ts';
import type { Facts, Probe, Sampling } from '../src/runtime/probe-replies.ts';
import { CLIPS, checkEvent, coldframe, type Event, makeClips, writeConfig } from './support.ts';

jest.setTimeout(240_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'probe-test-')));
const before = process.env.XDG_CACHE_HOME;
beforeAll(makeClips);
beforeEach(() => {
  process.env.XDG_CACHE_HOME = mkdtempSync(join(folder, 'cache-'));
});
afterAll(() => {
  process.env.XDG_CACHE_HOME = before;
  if (before === undefined) delete process.env.XDG_CACHE_HOME;
  rmSync(folder, { recursive: true });
});

const FACTS: Facts = {
  ...{
    num_frames: 40,
    num_missing: 0,
    width: 96,
    height: 64,
    rate: 25,
    is_variable_rate: false,
    duration_seconds: 1.6,
  },
  ...{ codec: 'h264', container: 'mp4', rotation: 0, mirrored: false, by_time: true },
};
const SAMPLING: Sampling = { num_frames: 8, stride: 4, repeat_last: false, num_views: null };
const RULES: ProbeRules = { reader: 'pyav', sampling: SAMPLING, limitSeconds: 20 };
const sound: Probe = { facts: FACTS, problem: null, damage: null };
const bad = (fault: string, facts: Facts | null = null): Probe => ({
  facts,
  problem: { fault, reason: `${fault}!` },
  damage: facts === null ? null : `${fault}!`,
});

describe('what was found in a file is known', () => {
  const file: SeenClip = { path: '/a b/c.mp4', size: 7, mtime: 1234.5678 };
  const keep = (probe: Probe, rules = RULES, of = file): void => {
    const cache = new ProbeCache(rules);
    cache.add(of, probe);
    cache.flush();
  };
  const find = (rules: Partial<ProbeRules> = {}, of: Partial<typeof file> = {}): Probe | undefined =>
    new ProbeCache({ ...RULES, ...rules }).find({ ...file, ...of });

  test('as long as it is the same file, for the same reader', () => {
    const odd = { ...FACTS, is_variable_rate: true, mirrored: true, by_time: false, rotation: -90, num_missing: 2 };
    keep({ facts: odd, problem: null, damage: null });
    expect(find()).toEqual({ facts: odd, problem: null, damage: null });
    expect(find({ sampling: null })).toBeDefined(); // every frame can be read, whichever are asked for
    expect([find({}, { size: 8 }), find({}, { mtime: 1234.5679 }), find({}, { path: '/a b/d.mp4' })]).toEqual(
      Array(3).fill(undefined),
    );
    expect(find({ reader: 'torchcodec' })).toBeUndefined();
    keep(bad('not-a-video'));
    expect(find({ sampling: null })).toEqual(bad('not-a-video'));
  });

  test('damage, for the sampling that it was looked at with; a slow one, up to the limit that it had', () => {
    keep(bad('unreadable', FACTS));
    expect(find()).toEqual(bad('unreadable', FACTS));
    expect(find({ sampling: { ...SAMPLING, stride: 5 } })).toBeUndefined();
    keep(bad('slow'));
    expect([find({ limitSeconds: 20 }), find({ limitSeconds: 21 })]).toEqual([bad('slow'), undefined]);
  });

  test('but not what the system did, nor a line that a kill tore', () => {
    for (const fault of ['missing', 'unreachable']) keep(bad(fault));
    expect(find()).toBeUndefined();
    keep(sound);
    const { folder: shards } = new ProbeCache(RULES);
    const [shard = ''] = readdirSync(shards);
    const text = readFileSync(join(shards, shard), 'utf8');
    writeFileSync(join(shards, shard), `${text}${text.slice(0, -9)}`);
    expect(find()).toEqual(sound);
    writeFileSync(join(shards, shard), `${text.slice(0, -9)}\n`);
    expect(find()).toBeUndefined();
  });

  test('and parts of one file, each for itself', () => {
    const part = { ...file, part: { start: 0, end: 1_500_000 } };
    keep(sound, RULES, part);
    expect([find(), find({}, part)]).toEqual([undefined, sound]);
    expect(find({}, { ...part, part: { start: 0, end: 1_500_001 } })).toBeUndefined();
  });

  test('but a folder that cannot be written ends nothing', () => {
    writeFileSync(join(folder, 'file'), '');
    process.env.XDG_CACHE_HOME = join(folder, 'file');
    const cache = new ProbeCache(RULES);
    cache.add(file, sound);
    cache.flush();
    expect(cache.problem).toMatch(/^ENOTDIR/);
    expect(cache.find(file)).toEqual(sound);
    expect(find()).toBeUndefined();
    const list = { file: join(folder, 'l.txt'), sha256: 'x', root: null };
    expect(keepKnown(list, RULES, [], new Tally().describe(null))).toMatch(/^ENOTDIR/);
  });

  test('and its old lines go when there are more of them than of others', () => {
    const cache = new ProbeCache(RULES);
    for (let mtime = 0; mtime < 1003; mtime++) cache.add({ ...file, mtime }, sound);
    cache.flush();
    expect(find({}, { mtime: 1002 })).toEqual(sound);
    const { folder: shards } = new ProbeCache(RULES);
    expect(readFileSync(join(shards, readdirSync(shards)[0] ?? ''), 'utf8').split('\n')).toHaveLength(2);
  });
});

describe('of the clips of a list', () => {
  const tell = (probes: Probe[], fraction: number, sampling: Sampling | null = SAMPLING) => {
    const findings = new Findings();
    const list = { file: 'a.txt', numLines: 200, numAbsent: 1, maxMissingFraction: fraction };
    const collected = new ProbeFindings(list, sampling, findings);
    const lines = probes.map((_, index) => probes.length - index); // they come in no order
    for (const [index, probe] of probes.entries()) {
      const line = lines[index] ?? 0;
      collected.take({ path: `${line}.mp4`, size: 1, mtime: 1, line }, probe);
    }
    collected.finish();
    return findings.groups.map(({ severity, code, first }) => `${severity} ${code} ${first.map(({ line }) => line)}`);
  };

  test('those that cannot be used are errors, or warnings as long as so many may be skipped', () => {
    const probes = [bad('unreadable', FACTS), sound, bad('not-a-video'), bad('slow', FACTS)];
    const slow = 'warning slow 1';
    expect(tell(probes, 0)).toEqual([slow, 'error not-a-video 2', 'error unreadable 4']);
    expect(tell(probes, 0.01)).toEqual([slow, 'error not-a-video 2', 'error unreadable 4']); // two, and one that is absent
    expect(tell(probes, 0.015)).toEqual([slow, 'warning not-a-video 2', 'warning unreadable 4']);
  });

  test('too short is one that has fewer frames than a clip spans; the rest is for people to know', () => {
    const frames = (num_frames: number, more: Partial<Facts> = {}): Probe => ({
      ...sound,
      facts: { ...FACTS, num_frames, ...more },
    });
    expect(tell([frames(29), frames(28)], 0)).toEqual(['warning too-short 1']);
    expect(tell([frames(8), frames(7)], 0, { ...SAMPLING, stride: null })).toEqual(['warning too-short 1']);
    expect(tell([frames(1)], 0, null)).toEqual([]);
    expect(tell([{ ...sound, damage: 'x' }], 0)).toEqual(['warning damaged 1']);
    const odd = { is_variable_rate: true, rotation: 90, by_time: false, num_missing: 1 };
    const codes = ['variable-rate', 'rotated', 'no-times', 'frames-missing'];
    expect(tell([frames(40, odd)], 0)).toEqual(codes.map((code) => `note ${code} 1`));
  });

  test('parts are told by their names, and one that cannot be read with its own', () => {
    const findings = new Findings();
    const list = { file: 'a.txt', numLines: 2, numAbsent: 0, maxMissingFraction: 0 };
    const collected = new ProbeFindings(list, SAMPLING, findings);
    const clip = { path: 'a.mp4', size: 1, mtime: 1 };
    const part = { start: 400_000, end: 1_800_000 };
    collected.take(
      { ...clip, line: 1, part: { start: 0, end: 1_120_000 } },
      { ...sound, facts: { ...FACTS, num_frames: 28 } },
    );
    collected.take({ ...clip, line: 2, part }, bad('unreadable'));
    collected.finish();
    expect(findings.groups.map(({ first }) => first[0])).toMatchObject([
      { code: 'too-short', line: 1, path: 'a.mp4', message: 'a.mp4#t=0,1.12 has 28 frames, and 29 are spanned.' },
      { code: 'unreadable', line: 2, path: 'a.mp4', message: 'a.mp4#t=0.4,1.8 unreadable!.' },
    ]);
    expect(collected.listBad()).toMatchObject([{ path: 'a.mp4', part }]);
  });

  test('there are tables, and what the sampling does with them', () => {
    const tally = new Tally();
    for (const num_frames of [10, 29, 57, 58, 290])
      tally.add({ ...FACTS, num_frames, width: num_frames === 10 ? 64 : 96 });
    const found = tally.describe(SAMPLING);
    expect(found.measures?.frames).toEqual({ least: 10, quarter: 29, half: 57, three_quarters: 58, most: 290 });
    expect(found.kinds.size).toEqual([
      ['96x64', 4],
      ['64x64', 1],
    ]);
    expect(found.sampling).toMatchObject({ span: 29, num_short: 1, starts: 29, covered: 29 / 57 });
    const words = describeDistribution(found);
    expect(words).toContain('96x64 80.0 %, 64x64 20.0 %');
    expect(words).toContain(
      'a training clip takes 8 frames every 4, 29 frames (1.2 s), beginning at any of 29 places in the median video: 51 % of it; 1 of 5 videos is shorter',
    );
    expect(describeDistribution(new Tally().describe(null))).toBe('no video could be opened');
  });
});

test('what a probe without a sampling found counts where the sampling is sure to meet it', () => {
  const list = { file: join(folder, 'l.txt'), sha256: 'x', root: null };
  writeFileSync(join(folder, 'clip.mp4'), 'clip');
  utimesSync(join(folder, 'clip.mp4'), 5, 5);
  const clip = { path: join(folder, 'clip.mp4'), size: 4, mtime: 5000, reason: 'torn', line: 1 };
  const distribution = new Tally().describe(null);
  const found = [null, 31, 32].map((num_frames, index) => ({ ...clip, num_frames, line: index + 1 }));
  const gone = { ...clip, path: join(folder, 'gone.mp4'), num_frames: null };
  keepKnown(
    list,
    { ...RULES, sampling: null },
    [...found, { ...gone }, { ...clip, mtime: 6000, num_frames: null }],
    distribution,
  );
  const linesOf = (rules: ProbeRules) => findKnown(list, rules)?.bad.map(({ line }) => line);
  expect(linesOf(RULES)).toEqual([1, 3]); // 8 frames every 4 reach all of 32, not of 31
  expect(linesOf({ ...RULES, sampling: { ...SAMPLING, num_views: 1 } })).toEqual([1]);
  expect(findKnown({ ...list, sha256: 'y' }, RULES)).toBeUndefined();
  keepKnown(list, RULES, [], distribution);
  expect(findKnown(list, RULES)?.bad).toEqual([]);
  keepKnown(list, RULES, [{ ...clip, part: { start: 0, end: 500_000 }, num_frames: null }], distribution);
  expect(findKnown(list, RULES)?.bad).toEqual([{ path: `${clip.path}#t=0,0.5`, line: 1, reason: 'torn' }]); // as training names it
});

const eventsOf = (stdout: string): Event[] =>
  stdout
    .trimEnd()
    .split('\n')
    .map((line) => checkEvent(JSON.parse(line)));

test('a list is probed once; training names all that is wrong with its clips before it begins', async () => {
  const lines = readFileSync(join(CLIPS, 'train.txt'), 'utf8').split('\n').slice(0, 6);
  const names = lines.map((line, index) => {
    copyFileSync(join(CLIPS, line.split(' ')[0] ?? ''), join(folder, `${index}.mp4`));
    return `${index}.mp4`;
  });
  for (const [index, size] of [
    [1, 2000],
    [4, 3000],
  ] as const) // without their index
    writeFileSync(join(folder, `${index}.mp4`), readFileSync(join(folder, `${index}.mp4`)).subarray(0, size));
  writeFileSync(join(folder, 'list.txt'), `${names.map((name, label) => `${name} ${label}`).join('\n')}\n0.mp4 0\n`);
  const config = writeConfig(folder);
  const set = ['--set', `data.train_list=${join(folder, 'list.txt')}`, '--set', `data.train_root=${folder}`];
  const root = ['--set', `data.val_root=${CLIPS}`];
  const run = (...words: string[]) =>
    coldframe(words, { cwd: folder, env: { XDG_CACHE_HOME: process.env.XDG_CACHE_HOME } });
  const probe = (env: NodeJS.ProcessEnv = {}) =>
    coldframe(['check', 'list.txt', '--probe', '--json'], {
      cwd: folder,
      env: { XDG_CACHE_HOME: process.env.XDG_CACHE_HOME, ...env },
    });

  const first = await probe();
  const told = eventsOf(first.stdout);
  expect(first.code).toBe(2);
  const unreadable = told.filter(({ code }) => code === 'unreadable');
  expect(unreadable.map(({ line, path }) => [line, path])).toEqual([
    [2, join(folder, '1.mp4')],
    [5, join(folder, '4.mp4')],
  ]);
  expect(unreadable[0]?.message).toMatch(/its index \(moov atom\) is missing/);
  const { measures, ...probed } = told.find(({ kind }) => kind === 'probed') as Event;
  expect(probed).toMatchObject({ num_clips: 7, num_known: 0, num_videos: 5 });

  const again = await probe({ COLDFRAME_PYTHON: '/bin/false' }); // nothing is left to be asked of it
  const known = eventsOf(again.stdout);
  const timeless = (events: Event[]) => events.map(({ time, seconds, num_known, message, ...event }) => event);
  expect(timeless(known)).toEqual(timeless(told));
  expect(known.find(({ kind }) => kind === 'probed')).toMatchObject({ num_known: 7, measures });

  const [dry, trained] = [
    await run('train', '--config', config, ...set, ...root, '--dry-run'),
    await run('train', '--config', config, ...set, ...root, '--run-dir', 'run'),
  ];
  const refused = new RegExp(
    `${folder}/1.mp4 {2}cannot be decoded.*\n.*${folder}/4.mp4 {2}.*\nlist.txt {2}2 of 7 videos cannot be read, .* allows 1\\..*--probe list.txt --root [.]`,
  );
  for (const { code, stderr } of [dry, trained]) {
    expect(code).toBe(2);
    expect(stderr).toMatch(refused);
  }
  expect(readdirSync(folder)).not.toContain('run');
});

test('a check in parts finds what one process finds, and leaves it where the next check looks', async () => {
  const home = mkdtempSync(join(folder, 'home-'));
  const [first = '', second = '', third = ''] = readFileSync(join(CLIPS, 'val.txt'), 'utf8').split('\n');
  const pathOf = (line: string): string => join(CLIPS, line.split(' ')[0] ?? '');
  writeFileSync(join(home, 'torn.mp4'), readFileSync(pathOf(third)).subarray(0, 2500));
  const lines = [`${pathOf(first)} 0`, `${join(home, 'torn.mp4')} 1`, `${pathOf(second)} 2`];
  writeFileSync(join(home, 'list.txt'), `${lines.join('\n')}\n`);
  const check = async (cache: string, words: string[] = [], env: NodeJS.ProcessEnv = {}) => {
    const given = ['check', 'list.txt', '--probe', '--json', ...words];
    const { stdout, code } = await coldframe(given, { cwd: home, env: { XDG_CACHE_HOME: join(home, cache), ...env } });
    return { code, events: eventsOf(stdout) };
  };
  const foundBy = ({ events }: { events: Event[] }) =>
    events
      .filter(({ kind }) => kind === 'finding' || kind === 'probed')
      .map(({ time, seconds, num_known, ...rest }) => rest);

  const whole = await check('one');
  const parted = await check('parts', ['--parts', '2', '--executor', 'local']);
  expect([whole.code, parted.code]).toEqual([2, 2]);
  expect(foundBy(whole)).toContainEqual(expect.objectContaining({ code: 'unreadable', line: 2 }));
  expect(foundBy(parted)).toEqual(foundBy(whole));
  const ends = parted.events.filter(({ kind, state }) => kind === 'part' && state === 'finished');
  expect(ends.map(({ part }) => part).sort()).toEqual(['p0001', 'p0002']);
  expect(readdirSync(join(home, 'parts', 'coldframe', 'parts'))).toEqual([]);

  const again = await check('parts', ['--parts', '2'], { COLDFRAME_PYTHON: '/bin/false' }); // nothing is left to be asked of it
  expect(foundBy(again)).toEqual(foundBy(whole));
});

test('what another cache has kept is taken over, but for a line that a kill tore', () => {
  const [one, two] = [
    { path: '/a/1.mp4', size: 7, mtime: 1 },
    { path: '/a/2.mp4', size: 7, mtime: 1 },
  ];
  const other = join(folder, 'other-cache');
  const theirs = new ProbeCache(RULES, other);
  theirs.add(one, sound);
  theirs.add(two, bad('unreadable'));
  theirs.flush();
  const [file = ''] = readdirSync(other);
  const text = readFileSync(join(other, file), 'utf8');
  writeFileSync(join(other, file), text.slice(0, -3));
  const ours = new ProbeCache(RULES);
  expect(ours.find(one)).toBeUndefined();
  ours.absorb(other);
  expect([ours.find(one), ours.find(two)]).toEqual([sound, undefined]);
  const three = { ...two, path: '/a/3.mp4' };
  ours.add(three, sound);
  ours.flush();
  expect([one, three].map((clip) => new ProbeCache(RULES).find(clip))).toEqual([sound, sound]);
});
