/** The lists of a sweep, compared with each other before it starts. */
import { createHash } from 'node:crypto';
import { linkSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { keepKnown } from '../src/data/probe/known.ts';
import { Tally } from '../src/data/probe/tables.ts';
import { makeTrials, planPoints, readSweep } from '../src/sweep/definition/file.ts';
import { checkInputs } from '../src/sweep/plan.ts';
import { writeConfig } from './support.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'sweep-lists-test-')));
const within = (name: string): string => join(folder, name);
afterAll(() => rmSync(folder, { recursive: true }));

const NAMES = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

/** Returns what is warned of with such lists; the clips are files of their own names. */
async function warnOf(select: string[], more = '', isNew = true): Promise<string[]> {
  if (isNew) writeAll(select);
  writeFileSync(within('s.yaml'), `base: small.yaml\nselection_list: select.txt\n${SET}\n${more}`);
  const { sweep, notes } = readSweep(within('s.yaml'));
  expect(notes).toEqual([]);
  const warnings: string[] = [];
  const report = { warn: (text: string) => void warnings.push(text), note: () => {} };
  await checkInputs(sweep, makeTrials(sweep, planPoints(sweep)), report);
  return warnings.map((warning) => warning.replaceAll(`${folder}/`, ''));
}

const SET = 'set: {data: {train_list: fit.txt, val_list: val.txt, classes: null, num_classes: 8, root: clips}}';

function writeAll(select: string[]): void {
  const list = (clips: string[]): string => clips.map((clip, index) => `${clip} ${index % 8}\n`).join('');
  mkdirSync(within('clips'), { recursive: true });
  for (const name of [...NAMES.flatMap((one) => [`${one}.mp4`, `v${one}.mp4`, `s${one}.mp4`])])
    writeFileSync(within(`clips/${name}`), name.padEnd(20, '.'));
  writeFileSync(within('fit.txt'), list(NAMES.map((name) => `${name}.mp4`)));
  writeFileSync(within('val.txt'), list(NAMES.map((name) => `v${name}.mp4`)));
  writeFileSync(within('select.txt'), list([...select, ...NAMES.map((name) => `s${name}.mp4`)]));
  writeConfig(folder);
}

const SPACE = 'space: {train.lr: [1e-3, 1e-2], model.decoder.num_layers: [1, 2]}\n';
const TRAINED = 'what is trained on says little of new clips (leak)';
const JUDGED = 'the best trial is chosen by clips that are to judge it (leak)';

test('clips that are chosen by and trained on are told, however they are written', async () => {
  expect(await warnOf([], SPACE)).toEqual([]);
  expect(await warnOf(['./b.mp4', '../clips/c.mp4'], SPACE)).toEqual([
    `select.txt  2 of its 10 clips are in fit.txt too, the first on line 1, there on line 2: ${TRAINED}`,
    expect.stringContaining('2 clips with another label than in fit.txt'),
  ]);
});

test('so are links and copies, of clips to train on and of clips to judge by', async () => {
  mkdirSync(within('clips'), { recursive: true });
  writeFileSync(within('clips/a.mp4'), '');
  linkSync(within('clips/a.mp4'), within('clips/link.mp4'));
  writeFileSync(within('clips/copy.mp4'), 'vd.mp4'.padEnd(20, '.'));
  expect(await warnOf(['link.mp4', 'copy.mp4'], SPACE)).toEqual([
    `select.txt  1 clip with the same content as one in fit.txt, the first on line 1, there clips/a.mp4 on line 1: ${TRAINED}`,
    `select.txt  1 clip with the same content as one in val.txt, the first on line 2, there clips/vd.mp4 on line 4: ${JUDGED}`,
    expect.stringContaining('1 clip with another label than one in val.txt of the same content: label 1 on line 2, 3'),
  ]);
});

test('once, though several trials read other lists', async () => {
  writeFileSync(within('other.txt'), NAMES.map((name, index) => `${name}.mp4 ${index}\n`).join(''));
  const space = `space: {data.train_list: [${within('fit.txt')}, ${within('other.txt')}]}\n`;
  expect(await warnOf(['./va.mp4', '../clips/a.mp4'], space)).toEqual([
    expect.stringContaining('1 of its 10 clips are in fit.txt too, the first on line 2, there on line 1'),
    expect.stringContaining('1 clip with another label than in fit.txt'),
    `select.txt  1 of its 10 clips are in val.txt too, the first on line 1, there on line 1: ${JUDGED}`,
    expect.stringContaining('1 of its 10 clips are in other.txt too, the first on line 2, there on line 1'),
    expect.stringContaining('1 clip with another label than in other.txt'),
  ]);
});

test('clips that check --probe found to be bad are told before a sweep, and refused where they are too many to train on', async () => {
  expect(await warnOf([], SPACE)).toEqual([]);
  const keep = (name: string, clips: string[]): void => {
    const sha256 = createHash('sha256')
      .update(readFileSync(within(name)))
      .digest('hex');
    const bad = clips.map((clip, index) => {
      const { size, mtimeMs: mtime } = statSync(within(`clips/${clip}`));
      return { path: within(`clips/${clip}`), size, mtime, line: index + 1, reason: 'is torn', num_frames: null };
    });
    const rules = { reader: 'pyav', sampling: null, limitSeconds: 20 };
    keepKnown({ file: within(name), sha256, root: within('clips') }, rules, bad, new Tally().describe(null));
  };
  const [train, select] = [['a.mp4', 'b.mp4'], ['sa.mp4']];
  keep('select.txt', select);
  expect(await warnOf([], SPACE, false)).toEqual(['select.txt:1  clips/sa.mp4 is torn. It will count as an error.']);
  keep('fit.txt', train);
  await expect(warnOf([], SPACE, false)).rejects.toThrow(
    /a.mp4 {2}is torn[.]\n.*b.mp4 {2}is torn[.]\n.*2 of 8 videos cannot be read/,
  );
});
