/** `export` and `features export`: files for other programs, and the example of a model in a Python that has little else. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { CLIPS, coldframe, type Ended, type Event, makeClips, PROJECT, PYTHON, writeConfig } from './support.ts';

jest.setTimeout(600_000); // torch's exporter takes a minute of a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'export-test-')));
const inFolder = (...args: string[]): Promise<Ended> => coldframe(args, { cwd: folder });
const eventOf = ({ stdout }: Ended): Event => JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '');
const PACKAGES = ['onnxruntime', 'numpy', 'numpy.libs', 'av', 'av.libs'];

beforeAll(async () => {
  await makeClips();
  writeConfig(folder);
  const { code, stderr } = await inFolder('train', '--config', 'small.yaml', '--set', 'train.steps=2');
  expect([code, stderr]).toEqual([0, '']);
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs a program in a Python without site-packages: it sees these packages and Python's own. */
function runAlone(program: string, ...words: string[]): string {
  const libraries = join(folder, 'packages');
  const site = execFileSync(PYTHON, ['-c', "import sysconfig; print(sysconfig.get_path('purelib'))"], {
    encoding: 'utf8',
  });
  mkdirSync(libraries);
  for (const name of PACKAGES) symlinkSync(join(site.trim(), name), join(libraries, name));
  const env = { PATH: process.env.PATH, PYTHONPATH: libraries };
  return execFileSync(PYTHON, ['-S', program, ...words], { cwd: tmpdir(), encoding: 'utf8', env });
}

test('onnx: the file, its card and an example that gives what predict gives', async () => {
  const ended = await inFolder('export', 'onnx', 'runs/small', '--output', 'out/small.onnx', '--json');
  expect([ended.code, ended.stderr]).toEqual([0, '']);
  const event = eventOf(ended);
  expect(event).toMatchObject({ kind: 'exported', format: 'onnx', precision: 'fp32', opset: 20, num_compared: 12 });
  expect(event).toMatchObject({ is_noise: false, agreement: 1, path: join(folder, 'out', 'small.onnx') });
  expect(event.largest_difference).toBeLessThan(1e-5);
  const [ours, its] = event.top1 as [number, number];
  expect(its).toBe(ours);
  expect(readdirSync(join(folder, 'out')).sort()).toEqual(['small.md', 'small.onnx', 'small.py']);
  const card = readFileSync(join(folder, 'out', 'small.md'), 'utf8');
  expect(card).toContain('| 6 | counterclockwise |');
  const bytes = readFileSync(join(folder, 'out', 'small.onnx'));
  expect(card).toContain(`SHA-256 of small.onnx: ${createHash('sha256').update(bytes).digest('hex')}\n`);
  expect(card).toMatch(/^- top-1 \S+ %.* on 12 videos of val\.txt, 1 view$/m);
  expect(readFileSync(join(folder, 'out', 'small.onnx')).includes(PROJECT)).toBe(false);

  const [path = ''] = (readFileSync(join(CLIPS, 'val.txt'), 'utf8').split('\n')[3] ?? '').split(' ');
  const clip = join(CLIPS, path);
  const predicted = eventOf(await inFolder('predict', '--checkpoint', 'runs/small', clip, '--json'));
  const classes = predicted.classes as { name: string; probability: number }[];
  const printed = runAlone(join(folder, 'out', 'small.py'), clip)
    .trimEnd()
    .split('\n');
  expect(printed).toEqual(classes.map(({ name, probability }) => `${name} ${probability.toFixed(4)}`));
});

test('torch: an archive and its weights; noise stands in for a list that is not there', async () => {
  const words = ['--output', 'archive/small.pt2', '--set', 'data.val_list=null', '--json'];
  const ended = await inFolder('export', 'torch', 'runs/small', ...words);
  expect([ended.code, ended.stderr]).toEqual([0, '']);
  expect(eventOf(ended)).toMatchObject({
    kind: 'exported',
    format: 'torch',
    is_noise: true,
    num_compared: 4,
    top1: null,
  });
  expect(eventOf(ended).largest_difference).toBeLessThan(1e-5);
  expect(readdirSync(join(folder, 'archive')).sort()).toEqual(['small.md', 'small.pt2', 'small.safetensors']);
});

test('features: of a checkpoint and of its configuration the same, a row for each clip that can be read', async () => {
  const lines = readFileSync(join(CLIPS, 'val.txt'), 'utf8').trimEnd().split('\n').slice(0, 5);
  const clips = lines.map((line) => join(CLIPS, line.slice(0, line.lastIndexOf(' '))));
  const labels = lines.map((line) => Number(line.slice(line.lastIndexOf(' '))));
  const list = clips.map((clip, row) => `${clip} ${labels[row]}`);
  writeFileSync(join(folder, 'broken.mp4'), 'no video');
  list.splice(2, 0, `${join(folder, 'broken.mp4')} 0`);
  writeFileSync(join(folder, 'some.txt'), list.join('\n'));
  const features = ['features', 'export', 'some.txt', '--set', 'data.max_bad_fraction=0.5', '--json'];
  const first = await inFolder(...features, '--checkpoint', 'runs/small', '--format', 'npy', '--output', 'far/npy');
  expect([first.code, first.stderr]).toEqual([0, '']);
  const event = { kind: 'features_exported', layer: 4, per: 'clip', num_clips: 5, num_bad: 1 };
  const tensors = { class: [5, 128], patches: [5, 128], labels: [5] };
  expect(eventOf(first)).toMatchObject({ ...event, folder: join(folder, 'far', 'npy'), form: 'npy', tensors });
  const names = ['about.json', 'class.npy', 'clips.csv', 'labels.npy', 'patches.npy'];
  expect([readdirSync(join(folder, 'far')), readdirSync(join(folder, 'far', 'npy')).sort()]).toEqual([['npy'], names]);
  const rows = readFileSync(join(folder, 'far', 'npy', 'clips.csv'), 'utf8')
    .trimEnd()
    .split('\r\n');
  expect(rows).toEqual(['row,path,start,end,label', ...clips.map((clip, row) => `${row},${clip},,,${labels[row]}`)]);
  const classes = readFileSync(join(CLIPS, 'classes.txt'), 'utf8').trimEnd().split('\n');
  const about = JSON.parse(readFileSync(join(folder, 'far', 'npy', 'about.json'), 'utf8'));
  expect(about).toMatchObject({ layer: 4, final_norm: false, per: 'clip', list: { num_lines: 6 }, classes: classes });
  expect(about.bad).toEqual([{ path: join(folder, 'broken.mp4'), reason: expect.any(String) }]);

  const second = await inFolder(...features, '--config', 'small.yaml', '--output', 'whole');
  expect([second.code, second.stderr]).toEqual([0, '']);
  const whole = readFileSync(join(folder, 'whole', 'features.safetensors'));
  for (const name of ['class', 'patches', 'labels'])
    expect(whole.includes(readFileSync(join(folder, 'far', 'npy', `${name}.npy`)).subarray(128))).toBe(true);
});

test('features: what cannot be written is told at once', async () => {
  const features = (...more: string[]): Promise<Ended> => inFolder('features', 'export', 'none.txt', ...more);
  mkdirSync(join(folder, 'full'));
  writeFileSync(join(folder, 'full', 'mine'), '');
  const both = await features('--config', 'small.yaml', '--output', 'full', '--layer', '-5');
  expect([both.code, both.stderr.trimEnd().split('\n')]).toEqual([
    2,
    [
      '--output  found full, which holds files. Name a folder that is new or empty.',
      expect.stringMatching(/^--layer {2}found -5\. The backbone has 4 blocks: 1 to 4 are their outputs, .* 0 is /),
    ],
  ]);
  const none = await features('--output', 'deep/a');
  expect([none.code, none.stderr]).toEqual([2, expect.stringContaining('Give --config FILE, or --checkpoint')]);
  const lost = await features('--config', 'small.yaml', '--output', 'deep/a');
  expect([lost.code, lost.stderr]).toEqual([2, expect.stringContaining('none.txt  no such file')]);
  expect(existsSync(join(folder, 'deep'))).toBe(false);
});

test('what cannot be exported leaves nothing behind', async () => {
  const odd = await inFolder('export', 'onnx', 'runs/small', '--output', 'no/small.bin');
  expect([odd.code, odd.stderr]).toEqual([2, expect.stringContaining('ends with .onnx: --output no/small.onnx')]);
  const lost = await inFolder('export', 'onnx', 'runs/small', '--output', 'no/small.onnx', '--list', 'nowhere.txt');
  expect([lost.code, lost.stderr]).toEqual([2, expect.stringContaining('nowhere.txt')]);
  expect(existsSync(join(folder, 'no'))).toBe(false);
  writeFileSync(join(folder, 'mine.py'), 'print()');
  const mine = await inFolder('export', 'onnx', 'runs/small', '--output', 'mine.onnx');
  expect([mine.code, mine.stderr]).toEqual([2, expect.stringContaining('would replace mine.py. Name another file.')]);
  expect(readFileSync(join(folder, 'mine.py'), 'utf8')).toBe('print()');
});
