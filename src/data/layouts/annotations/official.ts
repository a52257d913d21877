/** UCF101's and HMDB51's split files: three splits each. */

import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { explainReadError, showPath, UserError } from '../../../base/errors.ts';
import { plural, quote } from '../../../base/words.ts';
import { compareNames, type LaidOut, type Layout, type LeftOut } from '../layout.ts';
import { readText } from '../table.ts';
import { Videos } from './videos.ts';

interface Line {
  text: string;
  line: number;
}

/** Returns the lines of a file that hold something. */
function readLines(file: string): Line[] {
  const lines = readText(file, 'a split file').split(/\r?\n/);
  return lines.map((text, index) => ({ text: text.trim(), line: index + 1 })).filter(({ text }) => text !== '');
}

/** Returns the files of a folder, below it too, whose name fits, with what the pattern found. */
function findFiles(folder: string, pattern: RegExp, wanted: string): { file: string; found: string[] }[] {
  let names: string[];
  try {
    names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  } catch (error) {
    throw new UserError(`${showPath(folder)}  ${explainReadError(error, null, `a folder with ${wanted}`)}`);
  }
  const files = names.toSorted(compareNames).flatMap((name) => {
    const found = pattern.exec(basename(name));
    return found === null || basename(name).startsWith('.')
      ? []
      : [{ file: join(folder, name), found: [...found].slice(1) }];
  });
  if (files.length === 0)
    throw new UserError(
      `${showPath(folder)}  holds no ${wanted}. Give the folder that the annotations were unpacked to.`,
    );
  return files;
}

/** `trainlist01.txt` with `Class/v_Class_g08_c01.avi 1`, `testlist01.txt` without labels, `classInd.txt` with `1 Class`. */
export function readUcf101(folder: string, videosFolder: string): Layout {
  const lists = findFiles(folder, /^(train|test)list0*([1-9]\d*)\.txt$/i, 'trainlist01.txt and testlist01.txt');
  const [index] = findFiles(folder, /^classInd\.txt$/i, 'classInd.txt');
  const problems: string[] = [];
  const classes = index === undefined ? [] : readClassIndex(index.file, problems);
  const known = new Map(classes.map((name) => [name.toLowerCase(), name]));
  const videos = new Videos(videosFolder);
  const clips: LaidOut[] = [];
  const leftOut: LeftOut[] = [];
  for (const {
    file,
    found: [kind = '', fold = ''],
  } of lists) {
    for (const { text, line } of readLines(file)) {
      const [, path = '', number] = /^(.*?\.\w+)(?:\s+(\d+))?$/.exec(text) ?? [undefined, text];
      const name =
        number === undefined ? known.get(path.split('/')[0]?.toLowerCase() ?? '') : classes[Number(number) - 1];
      const place = { list: file, line };
      if (name === undefined) {
        problems.push(
          `${showPath(file)}:${line}  ${quote(text)} is of no class in classInd.txt. Allowed: \`Class/video.avi\`, with a number from 1 to ${classes.length} in training lists.`,
        );
        continue;
      }
      const video = videos.find([path, basename(path)], [name]);
      const side = kind.toLowerCase() === 'train' ? ('train' as const) : ('val' as const);
      if (video === undefined) leftOut.push(videos.leaveMissing(path, place));
      else clips.push({ path: video, class: name, side, fold: Number(fold), ...place });
    }
  }
  if (problems.length > 0) throw new UserError(problems);
  return { root: videos.root, clips, leftOut, classes, notes: videos.describe() };
}

function readClassIndex(file: string, problems: string[]): string[] {
  const classes: string[] = [];
  for (const { text, line } of readLines(file)) {
    const [, number, name] = /^(\d+)\s+(.+)$/.exec(text) ?? [];
    if (name === undefined || Number(number) !== classes.length + 1)
      problems.push(
        `${showPath(file)}:${line}  found ${quote(text)}. Allowed: the number ${classes.length + 1} and the name of a class.`,
      );
    classes.push(name ?? text);
  }
  return classes;
}

/** `brush_hair_test_split1.txt` with `NAME.avi 1`: 1 is training, 2 testing, 0 neither. */
export function readHmdb51(folder: string, videosFolder: string): Layout {
  const files = findFiles(folder, /^(.+)_test_split([1-9])\.txt$/, 'CLASS_test_split1.txt');
  const videos = new Videos(videosFolder);
  const problems: string[] = [];
  const clips: LaidOut[] = [];
  const leftOut: LeftOut[] = [];
  const unused = new Map<string, number>();
  for (const {
    file,
    found: [name = '', fold = ''],
  } of files) {
    for (const { text, line } of readLines(file)) {
      const [, path = '', code] = /^(.*\S)\s+([012])$/.exec(text) ?? [];
      const place = { list: file, line };
      if (code === undefined) {
        problems.push(
          `${showPath(file)}:${line}  found ${quote(text)}. Allowed: the name of a video and 1 (training), 2 (testing) or 0 (neither).`,
        );
        continue;
      }
      const video = videos.find([`${name}/${path}`, path], [name]);
      if (video === undefined) leftOut.push(videos.leaveMissing(path, place));
      else if (code === '0') unused.set(fold, (unused.get(fold) ?? 0) + 1);
      else clips.push({ path: video, class: name, side: code === '1' ? 'train' : 'val', fold: Number(fold), ...place });
    }
  }
  if (problems.length > 0) throw new UserError(problems);
  const counted = [...unused].map(
    ([fold, count]) => `split ${fold}: ${plural(count, 'clip')} of neither list (code 0).`,
  );
  return { root: videos.root, clips, leftOut, notes: [...counted, ...videos.describe()] };
}
