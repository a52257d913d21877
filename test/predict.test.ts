/** What is done with a checkpoint: `evaluate`, `predict`; and `doctor`, which says whether this machine can. */
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
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
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { csvParse } from 'd3-dsv';
import { keepKnown } from '../src/data/probe/known.ts';
import { Tally } from '../src/data/probe/tables.ts';
import { main } from '../src/main.ts';
import {
  CLIPS,
  coldframe,
  ENVIRONMENT,
  type Ended,
  type Event,
  makeClips,
  PROJECT,
  PYTHON,
  readEvents,
  readJson,
  writeConfig,
} from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'predict-test-')));
const config = writeConfig(folder);
const run = join(folder, 'runs', 'small');
const checkpoint = join('runs', 'small', 'checkpoints', 'latest'); // commands run in `folder`
const classes = (): string[] => readFileSync(join(CLIPS, 'classes.txt'), 'utf8').trimEnd().split('\n');
const clip = (index: number): string => {
  const line = readFileSync(join(CLIPS, 'val.txt'), 'utf8').split('\n')[index] ?? '';
  return join(CLIPS, line.split(' ')[0] ?? '');
};

/** What a pipe can carry: an MP4 has its index at the end. */
const REMUX = `
import av, sys
source, target = av.open(sys.argv[1]), av.open(sys.argv[2], 'w', format='mpegts')
stream = source.streams.video[0]
other = target.add_stream_from_template(stream)
for packet in source.demux(stream):
    if packet.dts is not None:
        packet.stream = other
        target.mux(packet)
target.close()
`;

const inFolder = (...args: string[]): Promise<Ended> => coldframe(args, { cwd: folder });
const eventsOf = ({ stdout }: Ended): Event[] =>
  stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
const evaluate = (...more: string[]): Promise<Ended> =>
  inFolder('evaluate', '--config', config, '--checkpoint', checkpoint, '--json', ...more);

let evaluated: Ended; // with the configuration that trained
beforeAll(async () => {
  await makeClips();
  const { code, stderr } = await inFolder('train', '--config', 'small.yaml', '--set', 'train.steps=2');
  expect([code, stderr]).toEqual([0, '']);
  evaluated = await evaluate();
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('evaluate', () => {
  test('finds what the run found at its end, the accuracy of each class besides', () => {
    const found = evaluated;
    expect(found).toMatchObject({ code: 0, stderr: '' });
    const final = readEvents(run).find(({ kind }) => kind === 'evaluated');
    const { time, ...same } = final ?? {};
    expect(eventsOf(found)).toHaveLength(1);
    expect(eventsOf(found)[0]).toMatchObject({ ...same, list_sha256: expect.stringMatching(/^[0-9a-f]{64}$/) });
    const perClass = eventsOf(found)[0]?.per_class as { num_videos: number; top1: number }[];
    const correct = perClass.reduce((sum, { num_videos, top1 }) => sum + num_videos * top1, 0);
    expect(correct / 12).toBeCloseTo(final?.top1 as number, 12);
  });

  test('counts a video once, however many views it has; one that cannot be read in no accuracy', async () => {
    writeFileSync(join(folder, 'torn.mp4'), readFileSync(clip(0)).subarray(0, 5000));
    const list = join(folder, 'val-torn.txt');
    writeFileSync(list, `${readFileSync(join(CLIPS, 'val.txt'), 'utf8')}${join(folder, 'torn.mp4')} 0\n`);
    const { size, mtimeMs: mtime } = statSync(join(folder, 'torn.mp4'));
    const known = { path: join(folder, 'torn.mp4'), size, mtime, line: 13, reason: 'was found to be torn' };
    const about = { file: list, sha256: createHash('sha256').update(readFileSync(list)).digest('hex'), root: CLIPS };
    const rules = { reader: 'pyav', sampling: null, limitSeconds: 20 };
    keepKnown(about, rules, [{ ...known, num_frames: null }], new Tally().describe(null)); // as `check --probe` does
    const views = ['eval.spatial_views=3', 'eval.temporal_views=2', `data.val_list=${list}`, `data.root=${CLIPS}`];
    const found = await evaluate(...views.flatMap((pair) => ['--set', pair]));
    expect(found.code).toBe(0);
    const [bad, evaluated] = eventsOf(found);
    const { path, reason } = known; // before it is met, and then not again
    expect(bad).toMatchObject({ kind: 'bad_video', path, reason, num_bad: 1, num_videos: 13 });
    expect(evaluated).toMatchObject({ kind: 'evaluated', num_videos: 12, num_bad: 1, views: 6 });
  });

  test.each([
    ['other class names', () => ['data.classes=swapped.txt'], /has class 0 as 'left'; data.classes has 'right'/],
    [
      'another backbone',
      () => ['model.backbone.random_seed=1'],
      /trained on other backbone weights \(SHA-256 [0-9a-f]{16}/,
    ],
    [
      'another decoder',
      () => ['model.decoder.num_layers=1'],
      /^model\.decoder\.num_layers {2}is 1, and the checkpoint was trained with 2\.\n.*another model/,
    ],
  ])('refuses %s', async (_, change, message) => {
    const [left = '', right = '', ...others] = classes();
    writeFileSync(join(folder, 'swapped.txt'), `${[right, left, ...others].join('\n')}\n`);
    const { code, stderr, stdout } = await evaluate(...change().flatMap((pair) => ['--set', pair]));
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
    expect(stderr).not.toContain('Traceback');
    expect(JSON.parse(stdout)).toMatchObject({ kind: 'failed', where: 'UserError' });
  });
});

describe('a checkpoint holds what it needs', () => {
  test('evaluate takes its configuration', async () => {
    const alone = await inFolder('evaluate', '--checkpoint', 'runs/small', '--json');
    expect(alone).toMatchObject({ code: 0, stderr: '' });
    const [{ time, ...event } = {} as Event] = eventsOf(alone);
    const { time: _, ...same } = eventsOf(evaluated)[0] ?? ({} as Event);
    expect(event).toEqual(same);
  });

  test('and what it names of the machine it was trained on need not be here: keys that are given take its place', async () => {
    const elsewhere = join(folder, 'elsewhere');
    cpSync(join(run, 'checkpoints', 'step-2'), elsewhere, { recursive: true });
    const header = readJson<{ config: { main: { data: Record<string, unknown> } } }>(elsewhere, 'checkpoint.json');
    const gone = { classes: '/nowhere/classes.txt', train_list: '/nowhere/train.txt', val_list: '/nowhere/val.txt' };
    Object.assign(header.config.main.data, gone);
    writeFileSync(join(elsewhere, 'checkpoint.json'), JSON.stringify(header));
    const list = join(CLIPS, 'val.txt');
    const given = ['--set', `data.val_list=${list}`, '--set', 'eval.spatial_views=3'];
    const found = await inFolder('evaluate', '--checkpoint', elsewhere, '--json', ...given);
    expect(found).toMatchObject({ code: 0, stderr: '' });
    expect(eventsOf(found)[0]).toMatchObject({ kind: 'evaluated', num_videos: 12, views: 3 });
    const missing = await inFolder('evaluate', '--checkpoint', elsewhere);
    expect([missing.code, missing.stderr]).toEqual([
      2,
      expect.stringMatching(/val\.txt {2}no such file.*\n.*--set data\.val_list=LIST/),
    ]);
    const named = await inFolder('predict', '--checkpoint', elsewhere, clip(0), '--json', '--set', 'launch.device=cpu');
    expect(named).toMatchObject({ code: 0, stderr: '' });
    expect(eventsOf(named)).toHaveLength(1);
  });
});

describe('predict', () => {
  test('takes a list on stdin, and after -- names that begin with a dash', async () => {
    const ids = join(folder, 'ids');
    mkdirSync(ids);
    for (const [index, name] of ['-3B32lodo2M.mp4', '--json', 'abc.mp4'].entries())
      cpSync(clip(index), join(ids, name));
    const after = await coldframe(['predict', '--checkpoint', run, '--json', '--', '-3B32lodo2M.mp4', '--json'], {
      cwd: ids,
    });
    expect(after).toMatchObject({ code: 0, stderr: '' });
    expect(eventsOf(after).map(({ path }) => path)).toEqual(['-3B32lodo2M.mp4', '--json']);
    const program = join(PROJECT, 'scripts', 'coldframe');
    const pipe = `ls | ${program} predict --checkpoint ${run} --json abc.mp4 -`;
    const { stdout } = await promisify(execFile)('sh', ['-c', pipe], { cwd: ids, env: ENVIRONMENT });
    expect(
      stdout
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line).path)
        .sort(),
    ).toEqual(['--json', '-3B32lodo2M.mp4', 'abc.mp4', 'abc.mp4']);
    expect(await coldframe(['predict', '--checkpoint', run, '-'])).toMatchObject({
      ...{ code: 2, stdout: '', stderr: '-  stdin held no path. Give a list there, a path a line.\n' },
    });
  });

  test('names the classes of each video, likeliest first; a broken one is named at the end', async () => {
    writeFileSync(join(folder, 'broken.mp4'), 'no video');
    const args = ['predict', '--checkpoint', checkpoint, 'broken.mp4', clip(0), clip(1), '--json', '--top', '3'];
    const found = await inFolder(...args);
    expect(found.code).toBe(2);
    expect(found.stderr).toMatch(/^broken\.mp4 {2}\w/);
    const [broken, first, second, failed] = eventsOf(found);
    expect(broken).toMatchObject({
      kind: 'predicted',
      path: 'broken.mp4',
      error: expect.stringContaining('is a text'),
    });
    expect(failed).toMatchObject({
      kind: 'failed',
      message: expect.stringMatching(/^broken\.mp4 {2}.*\n1 of 3 videos/),
    });
    for (const [index, event] of [first, second].entries()) {
      expect(event).toMatchObject({ kind: 'predicted', path: clip(index) });
      const named = event?.classes as { label: number; name: string; probability: number }[];
      expect(named).toHaveLength(3);
      for (const { label, name } of named) expect(name).toBe(classes()[label]);
      const probabilities = named.map(({ probability }) => probability);
      expect(probabilities).toEqual([...probabilities].sort((a, b) => b - a));
      expect(probabilities.every((value) => value > 0)).toBe(true);
      expect(probabilities.reduce((sum, value) => sum + value)).toBeLessThanOrEqual(1 + 1e-6);
    }
    expect(first?.classes).not.toEqual(second?.classes);
  });

  test('takes folders, patterns and lists with labels; --output holds what failed, too', async () => {
    const some = join(folder, 'some');
    mkdirSync(join(some, 'deep'), { recursive: true });
    for (const [index, name] of ['b.mp4', 'a.mp4', 'deep/c.mp4', 'deep/d'].entries())
      cpSync(clip(index), join(some, name));
    writeFileSync(join(some, '.hidden.mp4'), '');
    writeFileSync(join(some, 'notes.txt'), 'b.mp4 3\ngone.mp4 1\n');
    const names = ['some', 'some/*.mp4', 'some/notes.txt'];
    const args = ['predict', '--checkpoint', run, '--json', '--top', '2', '--output', 'out/all.csv'];
    const found = await inFolder(...args, ...names);
    expect([found.code, found.stderr]).toEqual([
      2,
      'some/gone.mp4  does not exist\n1 of 8 videos could not be read.\n',
    ]);
    const events = eventsOf(found).filter(({ kind }) => kind === 'predicted');
    const below = ['a.mp4', 'b.mp4', 'deep/c.mp4', 'deep/d'];
    const paths = [...below, 'a.mp4', 'b.mp4', 'b.mp4', 'gone.mp4'].map((path) => `some/${path}`);
    expect(events.map(({ path }) => path)).toEqual(paths);
    const scored = new Map(events.map(({ path, classes }) => [path, JSON.stringify(classes)]));
    expect(new Set(scored.values()).size).toBe(5);
    const rows = csvParse(readFileSync(join(folder, 'out', 'all.csv'), 'utf8'));
    expect(rows).toHaveLength(15);
    expect(rows[0]).toMatchObject({ path: 'some/a.mp4', rank: '1', start: '', error: '' });
    expect(rows[14]).toMatchObject({ path: 'some/gone.mp4', label: '', error: 'does not exist' });
    const [first] = (events[0]?.classes ?? []) as { label: number; name: string; probability: number }[];
    expect(rows[0]).toMatchObject({
      label: String(first?.label),
      name: first?.name,
      probability: String(first?.probability),
    });
    expect(readdirSync(join(folder, 'out'))).toEqual(['all.csv']);
  });

  test('--timeline holds segments of each video, and why there are none', async () => {
    writeFileSync(join(folder, 'broken.mp4'), 'no video');
    const args = [
      'predict',
      '--checkpoint',
      run,
      'broken.mp4',
      `${clip(0)}#t=0.5,2`,
      '--threshold',
      '0',
      '--smooth',
      '1',
    ];
    const found = await inFolder(...args, '--timeline', 'new/t.json', '--json', '--top', '1');
    expect([found.code, found.stderr]).toEqual([
      2,
      expect.stringMatching(/^broken\.mp4 {2}is a text.*\n1 of 2 videos/),
    ]);
    const events = eventsOf(found);
    const segments = events.filter(({ kind }) => kind === 'segment');
    const written = JSON.parse(readFileSync(join(folder, 'new', 't.json'), 'utf8'));
    expect(written).toMatchObject({ smooth_seconds: 1, overlap: 0.5, threshold: 0 });
    const [broken, video] = written.videos;
    expect(broken).toEqual({ path: 'broken.mp4', error: expect.stringContaining('is a text') });
    expect(video).toMatchObject({ path: `${clip(0)}#t=0.5,2`, num_damaged: 0, broken: null });
    expect(video.segments).toEqual(segments.map(({ kind: _k, time: _t, step: _s, path: _p, ...segment }) => segment));
    expect([video.segments[0].start, video.segments.at(-1).end]).toEqual([0.5, video.seconds]);
    expect(video.windows.length).toBeGreaterThan(1);
    const whole = events.filter(({ kind }) => kind === 'predicted');
    expect(whole.map(({ path }) => path)).toEqual(['broken.mp4', video.path]);
    expect(whole[1]?.classes).toEqual(video.classes);
  });

  test('a stream is told window by window, and as a whole', async () => {
    execFileSync('mkfifo', [join(folder, 'pipe')]);
    const program = join(PROJECT, 'scripts', 'coldframe');
    const turn = `"${PYTHON}" -c "${REMUX}" "${clip(0)}" pipe &`;
    const shell = `${turn} "${program}" predict --checkpoint "${run}" --json pipe --window 0.5 --seconds 0.5 --output p.jsonl`;
    const { stdout } = await promisify(execFile)('bash', ['-c', shell], { cwd: folder, env: ENVIRONMENT });
    const events = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(events.length).toBeGreaterThan(1);
    expect(events[0]).toMatchObject({ kind: 'predicted', path: 'pipe', start: 0, end: expect.any(Number) });
    expect(events[0].end).toBeCloseTo(0.5, 1);
    expect(events.at(-1)).not.toHaveProperty('start');
    expect(readFileSync(join(folder, 'p.jsonl'), 'utf8').trimEnd().split('\n')).toHaveLength(events.length);
  });

  test.each([
    ['--window', ['--window', '2'], /--window {2}is for --timeline FILE, which is not given/],
    ['a word for --attention', ['--explain', 'seen', '--attention', 'x'], /--attention {2}found x\. Allowed: LAYER or/],
    ['--smooth', ['--smooth', '2'], /--smooth {2}is for --timeline FILE/],
    ['--seconds of a file', ['--seconds', '2'], /--seconds {2}ends a stream, and none is given/],
    ['another ending', ['--timeline', 'a.vtt'], /a\.vtt\. Allowed: a file that ends with \.json, \.csv, \.srt, \.html/],
    ['subtitles of two videos', ['--timeline', 'a.srt'], /a\.srt holds the subtitles of one video, and 2 are given/],
  ])('%s is refused before anything starts', async (_, options, message) => {
    const args = ['predict', clip(0), clip(1), '--checkpoint', run, ...options];
    await expect(main(args)).rejects.toMatchObject({ name: 'UserError', message: expect.stringMatching(message) });
  });

  test('prints lines for people; all classes sum to one', async () => {
    const { code, stdout, stderr } = await inFolder('predict', clip(0), '--checkpoint', run, '--top', '99');
    expect([code, stderr]).toEqual([0, '']);
    const [path, ...lines] = stdout.trimEnd().split('\n');
    expect(path).toBe(clip(0));
    expect(lines.map((line) => line.replace(/^ +[\d.]+ % {2}/, '')).sort()).toEqual(classes().sort());
    const percents = lines.map((line) => Number.parseFloat(line));
    expect(Math.abs(percents.reduce((sum, value) => sum + value) - 100)).toBeLessThan(0.1);
  });

  test.each([
    ['is not there', () => 'nowhere', /nowhere {2}does not exist\. Give a checkpoint such as/],
    ['is a file', () => config, /small\.yaml {2}is a file .*A checkpoint is a folder/],
    ['is another folder', () => CLIPS, /test-clips {2}holds no checkpoint\.json/],
  ])('says so when the checkpoint %s', async (_, path, message) => {
    await expect(main(['predict', clip(0), '--checkpoint', path()])).rejects.toMatchObject({
      name: 'UserError',
      message: expect.stringMatching(message),
    });
  });

  test('names every video that is not there before it starts', async () => {
    const args = ['predict', 'a.mp4', clip(0), 'b.mp4', '--checkpoint', run];
    const problems = ['a.mp4  does not exist.', 'b.mp4  does not exist.'];
    await expect(main(args)).rejects.toMatchObject({ name: 'UserError', problems });
  });
});

describe('doctor', () => {
  test('finds this machine in order', async () => {
    const { code, stdout, stderr } = await inFolder('doctor');
    expect([code, stderr]).toEqual([0, '']);
    const lines = stdout.trimEnd().split('\n');
    expect(lines.filter((line) => !line.startsWith('ok    '))).toEqual([]);
    expect(stdout).toMatch(/Python +3\.\d+\.\d+; torch 2\./);
    expect(stdout).toMatch(/Video decoder +FFmpeg \d/);
    expect(stdout).toMatch(/All-reduce +2 processes over gloo, in \d+\.\d s/);
  });

  test('tells how to mend a Python that is not there', async () => {
    mkdirSync(join(folder, 'empty'));
    const options = { cwd: join(folder, 'empty'), env: { COLDFRAME_PYTHON: '/nonexistent' } };
    const { code, stdout, stderr } = await coldframe(['doctor'], options);
    expect(code).toBe(2);
    expect(stdout).toMatch(/^FAIL {2}Python +\/nonexistent {2}there is no Python interpreter here/m);
    expect(stderr).toBe(`Python  Run \`make setup\` in ${PROJECT.replace(/\/$/, '')}.\n`);
  });
});
