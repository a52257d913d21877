/** Tables and JSON lines with a clip in each row: path, label, times, list, group. */

import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { plural, quote } from '../../base/words.ts';
import { type LaidOut, type Layout, readSide, SIDE_WORDS } from './layout.ts';
import { type Columns, type Row, readTable, readText, simplify } from './table.ts';

/** What a column may be called. Times are in seconds; frames where the name of the column says so. */
export const CLIP_COLUMNS: Columns = {
  path: ['path', 'file', 'filename', 'file_name', 'filepath', 'file_path', 'video', 'video_path', 'clip'],
  label: ['label', 'class', 'class_name', 'label_name', 'category', 'action'],
  start: ['start', 'start_time', 'time_start', 'start_seconds', 'start_sec', 'begin'],
  end: ['end', 'end_time', 'time_end', 'end_seconds', 'end_sec', 'stop'],
  start_frame: ['start_frame', 'frame_start', 'first_frame'],
  end_frame: ['end_frame', 'frame_end', 'last_frame', 'stop_frame'],
  rate: ['fps', 'frame_rate', 'rate'],
  split: ['split', 'subset', 'set', 'partition'],
  group: ['group', 'source', 'source_video'],
};

export interface RowOptions {
  file: string;
  /** Folder of the videos. */
  videos: string;
  /** Frames a second, for columns of frames. */
  frameRate: number | undefined;
}

/** Returns the clips of a CSV or its relatives. Raises UserError with every bad row. */
export function readCsv(options: RowOptions): Layout {
  const { file } = options;
  const { rows, ignored, separator } = readTable(file, CLIP_COLUMNS, ['path', 'label']);
  const notes = ignored.length === 0 ? [] : [`${showPath(file)}:1  columns that nothing reads: ${ignored.join(', ')}.`];
  const layout = takeRows(rows, options, separator === ';');
  return { ...layout, notes: [...notes, ...layout.notes] };
}

/** Returns the clips of a file with a JSON object on each line. Raises UserError with every bad line. */
export function readJsonLines(options: RowOptions): Layout {
  const { file } = options;
  const problems: string[] = [];
  const rows: Row[] = [];
  const lines = readText(file, 'a file with a JSON object on each line').split(/\r?\n/);
  for (const [index, text] of lines.entries()) {
    if (text.trim() === '') continue;
    const cells = parseObject(text);
    if (cells === undefined)
      problems.push(
        `${showPath(file)}:${index + 1}  is no JSON object (${quote(text)}). Write one on each line, such as {"path": "a.mp4", "label": "jump"}.`,
      );
    else rows.push({ line: index + 1, get: (column) => cells.get(column) ?? '' });
  }
  if (problems.length === 0 && rows.length === 0) problems.push(`${showPath(file)}  is empty.`);
  const unnamed = rows.filter((row) => row.get('path') === '');
  if (unnamed.length === rows.length) {
    if (rows.length > 0)
      problems.push(`${showPath(file)}  no line has a key for the path. Allowed: ${CLIP_COLUMNS.path?.join(', ')}.`);
    throw new UserError(problems);
  }
  return takeRows(rows, options, false, problems);
}

function parseObject(text: string): Map<string, string> | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return undefined;
    const cells = new Map<string, string>();
    for (const [key, value] of Object.entries(parsed)) {
      const column = Object.keys(CLIP_COLUMNS).find((name) => CLIP_COLUMNS[name]?.includes(simplify(key)));
      if (column === undefined || value === null) continue;
      cells.set(column, typeof value === 'string' ? value : JSON.stringify(value));
    }
    return cells;
  } catch {
    return undefined;
  }
}

function takeRows(
  rows: Row[],
  { file, videos, frameRate }: RowOptions,
  hasCommas: boolean,
  problems: string[] = [],
): Layout {
  const blanks: number[] = [];
  const clips: LaidOut[] = [];
  for (const row of rows) {
    const where = `${showPath(file)}:${row.line}`;
    const fail = (text: string): void => void problems.push(`${where}  ${text}`);
    const cell = row.get('path');
    const path = isPadded(cell, videos) ? cell.trim() : cell;
    if (path !== cell) blanks.push(row.line);
    const name = row.get('label').trim();
    if (path.trim() === '') fail('has no path.');
    if (name === '') fail(`${quote(path)} has no label. Give each row one.`);
    const times = readTimes(row, frameRate, hasCommas, fail);
    const side = readSplit(row.get('split'), fail);
    const group = row.get('group').trim();
    clips.push({
      path,
      class: name,
      list: file,
      line: row.line,
      ...times,
      ...(side && { side }),
      ...(group && { group }),
    });
  }
  const sided = clips.filter(({ side }) => side !== undefined).length;
  if (sided > 0 && sided < clips.length && problems.length === 0) {
    const first = clips.find(({ side }) => side === undefined);
    problems.push(
      `${showPath(file)}:${first?.line}  ${plural(clips.length - sided, 'row')} without a split, and others have one. Allowed: ${SIDE_WORDS}.`,
    );
  }
  if (problems.length > 0) throw new UserError(problems);
  const [first] = blanks;
  const notes =
    first === undefined
      ? []
      : [
          `${showPath(file)}:${first}  ${plural(blanks.length, 'path')} without the blanks around ${blanks.length > 1 ? 'them' : 'it'}: no file has them.`,
        ];
  return { root: resolve(videos), clips, leftOut: [], notes };
}

/** `run, a.mp4` means a.mp4; a file may have blanks around its name all the same. */
function isPadded(path: string, videos: string): boolean {
  const inner = path.trim();
  return inner !== path && inner !== '' && !/[\n\r\t]/.test(path) && !existsSync(resolve(videos, path));
}

function readSplit(word: string, fail: (text: string) => void): LaidOut['side'] {
  if (word.trim() === '') return undefined;
  const side = readSide(word);
  if (side === undefined) fail(`split ${quote(word)} is not known. Allowed: ${SIDE_WORDS}.`);
  return side;
}

type Times = { start?: number; end?: number };

function readTimes(row: Row, frameRate: number | undefined, hasCommas: boolean, fail: (text: string) => void): Times {
  const [start, end] = [row.get('start').trim(), row.get('end').trim()];
  const [first, last] = [row.get('start_frame').trim(), row.get('end_frame').trim()];
  if (start === '' && end === '' && first === '' && last === '') return {};
  const isFrames = start === '' && end === '';
  const times = isFrames
    ? readFrames(first, last, row.get('rate').trim(), frameRate, fail)
    : readSeconds(start, end, hasCommas, fail);
  if (times === undefined) return {};
  if (times.start >= times.end) {
    fail(`start ${times.start} s is not before end ${times.end} s. Give the part's own times.`);
    return {};
  }
  return times;
}

function readSeconds(
  start: string,
  end: string,
  hasCommas: boolean,
  fail: (text: string) => void,
): Required<Times> | undefined {
  const [from, to] = [start, end].map((text) => parseSeconds(text, hasCommas));
  if (from !== undefined && to !== undefined) return { start: from, end: to };
  const wrong = from === undefined ? ['start', start] : ['end', end];
  fail(
    `${wrong[0]} ${quote(wrong[1] ?? '')} is no time. Allowed: seconds from 0 on, such as 12.5, or 00:00:12.5; both start and end.`,
  );
  return undefined;
}

/** Returns seconds of `12.5`, `1:02.5` or `0:01:02.5`; of a file with semicolons also of `12,5`. */
function parseSeconds(text: string, hasCommas: boolean): number | undefined {
  const plain = hasCommas ? text.replace(',', '.') : text;
  if (!/^(\d+:){0,2}\d+(\.\d*)?$/.test(plain) && !/^\d+(\.\d+)?e[+-]?\d+$/i.test(plain)) return undefined;
  const seconds = plain.split(':').reduce((sum, part) => 60 * sum + Number(part), 0);
  return Number.isFinite(seconds) ? seconds : undefined;
}

/** Frames count from 0, and the last one is of the part. */
function readFrames(
  first: string,
  last: string,
  rate: string,
  frameRate: number | undefined,
  fail: (text: string) => void,
): Required<Times> | undefined {
  const fps = rate === '' ? frameRate : Number(rate);
  if (!/^\d+$/.test(first) || !/^\d+$/.test(last))
    fail(`frames ${quote(first)} to ${quote(last)}: allowed are whole numbers from 0 on, both of them.`);
  else if (fps === undefined || !(fps > 0))
    fail('has frames, and nothing says how many make a second. Give --frame-rate, or a column fps.');
  else return framesToTimes(Number(first), Number(last), fps);
  return undefined;
}

/** Returns the seconds from the first frame's beginning to the last one's end. */
export const framesToTimes = (first: number, last: number, rate: number): Required<Times> => ({
  start: first / rate,
  end: (last + 1) / rate,
});
