/** Class folders: every folder directly below is a class, and any depth below it is the class's. */

import { closeSync, type Dirent, openSync, readdirSync, readSync, realpathSync, statSync } from 'node:fs';
import { extname, join, resolve } from 'node:path';
import { explainReadError, showPath, UserError } from '../../base/errors.ts';
import { plural, quote } from '../../base/words.ts';
import { compareNames, type LaidOut, type Layout, type LeftOut, readSide } from './layout.ts';
import { adviseRename, asName, explainName, type Name, showName } from './names.ts';

const ENDINGS = new Set(
  (
    '3g2 3gp asf avi divx dv f4v flv h264 h265 hevc m1v m2ts m2v m4v mj2 mkv mov mp2v mp4 mpe mpeg mpg mts mxf nut ogm ' +
    'ogv qt rm rmvb ts vob webm wmv y4m'
  ).split(' '),
);
const PICTURES = new Set(['bmp', 'gif', 'jpeg', 'jpg', 'png', 'tif', 'tiff', 'webp']);
const HEAD_BYTES = 189;

const endingOf = (path: string): string => extname(path).slice(1).trim().toLowerCase();
export const isVideoName = (path: string): boolean => ENDINGS.has(endingOf(path));

/** A file below the folder of the videos. */
export interface FoundFile {
  name: Name;
  isHidden: boolean;
}

/** What a walk finds besides files. */
interface Walked {
  /** The names of the folders directly below. */
  tops: string[];
  /** Links to folders that are read under another name. */
  again: string[];
}

/** Returns all files below a folder, links followed, in the order of their names. A folder comes once: under its own
 * name rather than a link's, and as a hidden one only where it is nothing else. */
export function walkFiles(root: string, { tops, again }: Walked = { tops: [], again: [] }): FoundFile[] {
  const files: FoundFile[] = [];
  const seen = new Set<string>();
  const links: Name[] = [];
  const hidden: Name[] = [];
  const walk = (below: Name, isHidden: boolean): void => {
    const at = under(root, below);
    const real = realpathSync(at);
    if (seen.has(real)) return void again.push(showName(below));
    seen.add(real);
    for (const { name, isFolder, isLink } of readFolder(at)) {
      const hides = showName(name).startsWith('.') || name === '__MACOSX' || name === '@eaDir';
      const path = below === '' ? name : joinNames(below, name);
      if (isFolder && below === '' && !hides) tops.push(showName(name));
      if (!isFolder) files.push({ name: path, isHidden: isHidden || hides });
      else if (hides && !isHidden) hidden.push(path);
      else if (isLink && !isHidden) links.push(path);
      else walk(path, isHidden);
    }
  };
  try {
    walk('', false);
    const waited = links.length > 0 || hidden.length > 0;
    for (let link = links.shift(); link !== undefined; link = links.shift()) walk(link, false);
    for (const folder of hidden) walk(folder, true);
    if (waited) sortFiles(files);
  } catch (error) {
    const { path = root, code } = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    const found = code === 'ENOTDIR' ? 'is a file' : undefined;
    throw new UserError(
      `${showPath(String(path))}  ${found ?? explainReadError(error, null, 'a folder with class folders')}${found === undefined ? '' : '. Give a folder.'}`,
    );
  }
  return files;
}

/** As a walk by names would have them. */
function sortFiles(files: FoundFile[]): void {
  const parts = new Map(files.map((file) => [file, showName(file.name).split('/')]));
  files.sort((one, other) => {
    const [a, b] = [parts.get(one) ?? [], parts.get(other) ?? []];
    const differs = a.findIndex((part, index) => part !== b[index]);
    return differs < 0 ? 0 : compareNames(a[differs] ?? '', b[differs] ?? '');
  });
}

function readFolder(at: Name): { name: Name; isFolder: boolean; isLink: boolean }[] {
  const entries: Dirent[] = readdirSync(at, { withFileTypes: true });
  const isOdd = entries.some(({ name }) => name.includes('\ufffd'));
  const named: [Name, Dirent | Dirent<Buffer>][] = isOdd
    ? readdirSync(at, { withFileTypes: true, encoding: 'buffer' }).map((entry) => [asName(entry.name), entry])
    : entries.map((entry) => [entry.name, entry]);
  return named
    .sort(([a], [b]) => compareNames(showName(a), showName(b)))
    .map(([name, entry]) => {
      const isLink = entry.isSymbolicLink();
      const isFolder = isLink
        ? (statSync(under(at, name), { throwIfNoEntry: false })?.isDirectory() ?? false)
        : entry.isDirectory();
      return { name, isFolder, isLink };
    });
}

const under = (folder: Name, name: Name): Name => (name === '' ? folder : joinNames(folder, name));

function joinNames(folder: Name, name: Name): Name {
  if (typeof folder === 'string' && typeof name === 'string')
    return folder.endsWith('/') ? folder + name : `${folder}/${name}`;
  return Buffer.concat([Buffer.from(folder), Buffer.from('/'), Buffer.from(name)]);
}

/** Returns the clips of class folders. Raises UserError where there is none. */
export function readFolders(dir: string): Layout {
  const root = resolve(dir);
  const leftOut: LeftOut[] = [];
  const found: string[] = [];
  const odd: string[] = [];
  const pictures: string[] = [];
  const walked: Walked = { tops: [], again: [] };
  for (const file of walkFiles(root, walked)) {
    const kind = sortFile(root, file);
    const path = showName(file.name);
    if (kind === 'picture') pictures.push(path);
    else if (typeof kind === 'object') leftOut.push(kind);
    else if (kind !== 'other') {
      found.push(path);
      if (kind === 'odd name') odd.push(path);
    }
  }
  const notes = odd.length > 0 ? [describeOdd(odd)] : [];
  const layout = { root, leftOut, notes, clips: takeClasses(found, root, leftOut, notes) };
  for (const link of walked.again)
    notes.push(
      `${join(showPath(root), link)}  is a link to a folder that is read under its own name or another link's.`,
    );
  const empty = walked.tops.filter((top) => !found.some((path) => path.startsWith(`${top}/`)));
  for (const top of empty)
    notes.push(`${join(showPath(root), top)}  holds no clip that a list can take, so it is no class.`);
  if (layout.clips.length === 0) throw new UserError(explainNone(root, pictures, leftOut));
  if (pictures.length > 0)
    notes.push(
      `${showPath(root)}  ${plural(pictures.length, 'picture')} left aside, ${quote(pictures[0] ?? '')} for one: clips are videos.`,
    );
  return layout;
}

/** Returns what a file is by its name, and by its first bytes where the name says nothing. */
function sortFile(root: string, { name, isHidden }: FoundFile): 'video' | 'odd name' | 'picture' | 'other' | LeftOut {
  const path = showName(name);
  const isVideo = isVideoName(path);
  if (PICTURES.has(endingOf(path))) return 'picture';
  if (isHidden) {
    if (!isVideo) return 'other';
    return leave(
      'hidden',
      path,
      root,
      'is hidden. Rename it, or what it lies in, if it is a clip; a name that begins with `._` is no video.',
    );
  }
  if (!isVideo && !looksLikeVideo(under(root, name))) {
    return leave('not-a-video', path, root, 'is no video, by its name and its first bytes.');
  }
  const why = explainName(name);
  if (why !== undefined) return leave('not-listable', path, root, `${why}. Rename it: ${adviseRename(name, root)}`);
  return isVideo ? 'video' : 'odd name';
}

const leave = (code: LeftOut['code'], path: string, list: string, message: string): LeftOut => ({
  ...{ code, path, list, message },
  line: null,
});

function describeOdd(odd: string[]): string {
  const what = `${plural(odd.length, 'file')} whose name is no video's, but whose first bytes are`;
  return `${quote(odd[0] ?? '')}  taken in: ${what}.`;
}

/** Of folders that are all called `train`, `val`, `test`, each is a side, and the classes lie below. */
function takeClasses(paths: string[], root: string, leftOut: LeftOut[], notes: string[]): LaidOut[] {
  const tops = [...new Set(paths.filter((path) => path.includes('/')).map((path) => path.slice(0, path.indexOf('/'))))];
  const sides = tops.map(readSide);
  const hasClassesBelow = paths.every((path) => path.split('/').length > 2);
  const isSplit = sides.includes('train') && sides.length > 1 && !sides.includes(undefined) && hasClassesBelow;
  if (isSplit)
    notes.push(`${showPath(root)}  holds ${tops.join(', ')}: each is a list, and the folders below are the classes.`);
  const clips: LaidOut[] = [];
  for (const path of paths) {
    const [top = '', second, third] = path.split('/');
    const name = isSplit ? second : top;
    if (second === undefined || name === undefined || (isSplit && third === undefined)) {
      leftOut.push(leave('no-class', path, root, 'lies in no class folder. Move it into one.'));
      continue;
    }
    const side = isSplit ? readSide(top) : undefined;
    clips.push({
      path,
      class: name,
      list: join(root, isSplit ? `${top}/${name}` : name),
      line: null,
      ...(side && { side }),
    });
  }
  return clips;
}

function explainNone(root: string, pictures: string[], leftOut: LeftOut[]): string[] {
  const found =
    pictures.length > 0 ? `${plural(pictures.length, 'picture')} and no video` : 'no video in a class folder';
  const advice =
    pictures.length > 0
      ? 'Make a video of the frames of each clip, for example `ffmpeg -i frames/%05d.jpg clip.mp4`.'
      : 'Give a folder with a folder for each class, and videos in them.';
  const more = leftOut.slice(0, 3).map(({ path, message }) => `${path}  ${message}`);
  return [`${showPath(root)}  holds ${found}. ${advice}`, ...more];
}

/** What videos begin with: Flash, Ogg, Matroska, ASF, an MPEG program stream. MP4 and MOV, AVI: `looksLikeVideo`. */
const MAGIC = ['FLV\x01', 'OggS', '\x1aE\xdf\xa3', '0&\xb2u', '\0\0\x01\xba'];
const BOXES = ['ftyp', 'moov', 'mdat', 'wide', 'skip', 'free', 'pnot'];

/** Returns whether a file begins as videos do. */
export function looksLikeVideo(file: Name): boolean {
  const head = readHead(file).toString('latin1');
  if (BOXES.includes(head.slice(4, 8)) || MAGIC.some((magic) => head.startsWith(magic))) return true;
  if (head.startsWith('RIFF') && head.slice(8, 12) === 'AVI ') return true;
  return head[0] === 'G' && head[188] === 'G'; // the sync bytes of two packets of an MPEG transport stream
}

/** Returns the first bytes of a file; none of a broken link, a pipe, or what may not be read. */
function readHead(file: Name): Buffer {
  try {
    if (!statSync(file).isFile()) return Buffer.alloc(0);
    const descriptor = openSync(file, 'r');
    try {
      const bytes = Buffer.alloc(HEAD_BYTES);
      return bytes.subarray(0, readSync(descriptor, bytes));
    } finally {
      closeSync(descriptor);
    }
  } catch {
    return Buffer.alloc(0);
  }
}
