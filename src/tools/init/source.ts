/** What a folder holds: lists, a table, or class folders; the plainest word on the labels counts. */

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { explainReadError, showPath, UserError } from '../../base/errors.ts';
import { readClasses } from '../../config/class-names.ts';
import { readFolders } from '../../data/layouts/folders.ts';
import { classesOf, type LaidOut, type Layout, readSide } from '../../data/layouts/layout.ts';
import { CLIP_COLUMNS, readCsv, readJsonLines } from '../../data/layouts/rows.ts';
import { readClips } from '../../data/layouts/split-list.ts';
import { columnOf, findHeader } from '../../data/layouts/table.ts';

export interface Source {
  layout: Layout;
  /** What was read, in words. */
  what: string;
}

const TABLES = ['.csv', '.tsv', '.jsonl'];

/** Returns what a folder, or one table, holds. Raises UserError where it is neither. */
export async function readSource(dir: string): Promise<Source> {
  const isFile = lookAt(dir).isFile();
  if (isFile && TABLES.includes(extname(dir).toLowerCase())) return readTables([dir]);
  if (isFile)
    throw new UserError(
      `${showPath(dir)}  is a file. Give a folder with class folders, lists or a table, or a table (${TABLES.join(', ')}).`,
    );
  const names = readdirSync(dir).sort();
  const lists = names.filter((name) => /\.txt$/.test(name) && sideOf(name) !== undefined && isList(join(dir, name)));
  if (lists.length > 0) return readLists(dir, lists);
  const tables = names.filter((name) => isTable(join(dir, name)));
  const sided = tables.filter((name) => readSide(stemOf(name)) !== undefined);
  if (sided.length > 0 || tables.length === 1)
    return readTables((sided.length > 0 ? sided : tables).map((name) => join(dir, name)));
  if (tables.length > 1) {
    const each = tables.map((name) => `\`coldframe init ${showPath(join(dir, name))}\``).join(' or ');
    throw new UserError(`${showPath(dir)}  holds ${tables.length} tables: ${tables.join(', ')}. Name one: ${each}.`);
  }
  const layout = readFolders(dir);
  return { layout, what: 'class folders' };
}

function lookAt(dir: string): ReturnType<typeof statSync> & object {
  try {
    return statSync(dir);
  } catch (error) {
    throw new UserError(
      `${showPath(dir)}  ${explainReadError(error, null, 'a folder with class folders, lists or a table')}`,
    );
  }
}

const stemOf = (name: string): string => basename(name, extname(name));

/** `all.txt` and `list.txt` are lists of which nothing says where they go. */
function sideOf(name: string): LaidOut['side'] {
  const stem = stemOf(name);
  return ['all', 'list', 'clips', 'videos'].includes(stem) ? 'all' : readSide(stem);
}

function isList(file: string): boolean {
  const [first = ''] = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.trim() !== '' && !/^\s*# /.test(line));
  return /\S[ \t]+(\d[\d,]*|-)([ \t]+[\d.]+[ \t]+[\d.]+)?\r?$/.test(first);
}

/** Several labels, or none, stand on a line of a list. */
function hasSeveral(file: string): boolean {
  return /^[^#\n].*[ \t](\d+(,\d+)+|-)([ \t]+[\d.]+[ \t]+[\d.]+)?[ \t]*\r?$/m.test(readFileSync(file, 'utf8'));
}

function isTable(file: string): boolean {
  if (!TABLES.includes(extname(file).toLowerCase()) || !lookAt(file).isFile()) return false;
  if (file.toLowerCase().endsWith('.jsonl')) return true;
  const { header } = findHeader(readFileSync(file, 'utf8').replace(/^\ufeff/, ''), CLIP_COLUMNS);
  const columns = header.map((name) => columnOf(name, CLIP_COLUMNS));
  return columns.includes('path') && columns.includes('label');
}

async function readLists(dir: string, names: string[]): Promise<Source> {
  const root = resolve(dir);
  const classes = existsSync(join(dir, 'classes.txt')) ? readClasses(join(dir, 'classes.txt')) : undefined;
  const isMulti = names.some((name) => hasSeveral(join(dir, name)));
  const clips: LaidOut[] = [];
  for (const name of names) {
    const list = join(dir, name);
    const side = sideOf(name);
    for (const { label, ...clip } of await readClips(list, root, isMulti ? 'multi' : 'single'))
      clips.push({
        ...clip,
        class: (isMulti ? undefined : classes?.[Number(label)]) ?? String(label),
        list,
        line: null,
        ...(side && { side }),
      });
  }
  const labels = clips.flatMap((clip) => classesOf(clip, isMulti)).map(Number);
  const most = labels.reduce((most, label) => Math.max(most, label), -1);
  const named = classes ?? Array.from({ length: most + 1 }, (_, label) => String(label));
  const several = isMulti ? ', several labels a clip' : '';
  const what = `${names.join(', ')}${several}${classes === undefined ? ', and no classes.txt: classes are called by their labels' : ', classes.txt'}`;
  return { layout: { root, clips, leftOut: [], classes: named, notes: [], isMulti }, what };
}

function readTables(files: string[]): Source {
  const layouts = files.map((file) => {
    const options = { file, videos: dirname(file), frameRate: undefined };
    const layout = file.toLowerCase().endsWith('.jsonl') ? readJsonLines(options) : readCsv(options);
    const side = files.length > 1 ? readSide(stemOf(file)) : undefined;
    return { ...layout, clips: layout.clips.map((clip) => (side === undefined ? clip : { side, ...clip })) };
  });
  const layout = {
    root: resolve(dirname(files[0] ?? '')),
    clips: layouts.flatMap(({ clips }) => clips),
    leftOut: [],
    notes: layouts.flatMap(({ notes }) => notes),
  };
  return { layout, what: files.map((file) => basename(file)).join(', ') };
}
