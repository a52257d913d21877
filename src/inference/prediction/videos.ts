/** The videos that `predict` looks at: files, parts of files, folders, patterns, lists, and addresses of streams. */

import { type Stats, statSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { glob, isDynamicPattern } from 'tinyglobby';
import { UserError } from '../../base/errors.ts';
import { keepLine, plural, quote } from '../../base/words.ts';
import { sniff } from '../../data/check/sniff.ts';
import { isVideoName, looksLikeVideo, walkFiles } from '../../data/layouts/folders.ts';
import { compareNames } from '../../data/layouts/layout.ts';
import { showName } from '../../data/layouts/names.ts';
import { type Part, readTime } from '../../data/line.ts';
import { readList } from './video-list.ts';

/** A video as it was given, and what it means. */
export interface Video {
  name: string;
  /** Of a stream its address, as it was given. */
  path: string;
  part: Part | null;
  /** It has no end that is known, or comes only once: a camera, a network, a pipe. */
  isStream: boolean;
}

export interface Finding {
  /** Where the clips of a list may lie that are not beside it, such as `data.root`. */
  root: string | null;
  note: (text: string) => void;
}

/** As FFmpeg names them. A file may be called so, too, and is then the file. */
const ADDRESS = /^(https?|rtsps?|rtmps?|rtp|srt|tcp|udp|mmsh?|ftps?):\/\//i;
const MOST_TOLD = 20;
const GONE = 'does not exist.';

/** Returns the videos given; `-` stands for a list on stdin. Throws UserError with all that cannot be meant. */
export async function findVideos(given: string[], finding: Finding): Promise<Video[]> {
  const problems: string[] = [];
  const videos: Video[] = [];
  let stdin: string | undefined;
  for (const name of given) {
    if (name === '-' && stdin !== undefined) continue;
    if (name === '-') stdin = await text(process.stdin);
    const found = name === '-' ? readListed('-', stdin ?? '', '', finding.root) : await findOne(name, finding);
    if (typeof found === 'string') problems.push(`${keepLine(name)}  ${found}`);
    else for (const one of found) videos.push(one); // a list may have more than fit into a call
  }
  if (problems.length > 0) throw new UserError(shorten(problems));
  return videos;
}

function shorten(problems: string[]): string[] {
  if (problems.length <= MOST_TOLD + 1) return problems;
  return [...problems.slice(0, MOST_TOLD), `... and ${problems.length - MOST_TOLD} more.`];
}

/** Returns the videos of a name, or what is wrong with it. */
async function findOne(name: string, finding: Finding): Promise<Video[] | string> {
  const there = statSync(name, { throwIfNoEntry: false });
  if (there?.isDirectory()) return findBelow(name, finding);
  if (there !== undefined && isText(name, there))
    return readListed(name, await readText(name), join(name, '..'), finding.root);
  const video = readName(name);
  if (video === GONE && isDynamicPattern(name)) return match(name, finding);
  return typeof video === 'string' ? video : [video];
}

/** A list by what it holds: whatever is called a video is taken for one. */
const isText = (name: string, there: Stats): boolean => there.isFile() && !isVideoName(name) && sniff(name) === 'text';

async function readText(file: string): Promise<string> {
  const { readFile } = await import('node:fs/promises');
  return readFile(file, 'utf8');
}

function readListed(list: string, content: string, folder: string, root: string | null): Video[] | string {
  const isThere = (path: string): boolean => typeof readName(path) !== 'string';
  const lines = readList(content, { folder, root, isThere });
  if (lines.length === 0) return list === '-' ? 'stdin held no path. Give a list there, a path a line.' : 'is empty.';
  // One that is gone is told with the others' results; a list of nothing but such is of another place, or no list.
  if (!lines.some(isThere)) {
    const what = list === '-' ? 'none of the paths on stdin exists' : 'is text, and none of its lines names a video';
    return `${what}, ${quote(lines[0] ?? '')} for one. A list has a path a line, or \`<path> <label>\`; --set data.root=FOLDER says where relative ones begin.`;
  }
  return lines.map((line) => {
    const video = readName(line);
    return typeof video === 'string' ? { name: line, path: resolve(line), part: null, isStream: false } : video;
  });
}

function findBelow(folder: string, { note }: Finding): Video[] | string {
  const files = walkFiles(folder).filter(({ isHidden }) => !isHidden);
  const names = files.flatMap(({ name }) => (typeof name === 'string' ? [name] : []));
  const odd = files.find(({ name }) => typeof name !== 'string');
  if (odd !== undefined)
    note(`${join(folder, showName(odd.name))}  left out, as are other names that are not valid UTF-8. Rename them.`);
  const videos = names.filter((name) => isVideoName(name) || looksLikeVideo(join(folder, name)));
  if (videos.length === 0) return `holds no video among its ${plural(files.length, 'file')}.`;
  return videos.map((name) => readFile(join(folder, name)));
}

/** As the shell has it, which a quoted pattern does not meet: `*` within a folder, `**` through all. */
async function match(pattern: string, { note }: Finding): Promise<Video[] | string> {
  const found = await glob(pattern, { expandDirectories: false, absolute: isAbsolute(pattern) });
  if (found.length === 0) return 'no file has such a name.';
  const videos = found.sort(compareNames).filter((name) => isVideoName(name) || looksLikeVideo(name));
  if (videos.length === 0) return `is the name of ${plural(found.length, 'file')}, and none of them is a video.`;
  if (videos.length < found.length)
    note(
      `${pattern}  ${plural(found.length - videos.length, 'file')} left out that are no videos by name and content.`,
    );
  return videos.map(readFile);
}

const readFile = (name: string): Video => ({ name, path: resolve(name), part: null, isStream: false });

/** Returns the video of a name, `PATH` or `PATH#t=START,END`, or an address, or what is wrong with it. */
export function readName(name: string): Video | string {
  const there = statSync(name, { throwIfNoEntry: false });
  if (there?.isFile()) return readFile(name);
  if (there?.isDirectory()) return 'is a folder.';
  if (there !== undefined) return { name, path: resolve(name), part: null, isStream: true };
  if (ADDRESS.test(name)) return { name, path: name, part: null, isStream: true };
  const [, path, start, end] = /^(.+)#t=([^,]*),([^,]*)$/s.exec(name) ?? [];
  if (path === undefined || statSync(path, { throwIfNoEntry: false }) === undefined) return GONE;
  const [from, to] = [start, end].map((word) => readTime(Buffer.from(word ?? ''), 0, Buffer.byteLength(word ?? '')));
  if (from === undefined || to === undefined || !(from >= 0 && from < to))
    return 'is no part of a file. Write PATH#t=START,END in seconds, the start before the end, such as a.mp4#t=12,20.5.';
  return { name, path: resolve(path), part: { start: from, end: to }, isStream: false };
}
