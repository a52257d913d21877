/** Files that are not what they were given as, and values that only Python would refuse. */
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { loadConfig } from '../src/config/load.ts';
import { adviseFetch, explainWeightsFile } from '../src/config/weights-file.ts';
import { readSweep } from '../src/sweep/definition/file.ts';
import { problemsOf } from './support.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'mistakes-test-')));
afterAll(() => rmSync(folder, { recursive: true }));

const write = (name: string, content: string | Buffer): string => {
  const file = join(folder, name);
  writeFileSync(file, content);
  return file;
};
const ofConfig = (content: string | Buffer, ...set: string[]): string[] => {
  const file = write('my.yaml', content);
  return problemsOf(() => loadConfig(file, { set, env: {} })).map((line) => line.replaceAll(`${folder}/`, ''));
};
const TINY = 'model: {backbone: {preset: tiny}}\n';

describe('a file that is no configuration takes one line', () => {
  test.each([
    ['a binary', Buffer.from('\x7fELF\0\x01'), 'my.yaml  is no text. Give the path of a YAML file, in UTF-8.'],
    [
      'another encoding',
      Buffer.from([0x61, 0xff, 0x62]),
      'my.yaml  is no text. Give the path of a YAML file, in UTF-8.',
    ],
    ['UTF-16', Buffer.from('\ufeffa: 1', 'utf16le'), 'my.yaml  is UTF-16. Save it as UTF-8.'],
    [
      'a sweep file',
      'base: other.yaml\nspace: {train.lr: [1, 2]}\n',
      'my.yaml  is a sweep file. Run it with `coldframe sweep --config my.yaml`.',
    ],
  ])('%s', (_, content, line) => expect(ofConfig(content)).toEqual([line]));

  test('a configuration given to sweep', () => {
    const file = write('train.yaml', `${TINY}train: {steps: 3}\n`);
    expect(problemsOf(() => readSweep(file))).toEqual([
      expect.stringMatching(
        /train\.yaml {2}is a configuration of a single training\. Run it with `coldframe train --config/,
      ),
    ]);
  });

  test('of many faults of YAML the first are told, and how many there are', () => {
    const problems = ofConfig('a: [1\n'.repeat(40));
    expect(problems.length).toBeLessThanOrEqual(6);
  });
});

test('a variable inside braces is told to be quoted, once', () => {
  expect(ofConfig(`data: {dummy: true}\nmodel:\n  backbone: {preset: tiny, weights: \${W}/a.pt}\n`)).toEqual([
    expect.stringMatching(
      /^my\.yaml:3:\d+ {2}found \$\{W\}\/a\.pt inside braces or brackets\. Write "\$\{W\}\/a\.pt", with the quotes\.$/,
    ),
  ]);
});

test.each([
  ['train.learning_rate=1', /Did you mean train\.lr\?$/],
  ['train.epochs=3', /Training is counted in steps: train\.steps = epochs x videos/],
  ['run.output_dir=x', /--run-dir DIR/],
  ['data.augment=foo', /^--set data\.augment=foo: found "foo": "foo" is not "rand"\. Allowed: null, or rand/],
  [
    'model.backbone.preset=ViT-L/14',
    /^--set \S+ {2}model\.backbone\.weights: not set.*`coldframe weights fetch ViT-L\/14`/,
  ],
])('--set %s', (pair, line) => expect(ofConfig(TINY, pair)).toEqual([expect.stringMatching(line)]));

test('fp16 on a CPU is refused before anything starts', () => {
  expect(ofConfig(TINY, 'launch.device=cpu', 'train.precision=fp16')).toEqual([
    '--set train.precision=fp16: found "fp16", and launch.device "cpu" (--set launch.device=cpu) has none. Allowed there: fp32, bf16, auto.',
  ]);
});

describe('a weights file, at first sight', () => {
  test.each([
    ['text', 'hello, these are no weights\n', /is neither a torch nor a safetensors file/],
    ['nothing', '', /is empty/],
    ['a page', '<!DOCTYPE html><html>', /is a web page/],
    ['a pointer', 'version https://git-lfs.github.com/spec/v1\n', /is a Git LFS pointer/],
  ])('that holds %s is none', (_, content, line) => expect(explainWeightsFile(write('w.pt', content))).toMatch(line));

  test.each([
    ['a zip', 'PK\x03\x04'],
    ['a pickle', Buffer.from([0x80, 2, 0x8a])],
    ['safetensors', Buffer.from('\x40\0\0\0\0\0\0\0{"a":')],
  ])('that begins as %s may be one', (_, content) =>
    expect(explainWeightsFile(write('w.pt', content))).toBeUndefined(),
  );

  test('that is not there is told with what downloads it, where something does', () => {
    expect(explainWeightsFile(join(folder, 'none.pt'))).toBe(`no file at ${folder}/none.pt.`);
    expect(explainWeightsFile(folder)).toBe(`${folder} is a folder.`);
    expect(adviseFetch('ViT-B/16')).toContain('`coldframe weights fetch ViT-B/16`');
    expect(adviseFetch('custom')).not.toContain('fetch');
  });
});
